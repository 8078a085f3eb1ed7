"""Calibration figures are those of scikit-learn and of their definitions."""

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve

from soft2hard.eval.report.figures import auroc, calibration_error, kept_at, reliability

RNG = np.random.default_rng(0)
CONFIDENCE = RNG.integers(0, 17, 300) / 16  # shares of 16 probe inputs: many ties, and both ends
SUCCESS = RNG.random(300) < CONFIDENCE**2


def error_of(confidence: np.ndarray | list, success: np.ndarray | list, n_bins: int = 10) -> float:
    return calibration_error(reliability(confidence, success, n_bins))


def test_auroc_is_one_for_a_perfect_order_a_half_for_none_and_nothing_for_one_outcome() -> None:
    assert auroc([0.1, 0.2, 0.9], [False, False, True]) == 1.0
    assert auroc([0.1, 0.2, 0.9], [True, True, False]) == 0.0
    assert auroc([0.5] * 4, [True, False, False, False]) == 0.5
    assert auroc([0.1, 0.9], [True, True]) is None
    assert auroc([-3.0, 2.0], [False, True]) == 1.0  # an order is enough


def test_auroc_is_the_share_of_pairs_in_order_with_ties_as_halves() -> None:
    over = CONFIDENCE[SUCCESS][:, None] - CONFIDENCE[~SUCCESS]
    assert auroc(CONFIDENCE, SUCCESS) == pytest.approx((over > 0).mean() + (over == 0).mean() / 2)


def test_the_reliability_diagram_is_scikit_learns_where_no_confidence_lies_on_an_edge() -> None:
    confidence = RNG.random(300) * 0.7
    success = RNG.random(300) < confidence
    success_rates, means = calibration_curve(success, confidence, n_bins=8)
    found = reliability(confidence, success, 8)
    assert list(found["outcome"]) == pytest.approx(success_rates)
    assert list(found["confidence"]) == pytest.approx(means)


def test_an_edge_belongs_to_the_bin_above_it_and_empty_bins_are_left_out() -> None:
    found = reliability([0.05, 0.1, 0.15, 1.0, 0.9], [0, 1, 0, 1, 0.5])
    expected = pd.DataFrame({"confidence": [0.05, 0.125, 0.95], "outcome": [0, 0.5, 0.75], "n": [1, 2, 2]})
    assert found.to_numpy() == pytest.approx(expected.to_numpy())
    assert calibration_error(found) == pytest.approx((0.05 + 2 * 0.375 + 2 * 0.2) / 5)
    assert list(reliability([0.0, 0.2, 0.2, 0.5, 1.0], [0, 1, 0, 1, 1], 5)["n"]) == [1, 2, 1, 1]
    assert reliability(CONFIDENCE, SUCCESS)["n"].sum() == 300


def test_the_calibration_error_of_a_worked_example() -> None:
    # Two bins: mean confidence 0.25 with 1 success of 2, and 0.8 with 2 of 3.
    confidence, success = [0.2, 0.3, 0.7, 0.8, 0.9], [True, False, True, True, False]
    expected = 2 / 5 * abs(0.5 - 0.25) + 3 / 5 * abs(2 / 3 - 0.8)
    assert error_of(confidence, success, 2) == pytest.approx(expected)


def test_a_calibrated_confidence_has_a_small_error_and_an_overconfident_one_the_gap() -> None:
    confidence = RNG.random(20_000)
    assert error_of(confidence, RNG.random(20_000) < confidence) < 0.02
    assert error_of([1.0] * 4, [True, False, False, False]) == 0.75


def kept_by_trying_all_thresholds(rate: float) -> float:
    shares = [0.0]
    for threshold in np.unique(CONFIDENCE):
        kept = threshold <= CONFIDENCE
        if SUCCESS[kept].mean() >= rate:
            shares.append(kept.mean())
    return max(shares)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.8, 0.9, 0.95, 1.0])
def test_what_is_kept_is_the_most_that_any_threshold_keeps(rate: float) -> None:
    share, threshold = kept_at(CONFIDENCE, SUCCESS, rate)
    assert share == pytest.approx(kept_by_trying_all_thresholds(rate))
    if threshold is not None:
        kept = threshold <= CONFIDENCE
        assert kept.mean() == pytest.approx(share) and SUCCESS[kept].mean() >= rate


def test_items_of_one_confidence_are_kept_together_and_nothing_may_be_kept() -> None:
    assert kept_at([0.9, 0.9, 0.1], [True, False, True], 0.6) == (1.0, 0.1)
    assert kept_at([0.9, 0.9], [True, False], 0.9) == (0.0, None)
