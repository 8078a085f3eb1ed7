"""Calibration figures are those of scikit-learn and of their definitions."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from soft2hard.errors import UserError
from soft2hard.eval.metrics.calibration import Kept, auroc, expected_calibration_error, kept_at, reliability_curve

RNG = np.random.default_rng(0)
CONFIDENCE = RNG.integers(0, 17, 300) / 16  # shares of 16 probe inputs: many ties, and both ends
SUCCESS = RNG.random(300) < CONFIDENCE**2


def test_auroc_is_scikit_learns_with_ties() -> None:
    assert auroc(CONFIDENCE, SUCCESS) == pytest.approx(roc_auc_score(SUCCESS, CONFIDENCE))


def test_auroc_is_one_for_a_perfect_order_a_half_for_none_and_nothing_for_one_outcome() -> None:
    assert auroc([0.1, 0.2, 0.9], [False, False, True]) == 1.0
    assert auroc([0.1, 0.2, 0.9], [True, True, False]) == 0.0
    assert auroc([0.5] * 4, [True, False, False, False]) == 0.5
    assert auroc([0.1, 0.9], [True, True]) is None


def test_the_reliability_curve_is_scikit_learns_where_no_confidence_lies_on_an_edge() -> None:
    confidence = RNG.random(300) * 0.7
    success = RNG.random(300) < confidence
    success_rates, means = calibration_curve(success, confidence, n_bins=8)
    filled = [b for b in reliability_curve(confidence, success, 8) if b.count]
    assert [b.success for b in filled] == pytest.approx(success_rates)
    assert [b.confidence for b in filled] == pytest.approx(means)


def test_bins_count_every_item_once_and_empty_ones_stay() -> None:
    bins = reliability_curve([0.0, 0.2, 0.2, 0.5, 1.0], [False, True, False, True, True], n_bins=5)
    assert [b.count for b in bins] == [1, 2, 1, 0, 1]
    assert [b.success for b in bins] == [0.0, 0.5, 1.0, None, 1.0]
    assert (bins[3].low, bins[3].high, bins[3].confidence) == (pytest.approx(0.6), pytest.approx(0.8), None)
    assert sum(b.count for b in reliability_curve(CONFIDENCE, SUCCESS)) == 300


def test_the_calibration_error_of_a_worked_example() -> None:
    # Two bins: mean confidence 0.25 with 1 success of 2, and 0.8 with 2 of 3.
    confidence, success = [0.2, 0.3, 0.7, 0.8, 0.9], [True, False, True, True, False]
    expected = 2 / 5 * abs(0.5 - 0.25) + 3 / 5 * abs(2 / 3 - 0.8)
    assert expected_calibration_error(confidence, success, n_bins=2) == pytest.approx(expected)


def test_a_calibrated_confidence_has_a_small_error_and_an_overconfident_one_the_gap() -> None:
    confidence = RNG.random(20_000)
    assert expected_calibration_error(confidence, RNG.random(20_000) < confidence) < 0.02
    assert expected_calibration_error([1.0] * 4, [True, False, False, False]) == 0.75


def kept_by_trying_all_thresholds(rate: float) -> float:
    shares = [0.0]
    for threshold in np.unique(CONFIDENCE):
        kept = threshold <= CONFIDENCE
        if SUCCESS[kept].mean() >= rate:
            shares.append(kept.mean())
    return max(shares)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.8, 0.9, 0.95, 1.0])
def test_what_is_kept_is_the_most_that_any_threshold_keeps(rate: float) -> None:
    found = kept_at(CONFIDENCE, SUCCESS, rate)
    assert found.share == pytest.approx(kept_by_trying_all_thresholds(rate))
    if found.threshold is not None:
        kept = found.threshold <= CONFIDENCE
        assert (kept.mean(), SUCCESS[kept].mean()) == pytest.approx((found.share, found.success))
        assert found.success >= rate


def test_items_of_one_confidence_are_kept_together_and_nothing_may_be_kept() -> None:
    assert kept_at([0.9, 0.9, 0.1], [True, False, True], 0.6) == Kept(1.0, 0.1, 2 / 3)
    assert kept_at([0.9, 0.9], [True, False], 0.9) == Kept(0.0, None, None)


@pytest.mark.parametrize(
    ("confidence", "success", "problem"),
    [([], [], "0 confidences"), ([0.5], [True, False], "1 confidences for 2"), ([float("nan")], [True], "not numbers")],
)
def test_what_cannot_be_judged_is_refused(confidence: list[float], success: list[bool], problem: str) -> None:
    for judge in (auroc, reliability_curve, expected_calibration_error, lambda c, s: kept_at(c, s, 0.9)):
        with pytest.raises(UserError, match=problem):
            judge(confidence, success)


def test_a_curve_needs_confidences_from_0_to_1_and_an_order_does_not() -> None:
    with pytest.raises(UserError, match="from -3 to 2"):
        reliability_curve([-3.0, 2.0], [False, True])
    assert auroc([-3.0, 2.0], [False, True]) == 1.0
