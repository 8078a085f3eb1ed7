"""Sections about single trials: how a search went step by step, and how far trials of the same task lie apart.

They are figures 2, 3, 6 and 7 of arXiv 2504.02144: score and perplexity by trial, and both by step.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from soft2hard.eval.report import charts
from soft2hard.eval.report.parts import Section, Table, Value
from soft2hard.eval.report.reading import Run

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as Chart

MOST_TASKS = 12
"""With more tasks, figures over tasks say more than the trials of each."""


# --- by step ------------------------------------------------------------------------------------


def curve(run: Run, method: str, key: str) -> pd.Series:
    """A figure of the prompts that a method's searches looked at, by step: the mean over cells, of perplexities the
    geometric one. A search that has stopped keeps its last value. Empty where no search has the figure."""
    found = [
        pd.Series({point["step"]: point[key] for point in points}, dtype=float)
        for row in run.by_method[method]
        if (points := [point for point in _looks(row.trace) if key in point])
    ]
    if not found:
        return pd.Series(dtype=float)
    cells = pd.concat(found, axis=1).sort_index().ffill()
    return np.exp(np.log(cells).mean(axis=1)) if key == "perplexity" else cells.mean(axis=1)


def _looks(trace: dict) -> list[dict]:
    """The points of a trace's curve; none where it is another method's, or of a run from before they had a score."""
    points = trace.get("curve")
    return [p for p in points if isinstance(p, dict) and "step" in p] if isinstance(points, list) else []


def curves(run: Run) -> Section | None:
    """Score and perplexity by step, of all methods that search."""
    by_key = {key: {m: c for m in run.methods if len(c := curve(run, m, key))} for key in ("score", "perplexity")}
    if not by_key["score"]:
        return None
    rows: list[list[Value]] = []
    for method, score in by_key["score"].items():
        natural = by_key["perplexity"].get(method, pd.Series([np.nan]))
        ends = (score.iloc[0], score.iloc[-1], natural.iloc[0], natural.iloc[-1])
        rows.append([method, len(score), int(score.index[0]), int(score.index[-1]), *map(float, ends)])
    columns = ["method", "looks", "first step", "last step", "score, first", "score, last"]
    return Section(
        "Searches by step",
        "The prompts of each step that a search looked at, of PEZ the projection, of a policy what it writes greedily: "
        "their mean score on the validation examples, and the geometric mean of their perplexity under the reference "
        "LM. The search sees neither.",
        [Table([*columns, "perplexity, first", "perplexity, last"], rows)],
        list(_drawn(by_key)),
    )


def _drawn(by_key: dict[str, dict[str, pd.Series]]) -> Iterator["Chart"]:
    for key, found in by_key.items():
        if found:
            table = pd.DataFrame(found).rename_axis("step").reset_index()
            chart = charts.training_curves(f"{key.capitalize()} by step", table, list(found))
            yield chart.update_yaxes(title=key.capitalize(), type="log" if key == "perplexity" else "linear")


# --- by trial -----------------------------------------------------------------------------------


def trials(run: Run) -> Section | None:
    """Each task by itself, with the spread of its trials, where there are few tasks and several seeds."""
    if len(run.record.seeds) < 2 or len(run.tasks) > MOST_TASKS:
        return None
    names, rows = [task.name for task in run.tasks], []
    for task in names:
        for method in run.methods:
            cells = run.cells[(run.cells["task"] == task) & (run.cells["method"] == method)]
            if len(cells):
                rows.append([method, task, len(cells), *_spread(cells)])
    columns = ["method", "task", "trials", "score", "deviation", "lowest", "highest", "performance differential"]
    return Section(
        "Trials",
        "Every task by itself. A trial is a seed: other examples, another tuning, other random choices. The deviation "
        "is the standard deviation of the score over trials, of which failed ones count as 0; differential and "
        "perplexity leave these out. The perplexity is a geometric mean, with the least and the most.",
        [Table([*columns, "perplexity", "least", "most"], rows)],
        list(_scattered(run)),
    )


def _spread(cells: pd.DataFrame) -> Iterator[Value]:
    """Score, differential and perplexity over the trials of one method on one task."""
    scores = cells["score"].astype(float).fillna(0.0)
    yield from map(float, (scores.mean(), scores.std(ddof=1), scores.min(), scores.max()))
    yield float(cells["performance_differential"].astype(float).mean())
    natural = cells["perplexity"].astype(float).dropna()
    logs = np.log(natural[natural > 0])
    yield from map(float, np.exp([logs.mean(), logs.min(), logs.max()]))


def _scattered(run: Run) -> Iterator["Chart"]:
    """Score against perplexity, a mark a trial, beside the perplexity of natural texts."""
    shown = run.cells[run.cells["perplexity"].notna() & run.cells["score"].notna()]
    points = [
        (cell.method, f"{cell.task}, seed {cell.seed}", float(cell.perplexity), float(cell.score))
        for cell in shown.itertuples()
    ]
    if not points:
        return
    title, axes = "Score by perplexity, a mark a trial", ("Perplexity (log)", "Score")
    chart = charts.scatter(title, points, axes, run.methods, log_x=True)
    known = run.record.reference_perplexity
    for name, value in (("gold instructions", known.natural), ("test inputs", known.inputs)) if known else ():
        if value is not None:
            chart.add_scatter(x=[value] * 2, y=[0, 1], mode="lines", name=name, line={"dash": "dot", "width": 1.5})
    yield chart
