"""Every task tuned several times: from other starts, with its examples in another order, or both.

Tunings are made in passes. A pass tunes every task that needs it once, from one start, with one seed of starts and one
of orders; groups that ask for the same tuning share it. Each pass is a file, so a killed run repeats one pass at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import START_FILE, Tuning
from soft2hard.data_gen.tuning.tuner import TuningJob, tune_jobs
from soft2hard.eval.analysis.findings import COMMON, MAIN, GroupRow, PromptRow, Varies, load_pass, save_pass
from soft2hard.eval.analysis.inputs import prompt_row
from soft2hard.eval.analysis.settings import Counts
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers, Tell


class Pass(NamedTuple):
    """The start and the seeds that tunings made together have in common."""

    init: str
    init_seed: int
    order_seed: int

    def file(self, folder: Path) -> Path:
        init = "".join(c if c.isalnum() else "_" for c in self.init)
        return folder / f"{init}-{self.init_seed}-{self.order_seed}.safetensors"


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
    made: dict[Pass, dict[str, SoftPrompt]] = {}
    subject = {"subject": workers.subject.name, "fingerprint": workers.subject.fingerprint}
    for one in wanted:
        found = load_pass(one.file(folder)) if one.file(folder).exists() else ()
        made[one] = {prompt.provenance["task"]: replace(prompt, **subject) for prompt in found}
    missing = {one: [task for task in tasks.values() if task.name not in made[one]] for one, tasks in wanted.items()}
    # The longest first: those that are left at the end should be short.
    passes = sorted((one for one in wanted if missing[one]), key=lambda one: -len(missing[one]))
    jobs = [
        TuningJob(tuple(missing[one]), replace(config, init=one.init), init_seed=one[1], order_seed=one[2])
        for one in passes
    ]
    for number, tuned in tune_jobs(workers, jobs, on_step):
        one = passes[number]
        for name, found in tuned.items():
            facts = found.soft_prompt.provenance | {"steps_taken": str(found.steps)}
            made[one][name] = replace(found.soft_prompt, provenance=facts)
        save_pass(one.file(folder), list(made[one].values()))
    rows, prompts = [], []
    for group in groups:
        for task in group.tasks:
            for number, one in enumerate(group.passes(config.seed)):
                prompt = made[one][task.name]
                rows.append(prompt_row(f"{task.name} #{number}", task.name, group.name, number, prompt))
                prompts.append(prompt)
    return tuple(rows), tuple(prompts)
