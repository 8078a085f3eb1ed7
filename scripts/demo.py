"""The main job in a minute, offline: tasks given by examples alone become soft prompts, then text.

scripts/demo
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.world import FINAL_EXAMPLES, FINAL_TUNING
from soft2hard.errors import run_script
from soft2hard.eval.cases import drawn_tasks
from soft2hard.eval.config import Evaluation, parse_config
from soft2hard.eval.harness import Harness
from soft2hard.eval.run_records import ResultRow

_COLUMNS = ("soft", "translated", "gold", "none")
_COLOURS = {"faithful": "green", "doubtful": "yellow", "failed": "red"}


def demo_evaluation(n_tasks: int, seed: int) -> Evaluation:
    """`n_tasks` test tasks of the embedded world; tuning and verification see their examples only."""
    tasks = {"dod": "lexical", "n": n_tasks, "n_train": FINAL_EXAMPLES, "seed": 1000 + seed}
    asked = {
        "tasks": tasks,
        "methods": list(_COLUMNS),
        "seeds": [seed],
        "reference": None,
        "tuning": asdict(FINAL_TUNING),
    }
    return parse_config(asked, "The demo")


def table_of(tasks: list[Task], rows: dict[tuple[str, str], ResultRow]) -> Table:
    """One row a task; `rows` are by method and task."""
    table = Table(title="Held-out tasks: accuracy on test examples under each prompt", show_lines=True)
    table.add_column("task (never shown)", ratio=3)
    table.add_column("translated prompt", ratio=3)
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for task in tasks:
        of_task = [rows[name, task.name] for name in _COLUMNS]
        verdict = rows["translated", task.name].verdict or "none"
        scores = ("failed" if row.score is None else f"{row.score:.2f}" for row in of_task)
        text = rows["translated", task.name].prompt or ""
        colour = _COLOURS.get(verdict, "white")
        table.add_row(task.instruction, text, *scores, f"[{colour}]{verdict}[/{colour}]")
    return table


def demo_rows(evaluation: Evaluation, log: Callable[[str], None]) -> list[ResultRow]:
    """Tune, translate, verify and score."""
    with TemporaryDirectory() as folder:
        return Harness(evaluation, Path(folder) / "run", log=log).run()


def main(
    *,
    n_tasks: int = 15,
    seed: int = 0,
) -> None:
    """Tune soft prompts for held-out tasks from examples, put them into words, and check the words.

    Args:
        n_tasks: Held-out tasks to show, families in turn.
        seed: Which tasks, and the seed of their tuning.
    """
    console = Console()
    disable_progress_bar()  # those of loading, over in a moment
    evaluation = demo_evaluation(n_tasks, seed)
    rows = demo_rows(evaluation, lambda message: console.print(f"[dim]{message}[/dim]"))
    tasks = drawn_tasks(evaluation.tasks, "test", seed)
    console.print(table_of(tasks, {(row.method, row.task): row for row in rows}))
    soft, text = (fmean(row.score or 0.0 for row in rows if row.method == m) for m in ("soft", "translated"))
    console.print(f"Mean accuracy: soft prompts {soft:.2f}, their translations {text:.2f}.")


if __name__ == "__main__":
    run_script(main)
