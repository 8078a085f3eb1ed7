"""Means within and between tasks are their definitions, and their intervals hold for new tasks in rows and columns."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from soft2hard.errors import UserError
from soft2hard.eval.analysis.relations import verdict
from soft2hard.eval.analysis.task_pairs import (
    other_tasks_mean,
    row_means,
    task_means,
    variation_between,
    within_between,
)
from soft2hard.eval.intervals import Interval, mean_interval

RNG = np.random.default_rng(4)


def test_means_of_tasks_leave_out_prompts_beside_themselves() -> None:
    matrix = np.arange(16.0).reshape(4, 4)
    names, means = task_means(matrix, ["b", "a", "b", "a"])
    assert names == ("b", "a")
    np.testing.assert_allclose(means, [[(2 + 8) / 2, (1 + 3 + 9 + 11) / 4], [(4 + 6 + 12 + 14) / 4, (7 + 13) / 2]])
    assert np.isnan(task_means(matrix, ["b", "a", "b", "c"])[1]).tolist() == [
        [False] * 3,
        [False, True, False],
        [False, False, True],
    ]
    names, rows = row_means(matrix[:, :3], ["b", "a", "b", "a"])
    np.testing.assert_allclose(rows, [[4, 5, 6], [8, 9, 10]])


def test_within_and_between_are_means_over_tasks_and_pairs_of_them() -> None:
    points = RNG.normal(size=(9, 3))
    tasks = ["a"] * 2 + ["b"] * 4 + ["c"] * 3
    matrix = squareform(pdist(points))
    found = within_between(matrix, tasks)
    groups = [np.flatnonzero(np.array(tasks) == name) for name in "abc"]
    within = [np.mean([matrix[i, j] for i in g for j in g if i < j]) for g in groups]
    between = [matrix[np.ix_(groups[i], groups[j])].mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.within.value == pytest.approx(np.mean(within))
    assert found.between.value == pytest.approx(np.mean(between))
    assert found.ratio.value == pytest.approx(np.mean(within) / np.mean(between))
    assert (found.n_tasks, found.n_single) == (3, 0)


def test_identical_prompts_of_a_task_are_at_no_distance_within() -> None:
    points = np.repeat(RNG.normal(size=(8, 5)), 3, axis=0)
    found = within_between(squareform(pdist(points)), [f"t{i // 3}" for i in range(24)])
    assert found.within == found.ratio == Interval(0.0, 0.0, 0.0)
    assert found.between.low > 0


def test_prompts_of_pure_noise_are_as_far_within_tasks_as_between() -> None:
    points = RNG.normal(size=(60, 50))
    found = within_between(squareform(pdist(points)), [f"t{i // 3}" for i in range(60)])
    assert found.ratio.low < 1 < found.ratio.high
    assert verdict(found.ratio, "below", 1.0) == "undecided"


def test_planted_clusters_are_closer_within_and_their_interval_is_that_of_a_mean() -> None:
    centres = np.repeat(RNG.normal(size=(40, 30)), 4, axis=0)
    matrix = squareform(pdist(centres + 0.3 * RNG.normal(size=centres.shape)))
    tasks = [f"t{i // 4}" for i in range(160)]
    found = within_between(matrix, [*tasks[:-1], "alone"])
    assert verdict(found.ratio, "below", 1.0) == "confirmed" and found.n_single == 1
    within = np.diag(task_means(matrix, tasks)[1])
    low, high = stats.norm.interval(0.95, within.mean(), stats.sem(within))
    whole = within_between(matrix, tasks).within
    assert (whole.low, whole.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_one_task_or_one_prompt_each_is_refused() -> None:
    for tasks in (["a", "a", "a"], ["a", "b", "c"]):
        with pytest.raises(UserError, match="tasks"):
            within_between(np.ones((3, 3)), tasks)
    for means in (task_means, row_means):
        with pytest.raises(UserError, match="3 rows for 2"):
            means(np.ones((3, 3)), ["a", "b"])


def test_distances_within_a_single_repeated_task_have_no_interval_nor_has_the_one_pair_of_two_tasks() -> None:
    matrix = squareform(pdist(RNG.normal(size=(6, 3))))
    single = within_between(matrix, ["a", "a", "a", "b", "c", "d"])
    assert single.within.low is single.ratio.high is None and single.between.low is not None
    assert within_between(matrix, list("aaabbb")).between.low is None


def test_the_mean_on_other_tasks_leaves_out_the_own_task_and_counts_what_is_asked() -> None:
    matrix = np.array([[9.0, 1, 2], [3, 9, 5], [0, 4, 9]])
    assert other_tasks_mean(matrix).value == pytest.approx((1.5 + 4 + 2) / 3)
    kin = np.array([[True, True, False], [True, True, False], [False, False, True]])
    assert other_tasks_mean(matrix, kin).value == pytest.approx((1 + 3) / 2)
    assert other_tasks_mean(matrix, np.eye(3, dtype=bool)) is None


def test_the_interval_of_the_mean_on_other_tasks_holds_the_true_one_under_effects_of_rows_and_of_columns() -> None:
    """Where an interval over the rows alone is far too narrow."""
    rng, held, of_rows = np.random.default_rng(0), 0, 0
    for _ in range(100):
        matrix = 0.2 * rng.normal(size=(30, 1)) + rng.normal(size=30) + 0.3 * rng.normal(size=(30, 30))
        found = other_tasks_mean(matrix, n_resamples=300)
        held += found.low <= 0 <= found.high
        rows = mean_interval((matrix.sum(1) - np.diag(matrix)) / 29, n_resamples=300)
        of_rows += rows.low <= 0 <= rows.high
    assert held >= 88 and of_rows < 60  # 95 expected; three standard errors are 7


def test_the_variation_between_tasks_is_the_mean_of_each_tasks() -> None:
    matrix = squareform(pdist(RNG.normal(size=(7, 3))))
    names = np.array(list("aabbbcc"))
    expected = []
    for name in "abc":
        others = matrix[names == name][:, names != name]
        expected.append(others.std(ddof=1) / others.mean())
    assert variation_between(matrix, names.tolist()).value == pytest.approx(np.mean(expected))
    assert variation_between(matrix[:3, :3], ["a"] * 3) is None
    assert variation_between(np.zeros((4, 4)), list("aabb")) is None
