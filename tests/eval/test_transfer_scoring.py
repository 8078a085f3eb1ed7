"""Scores, intervals and tests of transfers: from definitions, by hand, or from scipy."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from soft2hard.api.answers import Answer
from soft2hard.api.requests import ApiModel
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.transfer.material import PromptRow, SoftScores
from soft2hard.eval.transfer.plan import Cell, plan
from soft2hard.eval.transfer.results import Scored, _scored, paired_tests, score


def scored(task: str, right: list[bool | None], metric: str = "exact_match", seed: int = 0) -> list[Scored]:
    """One answer an example: right, wrong, or missing (None)."""
    texts = {True: "Answer: Yes.", False: "no", None: None}
    return [Scored((task, seed, i, 0), metric, texts[r], False, "yes") for i, r in enumerate(right)]


def test_the_score_is_the_mean_over_tasks_and_lacking_answers_are_counted_apart():
    found = score([*scored("a", [True, True, False, None]), *scored("b", [False, False]), *scored("c", [None])])
    assert found.interval is not None
    assert found.interval.value == pytest.approx((2 / 3 + 0) / 2)
    assert (found.n_tasks, found.n_answers, found.n_missing, found.n_refused) == (2, 5, 2, 0)
    assert score(scored("c", [None])).interval is None


def test_a_refusal_is_a_wrong_answer_even_if_its_words_are_right():
    found = score([Scored(("a", 0, 0, 0), "exact_match", "yes", True, "yes"), *scored("b", [True])])
    assert found.interval is not None and (found.interval.value, found.n_refused) == (0.5, 1)


def asked(output: str, layout: str = "chat") -> Cell:
    task = Task("a", "t", "Repeat.", (), (), (), (Example("x", output),))
    prompt = PromptRow(id="a", method="m", task="a", prompt="Repeat.")
    return plan([prompt], {0: [task]}, [ApiModel("m", layout=layout)])[0]


@pytest.mark.parametrize(
    ("output", "room"),
    [("short", 64), ("x" * 128, 64), ("word " * 60 + "end", 152), ("日本語" * 20, 90)],
)
def test_answers_have_room_for_a_tasks_longest_output(output: str, room: int) -> None:
    assert asked(output).request.body["max_tokens"] == room


def test_answers_that_the_limit_ended_are_scored_and_counted() -> None:
    wanted = "one two three four"
    of = {"cut": ("one two", "length"), "whole": ("one two", "stop"), "on": ("one two\nInput: y", "length")}
    cell = asked(wanted, "completion")
    found = {name: _scored(cell, Answer(text, False, reason, 1, 2)) for name, (text, reason) in of.items()}
    assert [name for name, one in found.items() if one.cut_short] == ["cut"]
    counted = score(list(found.values()))
    assert (counted.n_answers, counted.n_missing, counted.n_cut_short) == (3, 0, 1)


def test_with_a_single_task_the_interval_is_over_its_examples():
    found = score(scored("a", [True, False] * 50))
    assert found.interval is not None
    half_width = 1.96 * np.sqrt(0.25 / 100)  # of a share, by the normal approximation
    assert found.interval.low == pytest.approx(0.5 - half_width, abs=0.02)
    assert found.interval.high == pytest.approx(0.5 + half_width, abs=0.02)
    f1 = score(scored("a", [True, False] * 50, "f1"))
    # Classes 'yes' (precision 1, recall 1/2) and 'no' (never wanted): F1 of 2/3 and 0.
    assert f1.interval is not None and f1.interval.value == pytest.approx(1 / 3)
    assert f1.interval.low < 1 / 3 < f1.interval.high


def test_the_paired_test_is_scipys_and_only_over_examples_that_both_have():
    a = scored("t", [True, True, True, True, True, True, False, None])
    b = scored("t", [False, False, False, True, False, True, False, True])
    (test,) = paired_tests({"a": a, "b": b})
    x, y = np.array([1, 1, 1, 1, 1, 1, 0.0]), np.array([0, 0, 0, 1, 0, 1, 0.0])
    expected = permutation_test((x - y,), np.mean, permutation_type="samples", n_resamples=9999).pvalue
    assert (test.n_pairs, test.unit) == (7, "examples")
    assert test.p_value == pytest.approx(expected) == pytest.approx(2 / 16)  # all 4 nonzero signs agree
    assert test.difference.value == pytest.approx(4 / 7)


def test_several_comparisons_are_adjusted_by_holm_and_pairs_are_tasks_where_there_are_several():
    tasks = [f"t{i}" for i in range(8)]
    good, bad, same = ([x for t in tasks for x in scored(t, [right] * 3)] for right in (True, False, False))
    tests = paired_tests({"good": good, "bad": bad, "same": same})
    p = 2 / 2**8
    assert [t.p_value for t in tests] == pytest.approx([3 * p, 3 * p, 1.0])
    assert {(t.n_pairs, t.unit) for t in tests} == {(8, "tasks")}


def test_a_method_is_compared_with_soft_prompts_over_tasks_whose_answers_are_all_there():
    answers = [
        *scored("a", [True, False]),
        *scored("b", [True, True]),
        *scored("c", [True, None]),
        *scored("d", [True]),
    ]
    soft = SoftScores({("a", 0): 1.0, ("b", 0): 0.5, ("c", 0): 0.0})
    [test] = paired_tests({"mine": answers}, soft)
    # Task c lacks an answer, task d has no soft prompt: (0.5 - 1 + 1 - 0.5) / 2.
    assert (test.first, test.second, test.n_pairs, test.unit) == ("mine", "soft prompt", 2, "tasks")
    assert test.difference.value == pytest.approx(0.0) and test.p_value == 1.0


def test_soft_prompts_scored_on_other_examples_are_not_compared_with():
    answers = [*scored("a", [True]), *scored("b", [True])]
    values = {("a", 0): 1.0, ("b", 0): 1.0}
    assert len(paired_tests({"mine": answers}, SoftScores(values))) == 1
    assert paired_tests({"mine": answers}, SoftScores(values, same_examples=False)) == []


def test_tasks_not_seeds_are_what_soft_prompts_are_compared_over():
    answers = [*scored("a", [True], seed=0), *scored("a", [True], seed=1), *scored("b", [False])]
    [test] = paired_tests({"mine": answers}, SoftScores({("a", 0): 0.0, ("a", 1): 1.0, ("b", 0): 0.5}))
    assert test.n_pairs == 2 and test.difference.value == pytest.approx((0.5 - 0.5) / 2)
