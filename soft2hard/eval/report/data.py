"""What the page's scripts work with: tables of plain JSON values, charts that name their columns, and the tasks.

Each table is drawn and downloaded alike, so the download holds the very numbers of the picture.
"""

import math
from dataclasses import asdict
from typing import Any

from soft2hard.eval.report.calibration import reliabilities
from soft2hard.eval.report.comparison import Comparison
from soft2hard.eval.report.differences import Difference
from soft2hard.eval.report.figures import AGREEMENT, KL, PERPLEXITY, SCORE, Figure
from soft2hard.eval.report.reading import Run
from soft2hard.eval.report.soft_prompt_map import map_of
from soft2hard.eval.report.tables import COSTS, CostLine, Failures, FamilyCell, MethodLine, shown_figures
from soft2hard.eval.report.transfer import TransferTable
from soft2hard.eval.run_records import METRICS, ResultRow

Table = dict[str, Any]
"""`columns`, names, and `rows`, lists of values."""
Chart = dict[str, Any]
"""`kind`, `table`, and which columns mean what; see charts.js."""


def table(columns: list[str], rows: list[list[Any]]) -> Table:
    """A table; what is no finite number becomes None, as JSON has no word for it."""
    return {"columns": columns, "rows": [[_plain(value) for value in row] for row in rows]}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main_data(lines: list[MethodLine]) -> Table:
    """The main table with all figures, wide: value, interval and number of tasks of each."""
    figures = shown_figures(lines)
    columns = [f"{f.key}{part}" for f in figures for part in ("", " low", " high", " tasks")]
    rows = [
        [line.method, line.n_cells, line.n_failed, line.n_missing, *(v for f in figures for v in _parts(line, f.key))]
        for line in lines
    ]
    return table(["method", "cells", "failed", "missing", *columns], rows)


def _parts(line: MethodLine, key: str) -> list[Any]:
    found = line.figures[key]
    if found is None:
        return [None, None, None, 0]
    return [found.interval.value, found.interval.low, found.interval.high, found.n_tasks]


def score_chart(lines: list[MethodLine]) -> tuple[Table, Chart]:
    """The score of each method with its interval."""
    rows = [[line.method, *_parts(line, SCORE.key)] for line in lines if line.figures[SCORE.key]]
    data = table(["method", "score", "score low", "score high", "tasks"], rows)
    return data, {"kind": "dots", "table": "score", "label": "method", "x": "score", "title": "Score by method"}


def against_score(lines: list[MethodLine], figure: Figure) -> tuple[Table, Chart]:
    """A figure of each method against its score, both with intervals."""
    both = [line for line in lines if line.figures[figure.key] and line.figures[SCORE.key]]
    rows = [[line.method, *_parts(line, figure.key), *_parts(line, SCORE.key)] for line in both]
    columns = [f"{f.key}{part}" for f in (figure, SCORE) for part in ("", " low", " high", " tasks")]
    chart = {
        "kind": "scatter",
        "table": figure.key,
        "label": "method",
        "series": "method",
        "x": figure.key,
        "y": SCORE.key,
        "x_title": figure.title,
        "y_title": SCORE.title,
        "log_x": figure.log,
        "names": True,
        "title": f"{SCORE.title} against {figure.title if figure.title.isupper() else figure.title.lower()}",
    }
    return table(["method", *columns], rows), chart


def cost_chart(lines: list[MethodLine], costs: list[CostLine]) -> tuple[Table, Chart]:
    """Cost of each method, and its score beside it."""
    columns = [f"{key}{part}" for key in COSTS for part in (" a cell", " in all")]
    rows = [
        [line.method, line.n_cells, *(v for key in COSTS for v in (cost.mean[key], cost.total[key]))]
        + _parts(line, SCORE.key)[:3]
        for line, cost in zip(lines, costs, strict=True)
    ]
    chart = {
        "kind": "scatter",
        "table": "cost",
        "label": "method",
        "series": "method",
        "x": "seconds a cell",
        "y": "score",
        "x_title": "Seconds a task and seed",
        "y_title": SCORE.title,
        "log_x": True,
        "names": True,
        "title": "Score against cost",
    }
    return table(["method", "cells", *columns, "score", "score low", "score high"], rows), chart


def calibration_chart(run: Run, outcome: Figure) -> tuple[Table, Chart, list[str]]:
    """Reliability curves, and the methods whose confidence is no share."""
    curves, not_shares = reliabilities(run, outcome.key)
    rows = [[method, b.confidence, b.outcome, b.n] for method, curve in curves.items() for b in curve.bins]
    chart = {
        "kind": "scatter",
        "table": f"calibration {outcome.key}",
        "label": "method",
        "series": "method",
        "x": "confidence",
        "y": outcome.key,
        "x_title": "Confidence",
        "y_title": f"{outcome.title} on test examples",
        "size": "cells",
        "lines": True,
        "unit": True,
        "diagonal": True,
        "title": f"{outcome.title} by confidence",
    }
    return table(["method", "confidence", outcome.key, "cells"], rows), chart, not_shares


_NO_CURVES = ("step", "epoch", "runtime", "per_second", "flos", "seconds")


