"""Rewards and scores of style transfer, by their definitions in arXiv 2205.12548 (section 3.2) and its code."""

from collections.abc import Sequence

import numpy as np
import pytest

from soft2hard.eval.metrics.style import (
    bootstrapped_maxima,
    content_scores,
    fluency_limit,
    source_z_scores,
    style_scores,
    sum_rewards,
)


def letters(texts: Sequence[str]) -> np.ndarray:
    """How often each of four letters stands in a text, less one for the last."""
    return np.array([[text.count(letter) - (letter == "d") for letter in "abcd"] for text in texts], float)


def test_content_is_the_cosine_with_the_source_and_nothing_below_zero_or_for_no_text():
    found = content_scores(["ab", "c", "", "dd"], ["ab", "ab", "ab", ""], letters)
    first, second, last = np.array([1, 1, 0, -1]), np.array([0, 0, 1, -1]), np.array([0, 0, 0, 1])
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert found.tolist() == pytest.approx([1.0, cosine, 0.0, 0.0]) and last @ np.array([0, 0, 0, -1]) < 0


def test_the_sum_reward_is_the_mean_of_content_and_style_in_percent():
    assert sum_rewards(np.array([1.0, 0.4]), np.array([0.0, 0.9])).tolist() == pytest.approx([50.0, 65.0])


def test_maxima_are_of_equal_parts_of_the_samples_in_their_order():
    rewards = np.array([[1.0, 5.0, 2.0, 3.0], [9.0, 0.0, 0.0, 4.0]])
    assert bootstrapped_maxima(rewards, 2).tolist() == [[5.0, 3.0], [9.0, 4.0]]
    assert bootstrapped_maxima(rewards, 1).tolist() == [[5.0], [9.0]]
    assert bootstrapped_maxima(rewards, 4).tolist() == rewards.tolist()


def test_z_scores_are_within_a_source_and_over_all_its_maxima():
    maxima = np.array([[5.0, 3.0], [1.0, 1.0], [70.0, 90.0], [50.0, 70.0]])
    found = source_z_scores(maxima, np.array([0, 0, 7, 7]))
    # First source: maxima 5, 3, 1, 1 with mean 2.5 and variance (6.25 + 0.25 + 2.25 + 2.25) / 4.
    first = [(4 - 2.5) / (2.75**0.5 + 1e-4), (1 - 2.5) / (2.75**0.5 + 1e-4)]
    # Second: 70, 90, 50, 70 with mean 70 and variance 200.
    second = [10 / (200**0.5 + 1e-4), -10 / (200**0.5 + 1e-4)]
    assert found.tolist() == pytest.approx([*first, *second])
    assert source_z_scores(np.full((2, 3), 4.0), np.array([0, 0])).tolist() == [0.0, 0.0]


def test_the_joint_score_is_the_mean_of_products_and_not_the_product_of_means():
    content = np.array([1.0, 0.5, 0.8, 0.4])
    in_style, fluent = np.array([False, True, True, True]), np.array([True, True, False, True])
    found = style_scores(content, in_style, fluent)
    assert (found.content, found.style, found.fluency) == pytest.approx((0.675, 0.75, 0.75))
    assert found.joint == pytest.approx((0.5 + 0.4) / 4) != pytest.approx(0.675 * 0.75 * 0.75)
    without = style_scores(content, in_style, None)
    assert without.fluency is None and without.joint is None


def test_all_but_a_twentieth_of_natural_sentences_are_fluent():
    natural = [float(i) for i in range(100)]
    limit = fluency_limit([*natural, None])
    assert sum(value <= limit for value in natural) == 95
    assert fluency_limit([None]) == float("inf")
