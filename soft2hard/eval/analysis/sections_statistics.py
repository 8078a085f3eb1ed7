"""The section of statistics: every soft prompt by itself, and what the prompts of a task, and of a group, come to."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from soft2hard.errors import UserError
from soft2hard.eval.analysis.comparable import stacked
from soft2hard.eval.analysis.geometry import TaskGeometry, reordered_distances, task_geometry
from soft2hard.eval.analysis.material import Material
from soft2hard.eval.analysis.section_records import (
    MOST_PAIRED,
    Estimate,
    GroupStatistics,
    Statistics,
    TaskStatistics,
)
from soft2hard.eval.analysis.statistics import pair_statistics, prompt_statistics
from soft2hard.eval.intervals import mean_interval

Arrays = dict[str, np.ndarray]
"""Of a section, by name."""


def statistics_section(material: Material) -> tuple[Statistics, Arrays]:
    """Every prompt by itself; pairs and tasks where prompts can be compared."""
    names = [row.name for row in material.prompts]
    of_prompts = prompt_statistics(material.soft_prompts, names)
    missing: list[str] = []
    tasks = tuple(row for group in _groups(material) for row in _of_tasks(material, group, missing))
    groups = tuple(_of_group(material, group, tasks) for group in _groups(material))
    pairs = ()
    if 1 < len(names) <= MOST_PAIRED:
        try:
            pairs = pair_statistics(material.soft_prompts, names)
        except UserError as error:
            missing.append(f"Pairs: {error.problem}")
    found = Statistics(
        seconds=0,
        prompts=of_prompts,
        pairs=pairs,
        tasks=tasks,
        groups=tuple(group for group in groups if group is not None),
        missing=tuple(missing),
    )
    return found, {}


def _groups(material: Material) -> list[str]:
    return list(dict.fromkeys(row.group for row in material.prompts))


def _numbers(material: Material, group: str) -> list[int]:
    return [i for i, row in enumerate(material.prompts) if row.group == group]


def _of_tasks(material: Material, group: str, missing: list[str]) -> list[TaskStatistics]:
    """Task by task, since prompts of different tasks may differ in length; `missing` notes tasks whose own do."""
    numbers = _numbers(material, group)
    found: list[TaskStatistics] = []
    for task in dict.fromkeys(material.names(numbers)):
        own = [i for i in numbers if (material.prompts[i].task or "") == task]
        try:
            (geometry,) = task_geometry(stacked(material.of(own), 1), material.names(own))
        except UserError as error:
            missing.append(f"Task '{task}': {error.problem}")
        else:
            found.append(_task_row(material, group, geometry))
    return found


def _task_row(material: Material, group: str, found: TaskGeometry) -> TaskStatistics:
    rows = [row for row in material.prompts if row.group == group and (row.task or "") == found.task]
    scores = [row.score for row in rows if row.score is not None]
    return TaskStatistics(
        family=material.family(found.task),
        group=group,
        mean_score=float(np.mean(scores)) if scores else None,
        score_deviation=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        **{field.name: getattr(found, field.name) for field in fields(found)},
    )


def _of_group(material: Material, group: str, rows: Sequence[TaskStatistics]) -> GroupStatistics | None:
    """None for a group of which no task has statistics."""
    own = [row for row in rows if row.group == group]
    if not own:
        return None
    reordered = [_reordered_within(material, group, row.task) for row in own if row.n_prompts > 1]
    return GroupStatistics(
        group=group,
        n_tasks=len(own),
        mean_norm=Estimate.of(mean_interval([row.mean_norm for row in own])),
        mean_distance=mean_estimate([row.mean_distance for row in own]),
        reordered_distance=mean_estimate(reordered),
        mean_score=mean_estimate([row.mean_score for row in own]),
    )


def _reordered_within(material: Material, group: str, task: str) -> float:
    numbers = [i for i in _numbers(material, group) if material.prompts[i].task == task]
    found = reordered_distances(stacked(material.of(numbers))).distances
    return float(found[np.triu_indices(len(found), 1)].mean())


def mean_estimate(values: Sequence[float | None]) -> Estimate | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return Estimate.of(mean_interval(known)) if known else None
