"""How well a task is done, by the metric it declares: exact_match, label_accuracy, f1 or rougeL.

On the subject, `measurement.measure` scores a task as follows. 'exact_match': the output is written exactly, token for
token and EOS included, under greedy decoding (`TargetScore.greedy_match`, as `recovery.accuracies` does); prompts
differ by nothing else, and no normalisation can hide that one is followed more loosely than another. 'label_accuracy'
and 'f1': the label with the highest likelihood is the prediction. 'rougeL': an answer is generated and set against the
output. Where only text is to be had (models behind an API), `grade` scores written answers by all four.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.metrics.text import rouge
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject

METRICS = ("exact_match", "label_accuracy", "f1", "rougeL")
BY_LABEL = frozenset({"label_accuracy", "f1"})
"""Metrics that choose among a task's labels."""

_LEAD = re.compile(r"^(?:(?:answer|output) ?: ?)+")


@dataclass(frozen=True)
class Graded:
    """Written answers with their score."""

    score: float
    """0 to 1."""
    raw: tuple[str, ...]
    """The answers as they came."""
    normalised: tuple[str, ...]
    """As they were compared."""


def check_metric(task: Task) -> None:
    """Raise UserError where a task declares an unknown metric, or lacks what its metric needs."""
    if task.metric not in METRICS:
        raise UserError(
            f"The task '{task.name}' declares the metric '{task.metric}'.", f"Choose one of: {', '.join(METRICS)}."
        )
    if task.metric not in BY_LABEL:
        return
    unlabelled = sorted({e.output for e in task.test} - set(task.labels or ()))
    if not task.labels or unlabelled:
        raise UserError(
            f"The task '{task.name}' is scored by {task.metric} but "
            + (f"its labels lack the output '{unlabelled[0]}'." if task.labels else "has no labels."),
            "Give it all its labels, or choose exact_match.",
        )


def normalise_answer(text: str) -> str:
    """An answer as it is compared: the one definition of what does not count.

    In this order: runs of white space become one space and none is left at the ends; case is folded; leading
    'Answer:' or 'Output:' go; full stops at the end go.
    """
    return _LEAD.sub("", " ".join(text.split()).casefold()).rstrip(". ")


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """Share of answers equal to their reference after `normalise_answer`."""
    return accuracy(_normalised(answers), _normalised(references))


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions equal to their reference."""
    return float(np.mean([p == r for p, r in zip(predictions, references, strict=True)]))


def macro_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """F1 of each class, mean over all classes that occur as prediction or reference (scikit-learn's default)."""
    pairs = list(zip(predictions, references, strict=True))
    scores = []
    for label in {*predictions, *references}:
        hits = sum(p == label == r for p, r in pairs)
        scores.append(2 * hits / sum((p == label) + (r == label) for p, r in pairs))
    return float(np.mean(scores))


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L F1 of the normalised answers."""
    pairs = zip(_normalised(answers), _normalised(references), strict=True)
    return float(np.mean([rouge(answer, [reference]).rougeL for answer, reference in pairs]))


def label_log_likelihoods(
    subject: Subject, queries: Sequence[Query], labels: Sequence[str]
) -> Float[np.ndarray, "n_queries n_labels"]:
    """Log-likelihood of each label, EOS included, as the answer to each query, nats; all in shared batches.

    Outputs of the queries are not read. Raises UserError as `Subject.target_scores` does.
    """
    scores = subject.target_scores([replace(query, output=label) for query in queries for label in labels])
    return np.array([score.log_likelihood for score in scores]).reshape(len(queries), len(labels))


def likeliest_labels(log_likelihoods: Float[np.ndarray, "n_inputs n_labels"], labels: Sequence[str]) -> tuple[str, ...]:
    """For each input the label with the highest log-likelihood; the first of equals.

    A log-likelihood is the sum over the label's tokens and EOS: the probability of writing this label and no more,
    not a mean a token, which would favour long labels.
    """
    return tuple(labels[i] for i in log_likelihoods.argmax(1))


def grade(metric: str, answers: Sequence[str], references: Sequence[str]) -> Graded:
    """Score written answers by a task's metric, after `normalise_answer`.

    'label_accuracy' is then the share of answers that are the right label, and 'f1' takes an answer that is no label
    for a class of its own, which costs the right class its recall and lowers the mean by its own 0.
    Raises UserError for an unknown metric, and where there is nothing to score.
    """
    scorers = {"exact_match": exact_match, "label_accuracy": exact_match, "f1": _written_f1, "rougeL": rouge_l}
    if metric not in scorers:
        raise UserError(f"There is no metric '{metric}'.", f"Choose one of: {', '.join(METRICS)}.")
    if not answers:
        raise UserError("There are no answers to score.", "Give the task test examples.")
    return Graded(scorers[metric](answers, references), tuple(answers), tuple(_normalised(answers)))


def _written_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    return macro_f1(_normalised(answers), _normalised(references))


def _normalised(texts: Sequence[str]) -> list[str]:
    return [normalise_answer(text) for text in texts]
