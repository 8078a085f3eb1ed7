"""Scores of prompts on API models: the task's own metric, intervals, and paired tests on the same examples.

Answers are compared after `task_score.normalise_answer`; the raw ones stay in the ledger. Answers that could not be had
are counted apart: they are neither right nor wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soft2hard.eval.intervals import Interval, difference_interval, mean_interval, sign_flip_p_value
from soft2hard.eval.metrics.task_score import grade

Unit = tuple[str, int, int, int]
"""Task, seed of its examples, example, repeat: what two prompts are compared on."""


@dataclass(frozen=True)
class Scored:
    """One answer against what was wanted."""

    unit: Unit
    metric: str
    answer: str | None
    """None: could not be had."""
    refused: bool
    """A refusal is an answer, and wrong."""
    reference: str


@dataclass(frozen=True)
class Score:
    """How well a method does on a model."""

    interval: Interval | None
    """Mean over tasks of the task's own metric, 0 to 1, with its bootstrap interval over tasks; with a single task,
    over its examples. None where there is no answer at all."""
    n_tasks: int
    """Tasks with at least one answer."""
    n_answers: int
    n_refused: int
    n_missing: int
    """Answers that could not be had."""


@dataclass(frozen=True)
class PairedTest:
    """Whether two methods differ on the same model, tasks and examples."""

    first: str
    second: str
    difference: Interval
    """Score of the first minus that of the second."""
    p_value: float
    """Two-sided sign-flip permutation test over pairs, adjusted for the number of comparisons (Holm 1979)."""
    n_pairs: int
    unit: str
    """'tasks' or, with a single task, 'examples'."""


def score(answers: Sequence[Scored]) -> Score:
    """The score of one method on one model."""
    had = [a for a in answers if a.answer is not None]
    n_refused = sum(a.refused for a in had)
    units = _by_task(had)
    if not units:
        return Score(None, 0, 0, n_refused, len(answers))
    interval = mean_interval(list(units.values())) if len(units) > 1 else _over_examples(had)
    return Score(interval, len(units), len(had), n_refused, len(answers) - len(had))


def _over_examples(answers: Sequence[Scored]) -> Interval:
    """The metric of one task with an interval over its examples."""
    if answers[0].metric != "f1":
        return mean_interval(list(_by_example(answers).values()))
    groups: dict[tuple, list[Scored]] = {}
    for answer in answers:  # F1 is no mean over examples, so the whole of it is resampled
        groups.setdefault(answer.unit[:3], []).append(answer)
    examples, rng = list(groups.values()), np.random.default_rng(0)
    draws = rng.integers(len(examples), size=(1000, len(examples)))
    values = [_task_score([answer for i in draw for answer in examples[i]]) for draw in draws]
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(_task_score(answers), float(low), float(high))


def paired_tests(answers: Mapping[str, Sequence[Scored]]) -> list[PairedTest]:
    """All pairs of methods on one model, each over the examples that both have answers to.

    Pairs are of tasks, since the examples of one task are not independent; of examples where there is one task.
    """
    names = list(answers)
    tests = [
        test
        for i, first in enumerate(names)
        for second in names[i + 1 :]
        if (test := _paired(first, second, answers[first], answers[second])) is not None
    ]
    return _holm(tests)


def _paired(first: str, second: str, a: Sequence[Scored], b: Sequence[Scored]) -> PairedTest | None:
    had_a, had_b = ({x.unit: x for x in answers if x.answer is not None} for answers in (a, b))
    common = sorted(had_a.keys() & had_b.keys())
    if not common:
        return None
    sides = [had_a[unit] for unit in common], [had_b[unit] for unit in common]
    unit = "tasks" if len({u[0] for u in common}) > 1 else "examples"
    values_of = _by_task if unit == "tasks" else _by_example
    x, y = (np.array(list(values_of(side).values()), dtype=float) for side in sides)
    return PairedTest(first, second, difference_interval(x, y), sign_flip_p_value(x - y), len(x), unit)


def _holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    adjusted = [0.0] * len(tests)
    worst = 0.0
    for rank, i in enumerate(sorted(range(len(tests)), key=lambda i: tests[i].p_value)):
        worst = max(worst, min(1.0, (len(tests) - rank) * tests[i].p_value))
        adjusted[i] = worst
    return [
        PairedTest(t.first, t.second, t.difference, p, t.n_pairs, t.unit) for t, p in zip(tests, adjusted, strict=True)
    ]


def _by_task(answers: Sequence[Scored]) -> dict[str, float]:
    """Each task's metric, averaged over seeds; repeats count as further answers."""
    groups: dict[tuple[str, int], list[Scored]] = {}
    for answer in answers:
        groups.setdefault(answer.unit[:2], []).append(answer)
    by_task: dict[str, list[float]] = {}
    for (task, _), group in groups.items():
        by_task.setdefault(task, []).append(_task_score(group))
    return {task: float(np.mean(values)) for task, values in by_task.items()}


def _by_example(answers: Sequence[Scored]) -> dict[tuple, float]:
    """Each example's score, averaged over repeats."""
    by_example: dict[tuple, list[float]] = {}
    for answer in answers:
        by_example.setdefault(answer.unit[:3], []).append(_task_score([answer]))
    return {example: float(np.mean(values)) for example, values in by_example.items()}


def _task_score(answers: Sequence[Scored]) -> float:
    texts = ["" if a.refused else str(a.answer) for a in answers]
    return grade(answers[0].metric, texts, [a.reference for a in answers])
