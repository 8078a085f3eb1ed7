"""The figures of a report: what each means, and its value for each method and task."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from soft2hard.eval.intervals import Interval, mean_interval, ratio_interval
from soft2hard.eval.report.reading import Run, soft_prompt_label


@dataclass(frozen=True)
class Figure:
    """A column of `ResultRow`, as a report shows it."""

    key: str
    title: str
    better: Literal["more", "less"]
    meaning: str
    share: bool = False
    """Zero is the worst value there is; a failed cell then counts as zero."""
    log: bool = False
    """Averaged and compared as logarithms: means are geometric, differences are factors."""
    main: bool = False
    """Stands in the summary, not only in the full table."""


SCORE = Figure("score", "Score", "more", "The task's own metric on its test examples, 0 to 1.", share=True, main=True)
AGREEMENT = Figure(
    "agreement",
    "Agreement",
    "more",
    "Share of test inputs for which the subject writes the same as under the soft prompt.",
    share=True,
    main=True,
)
KL = Figure("kl", "KL", "less", "Mean KL(soft || prompt) over target positions, nats.", main=True)
PERPLEXITY = Figure(
    "perplexity", "Perplexity", "less", "Of the prompt under the reference LM; geometric mean.", log=True, main=True
)
EXACT = Figure("exact_task", "Exact task", "more", "Share of prompts that parse to the very task.", True, main=True)
FIGURES = (
    SCORE,
    AGREEMENT,
    KL,
    PERPLEXITY,
    Figure("rougeL", "ROUGE-L", "more", "F1 against the gold instruction, with stemming.", share=True, main=True),
    EXACT,
    Figure("loss", "Loss", "less", "Mean negative log-likelihood of the test outputs, nats a token."),
    Figure(
        "top1_agreement", "Top-1 agreement", "more", "Share of target positions with the same likeliest token.", True
    ),
    Figure("logit_distance", "Logit distance", "less", "Output differential: mean squared difference of logits."),
    Figure(
        "embedding_distance",
        "Embedding distance",
        "less",
        "Distance differential: mean squared Euclidean distance from the soft prompt, position by position.",
    ),
    Figure("embedding_cosine", "Embedding cosine", "more", "Mean cosine with the soft prompt, position by position."),
    Figure("rouge1", "ROUGE-1", "more", "F1 against the gold instruction, with stemming.", share=True),
    Figure("rouge2", "ROUGE-2", "more", "F1 against the gold instruction, with stemming.", share=True),
    Figure("bleu", "BLEU", "more", "Against the gold instruction.", share=True),
    Figure("chrf", "chrF", "more", "Against the gold instruction.", share=True),
    Figure("sentence_cosine", "Sentence cosine", "more", "Of the prompt's embedding with the gold instruction's."),
    Figure("class_rate", "Class rate", "more", "Share of the task's label words that stand in the prompt.", share=True),
)


@dataclass(frozen=True)
class Estimate:
    """A figure of a method over tasks."""

    interval: Interval
    n_tasks: int

    def __str__(self) -> str:
        return interval_text(self.interval)


def per_task(run: Run, method: str, figure: Figure) -> dict[str, float]:
    """A figure of a method for each task that has it, averaged over seeds; logarithms where the figure is `log`.

    A failed cell counts as 0 in the score, and in other shares where they apply, that is, where another method has the
    figure for the task and this method has it for another cell. Otherwise what a cell lacks is left out.
    """
    rows = run.by_method[method]
    applies = run.having[figure.key]
    has = any(getattr(row, figure.key) is not None for row in rows)
    values: dict[str, list[float]] = {}
    for row in rows:
        value = getattr(row, figure.key)
        counts = figure.key == "score" or (figure.share and has and row.task in applies)
        if value is None and row.failure is not None and counts:
            value = 0.0
        if value is not None and not (figure.log and value <= 0):
            values.setdefault(row.task, []).append(float(np.log(value)) if figure.log else float(value))
    return {task: float(np.mean(v)) for task, v in values.items()}


def estimate(run: Run, method: str, figure: Figure) -> Estimate | None:
    """Mean over tasks with its interval; None where no task has the figure."""
    values = list(per_task(run, method, figure).values())
    if not values:
        return None
    interval = mean_interval(values)
    return Estimate(exponential(interval) if figure.log else interval, len(values))


def exponential(interval: Interval) -> Interval:
    """A mean of logarithms as a geometric mean, or a difference of logarithms as a factor."""
    ends = (None if x is None else float(np.exp(x)) for x in (interval.low, interval.high))
    return Interval(float(np.exp(interval.value)), *ends)


def recovery(run: Run, method: str, tasks: set[str] | None = None) -> Estimate | None:
    """Mean score over the soft prompts' mean score, same tasks; None where there is no soft prompt or it scores 0.

    `tasks` are those that count; None: all.
    """
    reference = soft_prompt_label(run)
    if reference is None:
        return None
    own_scores, soft_scores = per_task(run, method, SCORE), per_task(run, reference, SCORE)
    common = [task for task in own_scores if task in soft_scores and (tasks is None or task in tasks)]
    own, soft = [own_scores[task] for task in common], [soft_scores[task] for task in common]
    if not any(soft):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # resamples of tasks on which the soft prompts score 0
        return Estimate(ratio_interval(own, soft), len(own))


def number_text(value: float | None) -> str:
    """A number for people: three decimals below 10, fewer above."""
    if value is None or not np.isfinite(value):
        return "–"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def interval_text(interval: Interval) -> str:
    """A number and its interval, where it has one."""
    if interval.low is None:
        return f"{number_text(interval.value)} [–]"
    return f"{number_text(interval.value)} [{number_text(interval.low)}, {number_text(interval.high)}]"
