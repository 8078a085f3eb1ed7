"""Arithmetic of soft prompts: what the subject does, and what the translator writes, along the straight line from one
to another, of one task or of two.

Pairs share no task (`pair_up`), so that they can be resampled; intervals are 95 % bootstrap intervals over pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Literal

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.meaning import Translate, meaning, translate_rows
from soft2hard.eval.analysis.positions import interpolated
from soft2hard.eval.intervals import Interval, mean_interval
from soft2hard.eval.metrics.measurement import Comparison, Measurement, measure
from soft2hard.lm.shared_prefix import Runner
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt

Kind = Literal["one task", "two tasks"]
Says = Literal["first", "second", "both", "other"]
"""Whether a translation says what that of the first, the second, both or neither end of the line says."""


@dataclass(frozen=True)
class Ends:
    """Two soft prompts to go between, with their tasks; `same` where both are of one task."""

    first: SoftPrompt
    second: SoftPrompt
    first_task: Task
    second_task: Task

    @property
    def kind(self) -> Kind:
        return "one task" if self.first_task.name == self.second_task.name else "two tasks"


@dataclass(frozen=True)
class PathPoint:
    """A point on a line."""

    share: float
    """How much of it is the second soft prompt, 0 to 1."""
    first_score: float
    """On the first one's task, by its metric on its test examples, 0 to 1."""
    second_score: float
    text: str | None
    """The translation; None where nothing was translated."""
    says: Says | None


@dataclass(frozen=True)
class Path:
    """A line between two soft prompts."""

    kind: Kind
    first_task: str
    second_task: str
    points: tuple[PathPoint, ...]
    barrier: float
    """How far the score on the first task falls below the straight line between its values at the ends, at worst, 0 to
    1: the error barrier of linear mode connectivity (Frankle et al. 2020, arXiv 1912.05671, section 2), for ends that
    need not score alike."""


@dataclass(frozen=True)
class CurvePoint:
    """One place on all lines of a kind, mean over pairs."""

    kind: Kind
    share: float
    first_score: Interval
    second_score: Interval
    says_first: Interval | None
    """Share of translations that say what the first end's says; None where nothing was translated."""
    says_second: Interval | None
    says_other: Interval | None
    """Neither."""


@dataclass(frozen=True)
class KindSummary:
    """All lines of one kind."""

    kind: Kind
    n_pairs: int
    barrier: Interval


