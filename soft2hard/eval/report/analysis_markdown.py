"""The summary of an analysis in Markdown: its small tables, for documents that quote them; the page has all."""

from collections.abc import Iterator
from typing import Any

from soft2hard.eval.analysis.records import Analysis
from soft2hard.eval.analysis.summary import Listing, listings
from soft2hard.eval.intervals import Interval
from soft2hard.eval.report.analysis_data import Page
from soft2hard.eval.report.data import Table
from soft2hard.eval.report.figures import interval_text, number_text
from soft2hard.eval.report.markdown import markdown_table, plain

MOST_ROWS = 40
"""Longer tables are of single tasks or soft prompts: the page and the CSV files have them."""
_LISTED = ("statistics", "distances", "difficulty", "transfer", "map ", "tokens", "nearest")


def analysis_markdown(analysis: Analysis, page: Page) -> str:
    """What the terminal shows, and every table of the page that is short enough to be read."""
    n_tasks = len(analysis.tasks)
    parts = [
        f"# Analysis of {len(analysis.prompts)} soft prompts of {n_tasks} task{'' if n_tasks == 1 else 's'}\n\n"
        f"Made {plain(analysis.created)}. Brackets are 95 % bootstrap intervals."
    ]
    parts += [_of_listing(listing) for listing in listings(analysis, 0)]
    seen: list[Table] = []  # several charts may be drawn of one table
    for name, table in page.tables.items():
        is_listed = name.startswith(_LISTED)  # above, or of single soft prompts
        if 0 < len(table["rows"]) <= MOST_ROWS and table not in seen and not is_listed:
            seen.append(table)
            parts.append(_section(name, *_of_table(table)))
    return "\n\n".join(parts) + "\n"


def _section(title: str, columns: list[str], rows: list[list[str]]) -> str:
    return f"## {plain(title)}\n\n{markdown_table(list(map(plain, columns)), [list(map(plain, row)) for row in rows])}"


def _of_listing(listing: Listing) -> str:
    return _section(listing.title, list(listing.columns), [list(row) for row in listing.rows])


def _of_table(table: Table) -> tuple[list[str], list[list[str]]]:
    """Columns and rows as texts; a figure and the ends of its interval in one cell."""
    places = {name: i for i, name in enumerate(table["columns"])}
    shown = [name for name in places if not _is_an_end(name, places)]
    return shown, [list(_cells(row, shown, places)) for row in table["rows"]]


def _is_an_end(name: str, places: dict[str, int]) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in places for end in (" low", " high"))


def _cells(row: list[Any], shown: list[str], places: dict[str, int]) -> Iterator[str]:
    for name in shown:
        value = row[places[name]]
        if f"{name} low" in places and value is not None:
            yield interval_text(Interval(value, row[places[f"{name} low"]], row[places[f"{name} high"]]))
        elif value is None:
            yield "–"
        else:
            yield number_text(value) if isinstance(value, float) else str(value)
