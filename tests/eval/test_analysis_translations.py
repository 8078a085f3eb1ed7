"""Agreement of translations is its definition, 1 for identical prompts and chance for noise."""

from itertools import combinations
from random import Random

import numpy as np
import pytest

from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.experiments import greedy_translation, meaning, says_the_same, stability
from soft2hard.eval.intervals import Interval
from soft2hard.eval.metrics.scrutability import subject_encoder
from soft2hard.eval.metrics.text import rouge
from soft2hard.lm.likeness import rouge_l_pairs
from soft2hard.translator.candidates import propose
from tests import tiny_models, tiny_training

TASKS = list(LexicalDoD(n_train=4).tasks("train", 6))


def named(name: str, family: str = "", instruction: str = "") -> Task:
    return Task(name, family, instruction, (), (), (), ())


def test_phrasings_of_one_lexical_task_say_the_same_and_those_of_two_do_not() -> None:
    first, second = TASKS[:2]
    assert all(says_the_same(first.instruction, paraphrase) for paraphrase in first.paraphrases)
    assert not says_the_same(first.instruction, second.instruction)


def test_other_texts_say_the_same_up_to_case_and_white_space_and_no_words_say_nothing() -> None:
    assert says_the_same("Sort  them out\n", "sort them OUT") and not says_the_same("sort them", "sort them out")
    assert meaning(" \n") is None and not says_the_same("", "")


def test_greedy_translations_are_the_translators_first_proposals_in_one_call() -> None:
    translator = tiny_training.trained()
    prompts = tiny_training.soft_prompts(tiny_training.corpora(tiny_training.llama_subject())[1])
    expected = [texts[0] for texts in propose(translator, prompts, 8)]
    assert greedy_translation(translator)(prompts) == expected


def test_agreement_is_the_share_of_pairs_that_say_the_same() -> None:
    texts = ["a b", "A b", "c", "a b", "c d", "", ""]
    found = stability(["t"] * 7, texts)[1].iloc[0]
    pairs = list(combinations(texts, 2))
    assert (
        found.agreement
        == pytest.approx(sum(says_the_same(a, b) for a, b in pairs) / len(pairs))
        == pytest.approx(3 / 21)
    )
    assert found.majority == 3 / 7 and found.majority_text == "a b"
    assert found.rougeL == pytest.approx(np.mean([rouge(a, [b]).rougeL for a, b in pairs]))


def test_identical_translations_agree_fully_and_their_interval_has_no_width() -> None:
    tasks = [task.name for task in TASKS for _ in range(4)]
    texts = [text for task in TASKS for text in (task.instruction, *task.paraphrases * 4)[:4]]
    found, _ = stability(tasks, texts, known={task.name: task for task in TASKS})
    for interval in (found["agreement"], found["majority"], found["recovered"], found["majority_recovered"]):
        assert (interval.value, interval.low, interval.high) == (1, 1, 1)
    assert found["between_agreement"] == Interval(0.0, 0.0, 0.0) and found["n_single"] == 0


def test_of_pure_noise_translations_agree_as_often_within_tasks_as_between() -> None:
    rng = Random(0)
    tasks = [f"t{i}" for i in range(200) for _ in range(4)]
    found, _ = stability(tasks, [rng.choice("abcde") for _ in tasks])
    assert found["agreement"].low < 0.2 < found["agreement"].high
    assert found["between_agreement"].value == pytest.approx(0.2, abs=0.01)


def test_a_vote_recovers_tasks_that_single_translations_miss() -> None:
    task, other = TASKS[:2]
    texts = [task.instruction, task.instruction, other.instruction]
    found, _ = stability([task.name] * 3, texts, known={task.name: task})
    assert found["recovered"].value == pytest.approx(2 / 3) and found["majority_recovered"].value == 1


def test_recovery_is_unknown_where_the_instruction_has_no_grammar_or_is_not_given() -> None:
    for known in ({}, {"t": named("t", instruction="Say whether the review likes the film, in your own words.")}):
        found, _ = stability(["t", "t"], ["x", "x"], known)
        assert found["recovered"] is None and found["majority_recovered"] is None and found["agreement"].value == 1


def test_cosines_are_those_of_the_encoder_over_pairs() -> None:
    vectors = {"a": [1.0, 0], "b": [0, 2.0], "c": [3.0, 3.0]}
    found, _ = stability(["t"] * 3, ["a", "b", "c"], encoder=lambda texts: np.array([vectors[t] for t in texts]))
    assert found["cosine"].value == pytest.approx((0 + 2 * np.sqrt(0.5)) / 3)


