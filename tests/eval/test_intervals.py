"""Bootstrap intervals and permutation tests agree with what analysis says of simple cases."""

import itertools

import numpy as np
import pytest
from scipy import stats

from soft2hard.errors import UserError
from soft2hard.eval.intervals import (
    Interval,
    by_task,
    difference_interval,
    mean_interval,
    paired_difference,
    percentile_interval,
    ratio_interval,
    sign_flip_p_value,
    task_weights,
)

RNG = np.random.default_rng(5)
VALUES = RNG.normal(3.0, 2.0, 400)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    low, high = stats.norm.interval(0.95, VALUES.mean(), stats.sem(VALUES))
    found = mean_interval(VALUES)
    assert found.value == pytest.approx(VALUES.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_the_interval_of_a_share_is_that_of_the_binomial_distribution() -> None:
    hits = [True] * 60 + [False] * 140
    low, high = (quantile / 200 for quantile in stats.binom.interval(0.95, 200, 0.3))
    found = mean_interval(hits)
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.011)  # two of 200


def test_about_95_of_100_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(1.0, 1.0, 60), n_resamples=400) for _ in range(200)]
    covered = sum(i.low <= 1.0 <= i.high for i in intervals)
    assert 180 <= covered <= 198  # 190 expected; three standard errors are 9


def test_the_interval_of_a_ratio_is_that_of_the_delta_method() -> None:
    soft = RNG.uniform(0.5, 1.0, 400)
    hard = soft * RNG.uniform(0.6, 1.0, 400)
    ratio = hard.mean() / soft.mean()
    half = 1.96 * np.std(hard - ratio * soft, ddof=1) / np.sqrt(400) / soft.mean()
    found = ratio_interval(hard, soft)
    assert found.value == pytest.approx(ratio)
    assert (found.low, found.high) == pytest.approx((ratio - half, ratio + half), abs=0.2 * half)


def test_a_ratio_is_of_means_and_not_a_mean_of_ratios() -> None:
    assert ratio_interval([1.0, 0.0], [1.0, 0.5]).value == pytest.approx(1 / 1.5)


def test_pairs_are_resampled_together() -> None:
    constant = ratio_interval(VALUES, 2 * VALUES)
    assert (constant.value, constant.low, constant.high) == pytest.approx((0.5, 0.5, 0.5))
    shifted = difference_interval(VALUES + 1, VALUES)
    assert (shifted.value, shifted.low, shifted.high) == pytest.approx((1, 1, 1))


def test_a_difference_is_first_minus_second_with_the_interval_of_paired_values() -> None:
    other = RNG.normal(2.0, 2.0, 400)
    low, high = stats.ttest_rel(VALUES, other).confidence_interval(0.95)
    found = difference_interval(VALUES, other)
    assert found.value == pytest.approx(VALUES.mean() - other.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_constant_values_have_an_interval_without_width() -> None:
    for found in (mean_interval([0.7] * 5), ratio_interval([0.7] * 5, [1.0] * 5)):
        assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7, 0.7))


def test_a_single_value_has_no_interval() -> None:
    for found in (mean_interval([0.7]), ratio_interval([0.7], [1.0]), difference_interval([0.9], [0.2])):
        assert (found.low, found.high) == (None, None) and found.value == pytest.approx(0.7)
    assert str(mean_interval([0.7])) == "0.700 [–]"


def test_the_same_seed_gives_the_same_interval_and_another_nearly_the_same() -> None:
    first, second = mean_interval(VALUES, seed=1), mean_interval(VALUES, seed=2)
    assert mean_interval(VALUES, seed=1) == first != second
    assert first.low == pytest.approx(second.low, abs=0.05)


def test_more_values_give_a_narrower_interval() -> None:
    few, many = mean_interval(VALUES[:100]), mean_interval(VALUES)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.25)


def test_an_interval_is_written_to_three_places() -> None:
    assert str(Interval(0.5, 0.42345, 0.6)) == "0.500 [0.423, 0.600]"


def test_seeds_are_averaged_within_a_task_first() -> None:
    values = by_task([("a", 1.0), ("b", 0.5), ("a", 0.0), ("c", True)])
    assert values == {"a": 0.5, "b": 0.5, "c": 1.0}
    found = paired_difference(values, {"a": 0.5, "b": 0.0, "c": 1.0})
    assert found.difference.value == pytest.approx(0.5 / 3)  # not 1.0 / 4, a mean of rows


def test_tasks_are_paired_by_name_and_those_of_one_method_are_left_out() -> None:
    first, second = {"a": 1.0, "b": 0.0, "x": 9.0}, {"b": 1.0, "y": 9.0, "z": 9.0, "a": 0.5}
    found = paired_difference(first, second)
    assert found.difference == difference_interval([1.0, 0.0], [0.5, 1.0])
    assert found.n_tasks == 2
    with pytest.raises(UserError, match="no task in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def test_few_differences_have_the_p_value_of_all_choices_of_signs() -> None:
    values = np.array([0.3, -0.1, 0.5, 0.2, 0.4, -0.2, 0.1, 0.6])
    means = [abs(np.mean(values * signs)) for signs in itertools.product((1, -1), repeat=8)]
    expected = np.mean([mean >= abs(values.mean()) - 1e-12 for mean in means])
    assert sign_flip_p_value(values) == sign_flip_p_value(-values) == pytest.approx(expected)
    assert sign_flip_p_value([*values, 0.0, 0.0]) == pytest.approx(expected)


def test_many_differences_have_the_p_value_of_the_t_test() -> None:
    for mean in (0.0, 0.1, 0.2):
        values = np.random.default_rng(1).normal(mean, 1.0, 200)
        expected = stats.ttest_1samp(values, 0.0).pvalue
        assert sign_flip_p_value(values) == pytest.approx(expected, abs=0.02)


def test_a_clear_difference_has_a_small_p_value_that_is_never_zero() -> None:
    assert 0 < sign_flip_p_value(np.random.default_rng(0).normal(2.0, 1.0, 100)) < 0.001


@pytest.mark.parametrize("differences", [[0.0, 0.0, 0.0], [0.7], [0.7, 0.0]])
def test_fewer_than_two_differences_prove_nothing(differences: list[float]) -> None:
    assert sign_flip_p_value(differences) == 1.0


def test_without_a_difference_one_p_value_in_twenty_is_below_a_twentieth() -> None:
    rng = np.random.default_rng(0)
    p_values = [sign_flip_p_value(rng.normal(0, 1, 20), n_resamples=500) for _ in range(400)]
    assert 7 <= sum(p <= 0.05 for p in p_values) <= 33  # 20 expected; three standard errors are 13


def test_a_figure_that_few_resamples_define_has_no_interval_and_one_that_most_do_has_theirs() -> None:
    resampled = np.linspace(0, 1, 1000)
    few = np.where(np.arange(1000) % 2, resampled, np.nan)
    assert percentile_interval(0.5, few) == Interval(0.5, None, None)
    most = percentile_interval(0.5, np.where(np.arange(1000) % 10, resampled, np.nan))
    assert (most.low, most.high) == pytest.approx((0.025, 0.975), abs=0.003)


def test_resamples_draw_as_many_tasks_as_there_are_each_as_often_as_any() -> None:
    weights = task_weights(6, 3000, seed=0)
    assert (weights.sum(1) == 6).all()
    assert weights.mean(0) == pytest.approx([1] * 6, abs=0.07)  # four standard errors
