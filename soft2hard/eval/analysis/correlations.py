"""Figures over tasks: matrix, rank and partial correlations, and means within and between tasks.

Intervals are 95 % percentile bootstrap intervals over tasks. Where a figure is of pairs of tasks, tasks are resampled
and pairs go with them, their rows and their columns (the vertex bootstrap of Snijders and Borgatti 1999), because pairs
that share a task are not independent; pairs of a task with its own copy are left out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import permutation_test, rankdata

from soft2hard.errors import UserError
from soft2hard.eval.analysis.findings import columns_of
from soft2hard.eval.analysis.geometry import Square
from soft2hard.eval.intervals import Interval, Values, percentile_interval, task_weights

Method = Literal["pearson", "spearman"]
BOTH_TASKS = ("task tuned on", "task used on")
"""What is held fixed where both matrices are double-centred."""
Weights = Float[np.ndarray, "n_resamples n"]

_ENTRIES_AT_ONCE = 2**22  # of permuted matrices: 32 MB
_EXACT_UP_TO = 7  # objects: 5040 orders
_ROUNDING = 1e-12  # within which two correlations count as equal
_NOTHING_LEFT = 1e-9  # of a deviation of 1, once something has been taken out of it: rounding


@dataclass(frozen=True)
class Correlation:
    """How two figures go together over tasks, or over pairs of them."""

    correlation: Interval
    """From -1 to 1."""
    p_value: float
    """Two-sided, of a permutation test that they have nothing to do with each other."""
    n: int
    """Tasks."""


def correlation_row(
    first: str, second: str, method: Method, correlate: Callable[[], Correlation], given: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A correlation as a row of a table, or the `reason` why it is not defined; `given` figures are held fixed."""
    found, reason = None, None
    try:
        found = correlate()
    except UserError as error:
        reason = error.problem
    return (
        {"first": first, "second": second, "given": ", ".join(given), "method": method}
        | columns_of("correlation", found and found.correlation)
        | {"p_value": found and found.p_value, "n": found and found.n, "reason": reason}
    )


