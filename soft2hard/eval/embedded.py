"""The main table: the embedded world's test tasks, tuned, translated, verified and scored.

scripts/evaluate_embedded --n-tasks 210 --seeds 0 --seeds 1
"""

import json
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
import typer

from soft2hard.checkpoints import embedded_path
from soft2hard.checkpoints.recipe import FINAL_EXAMPLES, final_tuning, recipe_named
from soft2hard.errors import UserError
from soft2hard.eval.figure import draw_families
from soft2hard.eval.recovery import TaskResult, as_rows, by_family, evaluate_tasks, held_out_tasks, summary
from soft2hard.files import atomic_write
from soft2hard.precision import load_for_tuning
from soft2hard.subject import Subject
from soft2hard.translator.model import Translator
from soft2hard.translator.translate import TranslateConfig


def evaluate_embedded(
    n_tasks: int, seeds: list[int], size: str, init: str, config: TranslateConfig, log=print
) -> list[TaskResult]:
    """Results of all seeds; each seed tunes anew, with other examples in another order."""
    subject = Subject.from_pretrained(str(embedded_path("subject")))
    tuning_subject = load_for_tuning(embedded_path("subject"))
    translator = Translator.from_pretrained(embedded_path("translator"))
    tuning = replace(final_tuning(recipe_named(size)), init=init)
    results: list[TaskResult] = []
    for seed in seeds:
        results += evaluate_tasks(
            subject,
            translator,
            held_out_tasks(n_tasks, n_train=FINAL_EXAMPLES),
            replace(tuning, seed=100 + seed),
            replace(config, seed=seed),
            tuning_subject=tuning_subject,
            log=log,
        )
    return results


def markdown(results: list[TaskResult]) -> str:
    """The table and its breakdown by family."""
    lines = ["| figure | value [95 % interval] |", "|---|---|"]
    lines += [f"| {name} | {interval} |" for name, interval in summary(results).items()]
    lines += [
        "",
        "| family | tasks | none | gold | soft | greedy | verified | exact task |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, f in sorted(by_family(results).items()):
        figures = " | ".join(
            f"{f[k]:.2f}" for k in ("no_prompt", "gold", "soft", "greedy", "verified", "verified_recovered")
        )
        lines.append(f"| {family} | {f['n_tasks']} | {figures} |")
    lines += ["", "| verdict | translations | accuracy / soft prompt's |", "|---|---|---|"]
    for verdict in ("faithful", "doubtful", "failed", "unverified"):
        part = [r for r in results if r.verdict == verdict]
        if part:
            ratio = sum(r.verified for r in part) / max(1e-9, sum(r.soft for r in part))
            lines.append(f"| {verdict} | {len(part)} | {ratio:.2f} |")
    return "\n".join(lines)


def main(
    n_tasks: int = typer.Option(210, help="Test tasks, families in turn."),
    seeds: list[int] = typer.Option([0, 1], help="Seeds; give the flag once for each."),
    size: str = typer.Option("cpu", help="Recipe whose tuning settings are used: cpu, gpu or tiny."),
    init: str = typer.Option("learned", help="Start of the soft prompts: learned, vocabulary, labels or text:..."),
    candidates: int = typer.Option(64, help="Candidates a soft prompt."),
    output: Path = typer.Option(Path("runs/evaluation/embedded.json"), help="File for all results."),
    figure: Path | None = typer.Option(None, help="Also draw accuracy by family to this PNG or SVG file."),
) -> None:
    """Print the main table of the README and save every result behind it."""
    started = time.monotonic()
    config = TranslateConfig(n_candidates=candidates)
    results = evaluate_embedded(n_tasks, seeds, size, init, config, log=lambda m: typer.echo(m, err=True))
    settings = {"n_tasks": n_tasks, "seeds": seeds, "size": size, "init": init, "candidates": candidates}
    versions = {name: version(name) for name in ("torch", "transformers")}
    with atomic_write(output) as temporary:
        about = {"settings": settings, "versions": versions, "seconds": time.monotonic() - started}
        Path(temporary).write_text(json.dumps(about | {"results": as_rows(results)}, indent=1))
    if figure:
        draw_families(results, figure)
    typer.echo(markdown(results))
    typer.echo(
        f"\n{len(results)} results in {output}; {time.monotonic() - started:.0f} s on {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(error.exit_code) from None
