"""What a report is made of: tables, and sections of sentences, tables and charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soft2hard.eval.intervals import Interval
from soft2hard.eval.report.figures import interval_text, number_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as Chart

Value = str | int | float | Interval | None


@dataclass(frozen=True)
class Table:
    """A table; its first column says what a row is about."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    folded: str = ""
    """The words under which the page folds it away; empty: it is open."""
    summary: bool = True
    """Stands in the Markdown summary too."""


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    title: str
    text: str
    tables: Sequence[Table] = ()
    charts: Sequence["Chart"] = ()
    notes: Sequence[str] = ()
    code: str = ""


def cell_text(value: Value) -> str:
    """The words of a cell."""
    if isinstance(value, Interval):
        return interval_text(value)
    return number_text(value) if value is None or isinstance(value, float) else str(value)