def mantel(
    first: Float[np.ndarray, "_n _n"],
    second: Float[np.ndarray, "_n _n"],
    *,
    method: Method = "pearson",
    centred: bool = False,
    n_permutations: int = 9999,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Mantel test (1967): correlation of the off-diagonal entries of two square matrices over the same tasks.

    Rows and columns of one matrix are permuted together. Matrices may be asymmetric, such as a transfer matrix: entry
    (i, j) then stands beside (i, j) only. For 'spearman', entries are ranked once, before anything is permuted or
    resampled. The p-value is exact for up to 7 tasks; else 1 is added to both counts (Phipson and Smyth 2010).
    Where pairs of tasks are independent of each other the interval is too wide, never too narrow.

    `centred`: the parts of an entry, or of its rank, that the row's task alone and the column's task alone explain are
    first taken out of both matrices (`double_centred`), so that the remainder is of the pair.

    Raises UserError for fewer than 3 tasks (4 if centred), entries that are not numbers, or equal entries throughout,
    before centring or after it.
    """
    n = len(first)
    off = _off_diagonal(n)
    _check("Mantel test", "pairs of tasks", n, 4 if centred else 3, (first[off], second[off]))
    x, y = (_standardised(matrix, method, centred) for matrix in (first, second))
    n_entries = n * (n - 1)
    observed = float((x * y).sum() / n_entries)
    exact = n <= _EXACT_UP_TO
    drawn = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (n_permutations, 1)), axis=1)
    orders = np.array(list(permutations(range(n)))) if exact else drawn
    parts = np.array_split(orders, -(-orders.size * n // _ENTRIES_AT_ONCE))
    null = np.concatenate([(x * y[o[:, :, None], o[:, None, :]]).sum((1, 2)) for o in parts]) / n_entries
    interval = percentile_interval(observed, _vertex_bootstrap(x, y, n_resamples, seed))
    return Correlation(interval, _p_value(null, observed, exact), n)


def rank_correlation(
    first: Values,
    second: Values,
    controls: Sequence[Values] = (),
    *,
    n_permutations: int = 9999,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Spearman's rank correlation of two figures, one pair of values a task, such as difficulty and variance; with
    others held fixed, such as norms, where there are `controls`.

    Then all are ranked, a line in the ranks of the controls is taken out of the ranks of both, and the residuals are
    correlated. Tasks are resampled and ranked again. The two-sided p-value is of a permutation test (SciPy), exact
    where there are no more than `n_permutations` orders; with controls of random permutations of the second's
    residuals (Freedman and Lane 1983). Raises UserError for fewer than 3 tasks, or 3 more than controls, for values
    that are not numbers, for equal values throughout, and where the controls leave nothing of a figure.
    """
    data = np.array([first, second, *controls], dtype=float)
    n = data.shape[1]
    _check("rank correlation", "tasks", n, 3, data)
    if n < len(controls) + 3:
        raise UserError(f"{n} tasks are too few to hold {len(controls)} figures fixed.", "Give more tasks.")
    a, b = _residuals(data)
    if any(left.std() < _NOTHING_LEFT * rankdata(values).std() for left, values in ((a, data[0]), (b, data[1]))):
        raise UserError("The figures that are held fixed leave nothing to correlate.", "Hold fewer of them.")
    observed = float(_row_correlations(a, b))
    if controls:
        orders = np.random.default_rng(seed).permuted(np.tile(b, (n_permutations, 1)), axis=1)
        p_value = _p_value(_row_correlations(a, orders - orders @ _fit(data[2:]).T), observed, exact=False)
    else:
        options = {"permutation_type": "pairings", "vectorized": True, "n_resamples": n_permutations, "batch": 1000}
        test = permutation_test((b,), lambda permuted, axis: _row_correlations(a, permuted), rng=seed, **options)
        p_value = float(test.pvalue)
    chosen = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    return Correlation(percentile_interval(observed, _row_correlations(*_residuals(data[:, chosen]))), p_value, n)


def _residuals(data: Float[np.ndarray, "n_figures *resamples n"]) -> list[Float[np.ndarray, "*resamples n"]]:
    """The ranks of the first two figures less what those of the others say."""
    ranks = [rankdata(values, axis=-1) for values in data[:2]]
    if len(data) == 2:
        return ranks
    fit = _fit(data[2:])
    return [of_figure - (fit @ of_figure[..., None])[..., 0] for of_figure in ranks]


def _fit(controls: Float[np.ndarray, "n_controls *resamples n"]) -> Float[np.ndarray, "*resamples n n"]:
    """The projection on a constant and the ranks of the controls; controls that say the same count once."""
    ranks = rankdata(controls, axis=-1)
    columns = np.stack([np.ones(ranks.shape[1:]), *(r - r.mean(-1, keepdims=True) for r in ranks)], -1)
    return columns @ np.linalg.pinv(columns, rcond=_NOTHING_LEFT)


def _check(test: str, of: str, n: int, at_least: int, figures: Iterable[np.ndarray]) -> None:
    if n < at_least:
        raise UserError(f"A {test} of {n} tasks says nothing.", f"Give at least {at_least}, better 10 or more.")
    for values in figures:
        if missing := int((~np.isfinite(values)).sum()):
            raise UserError(f"{missing} values of {of} are missing.", "Leave out the tasks that they belong to.")
        if np.ptp(values) == 0:
            raise UserError(f"All {of} have the same value, so there is no order to correlate.", "Give others.")


def _off_diagonal(n: int) -> Bool[np.ndarray, "n n"]:
    return ~np.eye(n, dtype=bool)


def _standardised(matrix: Square, method: Method, centred: bool) -> Square:
    """Off-diagonal entries, or their ranks, with mean 0 and mean square 1; 0 on the diagonal."""
    off = _off_diagonal(len(matrix))
    entries = rankdata(matrix[off]) if method == "spearman" else matrix[off]
    found = np.zeros(matrix.shape)
    found[off] = (entries - entries.mean()) / entries.std()
    if not centred:
        return found
    left = double_centred(found)
    spread = left[off].std()
    if spread < _NOTHING_LEFT:
        raise UserError("A matrix is the sum of what its rows and its columns say.", "Give tasks that differ in pairs.")
    return left / spread


def double_centred(matrix: Square) -> Square:
    """The part of each entry off the diagonal that its row and its column do not explain; 0 on the diagonal.

    The residuals of the least squares fit of a mean, an effect of each row and an effect of each column, where the
    diagonal is missing (the round robin of Warner, Kenny and Stoto 1979): off the diagonal every row and every column
    sums to 0. Of four tasks or more.
    """
    n = len(matrix)
    off = np.where(_off_diagonal(n), matrix, 0)
    rows, columns, mean = off.sum(1) / (n - 1), off.sum(0) / (n - 1), off.sum() / (n * (n - 1))
    effects = [
        ((n - 1) ** 2 * own + (n - 1) * other) / (n * (n - 2)) - (n - 1) / (n - 2) * mean
        for own, other in ((rows, columns), (columns, rows))
    ]
    return np.where(_off_diagonal(n), matrix - (mean + effects[0][:, None] + effects[1][None]), 0)


def _p_value(null: Float[np.ndarray, " n_orders"], observed: float, exact: bool) -> float:
    """Share of permuted orders as extreme as the one observed; 1 is added to both counts unless all were tried."""
    as_extreme = int((np.abs(null) >= abs(observed) - _ROUNDING).sum())
    return as_extreme / len(null) if exact else (as_extreme + 1) / (len(null) + 1)


def _vertex_bootstrap(x: Square, y: Square, n_resamples: int, seed: int) -> Float[np.ndarray, " n_resamples"]:
    """Correlations over resampled tasks; NaN where a resample leaves no two different entries."""
    drawn = task_weights(len(x), n_resamples, seed)
    # A pair of tasks weighs the product of how often each was drawn; the diagonal is 0 in all that is summed.
    total = drawn.sum(1) ** 2 - np.square(drawn).sum(1)
    mx, my, mxx, myy, mxy = (
        ((drawn @ matrix) * drawn).sum(1) / np.maximum(total, 1) for matrix in (x, y, x * x, y * y, x * y)
    )
    spread = np.sqrt(np.maximum((mxx - mx**2) * (myy - my**2), 0))
    return _divided(mxy - mx * my, np.where(spread > _ROUNDING, spread, 0)).clip(-1, 1)


def _row_correlations(x: Float[np.ndarray, "... n"], y: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "..."]:
    """Along the last axis; NaN where one side has one value only."""
    a, b = (values - values.mean(-1, keepdims=True) for values in (x, y))
    spread = np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))
    return _divided((a * b).sum(-1), np.where(spread > _ROUNDING, spread, 0))


