"""Task scores are what they are defined as, and what counts as the same answer is one function."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.metrics.task_score import (
    METRICS,
    check_metric,
    grade,
    likeliest_labels,
    macro_f1,
    normalise_answer,
    rouge_l,
)

LABELS = ("cat", "dog bird", "fish")


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("Yes", "yes"),
        ("  yes.\n", "yes"),
        ("Answer: Yes.", "yes"),
        ("answer : two  words", "two words"),
        ("Output:\n Answer: blue", "blue"),
        ("The answer: yes", "the answer: yes"),
        ("3.14", "3.14"),
        ("yes!", "yes"),
        ("Is it?", "is it"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("Answer:", ""),
        ("...", ""),
    ],
)
def test_case_space_a_closing_stop_and_an_answer_prefix_do_not_count(answer: str, normalised: str) -> None:
    assert normalise_answer(answer) == normalised
    assert normalise_answer(normalised) == normalised


def test_exact_match_is_the_share_of_equal_answers_after_normalisation() -> None:
    assert grade("exact_match", ["Answer: Cat.", "dog", "a  bird", "fish"], ["cat", "Dog.", "a bird", "fishes"]) == 0.75


def test_exact_text_is_letter_for_letter() -> None:
    assert grade("exact_text", ["Cat", "cat", "a  dog\n", "A dog."], ["Cat", "Cat", "a dog", "A dog"]) == 0.5


def about(*pairs: tuple[str, str], labels: tuple[str, ...] | None = None, metric: str = "exact_match") -> Task:
    return Task("t", "t", "", (), tuple(Example(*pair) for pair in pairs), (), (), labels, metric)


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        (about(("paris", "PARIS"), ("rome", "ROME")), "exact_text"),
        (about(("It rains", "It rains."), ("Yes", "Yes.")), "exact_text"),
        (about(("paris", "PARIS"), metric="rougeL"), "rougeL"),
        (about(("paris", "France"), ("a", "A"), ("rome", "Italy")), "exact_match"),  # a copy here and there is chance
        (about(("paris", "paris"), ("rome", "rome")), "exact_match"),  # a copy is right in any case
        (about(("b", "up"), ("B", "Up"), labels=("up", "Up")), "exact_text"),
        (about(("b", "Up"), labels=("Up", "Down")), "exact_match"),
    ],
)
def test_tasks_about_letters_and_points_are_scored_by_them(task: Task, metric: str) -> None:
    assert task.scored_by == metric


def test_macro_f1_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 5, 60):
        predictions, references = rng.choice(list("abcd"), size).tolist(), rng.choice(list("abc"), size).tolist()
        expected = f1_score(references, predictions, average="macro")
        assert macro_f1(predictions, references) == pytest.approx(expected)


def test_macro_f1_of_always_the_larger_class_is_low_though_its_accuracy_is_high() -> None:
    assert macro_f1(["a"] * 10, ["a"] * 9 + ["b"]) == pytest.approx((2 * 9 / 19 + 0) / 2)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    found = rouge_l(["Answer: the cat sat", "no"], ["the black cat sat down", "yes"])
    assert found == pytest.approx((2 * 3 / (3 + 5) + 0) / 2)


def test_of_equally_likely_labels_the_first_is_chosen() -> None:
    assert likeliest_labels(np.array([[-1.0, -1.0, -2.0], [-3.0, -2.0, -2.0]]), LABELS) == ("cat", "dog bird")


def test_written_answers_are_graded_by_the_tasks_metric() -> None:
    answers, references = ["Answer: Yes.", "no", "maybe"], ["yes", "no", "no"]
    scores = {metric: grade(metric, answers, references) for metric in METRICS}
    assert scores["exact_match"] == scores["label_accuracy"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)  # yes, no, and 'maybe' as a class of its own
    assert scores["rougeL"] == pytest.approx(2 / 3)


def task(metric: str, labels: tuple[str, ...] | None = None, outputs: tuple[str, ...] = ("cat", "fish")) -> Task:
    return Task("t", "tiny", "", (), (), (), tuple(Example("red", o) for o in outputs), labels, metric)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (task("accuracy"), "declares the metric 'accuracy'.*exact_match, exact_text, label_accuracy, f1, rougeL"),
        (task("label_accuracy"), "scored by label_accuracy but has no labels"),
        (task("f1", ("cat",)), "its labels lack the output 'fish'"),
    ],
)
def test_a_task_that_its_metric_cannot_score_is_refused(bad: Task, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        check_metric(bad)


def test_a_task_with_what_its_metric_needs_passes() -> None:
    for metric in METRICS:
        check_metric(task(metric, ("cat", "fish", "bird")))


def test_unknown_metrics_and_nothing_to_score_are_refused() -> None:
    with pytest.raises(UserError, match="no metric 'bleu'"):
        grade("bleu", ["a"], ["a"])
    with pytest.raises(UserError, match="no answers"):
        grade("exact_match", [], [])


def test_punctuation_is_an_answer_where_nothing_else_is_wanted() -> None:
    assert grade("exact_match", ["?", "?!", "", "!"], ["?", "?", "?", "?"]) == 0.25
