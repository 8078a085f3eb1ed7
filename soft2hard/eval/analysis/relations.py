"""How figures of soft prompts and tasks go together: matrix and rank correlation, some of them with others held fixed.

Intervals are 95 % percentile bootstrap intervals over tasks. Where a figure is of pairs of tasks, tasks are resampled
and pairs go with them (the vertex bootstrap of Snijders and Borgatti 1999), because pairs that share a task are not
independent; pairs of a task with its own copy are left out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import permutation_test, rankdata

from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval, Values, percentile_interval, task_weights

Method = Literal["pearson", "spearman"]
Alternative = Literal["two-sided", "greater", "less"]
Verdict = Literal["confirmed", "refuted", "undecided"]

_ENTRIES_AT_ONCE = 2**22  # of permuted matrices: 32 MB
_EXACT_UP_TO = 7  # objects: 5040 orders
_ROUNDING = 1e-12  # within which two correlations count as equal
NOTHING_LEFT = 1e-9
"""Of a deviation of 1, once something has been taken out of it: rounding."""


@dataclass(frozen=True)
class Correlation:
    """How two figures go together over tasks, or over pairs of them."""

    correlation: Interval
    """From -1 to 1."""
    p_value: float
    """Of a permutation test that they have nothing to do with each other."""
    n: int
    """Tasks."""
    exact: bool
    """Whether all orders of the tasks were tried, not a random choice of them."""

    def __str__(self) -> str:
        return f"{self.correlation}, p = {self.p_value:.2g}, {self.n} tasks"


def mantel(
    first: Float[np.ndarray, "_n _n"],
    second: Float[np.ndarray, "_n _n"],
    *,
    method: Method = "pearson",
    alternative: Alternative = "two-sided",
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

    `centred`: what the row's task alone and the column's task alone say of an entry, or of its rank, is taken out of
    both matrices first (`double_centred`), so that what is left is of the pair.

    Raises UserError for matrices of different sizes, fewer than 3 tasks (4 if centred), entries that are not numbers,
    or equal entries throughout, before centring or after it.
    """
    n = _checked(first, second, 4 if centred else 3)
    x, y = (_standardised(matrix, method, centred) for matrix in (first, second))
    n_entries = n * (n - 1)
    observed = float((x * y).sum() / n_entries)
    exact = n <= _EXACT_UP_TO
    orders = _all_orders(n) if exact else _random_orders(n, n_permutations, seed)
    null = np.concatenate([(x * y[o[:, :, None], o[:, None, :]]).sum((1, 2)) for o in orders]) / n_entries
    interval = percentile_interval(observed, _vertex_bootstrap(x, y, n_resamples, seed))
    return Correlation(interval, permutation_p_value(null, observed, alternative, exact), n, exact)