# --- means within and between tasks --------------------------------------------------------------------


def task_means(matrix: Square, tasks: Sequence[str]) -> tuple[tuple[str, ...], Float[np.ndarray, "n_tasks n_tasks"]]:
    """Mean entry for each pair of tasks, of a matrix over their prompts; `tasks[i]` is the task of prompt i.

    A prompt beside itself does not count, so the diagonal is NaN for tasks with one prompt.
    """
    names, member = _members(tasks)
    sizes = member.sum(1)
    sums = member @ np.where(np.eye(len(matrix), dtype=bool), 0, matrix) @ member.T
    return names, _divided(sums, np.outer(sizes, sizes) - np.diag(sizes))


def within_between(
    distances: Square, tasks: Sequence[str], n_resamples: int = 2000, seed: int = 0
) -> dict[str, Interval | None]:
    """Distances between prompts of one task beside those between prompts of different tasks; every task weighs alike.

    'within': mean over tasks with two prompts or more of the mean distance between its prompts; 'between': mean over
    pairs of tasks of the mean distance between their prompts; 'ratio': within by between, below 1 where prompts of one
    task lie closer together. None for fewer than two tasks, where no task has two prompts, and for distances that are
    not defined.
    """
    names, means = task_means(distances, tasks)
    own = np.diag(means)
    repeated = np.isfinite(own)
    if len(names) < 2 or not repeated.any() or not np.isfinite(distances).all():
        return dict.fromkeys(("within", "between", "ratio"))
    off = np.where(_off_diagonal(len(names)), means, 0)

    def figures(weights: Weights) -> Float[np.ndarray, "3 n_resamples"]:
        within = _divided(weights[:, repeated] @ own[repeated], weights[:, repeated].sum(1))
        between = _divided(((weights @ off) * weights).sum(1), weights.sum(1) ** 2 - np.square(weights).sum(1))
        return np.stack([within, between, _divided(within, between)])

    found = dict(zip(("within", "between", "ratio"), _over_tasks(figures, len(names), n_resamples, seed), strict=True))
    if repeated.sum() == 1:  # one value, however often its task is drawn
        found |= {name: Interval(found[name].value, None, None) for name in ("within", "ratio")}
    return found


