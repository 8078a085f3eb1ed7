"""Every task tuned several times: from other starts, with its examples in another order, or both.

Tunings are made in passes. A pass tunes every task that needs it once, from one start, with one seed of starts and one
of orders, at one length; groups that ask for the same tuning share it. Each pass is a file, so a killed run repeats one
pass at most.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import START_FILE, Tuning
from soft2hard.data_gen.tuning.tuner import Tuned, TuningJob, tune_jobs
from soft2hard.eval.analysis.findings import COMMON, MAIN, ON_THE_WAY, GroupRow, PromptRow, load_pass, save_pass
from soft2hard.eval.analysis.inputs import SNAPSHOT, prompt_row
from soft2hard.eval.analysis.settings import Counts, Varies
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers, Tell

_LONGEST_NAME = 60
_ON_THE_WAY = "-on-the-way"


class Start(NamedTuple):
    """Where the soft prompts of one task start, and their length."""

    init: str
    """As `Tuning.init` names it."""
    n_tokens: int


class Pass(NamedTuple):
    """The start and the seeds that tunings made together have in common."""

    init: str
    init_seed: int
    order_seed: int
    n_tokens: int | None = None
    """None: as the tuning has it."""

    def file(self, folder: Path, kind: str = "") -> Path:
        init = "".join(c if c.isalnum() else "_" for c in self.init)
        if len(init) > _LONGEST_NAME:
            init = f"{init[:_LONGEST_NAME]}_{sha256(self.init.encode()).hexdigest()[:8]}"
        length = "" if self.n_tokens is None else f"-{self.n_tokens}"
        return folder / f"{init}-{self.init_seed}-{self.order_seed}{length}{kind}.safetensors"


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
    n_tokens: int | None = None
    """None: as the tuning has it."""

    def passes(self, seed: int) -> list[Pass]:
        """One a tuning, in order."""
        moved = [seed + number for number in range(self.n)]
        return [
            Pass(
                self.init,
                other if self.varies != "order" else seed,
                other if self.varies != "init" else seed,
                self.n_tokens,
            )
            for other in moved
        ]

    def row(self) -> GroupRow:
        return GroupRow(name=self.name, init=self.init, varies=self.varies, n_tunings=self.n, n_tasks=len(self.tasks))


def has_common_start(subject: Subject, n_tokens: int) -> bool:
    """True if a start of this length comes with the subject ('learned')."""
    start = Path(subject.name) / START_FILE
    return start.exists() and SoftPrompt.from_pretrained(start).n_tokens == n_tokens


def plan_groups(
    tasks: Sequence[Task],
    init: str,
    counts: Counts,
    common_start: bool = False,
    starts: Mapping[str, Start] | None = None,
) -> tuple[TuningGroup, ...]:
    """All tasks tuned from `init`, or from a start of their own by their names, and smaller groups beside them.

    These tune up to `control_tasks` tasks `control_tunings` times: with only the start varied, with only the order
    of examples varied, and with the order varied from label words and from the instruction (the study's 'good' texts),
    of tasks that have them. With `common_start` they are tuned from that of the subject, which a translator knows best,
    as often as the main group. Groups without a task are left out. Tasks with a start of their own have its length in
    all groups; a group is in as many parts as there are lengths, and in the main one as there are starts.
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
    starts = starts or {}
    main = TuningGroup(MAIN, init, counts.varies, n, tuple(tasks))
    of_one_length = {name: (None, start.n_tokens) for name, start in starts.items()}
    controls = [part for group in groups for part in _parts(group, of_one_length)]
    return (*_parts(main, starts), *controls)


def _parts(group: TuningGroup, starts: Mapping[str, tuple[str | None, int]]) -> Iterator[TuningGroup]:
    """The group as one for each start and length of its tasks, and one for those that have none of their own."""
    by_start: dict[tuple[str | None, int | None], list[Task]] = {}
    for task in group.tasks:
        by_start.setdefault(starts.get(task.name, (None, None)), []).append(task)
    for (init, n_tokens), tasks in by_start.items():
        yield replace(group, tasks=tuple(tasks), init=init or group.init, n_tokens=n_tokens)


def tune_groups(
    workers: SubjectWorkers,
    groups: Sequence[TuningGroup],
    config: Tuning,
    folder: Path,
    *,
    on_step: Tell = lambda n: None,
    snapshot_steps: tuple[int, ...] = (),
) -> tuple[tuple[PromptRow, ...], tuple[SoftPrompt, ...]]:
    """The soft prompts of all groups, group after group, task after task, tuning after tuning; then those that the main
    tunings had at the steps of `snapshot_steps`, before they were at their best.

    Passes are shared out among the workers. Prompts in the files of `folder` are not tuned again. Raises UserError as
    `Tuner` does, and for a damaged file.
    """
    wanted: dict[Pass, dict[str, Task]] = {}
    for group in groups:
        for one in group.passes(config.seed):
            wanted.setdefault(one, {}).update({task.name: task for task in group.tasks})
    main = {one for group in groups if group.name == MAIN for one in group.passes(config.seed)}
    subject = {"subject": workers.subject.name, "fingerprint": workers.subject.fingerprint}

    def kept(path: Path) -> list[SoftPrompt]:
        return [replace(prompt, **subject) for prompt in (load_pass(path) if path.exists() else ())]

    made = {one: {prompt.provenance["task"]: prompt for prompt in kept(one.file(folder))} for one in wanted}
    on_the_way = {one: kept(one.file(folder, _ON_THE_WAY)) for one in main}
    missing = {one: [task for task in tasks.values() if task.name not in made[one]] for one, tasks in wanted.items()}
    # The longest first: those that are left at the end should be short.
    passes = sorted((one for one in wanted if missing[one]), key=lambda one: -len(missing[one]))
    jobs = [
        TuningJob(
            tuple(missing[one]),
            replace(config, init=one.init, n_tokens=one.n_tokens or config.n_tokens),
            snapshot_steps if one in main else (),
            init_seed=one.init_seed,
            order_seed=one.order_seed,
        )
        for one in passes
    ]
    for number, tuned in tune_jobs(workers, jobs, on_step):
        one = passes[number]
        for name, found in tuned.items():
            facts = found.soft_prompt.provenance | {"steps_taken": str(found.steps)}
            made[one][name] = replace(found.soft_prompt, provenance=facts)
        if snapshots := [prompt for found in tuned.values() for prompt in _snapshots(found)]:
            others = [prompt for prompt in on_the_way[one] if prompt.provenance["task"] not in tuned]
            on_the_way[one] = others + snapshots  # a killed run may have saved these before the pass itself
            save_pass(one.file(folder, _ON_THE_WAY), on_the_way[one])
        save_pass(one.file(folder), list(made[one].values()))
    return _rows(groups, config.seed, made, on_the_way)


def _snapshots(found: Tuned) -> Iterator[SoftPrompt]:
    """The soft prompts that a tuning had on its way; what was measured at its end is not theirs."""
    known = {name: fact for name, fact in found.soft_prompt.provenance.items() if name != "validation_loss"}
    for step, embeddings in found.snapshots:
        facts = known | {"steps": str(step), SNAPSHOT: "yes"}
        yield replace(found.soft_prompt, embeddings=embeddings.float(), provenance=facts)


def _rows(
    groups: Sequence[TuningGroup],
    seed: int,
    made: Mapping[Pass, Mapping[str, SoftPrompt]],
    on_the_way: Mapping[Pass, Sequence[SoftPrompt]],
) -> tuple[tuple[PromptRow, ...], tuple[SoftPrompt, ...]]:
    rows, prompts = [], []
    tunings = [
        (group, task, number, one)
        for group in groups
        for task in group.tasks
        for number, one in enumerate(group.passes(seed))
    ]
    for group, task, number, one in tunings:
        rows.append(prompt_row(f"{task.name} #{number}", task.name, group.name, number, made[one][task.name]))
        prompts.append(made[one][task.name])
    for group, task, number, one in tunings:
        own = [p for p in on_the_way.get(one, ()) if p.provenance["task"] == task.name and group.name == MAIN]
        for prompt in own:
            name = f"{task.name} #{number} at step {prompt.provenance['steps']}"
            rows.append(prompt_row(name, task.name, ON_THE_WAY, number, prompt))
            prompts.append(prompt)
    return tuple(rows), tuple(prompts)