def rank_correlation(
    first: Values,
    second: Values,
    *,
    alternative: Alternative = "two-sided",
    n_permutations: int = 9999,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Spearman's rank correlation of two figures, one pair of values a task, such as difficulty and variance.

    Tasks are resampled in pairs of values and ranked anew. The p-value is of a permutation test (SciPy), exact where
    there are no more than `n_permutations` orders. Raises UserError for fewer than 3 tasks, for different numbers of
    values, values that are not numbers, or equal values throughout.
    """
    x, y = checked_values(first, second)
    observed = float(_spearman(x, y))
    test = permutation_test(
        (y,),
        lambda permuted, axis: _spearman(x, permuted),
        permutation_type="pairings",
        vectorized=True,
        alternative=alternative,
        n_resamples=n_permutations,
        batch=1000,
        rng=seed,
    )
    chosen = np.random.default_rng(seed).integers(0, len(x), (n_resamples, len(x)))
    exact = math.factorial(len(x)) <= n_permutations
    interval = percentile_interval(observed, _spearman(x[chosen], y[chosen]))
    return Correlation(interval, float(test.pvalue), len(x), exact)


def checked_values(*figures: Values) -> tuple[Float[np.ndarray, " n"], ...]:
    """Figures over the same tasks. Raises UserError where they have no rank correlation."""
    found = tuple(np.asarray(values, dtype=float) for values in figures)
    lengths = list(map(len, found))
    if len(set(lengths)) > 1:
        raise UserError(f"There are {' and '.join(map(str, lengths))} values.", "Give one of each for every task.")
    if lengths[0] < 3:
        raise UserError(f"A rank correlation of {lengths[0]} tasks says nothing.", "Give at least 3.")
    if not all(np.isfinite(values).all() for values in found):
        raise UserError("Some values are missing.", "Leave out the tasks that have none.")
    if any(np.ptp(values) == 0 for values in found):
        raise UserError("All tasks have the same value, so there is no order to correlate.", "Give tasks that differ.")
    return found


def verdict(interval: Interval, expected: Literal["above", "below"], bound: float = 0.0) -> Verdict:
    """What an interval says of the claim that a figure lies above, or below, a bound; nothing where there is none."""
    if interval.low is None or interval.high is None:
        return "undecided"
    low, high = (interval.low, interval.high) if expected == "above" else (-interval.high, -interval.low)
    limit = bound if expected == "above" else -bound
    return "confirmed" if low > limit else "refuted" if high < limit else "undecided"


def _checked(first: Float[np.ndarray, "_n _n"], second: Float[np.ndarray, "_n _n"], least: int) -> int:
    if first.shape != second.shape or first.ndim != 2 or first.shape[0] != first.shape[1]:
        raise UserError(
            f"The matrices are {' and '.join(' x '.join(map(str, m.shape)) for m in (first, second))}.",
            "Give two square matrices over the same tasks.",
        )
    n = len(first)
    if n < least:
        raise UserError(f"A Mantel test of {n} tasks says nothing.", f"Give at least {least}, better 10 or more.")
    for matrix in (first, second):
        entries = matrix[_off_diagonal(n)]
        if not np.isfinite(entries).all():
            raise UserError(
                f"A matrix has {np.sum(~np.isfinite(entries))} missing entries off its diagonal.",
                "Leave out the tasks that they belong to.",
            )
        if np.ptp(entries) == 0:
            raise UserError(f"All entries of a matrix are {entries[0]:.3g}.", "Give tasks that differ.")
    return n


def _off_diagonal(n: int) -> Bool[np.ndarray, "n n"]:
    return ~np.eye(n, dtype=bool)


def _standardised(matrix: Float[np.ndarray, "n n"], method: Method, centred: bool) -> Float[np.ndarray, "n n"]:
    """Off-diagonal entries, or their ranks, with mean 0 and mean square 1; 0 on the diagonal."""
    off = _off_diagonal(len(matrix))
    entries = rankdata(matrix[off]) if method == "spearman" else matrix[off]
    found = np.zeros(matrix.shape)
    found[off] = (entries - entries.mean()) / entries.std()
    if not centred:
        return found
    left = double_centred(found)
    spread = left[off].std()
    if spread < NOTHING_LEFT:
        raise UserError("A matrix is the sum of what its rows and its columns say.", "Give tasks that differ in pairs.")
    return left / spread


def double_centred(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """What of each entry off the diagonal its row and its column do not say; 0 on the diagonal.

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
    fitted = mean + effects[0][:, None] + effects[1][None]
    return np.where(_off_diagonal(n), matrix - fitted, 0)


def _all_orders(n: int) -> Iterator[Int[np.ndarray, "_batch n"]]:
    yield np.array(list(permutations(range(n))))


def _random_orders(n: int, n_orders: int, seed: int) -> Iterator[Int[np.ndarray, "_batch n"]]:
    rng = np.random.default_rng(seed)
    step = max(1, _ENTRIES_AT_ONCE // n**2)
    for at in range(0, n_orders, step):
        yield rng.permuted(np.tile(np.arange(n), (min(step, n_orders - at), 1)), axis=1)


def permutation_p_value(
    null: Float[np.ndarray, " n_orders"], observed: float, alternative: Alternative, exact: bool
) -> float:
    """Share of permuted orders as extreme as the one observed; 1 is added to both counts unless all were tried."""
    signs = {"two-sided": (np.abs(null), abs(observed)), "greater": (null, observed), "less": (-null, -observed)}
    values, bound = signs[alternative]
    as_extreme = int((values >= bound - _ROUNDING).sum())
    return as_extreme / len(null) if exact else (as_extreme + 1) / (len(null) + 1)


def _vertex_bootstrap(
    x: Float[np.ndarray, "n n"], y: Float[np.ndarray, "n n"], n_resamples: int, seed: int
) -> Float[np.ndarray, " n_resamples"]:
    """Correlations over resampled tasks; NaN where a resample leaves no two different entries."""
    drawn = task_weights(len(x), n_resamples, seed)
    # A pair of tasks weighs the product of how often each was drawn; the diagonal is 0 in all that is summed.
    total = drawn.sum(1) ** 2 - np.square(drawn).sum(1)
    sums = {
        name: ((drawn @ matrix) * drawn).sum(1) / np.maximum(total, 1)
        for name, matrix in (("x", x), ("y", y), ("xx", x * x), ("yy", y * y), ("xy", x * y))
    }
    squared = (sums["xx"] - sums["x"] ** 2) * (sums["yy"] - sums["y"] ** 2)
    spread = np.sqrt(np.maximum(squared, 0))
    enough = spread > _ROUNDING
    covariance = sums["xy"] - sums["x"] * sums["y"]
    return np.divide(covariance, spread, out=np.full(n_resamples, np.nan), where=enough).clip(-1, 1)


def _spearman(x: Float[np.ndarray, "... n"], y: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "..."]:
    """Rank correlation along the last axis; NaN where one side has one value only."""
    return row_correlations(*(rankdata(values, axis=-1) for values in (x, y)))


def row_correlations(x: Float[np.ndarray, "... n"], y: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "..."]:
    """Along the last axis; NaN where one side has one value only."""
    a, b = (values - values.mean(-1, keepdims=True) for values in (x, y))
    products = (a * b).sum(-1)
    spread = np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))
    return np.divide(products, spread, out=np.full(np.shape(products), np.nan), where=spread > _ROUNDING)
