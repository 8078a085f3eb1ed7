"""Correlations and summaries are SciPy's, their definitions, and what planted cases must give."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from soft2hard.errors import UserError
from soft2hard.eval.analysis import correlations
from soft2hard.eval.analysis.claims import verdict
from soft2hard.eval.analysis.correlations import (
    double_centred,
    mantel,
    other_tasks_mean,
    rank_correlation,
    task_means,
    variation_between,
    within_between,
)
from soft2hard.eval.intervals import Interval, mean_interval

RNG = np.random.default_rng(4)


def off(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]


def asymmetric(n: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n)), rng.normal(size=(n, n))


def symmetric(n: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return squareform(pdist(rng.normal(size=(n, 2)))), squareform(pdist(rng.normal(size=(n, 2))))


@pytest.mark.parametrize(("method", "statistic"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
@pytest.mark.parametrize("matrices", [asymmetric, symmetric])
def test_the_mantel_test_of_few_tasks_is_its_definition(matrices, method, statistic) -> None:
    first, second = matrices()
    observed = statistic(off(first), off(second))[0]
    null = []
    for order in map(list, permutations(range(5))):
        null.append(statistic(off(first), off(second[order][:, order]))[0])
    found = mantel(first, second, method=method, n_resamples=50)
    assert found.correlation.value == pytest.approx(observed)
    assert found.p_value == pytest.approx(np.mean(np.abs(null) >= abs(observed) - 1e-9))
    assert found.n == 5


def test_both_triangles_of_symmetric_matrices_say_what_one_says() -> None:
    first, second = symmetric(9)
    for method, statistic in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        expected = statistic(squareform(first), squareform(second))[0]
        assert mantel(first, second, method=method, n_permutations=9).correlation.value == pytest.approx(expected)


def test_the_diagonal_counts_for_nothing() -> None:
    first, second = asymmetric(8)
    filled = second + np.diag(np.full(8, 1e6))
    np.fill_diagonal(first, np.nan)
    assert mantel(first, filled, n_permutations=99) == mantel(first, second, n_permutations=99)


def test_a_matrix_goes_with_itself_and_against_its_negative() -> None:
    first, _ = asymmetric(12)
    same, opposite = mantel(first, 3 * first + 1), mantel(first, -first)
    assert same.correlation.value == pytest.approx(1) and opposite.correlation.value == pytest.approx(-1)
    assert same.p_value == opposite.p_value == pytest.approx(1 / 10_000)
    assert (same.correlation.low, same.correlation.high) == pytest.approx((1, 1))


def test_a_random_mantel_test_comes_close_to_all_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = symmetric(6, seed=8)
    exact = mantel(first, second)
    monkeypatch.setattr(correlations, "_EXACT_UP_TO", 0)
    random = mantel(first, second)
    assert random.p_value == pytest.approx(exact.p_value, abs=0.02)  # four standard errors of 9999 draws


def test_mantel_p_values_of_noise_are_uniform() -> None:
    values = [mantel(*symmetric(9, seed), n_permutations=99, n_resamples=2).p_value for seed in range(200)]
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_the_interval_of_a_mantel_correlation_holds_the_true_one() -> None:
    """Entries are sums of effects of their tasks, so that pairs with a task in common depend on each other."""
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(60):
        tasks = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 30)
        first, second = (column[:, None] + column[None] for column in tasks.T)
        interval = mantel(first, second, n_permutations=1, n_resamples=300, seed=seed).correlation
        held += interval.low <= 0.5 <= interval.high
    assert held >= 50  # 57 expected; the bootstrap of 30 tasks is a little narrow


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        (np.eye(2), np.eye(2), "2 tasks"),
        (np.ones((4, 4)), asymmetric(4)[0], "All pairs of tasks have the same value"),
        (np.array([[0, 1, np.nan], [1, 0, 2], [3, 2, 0]]), asymmetric(3)[0], "1 values of pairs of tasks are missing"),
    ],
)
def test_matrices_that_have_no_mantel_test_are_refused(first, second, problem) -> None:
    with pytest.raises(UserError, match=problem):
        mantel(first.astype(float), second.astype(float))


def test_rank_correlation_is_scipys() -> None:
    x = RNG.normal(size=40).round(1)  # with ties
    y = x + RNG.normal(size=40)
    found = rank_correlation(x, y)
    expected = stats.spearmanr(x, y)
    assert found.correlation.value == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.01)
    bootstrap = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=0,
    ).confidence_interval
    assert (found.correlation.low, found.correlation.high) == pytest.approx(tuple(bootstrap), abs=0.05)


def test_rank_correlation_of_few_tasks_tries_all_orders() -> None:
    found = rank_correlation([1, 2, 3, 4], [10, 20, 30, 40])
    assert found.p_value == pytest.approx(2 / 24)
    assert found.correlation.value == 1


def test_rank_correlation_of_noise_holds_0() -> None:
    held = 0
    for seed in range(60):
        x, y = np.random.default_rng(seed).normal(size=(2, 40))
        interval = rank_correlation(x, y, n_permutations=9, n_resamples=300).correlation
        held += interval.low <= 0 <= interval.high
    assert held >= 51  # 57 expected


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [([1, 2], [1, 2], "2 tasks"), ([1, 1, 1], [1, 2, 3], "same value"), ([1, 2, np.nan], [1, 2, 3], "missing")],
)
def test_values_that_have_no_rank_correlation_are_refused(x, y, problem) -> None:
    with pytest.raises(UserError, match=problem):
        rank_correlation(x, y)


@pytest.mark.parametrize(
    ("interval", "bounds", "said"),
    [
        (Interval(0.5, 0.1, 0.9), {"low": 0.0}, "confirmed"),
        (Interval(0.5, -0.1, 0.9), {"low": 0.0}, "undecided"),
        (Interval(-0.5, -0.9, -0.1), {"low": 0.0}, "refuted"),
        (Interval(0.9, 0.8, 0.95), {"high": 1.0}, "confirmed"),
        (Interval(1.2, 1.1, 1.3), {"high": 1.0}, "refuted"),
        (Interval(1.0, 0.9, 1.0), {"high": 1.0}, "undecided"),
        (Interval(1.0, 0.95, 1.05), {"low": 0.9, "high": 1.1}, "confirmed"),
        (Interval(1.0, 0.85, 1.05), {"low": 0.9, "high": 1.1}, "undecided"),
        (Interval(1.3, 1.2, 1.4), {"low": 0.9, "high": 1.1}, "refuted"),
        (Interval(1.0, None, None), {"low": 0.0}, "undecided"),
    ],
)
def test_a_claim_is_confirmed_or_refuted_only_by_the_whole_interval(interval, bounds, said) -> None:
    assert verdict(interval, **bounds) == said


def test_a_mantel_test_of_three_tasks_has_no_interval() -> None:
    found = mantel(*symmetric(3))
    assert (found.correlation.low, found.correlation.high) == (None, None)
    assert mantel(*symmetric(5)).correlation.low is not None


def test_what_is_left_of_a_matrix_is_what_least_squares_on_its_rows_and_columns_leave() -> None:
    matrix = asymmetric(6)[0]
    i, j = np.nonzero(~np.eye(6, dtype=bool))
    effects = np.eye(6)
    design = np.hstack([np.ones((30, 1)), effects[i], effects[j]])
    expected = matrix[i, j] - design @ np.linalg.lstsq(design, matrix[i, j], rcond=None)[0]
    left = double_centred(matrix)
    np.testing.assert_allclose(left[i, j], expected, atol=1e-12)
    np.testing.assert_allclose([left.sum(0), left.sum(1)], 0, atol=1e-12)
    sums = np.arange(6.0)[:, None] + np.arange(6.0)[None] ** 2
    np.testing.assert_allclose(double_centred(sums), 0, atol=1e-12)


def test_a_centred_mantel_test_finds_what_rows_and_columns_hide() -> None:
    rng = np.random.default_rng(2)
    pair = rng.normal(size=(14, 14))
    first = pair + 9 * rng.normal(size=14)[:, None]
    second = pair + 9 * rng.normal(size=14)[None]
    hidden = mantel(first, second, n_permutations=199)
    found = mantel(first, second, centred=True, n_permutations=199)
    assert abs(hidden.correlation.value) < 0.4 and found.correlation.value == pytest.approx(1)
    with pytest.raises(UserError, match="sum of what its rows"):
        mantel(np.arange(5.0)[:, None] + np.arange(5.0)[None], asymmetric(5)[0], centred=True)
    with pytest.raises(UserError, match="3 tasks says nothing"):
        mantel(*asymmetric(3), centred=True)


def test_the_interval_of_a_centred_mantel_correlation_holds_the_true_one() -> None:
    rng, held = np.random.default_rng(3), 0
    for seed in range(40):
        shared = rng.normal(size=(20, 20))
        first, second = (
            shared + rng.normal(size=(20, 20)) + 3 * rng.normal(size=20)[:, None] + 3 * rng.normal(size=20)
            for _ in range(2)
        )
        found = mantel(first, second, centred=True, n_permutations=1, n_resamples=300, seed=seed).correlation
        held += found.low <= 0.5 <= found.high
    assert held >= 36  # 38 expected or more: cells that are independent make the interval too wide


def closed(x: np.ndarray, y: np.ndarray, *controls: np.ndarray) -> float:
    """The partial correlation by its recursion."""
    if not controls:
        return stats.spearmanr(x, y).statistic
    *rest, z = controls
    xy, xz, yz = closed(x, y, *rest), closed(x, z, *rest), closed(y, z, *rest)
    return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))


@pytest.mark.parametrize("n_controls", [1, 2, 3])
def test_a_partial_rank_correlation_is_its_closed_formula(n_controls: int) -> None:
    x, y, *controls = np.random.default_rng(0).normal(size=(2 + n_controls, 30)).round(1)
    x = x + controls[0]
    found = rank_correlation(x, y, controls, n_permutations=999)
    expected = closed(x, y, *controls)
    assert found.correlation.value == pytest.approx(expected)
    freedom = 30 - 2 - n_controls
    by_t = 2 * stats.t.sf(abs(expected) * np.sqrt(freedom / (1 - expected**2)), freedom)
    assert found.p_value == pytest.approx(by_t, abs=0.06)


def test_a_correlation_that_a_third_figure_makes_is_gone_once_that_is_held_fixed() -> None:
    held = 0
    for seed in range(30):
        cause, a, b = np.random.default_rng(seed).normal(size=(3, 40))
        x, y = cause + 0.3 * a, cause + 0.3 * b
        found = rank_correlation(x, y, [cause], n_permutations=9, n_resamples=300).correlation
        held += found.low <= 0 <= found.high
        assert rank_correlation(x, y, n_permutations=9, n_resamples=9).correlation.value > 0.7
    assert held >= 25  # 28.5 expected


@pytest.mark.parametrize(
    ("controls", "problem"), [([[1, 2, 3, 4, 6]], "leave nothing"), ([[2, 1, 2, 5, 1]] * 3, "too few")]
)
def test_figures_that_have_no_partial_correlation_are_refused(controls, problem) -> None:
    with pytest.raises(UserError, match=problem):
        rank_correlation([1, 2, 3, 4, 5], [3, 1, 4, 1, 5], controls)


def test_a_figure_that_is_held_fixed_twice_is_held_fixed_once() -> None:
    x, y, z = np.random.default_rng(1).normal(size=(3, 20))
    once, twice = (rank_correlation(x, y, [z] * n, n_permutations=9).correlation for n in (1, 2))
    assert (once.value, once.low, once.high) == pytest.approx((twice.value, twice.low, twice.high))


# --- means within and between tasks --------------------------------------------------------------------


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


def test_within_and_between_are_means_over_tasks_and_pairs_of_them() -> None:
    points = RNG.normal(size=(9, 3))
    tasks = ["a"] * 2 + ["b"] * 4 + ["c"] * 3
    matrix = squareform(pdist(points))
    found = within_between(matrix, tasks)
    groups = [np.flatnonzero(np.array(tasks) == name) for name in "abc"]
    within = [np.mean([matrix[i, j] for i in g for j in g if i < j]) for g in groups]
    between = [matrix[np.ix_(groups[i], groups[j])].mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["within"].value == pytest.approx(np.mean(within))
    assert found["between"].value == pytest.approx(np.mean(between))
    assert found["ratio"].value == pytest.approx(np.mean(within) / np.mean(between))


def test_identical_prompts_of_a_task_are_at_no_distance_within() -> None:
    points = np.repeat(RNG.normal(size=(8, 5)), 3, axis=0)
    found = within_between(squareform(pdist(points)), [f"t{i // 3}" for i in range(24)])
    assert found["within"] == found["ratio"] == Interval(0.0, 0.0, 0.0)
    assert found["between"].low > 0


def test_prompts_of_pure_noise_are_as_far_within_tasks_as_between() -> None:
    points = RNG.normal(size=(60, 50))
    found = within_between(squareform(pdist(points)), [f"t{i // 3}" for i in range(60)])
    assert found["ratio"].low < 1 < found["ratio"].high
    assert verdict(found["ratio"], high=1.0) == "undecided"


def test_planted_clusters_are_closer_within_and_their_interval_is_that_of_a_mean() -> None:
    centres = np.repeat(RNG.normal(size=(40, 30)), 4, axis=0)
    matrix = squareform(pdist(centres + 0.3 * RNG.normal(size=centres.shape)))
    tasks = [f"t{i // 4}" for i in range(160)]
    found = within_between(matrix, [*tasks[:-1], "alone"])
    assert verdict(found["ratio"], high=1.0) == "confirmed"
    within = np.diag(task_means(matrix, tasks)[1])
    low, high = stats.norm.interval(0.95, within.mean(), stats.sem(within))
    whole = within_between(matrix, tasks)["within"]
    assert (whole.low, whole.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_one_task_or_one_prompt_each_has_nothing_within_or_between() -> None:
    for tasks in (["a", "a", "a"], ["a", "b", "c"]):
        assert set(within_between(np.ones((3, 3)), tasks).values()) == {None}


def test_distances_within_a_single_repeated_task_have_no_interval_nor_has_the_one_pair_of_two_tasks() -> None:
    matrix = squareform(pdist(RNG.normal(size=(6, 3))))
    single = within_between(matrix, ["a", "a", "a", "b", "c", "d"])
    assert single["within"].low is single["ratio"].high is None and single["between"].low is not None
    assert within_between(matrix, list("aaabbb"))["between"].low is None


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
