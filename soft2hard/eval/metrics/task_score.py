"""How well a task is done, by the metric it declares: exact_match, exact_text, label_accuracy, f1 or rougeL.

On the subject, `measurement.measure` scores a task as follows. 'exact_match': the answer that greedy decoding writes,
up to its ending, is the wanted one after `normalise_answer`; another tokenization of the same text is the same answer.
'exact_text': the same, but letter for letter; tasks about capital letters are scored so (`Task.scored_by`).
'label_accuracy' and 'f1': the label with the highest likelihood is the prediction. 'rougeL': an answer is generated and
set against the output. Where only text is available (models behind an API), `grade` scores written answers by all.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from soft2hard.data_gen.tasks import Task, normalise_answer
from soft2hard.errors import UserError
from soft2hard.eval.metrics.text import rouge

METRICS = ("exact_match", "exact_text", "label_accuracy", "f1", "rougeL")
WRITTEN = frozenset({"exact_match", "exact_text"})
"""Metrics by which an answer is written and right or wrong."""
BY_LABEL = frozenset({"label_accuracy", "f1"})
"""Metrics that choose among a task's labels."""


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


def same_answer(answer: str, wanted: str, metric: str = "exact_match") -> bool:
    """True if two answers are equal as they are compared under a metric."""
    return compared(answer, metric) == compared(wanted, metric)


def compared(text: str, metric: str = "exact_match") -> str:
    """An answer as it is compared: after `normalise_answer`, or as it is where that leaves nothing of it, as of
    punctuation; under 'exact_text' letter for letter, white space apart."""
    return " ".join(text.split()) if metric == "exact_text" else normalise_answer(text) or text.strip()


def may_become(begun: str, wanted: str) -> bool:
    """True if an answer that begins so may still be the wanted one after `normalise_answer`."""
    found = normalise_answer(begun.rstrip("\ufffd"))  # the first bytes of a character
    return any(
        text.startswith(found) for text in (normalise_answer(wanted), "answer :", "output :", "answer:", "output:")
    )


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions equal to their reference."""
    return float(np.mean([p == r for p, r in zip(predictions, references, strict=True)]))


def macro_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """F1 of each class, mean over all classes that occur as prediction or reference (scikit-learn's default)."""
    right, predicted, wanted = Counter(), Counter(predictions), Counter(references)
    right.update(p for p, r in zip(predictions, references, strict=True) if p == r)
    return float(np.mean([2 * right[label] / (predicted[label] + wanted[label]) for label in predicted | wanted]))


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L F1 of the normalised answers."""
    pairs = zip(map(compared, answers), map(compared, references), strict=True)
    return float(np.mean([rouge(answer, [reference]).rougeL for answer, reference in pairs]))


def likeliest_labels(log_likelihoods: Float[np.ndarray, "n_inputs n_labels"], labels: Sequence[str]) -> tuple[str, ...]:
    """For each input the label with the highest log-likelihood; the first of equals.

    A log-likelihood is the sum over the label's tokens and EOS: the probability of writing this label and no more,
    not a mean a token, which would favour long labels.
    """
    return tuple(labels[i] for i in log_likelihoods.argmax(1))


def grade(metric: str, answers: Sequence[str], references: Sequence[str]) -> float:
    """The score of written answers, 0 to 1, by a task's metric, after `normalise_answer`.

    'label_accuracy' is then the share of answers that are the right label, and 'f1' takes an answer that is no label
    for a class of its own, which costs the right class its recall and lowers the mean by its own 0.
    Raises UserError for an unknown metric, and where there is nothing to score.
    """
    if metric not in METRICS:
        raise UserError(f"There is no metric '{metric}'.", f"Choose one of: {', '.join(METRICS)}.")
    if not answers:
        raise UserError("There are no answers to score.", "Give the task test examples.")
    scorer = {"f1": macro_f1, "rougeL": rouge_l}.get(metric, accuracy)
    return scorer(*([compared(text, metric) for text in texts] for texts in (answers, references)))


def grade_one(metric: str, answer: str, reference: str) -> float:
    """The score of one written answer. One answer has no F1 of classes: it is right or wrong."""
    return grade("exact_match" if metric in BY_LABEL else metric, [answer], [reference])
