"""What a finished run over the embedded world says, for the README: families the translator has met or not, pictures.

python -m soft2hard.eval.embedded RUN --figures docs/figures
"""

from collections.abc import Iterator
from pathlib import Path

import typer

from soft2hard.data_gen.dods.lexical import UNSEEN_FAMILIES
from soft2hard.errors import run_script
from soft2hard.eval.figure import draw_families, draw_methods
from soft2hard.eval.intervals import mean_interval
from soft2hard.eval.report.figures import EXACT, PERPLEXITY, SCORE, estimate, per_task, recovery
from soft2hard.eval.report.reading import Run, load_run
from soft2hard.eval.report.tables import costs

_COLUMNS = (
    "score, all families",
    "recovery, seen families",
    "exact task",
    "recovery, unseen families",
    "perplexity",
    "seconds a cell",
)


def markdown(run: Run) -> str:
    """One line a method: score, recovery on families the translator has met or not, exact tasks, perplexity, cost."""
    seconds = {line.method: line.mean["seconds"] for line in costs(run)}
    lines = [f"| method | {' | '.join(_COLUMNS)} |", "|" + "---|" * (1 + len(_COLUMNS))]
    lines += [f"| {method} | {' | '.join(_cells(run, method))} | {seconds[method]:.1f} |" for method in run.methods]
    n_unseen = sum(task.family in UNSEEN_FAMILIES for task in run.tasks)
    n_tasks = len(run.tasks)
    return "\n".join([*lines, "", f"{n_tasks - n_unseen} tasks of seen families, {n_unseen} of unseen ones."])


def _cells(run: Run, method: str) -> Iterator[str]:
    unseen = {task.name for task in run.tasks if task.family in UNSEEN_FAMILIES}
    seen = {task.name for task in run.tasks} - unseen
    yield str(estimate(run, method, SCORE) or "–")
    yield str(recovery(run, method, seen) or "–")
    exact = [value for name, value in per_task(run, method, EXACT).items() if name in seen]
    yield str(mean_interval(exact)) if exact else "–"
    yield str(recovery(run, method, unseen) or "–")
    yield str(estimate(run, method, PERPLEXITY) or "–")


def main(
    run: Path = typer.Argument(help="Folder of a finished run of recipes/evaluate-embedded.yaml."),
    figures: Path | None = typer.Option(None, help="Also draw the README's pictures into this folder."),
) -> None:
    """Print the table of seen and unseen families."""
    found = load_run(run)
    typer.echo(markdown(found))
    if figures:
        draw_families(found, figures / "families.png")
        draw_methods(found, figures / "methods.png")


if __name__ == "__main__":
    run_script(main)