def test_texts_without_words_are_not_given_to_the_encoder_and_are_like_none() -> None:
    found, _ = stability(["t"] * 3, ["a", "", "a"], encoder=lambda texts: np.ones((len([t for t in texts if t]), 2)))
    assert found["cosine"].value == pytest.approx(1 / 3)
    assert stability(["t"] * 2, ["", " "], encoder=lambda texts: np.ones((0, 2)))[0]["cosine"].value == 0


def test_tasks_with_one_translation_are_counted_but_not_compared() -> None:
    found, rows = stability(["a", "b", "a"], ["x", "x", "x"])
    assert rows["task"].tolist() == ["a"] and found["n_single"] == 1
    assert found["between_agreement"].value == 1
    assert rows["texts"][0] == ["x", "x"]


@pytest.mark.parametrize(
    ("tasks", "texts", "problem"), [(["a", "b"], ["x", "x"], "No task has two"), ([], [], "No task")]
)
def test_what_cannot_be_compared_is_refused(tasks, texts, problem) -> None:
    with pytest.raises(UserError, match=problem):
        stability(tasks, texts)


def test_likeness_between_tasks_is_the_mean_over_pairs_of_tasks_and_that_of_a_family_over_pairs_within_it() -> None:
    texts = {"a": ["x y", "x z"], "b": ["x y z"], "c": ["q", "x"], "d": ["q", "q"]}
    tasks = [task for task, own in texts.items() for _ in own]
    known = {name: named(name, family) for name, family in (("a", "f"), ("b", "f"), ("c", ""))}
    found, _ = stability(tasks, [text for own in texts.values() for text in own], known)

    def mean(first: str, second: str) -> float:
        return float(np.mean([rouge(s, [t]).rougeL for s in texts[first] for t in texts[second]]))

    assert found["between_rougeL"].value == pytest.approx(np.mean([mean(a, b) for a, b in combinations("abcd", 2)]))
    assert found["family_rougeL"].value == pytest.approx(mean("a", "b"))
    assert found["between_agreement"].value == pytest.approx(1 / 2 / 6)  # c and d agree in half of their pairs
    assert found["family_agreement"].value == 0


def test_rouge_of_all_pairs_is_that_of_each() -> None:
    texts = ["Sort the words", "sorted words of the input", "", "Sort the words"]
    expected = [[rouge(a, [b]).rougeL for b in texts] for a in texts]
    np.testing.assert_allclose(rouge_l_pairs(texts), expected)


def test_translations_that_all_differ_have_no_majority() -> None:
    task, other, third = TASKS[:3]
    texts = [task.instruction, other.instruction, third.instruction]
    found, rows = stability([task.name] * 3, texts, known={task.name: task})
    (row,) = rows.itertuples()
    assert (row.majority_text, row.majority_recovered, row.majority) == ("", 0, pytest.approx(1 / 3))
    assert found["recovered"].value == pytest.approx(1 / 3) and found["n_tied"] == 1


def test_a_text_that_the_encoder_cannot_read_costs_its_own_cosines_only() -> None:
    vectors = {"a": [1.0, 0], "b": [0, 2.0], "long": [np.nan, np.nan]}
    tasks, texts = ["s", "s", "s", "t", "t"], ["a", "b", "long", "a", "long"]
    found, rows = stability(tasks, texts, encoder=lambda some: np.array([vectors[text] for text in some]))
    assert rows["cosine"].tolist() == pytest.approx([0, np.nan], nan_ok=True)
    assert found["n_unread"] == 2 and found["cosine"].value == pytest.approx(0)
    assert found["between_cosine"].value == pytest.approx((1 + 0) / 2)
    assert found["agreement"].value == pytest.approx(0)


def test_the_subject_reads_what_fits_and_leaves_the_rest_out_where_it_is_asked_to() -> None:
    subject = tiny_models.subject("llama")
    texts = ["cat dog", "cat " * 80, "", "red"]
    found = subject_encoder(subject, unread=True)(texts)
    assert np.isnan(found).all(1).tolist() == [False, True, True, False]
    np.testing.assert_allclose(found[[0, 3]], subject_encoder(subject)(["cat dog", "red"]), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="2 texts are empty or too long"):
        subject_encoder(subject)(texts)
    assert np.isnan(subject_encoder(subject, unread=True)(["cat " * 80])).all()
