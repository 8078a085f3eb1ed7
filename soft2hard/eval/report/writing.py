"""Writes the report: page and summary together or not at all."""

from collections.abc import Sequence
from pathlib import Path

from soft2hard.errors import UserError
from soft2hard.eval.report.comparison import compare
from soft2hard.eval.report.markdown import render_markdown
from soft2hard.eval.report.page import render_page
from soft2hard.eval.report.reading import Run
from soft2hard.eval.report.tables import main_table
from soft2hard.eval.report.transfer import transfer_table
from soft2hard.eval.transfer.results import TransferResult
from soft2hard.storage.files import atomic_write


def write_report(runs: Sequence[Run], output: Path, transfers: Sequence[TransferResult] = ()) -> tuple[Path, Path]:
    """Report the last run in full and what changed since each run before it.

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
    comparisons = [compare(run, last) for run in earlier]
    lines = main_table(last)
    table = transfer_table(last, transfers)
    page = render_page(last, lines, comparisons, table)
    summary = render_markdown(last, lines, comparisons, table)
    beside = output.with_suffix(".md")
    with atomic_write(output) as html, atomic_write(beside) as markdown:
        for path, text in ((html, page), (markdown, summary)):
            # JSON may hold half a surrogate pair, which no file can.
            path.write_text(text, encoding="utf-8", errors="replace")
    return output, beside
