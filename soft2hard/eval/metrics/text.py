"""How close a prompt's text comes to reference texts: n-grams, characters, embeddings, label words, the task itself."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu import sentence_bleu, sentence_chrf

from soft2hard.data_gen.dods.lexical import parse, same_task
from soft2hard.errors import UserError
from soft2hard.lm.likeness import rouge_scorer


@dataclass(frozen=True)
class Rouge:
    """F1 of shared single words, word pairs, and the longest common subsequence (Lin 2004); 0 to 1."""

    rouge1: float
    rouge2: float
    rougeL: float


@dataclass(frozen=True)
class Overlap:
    """As sacrebleu counts them, with its default settings; 0 to 100."""

    bleu: float
    chrf: float
    """chrF2: character n-grams up to 6, recall counting twice."""


def rouge(text: str, references: Sequence[str]) -> Rouge:
    """ROUGE-1, ROUGE-2 and ROUGE-L F1 with Porter stemming; of several references, the best for each.

    Words are runs of letters a to z and digits, as in Lin's original: text of another script has none and scores 0.
    """
    scores = rouge_scorer("rouge1", "rouge2", "rougeL").score_multi(list(references), text)
    return Rouge(**{name: float(score.fmeasure) for name, score in scores.items()})


def closest_text(text: str, among: Sequence[str]) -> str:
    """The one of `among` with the highest ROUGE-L F1 with the text; the first of several."""
    scorer = rouge_scorer("rougeL")
    return max(among, key=lambda one: scorer.score(text, one)["rougeL"].fmeasure)


def overlap(text: str, references: Sequence[str]) -> Overlap:
    """Sentence BLEU and chrF of one text. BLEU is up to the longest n-gram order the text has, smoothed (exp)."""
    kept = list(references)
    return Overlap(sentence_bleu(text, kept).score, sentence_chrf(text, kept).score)


def class_rate(text: str, labels: Sequence[str]) -> float:
    """Share of a task's labels that the text mentions (InSPEcT, arXiv 2410.11660), whatever their case.

    A label is mentioned where its words stand in the text as whole words, one after another: 'no' is not in 'not'.
    Raises UserError where there are no labels.
    """
    if not labels:
        raise UserError(
            "A class rate needs label words, and the task has none.", "Ask for it only of tasks with labels."
        )
    return sum(_mentions(text, label) for label in labels) / len(labels)


def _mentions(text: str, label: str) -> bool:
    words = r"\s+".join(map(re.escape, label.split()))
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None


def exact_task(text: str, instruction: str) -> bool | None:
    """True if a text describes the very task of an instruction of the lexical DoD, in whatever phrasing.

    None where the instruction itself does not parse: its DoD has no grammar to tell tasks apart.
    """
    return same_task(text, instruction) if parse(instruction) is not None else None
