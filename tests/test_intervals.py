"""Bootstrap intervals agree with what analysis says of simple cases."""

import numpy as np
import pytest
from scipy import stats

from soft2hard.eval.intervals import Interval, difference_interval, mean_interval, ratio_interval

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


@pytest.mark.parametrize("values", [[0.7] * 5, [0.7]])
def test_constant_or_single_values_have_an_interval_without_width(values: list[float]) -> None:
    expected = Interval(0.7, 0.7, 0.7)
    for found in (mean_interval(values), ratio_interval(values, [1.0] * len(values))):
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_the_same_seed_gives_the_same_interval_and_another_nearly_the_same() -> None:
    first, second = mean_interval(VALUES, seed=1), mean_interval(VALUES, seed=2)
    assert mean_interval(VALUES, seed=1) == first != second
    assert first.low == pytest.approx(second.low, abs=0.05)


def test_more_values_give_a_narrower_interval() -> None:
    few, many = mean_interval(VALUES[:100]), mean_interval(VALUES)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.25)


def test_an_interval_is_written_to_three_places() -> None:
    assert str(Interval(0.5, 0.42345, 0.6)) == "0.500 [0.423, 0.600]"