def other_tasks_mean(
    matrix: Square, counted: Bool[np.ndarray, "n n"] | None = None, n_resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Mean over rows of the mean of each row's cells off the diagonal, such as of a transfer matrix over tasks.

    Only cells that are `counted`, if that is given; None where there is none. The interval holds for new tasks in the
    columns as in the rows.
    """
    kept = _off_diagonal(len(matrix)) if counted is None else counted & _off_diagonal(len(matrix))
    if not kept.any():
        return None
    cells = np.where(kept, matrix, 0)

    def means(weights: Weights) -> Float[np.ndarray, "1 n_resamples"]:
        return _weighted(_divided(weights @ cells.T, weights @ kept.T.astype(float)), weights)

    return _over_tasks(means, len(matrix), n_resamples, seed)[0]


def variation_between(
    distances: Square, tasks: Sequence[str], n_resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Coefficient of variation (unbiased deviation) of each task's distances to prompts of others, mean over tasks.

    None where no task has two such distances that are not all 0.
    """
    names, member = _members(tasks)
    centre = float(distances.mean())  # deviations from it lose no digits when they are squared
    counts, sums, squares = (
        np.where(_off_diagonal(len(names)), member @ matrix @ member.T, 0)
        for matrix in (np.ones_like(distances), distances - centre, np.square(distances - centre))
    )

    def means(weights: Weights) -> Float[np.ndarray, "1 n_resamples"]:
        n = weights @ counts
        mean = _divided(weights @ sums, n)
        variance = _divided(weights @ squares - n * np.square(mean), n - 1)
        return _weighted(_divided(np.sqrt(np.maximum(variance, 0)), mean + centre), weights)

    (found,) = _over_tasks(means, len(names), n_resamples, seed)
    return None if np.isnan(found.value) else found


def _over_tasks(
    figures: Callable[[Weights], Float[np.ndarray, "n_figures _n"]], n_tasks: int, n_resamples: int, seed: int
) -> list[Interval]:
    """Figures of weighted tasks, each with its interval."""
    observed, resampled = figures(np.ones((1, n_tasks)))[:, 0], figures(task_weights(n_tasks, n_resamples, seed))
    return [percentile_interval(float(value), of_value) for value, of_value in zip(observed, resampled, strict=True)]


def _divided(numerators: np.ndarray | np.floating, denominators: np.ndarray | np.floating) -> np.ndarray:
    """NaN where the denominator is not above 0."""
    return np.divide(numerators, denominators, out=np.full(np.shape(numerators), np.nan), where=denominators > 0)


def _weighted(values: Weights, weights: Weights) -> Float[np.ndarray, "1 n_resamples"]:
    """Mean of the values that are defined; NaN where none is."""
    defined = np.where(np.isfinite(values), weights, 0)
    return _divided((np.nan_to_num(values) * defined).sum(1), defined.sum(1))[None]


def _members(tasks: Sequence[str]) -> tuple[tuple[str, ...], Float[np.ndarray, "n_tasks n_prompts"]]:
    names = tuple(dict.fromkeys(tasks))
    return names, np.array([[task == name for task in tasks] for name in names], dtype=float)