@dataclass(frozen=True)
class Interpolation:
    """All lines."""

    kinds: tuple[KindSummary, ...]
    curves: tuple[CurvePoint, ...]
    paths: tuple[Path, ...]
    n_left_out: int
    """Pairs for which the subject's context has no room."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def pair_up(tasks: Sequence[Task], prompts: Sequence[SoftPrompt], seed: int = 0) -> list[Ends]:
    """Pairs of both kinds: the first two soft prompts of every task that has two, and the first ones of tasks taken two
    by two in a random order; a pair is of one length. `prompts[i]` was tuned for `tasks[i]`; within a kind no task is
    in two pairs.

    Raises UserError where there is no pair of either kind.
    """
    of_task: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        of_task.setdefault(task.name, []).append(i)
    pairs = []
    for numbers in of_task.values():
        alike = [i for i in numbers if prompts[i].n_tokens == prompts[numbers[0]].n_tokens]
        pairs += [tuple(alike[:2])] if len(alike) > 1 else []
    order = [numbers[0] for numbers in of_task.values()]
    Random(seed).shuffle(order)
    for length in dict.fromkeys(prompts[i].n_tokens for i in order):
        own = [i for i in order if prompts[i].n_tokens == length]
        pairs += zip(own[::2], own[1::2], strict=False)
    if not pairs:
        raise UserError("A single soft prompt has no line to another.", "Give two of one task, or of two tasks.")
    return [Ends(prompts[i], prompts[j], tasks[i], tasks[j]) for i, j in pairs]


def interpolate(
    subject: Subject,
    pairs: Sequence[Ends],
    translate: Translate | None = None,
    *,
    n_points: int = 9,
    runner: Runner | None = None,
    seed: int = 0,
) -> Interpolation:
    """Scores on both tasks, and translations, at equal distances along the line of every pair, ends included.

    Everything is measured in shared batches. Raises UserError without pairs, as `interpolated` does, as `measure` does,
    and where no pair fits the subject's context.
    """
    if not pairs:
        raise UserError("There are no pairs of soft prompts to go between.", "Give at least one.")
    lines = [interpolated(pair.first, pair.second, n_points) for pair in pairs]
    shares = [point.share for point in lines[0]]
    rows = [tuple(point.soft_prompt for point in line) for line in lines]
    tasks = [[pair.first_task for pair in pairs], [pair.second_task for pair in pairs]]
    # A line within one task is measured once.
    extra = [i for i, pair in enumerate(pairs) if pair.kind == "two tasks"]
    comparisons = [Comparison(task, row) for task, row in zip(tasks[0], rows, strict=True)]
    measured = measure(subject, comparisons + [Comparison(tasks[1][i], rows[i]) for i in extra], runner)
    first, second = measured[: len(pairs)], list(measured[: len(pairs)])
    for i, row in zip(extra, measured[len(pairs) :], strict=True):
        second[i] = row
    kept = [i for i in range(len(pairs)) if None not in first[i] and None not in second[i]]
    if not kept:
        raise UserError("No pair of soft prompts fits the subject's context with its tasks.", "Use shorter examples.")
    texts = translate_rows(translate, [rows[i] for i in kept]) or [[None] * n_points] * len(kept)
    paths = [_path(pairs[i], shares, first[i], second[i], of_path) for i, of_path in zip(kept, texts, strict=True)]
    kinds = [kind for kind in ("one task", "two tasks") if any(path.kind == kind for path in paths)]
    of_kind = {kind: [path for path in paths if path.kind == kind] for kind in kinds}
    return Interpolation(
        kinds=tuple(
            KindSummary(kind, len(own), mean_interval([path.barrier for path in own], seed=seed))
            for kind, own in of_kind.items()
        ),
        curves=tuple(
            _curve_point(kind, [path.points[k] for path in own], seed)
            for kind, own in of_kind.items()
            for k in range(n_points)
        ),
        paths=tuple(paths),
        n_left_out=len(pairs) - len(kept),
    )


def _path(
    pair: Ends,
    shares: Sequence[float],
    first: Sequence[Measurement],
    second: Sequence[Measurement],
    texts: Sequence[str | None],
) -> Path:
    points = tuple(
        PathPoint(share, a.score, b.score, text, None if text is None else _says(text, texts[0], texts[-1]))
        for share, a, b, text in zip(shares, first, second, texts, strict=True)
    )
    return Path(
        pair.kind, pair.first_task.name, pair.second_task.name, points, barrier(shares, [m.score for m in first])
    )


def barrier(shares: Sequence[float], scores: Sequence[float]) -> float:
    """The most that scores lie below the straight line between the first and the last of them; 0 where none does."""
    straight = [scores[0] * (1 - share) + scores[-1] * share for share in shares]
    return max(0.0, *(line - score for line, score in zip(straight, scores, strict=True)))


def _says(text: str, first: str, second: str) -> Says:
    own, ends = meaning(text), (meaning(first), meaning(second))
    if own is None or own not in ends:
        return "other"
    return "both" if ends[0] == ends[1] else "first" if own == ends[0] else "second"


def _curve_point(kind: Kind, points: Sequence[PathPoint], seed: int) -> CurvePoint:
    def mean(value: Callable[[PathPoint], float]) -> Interval:
        return mean_interval([value(point) for point in points], seed=seed)

    def says(*wanted: Says) -> Interval | None:
        return None if points[0].says is None else mean(lambda point: point.says in wanted)

    return CurvePoint(
        kind=kind,
        share=points[0].share,
        first_score=mean(lambda point: point.first_score),
        second_score=mean(lambda point: point.second_score),
        says_first=says("first", "both"),
        says_second=says("second", "both"),
        says_other=says("other"),
    )
