"""What the page of an analysis draws of its experiments: stability, positions, interpolation and retrieval.

Their results are read back as the very records that the experiments made, so that a page is never drawn of anything
else.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from soft2hard.errors import UserError
from soft2hard.eval.analysis.interpolation import Interpolation
from soft2hard.eval.analysis.positions_effects import PositionEffects
from soft2hard.eval.analysis.retrieval_savings import RetrievalSavings
from soft2hard.eval.analysis.stability import Stability
from soft2hard.eval.intervals import Interval
from soft2hard.eval.report.analysis_data import Page
from soft2hard.eval.report.data import table

Result = TypeVar("Result")

CHANGES = {
    "mean": "masked by the mean",
    "zeros": "masked by zeros",
    "removed": "left out",
    "alone": "alone",
    "permuted": "all in a random order",
}
KINDS = {"one task": "two tunings of one task", "two tasks": "soft prompts of two tasks"}


def result_of(kind: type[Result], result: dict[str, Any]) -> Result:
    """The record that `to_json` was of. Raises UserError for a result of another version."""
    try:
        return TypeAdapter(kind).validate_python(result)
    except ValidationError as error:
        raise UserError(
            f"The analysis holds a {kind.__name__} of another version.", "Run the analysis into a new folder."
        ) from error


def group_of(row: dict[str, Any]) -> dict[str, Any]:
    """The stability of one group of tunings: its name, its number of tasks, and figures with their intervals."""
    read = TypeAdapter(Interval | None)
    return {name: read.validate_python(v) if isinstance(v, dict) else v for name, v in row.items()}


def add_stability(page: Page, found: Stability) -> None:
    """Shares with their intervals, and the translations of each task."""
    shares = {
        "agree with each other": found.agreement,
        "say what most say": found.majority,
        "name the very task": found.recovered,
        "of votes name the very task": found.majority_recovered,
        "ROUGE-L of pairs": found.rougeL,
        "cosine of pairs": found.cosine,
        "agree, different tasks": found.between_agreement,
        "ROUGE-L, different tasks": found.between_rougeL,
        "cosine, different tasks": found.between_cosine,
        "agree, different tasks of a family": found.family_agreement,
        "ROUGE-L, different tasks of a family": found.family_rougeL,
        "cosine, different tasks of a family": found.family_cosine,
    }
    rows = [[name, *_parts(share)] for name, share in shares.items() if share is not None]
    page.chart(
        "stability",
        table(["translations", "share", "share low", "share high"], rows),
        kind="dots",
        label="translations",
        x="share",
        of="figures",
        title="Translations of several tunings of one task",
    )
    columns = ["task", "agreement", "majority", "ROUGE-L", "cosine", "recovered", "vote recovers", "vote"]
    page.tables["stability tasks"] = table(
        [*columns, "translations"],
        [
            [t.task, t.agreement, t.majority, t.rougeL, t.cosine, t.recovered, t.majority_recovered, t.majority_text]
            + [" | ".join(t.texts)]
            for t in found.tasks
        ],
    )


def add_positions(page: Page, found: PositionEffects) -> None:
    """What each position's change does to the score, and to the translation."""
    columns = ["change", "position", "score lost", "score lost low", "score lost high", "translation changed"]
    columns += ["translation changed low", "translation changed high", "tasks"]
    rows = [
        [CHANGES[e.change], e.position, *_parts(e.score_lost), *_parts(e.meaning_changed), e.n_tasks]
        for e in found.effects
    ]
    page.tables["positions"] = table(columns, rows)
    of_position = [row for row in rows if row[1] is not None]
    figures = [("score lost", "Score lost"), ("translation changed", "Share of translations that change")]
    for name, title in figures[: 2 if found.effects[0].meaning_changed is not None else 1]:
        page.chart(
            f"positions {name}",
            table(columns, of_position),
            label="change",
            series="change",
            x="position",
            y=name,
            x_title="Position",
            y_title=title,
            lines=True,
            title=f"{title}, by position",
        )


def add_interpolation(page: Page, found: Interpolation) -> None:
    """Scores and meanings along the lines of each kind."""
    for summary in found.kinds:
        points = [point for point in found.curves if point.kind == summary.kind]
        one = summary.kind == "one task"
        scores = {"on the task" if one else "on the first task": "first_score"} | (
            {} if one else {"on the second task": "second_score"}
        )
        says = {"as the first end": "says_first", "as the second end": "says_second", "something else": "says_other"}
        _curves(page, f"path {summary.kind} score", points, scores, "Score", f"Score between {KINDS[summary.kind]}")
        if points[0].says_first is not None:
            title = f"Translation between {KINDS[summary.kind]}"
            _curves(page, f"path {summary.kind} says", points, says, "Share of translations", title)
    columns = ["kind", "first task", "second task", "share", "score on first", "score on second", "says", "translation"]
    page.tables["paths"] = table(
        columns,
        [
            [path.kind, path.first_task, path.second_task, p.share, p.first_score, p.second_score, p.says, p.text]
            for path in found.paths
            for p in path.points
        ],
    )


def _curves(page: Page, name: str, points: Sequence[Any], series: dict[str, str], y_title: str, title: str) -> None:
    rows = [[label, p.share, *_parts(getattr(p, attribute))] for label, attribute in series.items() for p in points]
    page.chart(
        name,
        table(["curve", "share", "value", "value low", "value high"], rows),
        label="curve",
        series="curve",
        x="share",
        y="value",
        x_title="Share of the second soft prompt",
        y_title=y_title,
        lines=True,
        title=title,
    )


def add_retrieval(page: Page, found: RetrievalSavings) -> None:
    """Loss by step from each start, mean over the new tasks, and what each start saves."""
    figures = ("initial_loss", "best_loss", "steps", "base_steps", "saved")
    page.tables["retrieval"] = table(
        ["start", *(f"{figure.replace('_', ' ')}{part}" for figure in figures for part in ("", " low", " high"))],
        [[s.start, *(v for figure in figures for v in _parts(getattr(s, figure)))] for s in found.starts],
    )
    page.tables["retrieval tasks"] = table(
        ["task", "start", "source", "initial loss", "best loss", "target", "steps", "base steps", "saved"],
        [
            [t.task, t.start, t.source, t.initial_loss, t.best_loss, t.target, t.steps, t.base_steps, t.saved]
            for t in found.tasks
        ],
    )
    page.chart(
        "retrieval curves",
        table(["start", "step", "validation loss"], mean_curves(found)),
        label="start",
        series="start",
        x="step",
        y="validation loss",
        x_title="Steps",
        y_title="Lowest validation loss so far, nats a token",
        lines=True,
        title="Tuning from each start, mean over new tasks",
    )


def mean_curves(found: RetrievalSavings) -> list[list[Any]]:
    """For each start and step the lowest validation loss until then, mean over tasks, those whose tuning has ended
    among them."""
    rows = []
    for start in (summary.start for summary in found.starts):
        curves = [dict(sorted(t.losses)) for t in found.tasks if t.start == start]
        steps = sorted({step for curve in curves for step in curve})
        lowest = [[min(loss for at, loss in curve.items() if at <= step) for step in steps] for curve in curves]
        rows += [[start, step, float(mean)] for step, mean in zip(steps, np.mean(lowest, 0), strict=True)]
    return rows


def _parts(interval: Interval | None) -> list[float | None]:
    return [None] * 3 if interval is None else [interval.value, interval.low, interval.high]
