"""Bootstrap confidence intervals over tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

Values = Sequence[float | int] | np.ndarray
"""One number a task."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Values, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean with a percentile bootstrap interval; one value a task."""
    return _interval((values,), lambda x, axis: np.mean(x, axis), n_resamples, seed)


def ratio_interval(numerators: Values, denominators: Values, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Ratio of means over the same tasks, resampled in pairs."""
    return _interval(
        (numerators, denominators), lambda x, y, axis: np.mean(x, axis) / np.mean(y, axis), n_resamples, seed
    )


def difference_interval(first: Values, second: Values, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Difference of means (first - second) over the same tasks, resampled in pairs."""
    return mean_interval(np.subtract(first, second), n_resamples, seed)


def _interval(data: tuple, statistic: Callable[..., np.ndarray], n_resamples: int, seed: int) -> Interval:
    data = tuple(np.asarray(x, dtype=float) for x in data)
    value = float(statistic(*data, axis=0))
    if len(data[0]) < 2 or all(np.ptp(x) == 0 for x in data):
        return Interval(value, value, value)
    result = bootstrap(
        data, statistic, paired=len(data) > 1, vectorized=True, n_resamples=n_resamples, method="percentile", rng=seed
    )
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high))
