"""Correlations of scores with the quality of readings, from their definitions."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from soft2hard.eval.analysis.findings import interval_in
from soft2hard.eval.analysis.readings import MEASURES, correlations_with_score


def table(**by_task: tuple[list[float], list[float]]) -> pd.DataFrame:
    rows = [
        {"task": task, "score": score, **dict.fromkeys(MEASURES, quality)}
        for task, (scores, qualities) in by_task.items()
        for score, quality in zip(scores, qualities, strict=True)
    ]
    return pd.DataFrame(rows)


def row(found: pd.DataFrame, name: str = "max_rouge1") -> pd.Series:
    return found.set_index("measure").loc[name]


def test_within_is_the_mean_over_tasks_of_each_tasks_own_rank_correlation() -> None:
    given = table(a=([0.1, 0.5, 0.9, 0.4], [0.2, 0.3, 0.8, 0.5]), b=([0.0, 0.3, 0.6], [0.9, 0.1, 0.4]))
    own = [spearmanr(group["score"], group["max_rouge1"]).statistic for _, group in given.groupby("task")]
    found = row(correlations_with_score(given))
    assert interval_in(found, "within").value == pytest.approx(np.mean(own))
    assert found["n_tasks"] == 2 and found["n_prompts"] == 7


def test_tasks_that_differ_in_both_make_a_pooled_correlation_that_no_task_has() -> None:
    """Within each task better soft prompts are read worse; the better task is read better."""
    given = table(a=([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]), b=([0.7, 0.8, 0.9], [0.9, 0.8, 0.7]))
    found = row(correlations_with_score(given))
    assert interval_in(found, "within").value == pytest.approx(-1)
    pooled = interval_in(found, "pooled")
    assert pooled.value == pytest.approx(spearmanr(given["score"], given["max_rouge1"]).statistic) and pooled.value > 0
    assert pooled.low == pytest.approx(-1)  # where one task is drawn twice, nothing but it counts


def test_tasks_with_one_value_or_two_soft_prompts_have_no_correlation() -> None:
    given = table(a=([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]), b=([0.1, 0.9], [0.1, 0.9]))
    found = row(correlations_with_score(given))
    assert interval_in(found, "within") is None and found["n_tasks"] == 0


def test_a_measure_that_no_task_has_is_left_undefined() -> None:
    given = table(a=([0.1, 0.5, 0.9], [0.2, 0.3, 0.8])).assign(max_class_rate=np.nan)
    found = correlations_with_score(given)
    assert interval_in(row(found, "max_class_rate"), "pooled") is None
    assert interval_in(row(found), "pooled").value == pytest.approx(1)