def training_chart(run: Run) -> tuple[Table, Chart]:
    """What a training logged, one curve a name; those whose name speaks of a loss are shown first."""
    names = dict.fromkeys(key for line in run.training for key in line if not any(word in key for word in _NO_CURVES))
    ordered = sorted(names, key=lambda name: "loss" not in name)
    rows = [[name, line["step"], line[name]] for name in ordered for line in run.training if name in line]
    chart = {
        "kind": "scatter",
        "table": "training",
        "label": "curve",
        "series": "curve",
        "x": "step",
        "y": "value",
        "x_title": "Step",
        "y_title": "Value",
        "lines": True,
        "marks": False,
        "choose": True,
        "chosen": [name for name in ordered if "loss" in name] or ordered[:1],
        "title": "Training curves",
    }
    return table(["curve", "step", "value"], rows), chart


def map_chart(run: Run) -> tuple[Table, Chart, str]:
    """The soft prompts in two dimensions, and how they were projected."""
    cells, places, projection = map_of(run)
    tasks = {task.name: task for task in run.tasks}
    rows = [
        [task, seed, tasks[task].family, tasks[task].instruction, float(x), float(y)]
        for (seed, task), (x, y) in zip(cells, places, strict=True)
        if task in tasks
    ]
    chart = {
        "kind": "scatter",
        "table": "map",
        "label": "instruction",
        "series": "family",
        "x": "x",
        "y": "y",
        "x_title": "",
        "y_title": "",
        "bare": True,
        "details": ["family", "task", "seed"],
        "title": f"Soft prompts, {projection}",
    }
    return table(["task", "seed", "family", "instruction", "x", "y"], rows), chart, projection


def family_data(cells: list[FamilyCell]) -> Table:
    """Score and recovery of each method on each family."""
    rows = [[c.method, c.family, c.n_tasks, c.score, c.recovery] for c in cells]
    return table(["method", "family", "tasks", "score", "recovery"], rows)


def transfer_chart(transfers: TransferTable) -> tuple[Table, Chart]:
    """Each method's score on API models against that of the same prompts on the subject."""
    rows = []
    for line in transfers.lines:
        for model, row in line.by_model.items():
            found = row.score.interval
            parts = (found.value, found.low, found.high) if found else (None, None, None)
            counts = (
                row.score.n_answers,
                row.score.n_refused,
                row.score.n_missing,
                row.input_tokens,
                row.output_tokens,
            )
            rows.append([line.method, model, line.subject_score, *parts, *counts, row.price])
    chart = {
        "kind": "scatter",
        "table": "transfer",
        "label": "method",
        "series": "model",
        "x": "subject",
        "y": "score",
        "x_title": "Score on the subject",
        "y_title": "Score on the API model",
        "unit": True,
        "diagonal": True,
        "names": True,
        "title": "Score on the API model against score on the subject",
    }
    columns = ["method", "model", "subject", "score", "score low", "score high", "answers", "refused", "missing"]
    return table([*columns, "input tokens", "output tokens", "price"], rows), chart


def difference_data(pairs: list[Difference]) -> Table:
    """One line a pair of methods."""
    rows = [
        [p.first, p.second, p.paired.difference.value, p.paired.difference.low, p.paired.difference.high]
        + [p.paired.p_value, p.paired.n_tasks]
        for p in pairs
    ]
    return table(["method", "other", "difference", "low", "high", "p", "tasks"], rows)


def failure_data(found: list[Failures]) -> Table:
    """One line a failed cell."""
    rows = [[f.method, task, seed, f.reason] for f in found for task, seed in f.cells]
    return table(["method", "task", "seed", "reason"], rows)


def comparison_data(comparison: Comparison) -> Table:
    """One line a method and figure."""
    rows = [
        [c.method, c.figure.key, c.n_tasks, c.before, c.after]
        + [c.difference.value, c.difference.low, c.difference.high, "factor" if c.figure.log else "difference"]
        + [c.verdict]
        for c in comparison.changes
    ]
    return table(["method", "figure", "tasks", "before", "after", "change", "low", "high", "kind", "verdict"], rows)


_CELL_FIGURES = tuple(key for key in METRICS if key != "seed")


def task_data(run: Run) -> dict[str, Any]:
    """Every task with every method's prompts, for the browsable table: figures as lists, in the order of `figures`."""
    cells: dict[str, dict[str, list[Any]]] = {task.name: {} for task in run.tasks}
    for row in sorted(run.rows, key=lambda row: row.seed):
        cells[row.task].setdefault(row.method, []).append(_cell(row))
    return {
        "figures": _CELL_FIGURES,
        "methods": run.methods,
        "families": run.families,
        "tasks": [asdict(task) | {"cells": cells[task.name]} for task in run.tasks],
    }


def _cell(row: ResultRow) -> dict[str, Any]:
    values = [_plain(getattr(row, key)) for key in _CELL_FIGURES]
    # Six digits are more than the page shows; the results file has them all.
    figures = [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]
    said = {"prompt": row.prompt, "failure": row.failure, "verdict": row.verdict}
    return {"seed": row.seed, "kind": row.kind, "figures": figures} | {k: v for k, v in said.items() if v is not None}


def charts_of(run: Run, lines: list[MethodLine], costs: list[CostLine]) -> tuple[dict[str, Table], dict[str, Chart]]:
    """All charts that the run has numbers for, with their tables, by name."""
    made = {
        "score": score_chart(lines),
        **{figure.key: against_score(lines, figure) for figure in (PERPLEXITY, KL, AGREEMENT)},
        "cost": cost_chart(lines, costs),
        **{f"calibration {f.key}": calibration_chart(run, f)[:2] for f in (SCORE, AGREEMENT)},
        "training": training_chart(run),
        "map": map_chart(run)[:2],
    }
    filled = {name: pair for name, pair in made.items() if pair[0]["rows"]}
    return {name: pair[0] for name, pair in filled.items()}, {name: pair[1] for name, pair in filled.items()}
