"""The report of evaluation runs: one HTML page that works offline, and a Markdown summary of its tables."""

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft2hard.errors import UserError
from soft2hard.eval.report.figures import COLUMNS, EXPLAINED, RECOVERY, SCORE, compare, number_text, per_task
from soft2hard.eval.report.html import render_page
from soft2hard.eval.report.parts import Section, Table, cell_text
from soft2hard.eval.report.reading import Run, load_run
from soft2hard.eval.report.sections import contents, heading, main_table
from soft2hard.eval.run_records import ResultRow
from soft2hard.storage.files import atomic_write

if TYPE_CHECKING:
    from soft2hard.eval.transfer.results import TransferResult

__all__ = ["Run", "load_run", "print_summary", "write_report"]
_HERE = Path(__file__).parent
_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
"""What begins mark-up within a line; no text of a run begins a line of the summary."""
_NUMBER = re.compile(r"[–$-]?[\d.,]*(e-?\d+)?( \[.*\]| \([\d.,]+\)| of \d+)?$")


def write_report(runs: Sequence[Run], output: Path, transfers: Sequence["TransferResult"] = ()) -> tuple[Path, Path]:
    """Report the last run in full and what changed since each run before it; both files are written or none.

    Args:
        runs: One at least, oldest first.
        output: The page, ending in .html; the summary goes beside it, ending in .md.
        transfers: What `soft2hard transfer` found with prompts of the last run.

    Returns:
        The page and the summary.

    Raises:
        UserError: a wrong ending, runs that have nothing in common, or a place that cannot be written to.
    """
    if output.suffix.lower() != ".html":
        raise UserError(f"The report is to go to {output}, which does not end in .html.", "Give a name such as r.html.")
    *earlier, last = runs
    parts = contents(last, [compare(run, last) for run in earlier], transfers)
    context = {"run": last, "said": heading(last), "sections": parts, "tasks": list(_tasks(last)), "score": SCORE.key}
    filters = {"cell": cell_text, "is_number": _NUMBER.match, "number": number_text}
    page = render_page(_HERE / "page.html", context, (_HERE / "page.js").read_text(encoding="utf-8"), filters)
    with atomic_write(output) as on_screen, atomic_write(output.with_suffix(".md")) as summary:
        for path, text in ((on_screen, page), (summary, _markdown(last, parts))):
            # JSON may hold half a surrogate pair, which no file can.
            path.write_text(text, encoding="utf-8", errors="replace")
    return output, output.with_suffix(".md")


def print_summary(run: Run) -> None:
    """Show each method's failures, score, recovery and explained share in the terminal, on standard error."""
    from rich.console import Console
    from rich.table import Table as Shown
    from rich.text import Text

    summary = main_table(run)
    chosen = {"method", "failed", SCORE.title, RECOVERY.title, EXPLAINED.title}
    places = [i for i, column in enumerate(summary.columns) if column in chosen]
    shown = Shown(*(summary.columns[i] for i in places), box=None)
    for row in summary.rows:
        shown.add_row(*(Text(cell_text(row[i])) for i in places))
    Console(stderr=True).print(shown)


def _tasks(run: Run) -> Iterator[dict[str, Any]]:
    """Every task with its cells in the order of methods and seeds, and each method's mean score."""
    scores = {method: per_task(run, method, SCORE) for method in run.methods}
    place = {method: i for i, method in enumerate(run.methods)}
    cells: dict[str, list[ResultRow]] = {task.name: [] for task in run.tasks}
    for row in sorted(run.rows, key=lambda row: (place[row.method], row.seed)):
        cells[row.task].append(row)
    for task in run.tasks:
        own = {method: values[task.name] for method, values in scores.items() if task.name in values}
        yield {"task": task, "scores": own, "cells": [(row, _figures_of(row)) for row in cells[task.name]]}


def _figures_of(row: ResultRow) -> str:
    """All figures of a cell but its score, in one line."""
    values = {figure.title: getattr(row, figure.key) for figure in COLUMNS if figure is not SCORE}
    values |= {"Exact task": None if row.exact_task is None else float(row.exact_task), "Confidence": row.confidence}
    values |= {"Seconds": row.seconds, "Model calls": row.model_calls, "Tokens": row.tokens}
    return ", ".join(f"{name} {cell_text(value)}" for name, value in values.items() if value is not None)


def _markdown(run: Run, parts: Sequence[Section]) -> str:
    blocks = [f"# Evaluation {plain(run.name)}", " ".join(plain(said) for said in heading(run))]
    for part in parts:
        tables = [_markdown_table(table) for table in part.tables if table.summary]
        if tables or not part.charts:
            # Four spaces make a code block that no run of backticks in the text can end.
            code = "\n".join(f"    {line}" for line in part.code.splitlines())
            blocks += [f"## {plain(part.title)}", plain(part.text), *tables, *map(plain, part.notes), code]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _markdown_table(table: Table) -> str:
    rows = (table.columns, *table.rows)
    lines = [[plain(v) if isinstance(v, str) else cell_text(v) for v in row] for row in rows]
    lines.insert(1, ["---"] * len(table.columns))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no mark-up, no HTML, no link."""
    shown = escape(" ".join(text.split()), quote=False)
    # A bare address would become a link in some dialects.
    return _SPECIAL.sub(r"\\\1", shown).replace("://", ":&#47;&#47;").replace("www.", "www&#46;")
