"""Every task tuned several times: from other starts, with its examples in another order, or both.

Tunings are made in passes. A pass tunes every task that needs it once, from one start, with one seed of starts and one
of orders; groups that ask for the same tuning share it. Each pass is a file, so a killed run repeats one pass at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import START_FILE, Tuning
from soft2hard.data_gen.tuning.tuner import Tuned, TuningJob, tune_jobs
from soft2hard.eval.analysis.findings import COMMON, MAIN, GroupRow, PromptRow, Varies, load_pass, save_pass
from soft2hard.eval.analysis.settings import Counts
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers, Tell


@dataclass(frozen=True)
class Pass:
    """The start and the seeds that tunings made together have in common."""

    init: str
    init_seed: int
    order_seed: int


@dataclass(frozen=True)
class TuningGroup:
    """Tasks tuned `n` times each, in one way."""

    name: str
    init: str
    """As `Tuning.init` names it."""
    varies: Varies
    """The seeds that differ between tunings of one task."""
    n: int
    tasks: tuple[Task, ...]

    def passes(self, seed: int) -> list[Pass]:
        """One a tuning, in order."""
        moved = [seed + number for number in range(self.n)]
        return [
            Pass(self.init, other if self.varies != "order" else seed, other if self.varies != "init" else seed)
            for other in moved
        ]

    def row(self) -> GroupRow:
        return GroupRow(name=self.name, init=self.init, varies=self.varies, n_tunings=self.n, n_tasks=len(self.tasks))


def has_common_start(subject: Subject, n_tokens: int) -> bool:
    """True if a start of this length comes with the subject ('learned')."""
    start = Path(subject.name) / START_FILE
    return start.exists() and SoftPrompt.from_pretrained(start).n_tokens == n_tokens


def plan_groups(
    tasks: Sequence[Task], init: str, counts: Counts, common_start: bool = False
) -> tuple[TuningGroup, ...]:
    """All tasks tuned from `init` with both seeds varied, and smaller groups to compare them with.

    These tune up to `control_tasks` tasks `control_tunings` times: with only the start varied, with only the order
    of examples varied, and with the order varied from label words and from the instruction (the study's 'good' texts),
    of tasks that have them. With `common_start` they are tuned from that of the subject, which a translator knows best,
    as often as the main group. Groups without a task are left out.
    """
    n, n_control = counts.tunings, counts.control_tunings
    control, labelled, instructed = (
        tuple(task for task in tasks if has(task))[: counts.control_tasks]
        for has in (lambda task: True, lambda task: task.labels, lambda task: task.instruction)
    )
    groups = [
        TuningGroup("start varied", init, "init", n_control, control),
        TuningGroup("order varied", init, "order", n_control, control),
        TuningGroup("from label words", "labels", "order", n_control, labelled),
        TuningGroup("from the instruction", "instruction", "order", n_control, instructed),
    ]
    if common_start and init != "learned":
        groups.append(TuningGroup(COMMON, "learned", "order", n, control))
    kept = [group for group in groups if group.tasks]
    return (TuningGroup(MAIN, init, "both", n, tuple(tasks)), *kept)


def tune_groups(
    workers: SubjectWorkers,
    groups: Sequence[TuningGroup],
    config: Tuning,
    folder: Path,
    *,
    on_step: Tell = lambda n: None,
) -> tuple[tuple[PromptRow, ...], tuple[SoftPrompt, ...]]:
    """The soft prompts of all groups, group after group, task after task, tuning after tuning.

    Passes are shared out among the workers. Prompts in the files of `folder` are not tuned again. Raises UserError as
    `Tuner` does, and for a damaged file.
    """
    wanted: dict[Pass, dict[str, Task]] = {}
    for group in groups:
        for one in group.passes(config.seed):
            wanted.setdefault(one, {}).update({task.name: task for task in group.tasks})
    made = {one: _found(folder, one, workers.subject) for one in wanted}
    missing = {one: [task for task in tasks.values() if task.name not in made[one]] for one, tasks in wanted.items()}
    # The longest first: those that are left at the end should be short.
    passes = sorted((one for one in wanted if missing[one]), key=lambda one: -len(missing[one]))
    jobs = [_job(one, missing[one], config) for one in passes]
    for number, tuned in tune_jobs(workers, jobs, on_step):
        made[passes[number]] |= {name: _prompt(found) for name, found in tuned.items()}
        save_pass(_path(folder, passes[number]), made[passes[number]])
    rows, prompts = [], []
    for group in groups:
        for task in group.tasks:
            for number, one in enumerate(group.passes(config.seed)):
                prompt = made[one][task.name]
                rows.append(_row(group.name, number, one, prompt))
                prompts.append(prompt)
    return tuple(rows), tuple(prompts)


def _job(one: Pass, tasks: Sequence[Task], config: Tuning) -> TuningJob:
    return TuningJob(tuple(tasks), replace(config, init=one.init), init_seed=one.init_seed, order_seed=one.order_seed)


def _path(folder: Path, one: Pass) -> Path:
    init = "".join(c if c.isalnum() else "_" for c in one.init)
    return folder / f"{init}-{one.init_seed}-{one.order_seed}.safetensors"


def _found(folder: Path, one: Pass, subject: Subject) -> dict[str, SoftPrompt]:
    path = _path(folder, one)
    found = load_pass(path) if path.exists() else ()
    named = [replace(prompt, subject=subject.name, fingerprint=subject.fingerprint) for prompt in found]
    return {prompt.provenance["task"]: prompt for prompt in named}


def _prompt(tuned: Tuned) -> SoftPrompt:
    facts = {**tuned.soft_prompt.provenance, "steps_taken": str(tuned.steps)}
    return replace(tuned.soft_prompt, provenance=facts)


def _row(group: str, number: int, one: Pass, prompt: SoftPrompt) -> PromptRow:
    facts = prompt.provenance
    return PromptRow(
        name=f"{facts['task']} #{number}",
        task=facts["task"],
        group=group,
        tuning=number,
        n_tokens=prompt.n_tokens,
        d_model=prompt.d_model,
        init=one.init,
        init_seed=one.init_seed,
        order_seed=one.order_seed,
        validation_loss=float(facts["validation_loss"]),
        steps=int(facts["steps"]),
    )
