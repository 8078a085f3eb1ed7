"""Measures of descriptions against their definitions, and against what the released code of InSPEcT counts."""

import pytest

from soft2hard.data_gen.tasks import Task
from soft2hard.eval.metrics.descriptions import (
    best_readings,
    content_rouge1,
    keyword_scores,
    without_stop_words,
)


def task(instruction: str, labels: tuple[str, ...] | None = None, paraphrases: tuple[str, ...] = ()) -> Task:
    return Task("t", "f", instruction, paraphrases, (), (), (), labels=labels)


def test_only_letters_and_content_words_are_left():
    assert without_stop_words("Is the *mood* of this 2nd text positive?") == "mood nd text positive"


def test_rouge1_without_stop_words_counts_content_words_alone():
    """Of 'mood positive' and 'mood negative' one word of two is shared; with the stop words it would be more."""
    assert content_rouge1("Is the mood positive?", ["Is the mood negative?"]) == pytest.approx(0.5)
    assert content_rouge1("Is the mood positive?", ["A cat.", "Positive mood!"]) == pytest.approx(1.0)


def test_each_measure_keeps_its_own_best_description_and_the_first_of_equals():
    found = best_readings(["positive or negative", "the mood", "The mood."], task("Say the mood.", ("positive", "bad")))
    assert (found.max_rouge1, found.best_rouge1_output) == (pytest.approx(2 / 3), "the mood")
    assert (found.max_class_rate, found.best_class_rate_output) == (0.5, "positive or negative")


def test_a_measure_whose_reference_a_task_lacks_is_none():
    found = best_readings(["the mood"], task("", ("good", "bad")))
    assert found.max_rouge1 is None and found.best_rouge1_output is None and found.max_class_rate == 0.0
    assert best_readings(["the mood"], task("Say the mood.")).max_class_rate is None


def test_precision_is_over_the_texts_words_and_f1_weighs_it_with_the_keywords_named():
    """Keywords: say, mood, positive, negative. The text's content words: moods (the same stem), positive, cat."""
    found = keyword_scores("The moods are positive, cat!", task("Say the mood.", ("positive", "negative")))
    assert found.keyword_precision == pytest.approx(2 / 3)
    assert found.keyword_recall == pytest.approx(2 / 4)
    assert found.keyword_f1 == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_a_label_that_is_a_stop_word_is_a_keyword_all_the_same():
    assert keyword_scores("yes or no", task("", ("yes", "no"))).keyword_f1 == 1.0


def test_a_text_without_words_names_nothing_and_a_task_without_keywords_has_no_scores():
    assert vars(keyword_scores("", task("Say the mood."))) == {
        "keyword_precision": 0.0,
        "keyword_recall": 0.0,
        "keyword_f1": 0.0,
    }
    assert keyword_scores("mood", task("")) is None
