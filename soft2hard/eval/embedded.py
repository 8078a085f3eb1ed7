"""The main table: the embedded world's test tasks, tuned, translated, verified and scored.

scripts/evaluate_embedded --n-tasks 210 --seeds 0 --seeds 1
"""

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
import typer

from soft2hard.checkpoints import embedded_path
from soft2hard.checkpoints.recipe import FINAL_EXAMPLES, final_tuning, recipe_named
from soft2hard.data_gen.dods.lexical import UNSEEN_FAMILIES
from soft2hard.eval.figure import draw_families
from soft2hard.eval.recovery import TaskResult, as_rows, by_family, evaluate_tasks, held_out_tasks, summary
from soft2hard.files import atomic_write
from soft2hard.precision import load_for_tuning
from soft2hard.scripting import run_script
from soft2hard.subject import Subject
from soft2hard.translator.card import read_card
from soft2hard.translator.model import Translator
from soft2hard.translator.translate import TranslateConfig


@dataclass(frozen=True)
class EmbeddedEvaluation:
    """One evaluation of the embedded checkpoints."""

    n_tasks: int
    size: str
    """Recipe whose tuning settings are used."""
    init: str
    """Start of the soft prompts."""
    candidates: int

    def run_seed(self, seed: int) -> list[TaskResult]:
        """The same tasks for every seed; other examples, another tuning, other candidates."""
        return evaluate_tasks(
            Subject.from_pretrained(embedded_path("subject")),
            Translator.from_pretrained(embedded_path("translator")),
            held_out_tasks(self.n_tasks, n_train=FINAL_EXAMPLES, examples_seed=100 + seed),
            replace(final_tuning(recipe_named(self.size)), init=self.init, seed=100 + seed),
            TranslateConfig(n_candidates=self.candidates, seed=seed),
            tuning_subject=load_for_tuning(embedded_path("subject")),
            log=lambda message: typer.echo(message, err=True),
        )

    def run(self, seeds: Sequence[int], workers: int) -> list[TaskResult]:
        """All seeds, in `workers` processes that share the cores: small matrices do not fill several."""
        if workers == 1:
            return [result for seed in seeds for result in self.run_seed(seed)]
        threads = max(1, (os.cpu_count() or 1) // workers)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            return [result for results in pool.map(self.run_seed, seeds) for result in results]


def markdown(results: list[TaskResult]) -> str:
    """The table and its breakdown by family."""
    lines = ["| figure | value [95 % interval] |", "|---|---|"]
    lines += [f"| {name} | {interval} |" for name, interval in summary(results).items()]
    lines += [
        "",
        "Over the families that the translator was trained on, where a figure does not say otherwise.",
        "",
        "| family | tasks | none | gold | soft | greedy | verified | exact task |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, f in sorted(by_family(results).items()):
        figures = " | ".join(
            f"{f[k]:.2f}" for k in ("no_prompt", "gold", "soft", "greedy", "verified", "verified_recovered")
        )
        name = f"{family} (unseen)" if family in UNSEEN_FAMILIES else family
        lines.append(f"| {name} | {f['n_tasks']} | {figures} |")
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
    workers: int = typer.Option(0, help="Processes, one seed each at a time; 0: one a seed as far as cores go."),
    figure: Path | None = typer.Option(None, help="Also draw accuracy by family to this PNG or SVG file."),
) -> None:
    """Print the main table of the README and save every result behind it."""
    started = time.monotonic()
    if not workers:
        workers = 1 if torch.cuda.is_available() else min(len(seeds), os.cpu_count() or 1)
    results = EmbeddedEvaluation(n_tasks, size, init, candidates).run(seeds, workers)
    settings = {"n_tasks": n_tasks, "seeds": seeds, "size": size, "init": init, "candidates": candidates}
    settings["tuning"] = asdict(final_tuning(recipe_named(size)))
    settings["translator"] = asdict(read_card(embedded_path("translator")))
    versions = {name: version(name) for name in ("torch", "transformers")}
    with atomic_write(output) as temporary:
        about = {"settings": settings, "versions": versions, "seconds": time.monotonic() - started}
        Path(temporary).write_text(json.dumps(about | {"results": as_rows(results)}, indent=1))
    if figure:
        draw_families(results, figure)
    typer.echo(markdown(results))
    typer.echo(f"\n{len(results)} results in {output}; {time.monotonic() - started:.0f} s in {workers} processes")


if __name__ == "__main__":
    run_script(main)
