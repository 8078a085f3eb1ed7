"""How well a text describes a task: the measures of InSPEcT's released code (arXiv 2410.11660), and its keywords.

The released code takes stop words from NLTK, whose list must be downloaded; here they are scikit-learn's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from rouge_score.tokenizers import DefaultTokenizer
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from soft2hard.data_gen.tasks import Task
from soft2hard.eval.metrics.text import class_rate, rouge

_tokenizer = DefaultTokenizer(use_stemmer=True)


def without_stop_words(text: str) -> str:
    """The text in lower case without stop words, and without all that is neither a letter nor white space."""
    plain = re.sub(r"[^a-zA-Z\s]", "", text).lower()
    return " ".join(word for word in plain.split() if word not in ENGLISH_STOP_WORDS)


def content_rouge1(text: str, references: Sequence[str]) -> float:
    """ROUGE-1 F1 with stemming and without stop words, with the best of the references: the released code's ROUGE-1.

    A reference of stop words alone ("Name the last one.") is compared with all its words.
    """
    content = {one: without_stop_words(one) for one in references}
    whole = [one for one, kept in content.items() if not kept.strip()]
    scores = [rouge(text, whole).rouge1] if whole else []
    if kept := [one for one in content.values() if one.strip()]:
        scores.append(rouge(without_stop_words(text), kept).rouge1)
    return max(scores, default=0.0)


@dataclass(frozen=True)
class BestReadings:
    """What the released code keeps of all descriptions of one soft prompt: each measure's maximum over pairs of layers,
    with its description, the first of equals. None where a task lacks what the measure needs."""

    max_rouge1: float | None
    """`content_rouge1` against the task's instruction and its paraphrases."""
    best_rouge1_output: str | None
    max_class_rate: float | None
    best_class_rate_output: str | None


def best_readings(texts: Sequence[str], task: Task) -> BestReadings:
    """Of one description or more."""
    references = task.phrasings if task.instruction else []
    by_rouge1 = [content_rouge1(text, references) for text in texts] if references else []
    by_classes = [class_rate(text, task.labels) for text in texts] if task.labels else []
    return BestReadings(*_first_best(by_rouge1, texts), *_first_best(by_classes, texts))


def _first_best(scores: Sequence[float], texts: Sequence[str]) -> tuple[float, str] | tuple[None, None]:
    return max(zip(scores, texts, strict=True), key=lambda pair: pair[0]) if scores else (None, None)


@dataclass(frozen=True)
class KeywordScores:
    """How the different words of a text go with a task's keywords, 0 to 1."""

    keyword_precision: float
    """Share of the text's words that are keywords; 0 for a text without words."""
    keyword_recall: float
    """Share of the keywords that the text names."""
    keyword_f1: float
    """Harmonic mean of the two."""


def keyword_scores(text: str, task: Task) -> KeywordScores | None:
    """Keywords of a task are the words of its labels and of its instruction; stop words count on neither side, unless
    they are labels ('no'). Words are compared by their stems (Porter). None for a task without keywords."""
    labels = _stems(" ".join(task.labels or ()))
    stops = _stop_stems() - labels
    wanted, said = (labels | _stems(task.instruction)) - stops, _stems(text) - stops
    if not wanted:
        return None
    n_both = len(wanted & said)
    return KeywordScores(n_both / max(len(said), 1), n_both / len(wanted), 2 * n_both / (len(wanted) + len(said)))


@cache
def _stop_stems() -> frozenset[str]:
    return frozenset(_stems(" ".join(ENGLISH_STOP_WORDS)))


def _stems(text: str) -> set[str]:
    return set(_tokenizer.tokenize(text))
