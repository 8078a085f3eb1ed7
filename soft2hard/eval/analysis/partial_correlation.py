"""Rank correlation of two figures over tasks with other figures held fixed."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from soft2hard.errors import UserError
from soft2hard.eval.analysis.relations import (
    NOTHING_LEFT,
    Correlation,
    checked_values,
    permutation_p_value,
    row_correlations,
)
from soft2hard.eval.intervals import Values, percentile_interval


def partial_rank_correlation(
    first: Values,
    second: Values,
    controls: Sequence[Values],
    *,
    n_permutations: int = 9999,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Rank correlation of two figures over tasks with others held fixed, such as difficulty and distance given norms.

    All are ranked, a line in the ranks of the controls is taken out of the ranks of both, and what is left is
    correlated. Tasks are resampled and ranked anew. The two-sided p-value is of random permutations of what is left of
    the second (Freedman and Lane 1983). Raises UserError as `rank_correlation` does, where there are not three tasks
    more than controls, and where the controls leave nothing of a figure.
    """
    x, y, *held = checked_values(first, second, *controls)
    if len(x) < len(held) + 3:
        raise UserError(f"{len(x)} tasks are too few to hold {len(held)} figures fixed.", "Give more tasks.")
    data = np.stack([x, y, *held])
    a, b = _residuals(data[:, None])
    for left, values in ((a, x), (b, y)):
        if left.std() < NOTHING_LEFT * rankdata(values).std():
            raise UserError("The figures that are held fixed leave nothing to correlate.", "Hold fewer of them.")
    observed = float(row_correlations(a, b)[0])
    orders = np.random.default_rng(seed).permuted(np.tile(b[0], (n_permutations, 1)), axis=1)
    null = row_correlations(a, _without(orders, _basis(data[2:, None])))
    chosen = np.random.default_rng(seed).integers(0, len(x), (n_resamples, len(x)))
    resampled = row_correlations(*_residuals(data[:, chosen]))
    p_value = permutation_p_value(null, observed, "two-sided", exact=False)
    return Correlation(percentile_interval(observed, resampled), p_value, len(x), exact=False)


def _residuals(
    data: Float[np.ndarray, "n_figures n_resamples n"],
) -> tuple[Float[np.ndarray, "n_resamples n"], Float[np.ndarray, "n_resamples n"]]:
    """What is left of the ranks of the first two figures once those of the others are held fixed."""
    basis = _basis(data[2:])
    first, second = (_without(rankdata(values, axis=-1), basis) for values in data[:2])
    return first, second


def _basis(controls: Float[np.ndarray, "n_controls n_resamples n"]) -> Float[np.ndarray, "n_resamples n n_columns"]:
    """Orthonormal columns that span a constant and the ranks of the controls; 0 where those say the same."""
    ranks = rankdata(controls, axis=-1)
    columns = np.stack([np.ones(ranks.shape[1:]), *(r - r.mean(-1, keepdims=True) for r in ranks)], -1)
    vectors, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return vectors * (sizes > NOTHING_LEFT * sizes[:, :1])[:, None]


def _without(
    values: Float[np.ndarray, "n_resamples n"], basis: Float[np.ndarray, "#n_resamples n n_columns"]
) -> Float[np.ndarray, "n_resamples n"]:
    return values - (basis @ (values[:, None] @ basis).swapaxes(1, 2))[..., 0]
