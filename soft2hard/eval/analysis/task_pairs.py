"""Figures of tasks from matrices over their soft prompts: means within and between tasks, and on other tasks.

Intervals are 95 % percentile bootstrap intervals over tasks. Where a figure is of pairs of tasks, tasks are resampled
and pairs go with them, their rows and their columns (the vertex bootstrap of Snijders and Borgatti 1999), because pairs
that share a task are not independent; pairs of a task with its own copy are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval, percentile_interval, task_weights


@dataclass(frozen=True)
class WithinBetween:
    """Distances between prompts of one task beside distances between prompts of different tasks."""

    within: Interval
    """Mean over tasks with two prompts or more of the mean distance between its prompts."""
    between: Interval
    """Mean over pairs of tasks of the mean distance between their prompts."""
    ratio: Interval
    """Within by between: below 1 where prompts of one task lie closer together."""
    n_tasks: int
    n_single: int
    """Tasks with one prompt, which have no distance within."""


def task_means(
    matrix: Float[np.ndarray, "n_prompts n_prompts"], tasks: Sequence[str]
) -> tuple[tuple[str, ...], Float[np.ndarray, "n_tasks n_tasks"]]:
    """Mean entry for each pair of tasks, of a matrix over their prompts; `tasks[i]` is the task of prompt i.

    A prompt beside itself does not count, so the diagonal is NaN for tasks with one prompt.
    """
    if len(matrix) != len(tasks):
        raise UserError(f"The matrix has {len(matrix)} rows for {len(tasks)} prompts.", "Give one task a row.")
    names, member = _members(tasks)
    sizes = member.sum(1)
    sums = member @ np.where(np.eye(len(matrix), dtype=bool), 0, matrix) @ member.T
    counts = np.outer(sizes, sizes) - np.diag(sizes)
    return names, np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def row_means(
    matrix: Float[np.ndarray, "n_prompts n_columns"], tasks: Sequence[str]
) -> tuple[tuple[str, ...], Float[np.ndarray, "n_tasks n_columns"]]:
    """Mean row of each task's prompts, such as of a transfer matrix; `tasks[i]` is the task of row i."""
    if len(matrix) != len(tasks):
        raise UserError(f"The matrix has {len(matrix)} rows for {len(tasks)} prompts.", "Give one task a row.")
    names, member = _members(tasks)
    return names, member @ matrix / member.sum(1, keepdims=True)


def within_between(
    distances: Float[np.ndarray, "n_prompts n_prompts"], tasks: Sequence[str], n_resamples: int = 2000, seed: int = 0
) -> WithinBetween:
    """Summarise a matrix of distances between prompts by whether they share a task; every task weighs the same.

    Raises UserError where there are fewer than two tasks, or no task has two prompts.
    """
    names, means = task_means(distances, tasks)
    within = np.diag(means)
    repeated = np.isfinite(within)
    if len(names) < 2 or not repeated.any():
        raise UserError(
            f"There are {len(names)} tasks, {repeated.sum()} of them with two prompts or more.",
            "Give at least two tasks, and at least two prompts of one of them.",
        )
    observed = _within_and_between(means, repeated, np.ones((1, len(names))))[0]
    resampled = _within_and_between(means, repeated, task_weights(len(names), n_resamples, seed))
    intervals = [
        percentile_interval(float(value), column)
        for value, column in zip(_with_ratio(observed[None])[0], _with_ratio(resampled).T, strict=True)
    ]
    if repeated.sum() == 1:  # one value, however often its task is drawn
        intervals[0], intervals[2] = (Interval(intervals[i].value, None, None) for i in (0, 2))
    return WithinBetween(*intervals, n_tasks=len(names), n_single=int((~repeated).sum()))


def other_tasks_mean(
    matrix: Float[np.ndarray, "n n"],
    counted: Bool[np.ndarray, "n n"] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Mean over rows of the mean of each row's cells off the diagonal, such as of a transfer matrix over tasks.

    Only cells that are `counted`, if that is given; None where there is none. The interval holds for new tasks in the
    columns as in the rows.
    """
    kept = _off_diagonal(len(matrix)) if counted is None else counted & _off_diagonal(len(matrix))
    if not kept.any():
        return None
    cells = np.where(kept, matrix, 0)

    def means(weights: Float[np.ndarray, "n_resamples n"]) -> Float[np.ndarray, " n_resamples"]:
        of_row = _divided(weights @ cells.T, weights @ kept.T.astype(float))
        return _weighted(of_row, weights)

    resampled = means(task_weights(len(matrix), n_resamples, seed))
    return percentile_interval(float(means(np.ones((1, len(matrix))))[0]), resampled)


def variation_between(
    distances: Float[np.ndarray, "n_prompts n_prompts"], tasks: Sequence[str], n_resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Coefficient of variation (unbiased deviation) of each task's distances to prompts of others, mean over tasks.

    None where no task has two such distances that are not all 0.
    """
    names, member = _members(tasks)
    off = _off_diagonal(len(names))
    centre = float(distances.mean())  # deviations from it lose no digits when they are squared
    counts, sums, squares = (
        np.where(off, member @ matrix @ member.T, 0)
        for matrix in (np.ones_like(distances), distances - centre, np.square(distances - centre))
    )

    def means(weights: Float[np.ndarray, "n_resamples n"]) -> Float[np.ndarray, " n_resamples"]:
        n = weights @ counts
        mean = _divided(weights @ sums, n)
        variance = _divided(weights @ squares - n * np.square(mean), n - 1)
        return _weighted(_divided(np.sqrt(np.maximum(variance, 0)), mean + centre), weights)

    value = float(means(np.ones((1, len(names))))[0])
    if np.isnan(value):
        return None
    return percentile_interval(value, means(task_weights(len(names), n_resamples, seed)))


def _divided(
    numerators: Float[np.ndarray, "*shape"], denominators: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """NaN where the denominator is not above 0."""
    return np.divide(numerators, denominators, out=np.full(numerators.shape, np.nan), where=denominators > 0)


def _weighted(
    values: Float[np.ndarray, "n_resamples n"], weights: Float[np.ndarray, "n_resamples n"]
) -> Float[np.ndarray, " n_resamples"]:
    """Mean of the values that are defined; NaN where none is."""
    defined = np.where(np.isfinite(values), weights, 0)
    return _divided((np.nan_to_num(values) * defined).sum(1), defined.sum(1))


def _off_diagonal(n: int) -> Bool[np.ndarray, "n n"]:
    return ~np.eye(n, dtype=bool)


def _members(tasks: Sequence[str]) -> tuple[tuple[str, ...], Float[np.ndarray, "n_tasks n_prompts"]]:
    names = tuple(dict.fromkeys(tasks))
    return names, np.array([[task == name for task in tasks] for name in names], dtype=float)


def _within_and_between(
    means: Float[np.ndarray, "n n"], repeated: Bool[np.ndarray, " n"], weights: Float[np.ndarray, "n_resamples n"]
) -> Float[np.ndarray, "n_resamples 2"]:
    """Mean within and mean between under weights of tasks; NaN where a resample has neither."""
    off = np.where(_off_diagonal(len(means)), means, 0)
    own = weights[:, repeated]
    pairs = weights.sum(1) ** 2 - np.square(weights).sum(1)
    sums = np.stack([own @ np.diag(means)[repeated], ((weights @ off) * weights).sum(1)], 1)
    counts = np.stack([own.sum(1), pairs], 1)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _with_ratio(values: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    between = values[:, 1]
    ratio = np.divide(values[:, 0], between, out=np.full(len(values), np.nan), where=between > 0)
    return np.column_stack([values, ratio])
