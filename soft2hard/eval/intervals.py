"""Bootstrap confidence intervals over tasks, and paired comparisons of two methods on the same tasks."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import DegenerateDataWarning, bootstrap, permutation_test

from soft2hard.errors import UserError

_LEAST_DEFINED = 0.6
"""Of resamples: two tasks have a pair in half of them, and it is always the same one."""

Values = Sequence[float | int] | np.ndarray
"""One number a task."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; None at both ends where there is too little to say how sure the figure is."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        known = self.low is not None and self.high is not None
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if known else f"{self.value:.3f} [–]"


@dataclass(frozen=True)
class PairedDifference:
    """How two methods differ on the tasks that both have a value for."""

    difference: Interval
    """First minus second, mean over tasks."""
    p_value: float
    """Two-sided, of a sign-flip permutation test that neither is favoured; 1 where fewer than two tasks differ."""
    n_tasks: int


def mean_interval(values: Values, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean with a percentile bootstrap interval, none for a single task; one value a task."""
    return _interval((values,), lambda x, axis: np.mean(x, axis), n_resamples, seed)


def ratio_interval(numerators: Values, denominators: Values, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Ratio of means over the same tasks, resampled in pairs."""
    data = (numerators, denominators)
    return _interval(data, lambda x, y, axis: np.mean(x, axis) / np.mean(y, axis), n_resamples, seed)


def difference_interval(first: Values, second: Values, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Difference of means (first - second) over the same tasks, resampled in pairs."""
    return mean_interval(np.subtract(first, second), n_resamples, seed)


def by_task(values: Iterable[tuple[str, float | int]]) -> dict[str, float]:
    """Mean over seeds of each task's values, so that tasks, which are independent, are what is resampled."""
    found: dict[str, list[float]] = {}
    for task, value in values:
        found.setdefault(task, []).append(float(value))
    return {task: float(np.mean(of_task)) for task, of_task in found.items()}


def paired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> PairedDifference:
    """Compare two methods by their values for each task (`by_task`), with an interval and a p-value.

    Raises UserError where they share no task.
    """
    tasks = [task for task in first if task in second]
    if not tasks:
        raise UserError("The two methods have no task in common.", "Compare methods run on the same tasks.")
    differences = np.array([first[task] - second[task] for task in tasks])
    return PairedDifference(mean_interval(differences), sign_flip_p_value(differences), len(tasks))


def sign_flip_p_value(differences: Values, n_resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value that differences are as likely to be positive as negative, by flipping their signs at random.

    Exact where all 2^n ways to choose signs are no more than `n_resamples`; else twice the smaller tail of so many
    random choices, with one added to both counts (Phipson and Smyth 2010), so never 0.
    """
    values = np.asarray(differences, dtype=float)
    changed = values[values != 0]  # the others have no sign to flip
    if len(changed) < 2:
        return 1.0
    test = {"permutation_type": "samples", "vectorized": True, "batch": 1000}
    result = permutation_test((changed,), lambda x, axis: np.mean(x, axis), n_resamples=n_resamples, rng=seed, **test)
    return float(result.pvalue)


def percentile_interval(value: float, resampled: np.ndarray) -> Interval:
    """A figure with the middle 95 % of its values in resamples of tasks; those in which it is NaN are left out.

    No interval where those are so many that the rest are hardly more than the tasks themselves over again.
    """
    defined = resampled[np.isfinite(resampled)]
    if len(defined) < _LEAST_DEFINED * len(resampled):
        return Interval(value, None, None)
    low, high = np.percentile(defined, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def task_weights(n_tasks: int, n_resamples: int, seed: int) -> Float[np.ndarray, "n_resamples n_tasks"]:
    """How often each task is drawn in each bootstrap resample of as many tasks."""
    drawn = np.random.default_rng(seed).multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), n_resamples)
    return drawn.astype(float)


def _interval(data: tuple, statistic: Callable[..., np.ndarray], n_resamples: int, seed: int) -> Interval:
    data = tuple(np.asarray(x, dtype=float) for x in data)
    value = float(statistic(*data, axis=0))
    if len(data[0]) < 2:
        return Interval(value, None, None)
    if all(np.ptp(x) == 0 for x in data):
        return Interval(value, value, value)
    options = {"paired": len(data) > 1, "vectorized": True, "method": "percentile"}
    with warnings.catch_warnings():  # of few tasks whose ratio no resample has: there is no interval then, as is shown
        warnings.simplefilter("ignore", DegenerateDataWarning)
        ends = bootstrap(data, statistic, n_resamples=n_resamples, rng=seed, **options).confidence_interval
    return Interval(value, float(ends.low), float(ends.high))
