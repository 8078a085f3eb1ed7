"""Correlations as the rows that are kept of them, and the reasons where there are none."""

from collections.abc import Callable, Iterable

from soft2hard.errors import UserError
from soft2hard.eval.analysis.relations import Correlation, Method
from soft2hard.eval.analysis.section_records import CorrelationRow, Estimate, NoCorrelation

Row = CorrelationRow | NoCorrelation


def correlation_row(
    first: str, second: str, method: Method, correlate: Callable[[], Correlation], given: tuple[str, ...] = ()
) -> Row:
    """A correlation as a row, or why it is not defined."""
    try:
        found = correlate()
    except UserError as error:
        return NoCorrelation(first=first, second=second, given=given, method=method, reason=error.problem)
    return CorrelationRow(
        first=first,
        second=second,
        given=given,
        method=method,
        correlation=Estimate.of(found.correlation),
        p_value=found.p_value,
        n=found.n,
    )


def parted(rows: Iterable[Row]) -> tuple[tuple[CorrelationRow, ...], tuple[NoCorrelation, ...]]:
    """Those that there are, and those that there are not."""
    kept = list(rows)
    return (
        tuple(row for row in kept if isinstance(row, CorrelationRow)),
        tuple(row for row in kept if isinstance(row, NoCorrelation)),
    )
