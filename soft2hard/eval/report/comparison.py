"""Two runs side by side: what got better or worse, over the tasks that both have."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval, difference_interval
from soft2hard.eval.report.figures import FIGURES, SCORE, Figure, exponential, per_task
from soft2hard.eval.report.reading import Run

Verdict = Literal["better", "worse", "no clear change", "too few tasks"]
MIN_TASKS = 6
"""With fewer pairs not even a change of the same sign in all of them is significant at 5 % (sign test: 2 / 2^5)."""
N_TASKS_SHOWN = 5
"""Tasks named for each method, as having gained and as having lost most."""


@dataclass(frozen=True)
class Change:
    """One figure of one method in both runs, over the tasks that have it in both."""

    method: str
    figure: Figure
    n_tasks: int
    before: float
    after: float
    difference: Interval
    """After less before; for a figure compared as logarithms, the factor from before to after."""
    verdict: Verdict

    @property
    def clear(self) -> bool:
        """Whether the figure changed significantly."""
        return self.verdict in ("better", "worse")

    @property
    def shown(self) -> bool:
        """Whether it stands in the report's table: scores do always, other figures where they changed."""
        return self.clear or self.figure is SCORE


@dataclass(frozen=True)
class TaskChange:
    """A task whose score changed under a method."""

    method: str
    task: str
    before: float
    after: float
    prompts_before: tuple[str, ...]
    """Hard prompts, one a seed, without repetition."""
    prompts_after: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What became of one run in another."""

    before: Run
    after: Run
    n_tasks: int
    """Tasks in both."""
    changes: tuple[Change, ...]
    tasks: tuple[TaskChange, ...]
    only_before: tuple[str, ...]
    """Methods."""
    only_after: tuple[str, ...]
    settings: tuple[tuple[str, str, str], ...]
    """Name, before, after: configuration, seeds, options, versions and commit where they differ."""

    @property
    def n_clear(self) -> int:
        """How many figures changed significantly."""
        return sum(change.clear for change in self.changes)


def compare(before: Run, after: Run) -> Comparison:
    """Compare by method label; seeds are averaged first, differences are paired by task.

    Raises:
        UserError: the runs have no task or no method in common.
    """
    tasks = _common_tasks(before, after)
    methods = [label for label in after.methods if label in before.methods]
    for what, common in (("tasks", tasks), ("methods", methods)):
        if not common:
            raise UserError(
                f"The runs {before.name} and {after.name} have no {what} in common.",
                "Compare runs of the same tasks and methods, or report each on its own.",
            )
    changes = [_change(before, after, method, figure, tasks) for method in methods for figure in FIGURES]
    return Comparison(
        before=before,
        after=after,
        n_tasks=len(tasks),
        changes=tuple(change for change in changes if change),
        tasks=tuple(change for method in methods for change in _task_changes(before, after, method, tasks)),
        only_before=tuple(label for label in before.methods if label not in methods),
        only_after=tuple(label for label in after.methods if label not in methods),
        settings=tuple(_differences(_settings(before), _settings(after))),
    )


def _common_tasks(before: Run, after: Run) -> set[str]:
    """A task is the same where name, family and instruction are."""
    known = {(task.name, task.family, task.instruction) for task in before.tasks}
    return {task.name for task in after.tasks if (task.name, task.family, task.instruction) in known}


def _change(before: Run, after: Run, method: str, figure: Figure, tasks: set[str]) -> Change | None:
    old, new = per_task(before, method, figure), per_task(after, method, figure)
    common = [task for task in new if task in old and task in tasks]
    if not common:
        return None
    olds, news = [old[task] for task in common], [new[task] for task in common]
    difference = difference_interval(news, olds)
    means = [Interval(mean, mean, mean) for mean in (sum(v) / len(v) for v in (olds, news))]
    verdict = _verdict(difference, figure, len(common))
    if figure.log:
        difference, means = exponential(difference), [exponential(mean) for mean in means]
    return Change(method, figure, len(common), means[0].value, means[1].value, difference, verdict)


def _verdict(difference: Interval, figure: Figure, n_tasks: int) -> Verdict:
    if n_tasks < MIN_TASKS or difference.low is None or difference.high is None:
        return "too few tasks"
    if difference.low <= 0 <= difference.high:
        return "no clear change"
    return "better" if (difference.low > 0) == (figure.better == "more") else "worse"


def _task_changes(before: Run, after: Run, method: str, tasks: set[str]) -> list[TaskChange]:
    old, new = per_task(before, method, SCORE), per_task(after, method, SCORE)
    gains = {task: new[task] - old[task] for task in new if task in old and task in tasks}
    gained = sorted((t for t in gains if gains[t] > 0), key=lambda t: -gains[t])[:N_TASKS_SHOWN]
    lost = sorted((t for t in gains if gains[t] < 0), key=lambda t: gains[t])[:N_TASKS_SHOWN]
    return [
        TaskChange(method, t, old[t], new[t], _prompts(before, method, t), _prompts(after, method, t))
        for t in (*gained, *lost)
    ]


def _prompts(run: Run, method: str, task: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.prompt for r in run.by_method[method] if r.task == task and r.prompt is not None))


def _settings(run: Run) -> dict[str, str]:
    """What a run was made with, flat: dotted names to JSON values."""
    record = run.record
    options = {m.label: {"name": m.name, "options": m.options} for m in record.methods}
    tree = {"config": record.config, "methods": options, "seeds": list(record.seeds), "versions": record.versions}
    return dict(_flat(tree | {"commit": record.commit}))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    leaves = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        inner = isinstance(value, Mapping) and value
        leaves += _flat(value, f"{name}.") if inner else [(name, json.dumps(value, ensure_ascii=False))]
    return leaves


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    names = [*before, *(name for name in after if name not in before)]
    pairs = [(name, before.get(name, "not set"), after.get(name, "not set")) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]
