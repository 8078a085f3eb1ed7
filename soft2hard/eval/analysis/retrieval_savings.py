"""What starting from a stored soft prompt saves in tuning steps (SPoT, Vu et al. 2021, arXiv 2110.07904, section 3).

A new task is first tuned from an ordinary start. Its soft prompt of a few steps finds the most similar stored one, and
the task is tuned again from that, from an average of several, and, for comparison, from a stored one drawn at random
and from other ordinary starts. All starts see the same examples in the same order.
Intervals are 95 % bootstrap intervals over the new tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuned, TuningJob, tune_jobs
from soft2hard.errors import UserError
from soft2hard.eval.analysis.retrieval import Similarity, matches_of, similarities, steps_to_reach, weighted_average
from soft2hard.eval.intervals import Interval, difference_interval, mean_interval
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers, Tell

NEAREST, AVERAGE, RANDOM = "nearest stored", "average of stored", "random stored"
RETRIEVED = frozenset({NEAREST, AVERAGE})
"""Starts that need the early soft prompt, and so its steps."""


@dataclass(frozen=True)
class Stored:
    """A soft prompt that may be started from."""

    task: str
    family: str
    soft_prompt: SoftPrompt


@dataclass(frozen=True)
class RetrievalPlan:
    """How the savings are measured."""

    early_steps: int = 10
    """Steps after which a new task's soft prompt is compared with the stored ones."""
    k: int = 3
    """Stored soft prompts that are averaged, weighted by their similarity."""
    similarity: Similarity = "per_token"
    others: tuple[str, ...] = ()
    """Further ordinary starts to compare with, as `Tuning.init` names them."""

    def __post_init__(self) -> None:
        for name in ("early_steps", "k"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be at least 1.")


@dataclass(frozen=True)
class TaskStart:
    """A task tuned from one start."""

    task: str
    start: str
    source: str | None
    """Task of the stored soft prompt it started from; None for ordinary starts and averages."""
    initial_loss: float
    """Validation loss before the first step, nats a token."""
    best_loss: float
    target: float
    """The lowest validation loss that both this start and the first ordinary one come to on this task."""
    steps: int
    """Steps to the first look at which the loss is no more than that; the early steps not counted."""
    base_steps: int
    """Steps of the first ordinary start to the same."""
    saved: int
    """`base_steps` less `steps`, and less the early steps where the start was retrieved."""
    losses: tuple[tuple[int, float], ...]
    """Steps with their validation loss."""


@dataclass(frozen=True)
class StartSummary:
    """One start, mean over the new tasks."""

    start: str
    initial_loss: Interval
    best_loss: Interval
    steps: Interval
    base_steps: Interval
    """Of the first ordinary start, to the losses that the two have in common; so each start has its own."""
    saved: Interval
    loss_below_random: Interval | None
    """Validation loss before the first step under a random stored soft prompt, less that of this start."""


@dataclass(frozen=True)
class RetrievalSavings:
    """All starts of all new tasks."""

    base: str
    """The first ordinary start, which the others are compared with."""
    early_steps: int
    eval_every: int
    """Steps between two looks: steps are known no better than this."""
    starts: tuple[StartSummary, ...]
    tasks: tuple[TaskStart, ...]
    same_family: Interval
    """Share of new tasks whose most similar stored soft prompt is of a task of their own family."""
    same_family_by_chance: float
    """The same for a stored soft prompt drawn at random."""
    n_stored: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def retrieval_savings(
    workers: SubjectWorkers,
    tasks: Sequence[Task],
    stored: Sequence[Stored],
    config: Tuning,
    plan: RetrievalPlan = RetrievalPlan(),
    *,
    on_step: Tell = lambda n: None,
) -> RetrievalSavings:
    """Tune new tasks from ordinary, retrieved and random starts, and compare steps to the same validation loss.

    `config.init` is the ordinary start that all are compared with. What is stored of a new task itself is not used
    for it. Raises UserError without tasks, where a task has fewer than two stored soft prompts of other tasks, where
    the early steps are not fewer than those of tuning, and as `Tuner` and `similarities` do.
    """
    _check(tasks, stored, config, plan)
    ordinary = TuningJob(tuple(tasks), config, order_seed=config.seed)
    ((_, base),) = tune_jobs(workers, [replace(ordinary, snapshot_steps=(plan.early_steps,))], on_step)
    early = [_early(base[task.name]) for task in tasks]
    starts, sources = _starts(tasks, early, stored, plan, config.seed)
    others = {name: replace(ordinary, starts=given) for name, given in starts.items()}
    others |= {init: replace(ordinary, config=replace(config, init=init)) for init in plan.others}
    made = dict(tune_jobs(workers, list(others.values()), on_step))
    runs = {config.init: base} | {name: made[number] for number, name in enumerate(others)}
    family_of = {one.task: one.family for one in stored}
    same = [family_of[sources[NEAREST][task.name]] == task.family for task in tasks]
    rows = [row for task in tasks for row in _rows(task.name, runs, sources, config.init, plan.early_steps)]
    return RetrievalSavings(
        base=config.init,
        early_steps=plan.early_steps,
        eval_every=config.eval_every,
        starts=tuple(_summary(name, rows, config.seed) for name in runs),
        tasks=tuple(rows),
        same_family=mean_interval(same, seed=config.seed),
        same_family_by_chance=_chance(tasks, stored),
        n_stored=len(stored),
    )


def _check(tasks: Sequence[Task], stored: Sequence[Stored], config: Tuning, plan: RetrievalPlan) -> None:
    if not tasks:
        raise UserError("There are no new tasks to start.", "Give at least one.")
    for task in tasks:
        n_others = sum(one.task != task.name for one in stored)
        if n_others < 2:
            raise UserError(
                f"There are {n_others} stored soft prompts of tasks other than '{task.name}'.", "Give at least two."
            )
    if plan.early_steps >= config.steps:
        raise UserError(
            f"The early soft prompt is of step {plan.early_steps}, and tuning ends at step {config.steps}.",
            "Take an earlier one, or tune for longer.",
        )
    if config.init in plan.others:
        raise UserError(f"The start '{config.init}' is to be compared with itself.", "Name each start once.")


def _early(tuned: Tuned) -> SoftPrompt:
    """The snapshot; where tuning was at its best before it, the best."""
    if not tuned.snapshots:
        return tuned.soft_prompt
    return replace(tuned.soft_prompt, embeddings=tuned.snapshots[0][1])


def _starts(
    tasks: Sequence[Task], early: Sequence[SoftPrompt], stored: Sequence[Stored], plan: RetrievalPlan, seed: int
) -> tuple[dict[str, dict[str, SoftPrompt]], dict[str, dict[str, str]]]:
    """For each kind of stored start the soft prompt of every task, and the tasks that single ones are of."""
    starts: dict[str, dict[str, SoftPrompt]] = {NEAREST: {}, AVERAGE: {}, RANDOM: {}}
    sources: dict[str, dict[str, str]] = {NEAREST: {}, RANDOM: {}}
    prompts = [one.soft_prompt for one in stored]
    for task, row in zip(tasks, similarities(early, prompts, plan.similarity), strict=True):
        allowed = [i for i, one in enumerate(stored) if one.task != task.name]
        matches = [match for match in matches_of(row, len(stored)) if match.index in set(allowed)]
        chosen = {NEAREST: matches[0].index, RANDOM: Random(f"{seed}/{task.name}").choice(allowed)}
        for name, i in chosen.items():
            starts[name][task.name], sources[name][task.name] = prompts[i], stored[i].task
        like = matches[0].similarity > 0  # else nothing has a weight
        starts[AVERAGE][task.name] = weighted_average(matches[: plan.k], prompts) if like else prompts[matches[0].index]
    return starts, sources


def _rows(
    task: str, runs: Mapping[str, Mapping[str, Tuned]], sources: Mapping[str, Mapping[str, str]], base: str, early: int
) -> list[TaskStart]:
    return [
        _row(name, run[task], runs[base][task], sources.get(name, {}).get(task), early) for name, run in runs.items()
    ]


def _row(start: str, tuned: Tuned, base: Tuned, source: str | None, early: int) -> TaskStart:
    # A loss that both come to, and no third start: a poor one among the others must not ease what these two have to do.
    target = max(tuned.validation_loss, base.validation_loss)
    steps, base_steps = (_steps(run, target) for run in (tuned, base))
    return TaskStart(
        task=tuned.task.name,
        start=start,
        source=source,
        initial_loss=tuned.initial_loss,
        best_loss=tuned.validation_loss,
        target=target,
        steps=steps,
        base_steps=base_steps,
        saved=base_steps - steps - (early if start in RETRIEVED else 0),
        losses=tuned.losses,
    )


def _steps(tuned: Tuned, target: float) -> int:
    found = steps_to_reach(tuned.losses, target)
    assert found is not None, "the target is no less than the tuning's own best loss"
    return found


def _summary(start: str, rows: Sequence[TaskStart], seed: int) -> StartSummary:
    own = [row for row in rows if row.start == start]
    drawn = [row.initial_loss for row in rows if row.start == RANDOM]
    initial = [row.initial_loss for row in own]
    return StartSummary(
        start=start,
        initial_loss=mean_interval(initial, seed=seed),
        best_loss=mean_interval([row.best_loss for row in own], seed=seed),
        steps=mean_interval([row.steps for row in own], seed=seed),
        base_steps=mean_interval([row.base_steps for row in own], seed=seed),
        saved=mean_interval([row.saved for row in own], seed=seed),
        loss_below_random=None if start == RANDOM else difference_interval(drawn, initial, seed=seed),
    )


def _chance(tasks: Sequence[Task], stored: Sequence[Stored]) -> float:
    shares = []
    for task in tasks:
        others = [one for one in stored if one.task != task.name]
        shares.append(sum(one.family == task.family for one in others) / len(others))
    return sum(shares) / len(shares)
