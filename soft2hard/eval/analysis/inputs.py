"""The inputs of an analysis: soft prompts with their tasks, as tuned or as read from files, and models."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.tables import read_table
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.findings import COMMON, GIVEN, MAIN, ON_THE_WAY, GroupRow, PromptRow, is_pass, load_pass
from soft2hard.eval.analysis.settings import Sizes
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.lm.subject import Subject
from soft2hard.prompts.files import find_soft_prompts
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers

if TYPE_CHECKING:
    from soft2hard.eval.methods.options import InspectOracleOptions
    from soft2hard.translator.model import Translator

GENERIC = frozenset(
    "adapter adapter_model best checkpoint embeddings final last model prompt prompt_embeddings prompts run runs seed"
    " soft_prompt softprompt step tuning".split()
)
"""Names of files, or of runs, that name no task: the folder's name is looked at then."""

SNAPSHOT = "snapshot"
"""In the provenance of a soft prompt that a tuning had on its way."""

_COUNTED = re.compile(r"(?:[-_. ]+|^)(?:seed|run|tuning|checkpoint|step)[-_. #]*\d+$", re.IGNORECASE)
_TEXT = "text:"
_NUMBERED = re.compile(r"[-_. #]+(\d+)$")


@dataclass(frozen=True)
class Table:
    """A table of input embeddings whose tokens have no texts."""

    name: str
    embedding: Float[Tensor, "vocab d_model"]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.embedding.float().numpy().tobytes()).hexdigest()

    def check(self, prompt: SoftPrompt) -> None:
        """Raise UserError for a soft prompt of another width."""
        width = self.embedding.shape[1]
        if prompt.d_model != width:
            raise UserError(
                f"The soft prompt is {prompt.d_model} wide and the table of embeddings {width}.",
                "Give the table of the subject that it was tuned on.",
            )


@dataclass(frozen=True)
class Material:
    """Soft prompts with their tasks, and the models that are available."""

    prompts: tuple[PromptRow, ...]
    soft_prompts: tuple[SoftPrompt, ...]
    """One for each row."""
    tasks: tuple[Task, ...] = ()
    """Those whose examples are known."""
    subject: Subject | None = None
    translator: "Translator | None" = None
    table: Subject | Table | None = None
    """Where nearest tokens are looked up, if not in the subject."""
    groups: tuple[GroupRow, ...] = ()
    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    workers: SubjectWorkers | None = None
    """They share the work on the subject; None: this process alone."""
    baseline: Mapping[str, float] = field(default_factory=dict)
    """Scores of tasks without a prompt, by the task's metric, where they are known."""
    readings: "InspectOracleOptions | None" = None
    """How soft prompts are read by InSPEcT, where they are to be."""

    @cached_property
    def main(self) -> tuple[int, ...]:
        """Numbers of the prompts that are compared with each other, those of a task together."""
        chosen = [i for i, row in enumerate(self.prompts) if row.group in (MAIN, GIVEN)]
        order = {task: i for i, task in enumerate(dict.fromkeys(self.prompts[i].task for i in chosen))}
        return tuple(sorted(chosen, key=lambda i: order[self.prompts[i].task]))

    @cached_property
    def experimental(self) -> tuple[int, ...]:
        """Numbers of the prompts that experiments change: those from the common start, where there are any, since a
        translator was trained on such; else the main ones."""
        return tuple(self.of_group(COMMON)) or self.main

    @cached_property
    def task_by_name(self) -> dict[str, Task]:
        return {task.name: task for task in self.tasks}

    def family(self, task: str) -> str:
        """Empty where the task's examples are not known."""
        return self.task_by_name[task].family if task in self.task_by_name else ""

    def names(self, numbers: Iterable[int]) -> list[str]:
        """Tasks of these prompts."""
        return [self.prompts[i].task or "" for i in numbers]

    def of(self, numbers: Iterable[int]) -> list[SoftPrompt]:
        return [self.soft_prompts[i] for i in numbers]

    def of_group(self, group: str) -> list[int]:
        """Numbers of the prompts of a group."""
        return [i for i, row in enumerate(self.prompts) if row.group == group]

    def labels(self, numbers: Iterable[int]) -> list[str]:
        """Names of these prompts."""
        return [self.prompts[i].name for i in numbers]

    def stacked(self) -> Float[np.ndarray, "n_main n_tokens d_model"]:
        """The main prompts; raises UserError as `stacked` does."""
        return self.comparable(self.main)

    def comparable(self, numbers: Sequence[int]) -> Float[np.ndarray, "n_prompts n_tokens d_model"]:
        """These prompts, over the positions that all have where `sizes` ask for it; raises UserError as `stacked`."""
        prompts = self.of(numbers)
        if self.sizes.common_positions and prompts:
            n = min(prompt.n_tokens for prompt in prompts)
            prompts = [replace(prompt, embeddings=prompt.embeddings[:n]) for prompt in prompts]
        return stacked(prompts, names=self.labels(numbers))

    def need_subject(self, what: str) -> Subject:
        if self.subject is None:
            raise UserError(
                f"No subject was given, and {what} needs the model that the soft prompts were tuned on.",
                "Give --subject; statistics, distances and maps work without, and extraction with --table.",
            )
        return self.subject

    def need_translator(self, what: str) -> "Translator":
        if self.translator is None:
            raise UserError(f"No translator was given, and {what} needs one.", "Give --translator, or do without.")
        return self.translator

    def need_tasks(self, what: str, numbers: Iterable[int], at_least: int = 1) -> list[int]:
        """Those of these prompts whose task has test examples. Raises UserError where there are too few such tasks."""
        found = [i for i in numbers if getattr(self.task_by_name.get(self.prompts[i].task), "test", ())]
        n = len(set(self.names(found)))
        if n < at_least:
            raise UserError(
                f"Examples are known of {n} tasks of the soft prompts, and {what} needs {at_least}.",
                "Give --examples, task files named like the soft prompts' tasks, with 20 inputs or more each.",
            )
        return found

    def scored(self) -> "Material":
        """The same with the score of every prompt on its own task, by its metric, and every task's without a prompt.

        Nothing is scored without a subject, without examples, or without room for a task's longest one.
        """
        tested = {task.name: task for task in self.tasks if task.test}
        if self.subject is None or not tested:
            return self
        numbers = {name: [i for i, row in enumerate(self.prompts) if row.task == name] for name in tested}
        comparisons = [Comparison(task, (None, *self.of(numbers[name]))) for name, task in tested.items()]
        rows, baseline = list(self.prompts), {}
        for name, found in zip(tested, measure(self.subject, comparisons), strict=True):
            if found[0] is not None:
                baseline[name] = found[0].score
            for i, one in zip(numbers[name], found[1:], strict=True):
                rows[i] = rows[i].model_copy(update={"score": None if one is None else one.score})
        return replace(self, prompts=tuple(rows), baseline=baseline)


def stacked(
    prompts: Sequence[SoftPrompt], at_least: int = 2, names: Sequence[str] = ()
) -> Float[np.ndarray, "n_prompts n_tokens d_model"]:
    """The vectors of soft prompts of one subject and one length, in float64.

    Raises UserError as `check_comparable` does, and where lengths differ.
    """
    check_comparable(prompts, at_least, names)
    called = _called(prompts, names)
    for name, prompt in zip(called, prompts, strict=True):
        if prompt.n_tokens != prompts[0].n_tokens:
            raise UserError(
                f"Their lengths differ: {called[0]} has {prompts[0].n_tokens} tokens and {name} has {prompt.n_tokens},"
                " and distances are between prompts of one length.",
                "Give --common-positions; nearest tokens, statistics and the transfer matrix take any lengths.",
            )
    return np.stack([prompt.embeddings.numpy() for prompt in prompts]).astype(np.float64)


def check_comparable(prompts: Sequence[SoftPrompt], at_least: int = 2, names: Sequence[str] = ()) -> None:
    """Raise UserError for too few soft prompts, for different widths, and for subjects known to be different.

    Subjects are told apart by fingerprint where both prompts have one, else by the last part of their names, so that
    a model on the hub and its copy in a folder are one. `names`: of the prompts, for messages.
    """
    if len(prompts) < at_least:
        raise UserError(
            f"There are {len(prompts)} soft prompts where {at_least} are compared.",
            "Give more; nearest tokens and positions work with a single one.",
        )
    own = "Compare prompts of one subject; nearest tokens work for each beside its own subject."
    called = _called(prompts, names)
    for name, prompt in zip(called, prompts, strict=True):
        if prompt.d_model != prompts[0].d_model:
            sizes = f"{called[0]} is {prompts[0].d_model} wide and {name} is {prompt.d_model} wide"
            raise UserError(f"They have no space in common: {sizes}.", own)
    by_name = [Path(prompt.subject).name.casefold() if prompt.subject else None for prompt in prompts]
    for values in ([prompt.fingerprint for prompt in prompts], by_name):
        first, *others = [i for i, value in enumerate(values) if value is not None] or [0]
        for i in others:
            same = prompts[i].fingerprint is not None and prompts[i].fingerprint == prompts[first].fingerprint
            if values[i] != values[first] and not same:
                pair = (f"{called[j]} to {prompts[j].subject or 'an unnamed subject'}" for j in (first, i))
                raise UserError(f"They belong to different subjects: {' and '.join(pair)}.", own)


def _called(prompts: Sequence[SoftPrompt], names: Sequence[str]) -> list[str]:
    return [f"'{name}'" for name in names] or [f"soft prompt {number}" for number in range(1, len(prompts) + 1)]


def read_given(
    paths: Sequence[Path], mapping: Path | None = None, known: Collection[str] = ()
) -> tuple[tuple[PromptRow, ...], tuple[SoftPrompt, ...]]:
    """The soft prompts at `paths` (`find_soft_prompts`), in order, each with its task.

    Files that an analysis has tuned hold several prompts each. `mapping` is a .csv or .jsonl file with columns `file`
    and `task`; a file is named by its name, or as much of its path as tells it apart. Without an entry the task is
    'task' in the file's own metadata, else what its name says beside all others (`tasks_of_names`; `known` are names of
    existing tasks). Raises UserError for a path without soft prompts, for files that cannot be read, and for a mapping
    of a missing file, or of one file to two tasks.
    """
    found = find_soft_prompts(paths)
    by_mapping = {} if mapping is None else _mapped(found, mapping)
    by_name = dict(zip(found, tasks_of_names(found, known), strict=True))
    above = os.path.commonpath([path.resolve().parent for path in found])
    numbers: Counter[str] = Counter()
    rows, prompts = [], []
    for path in found:
        name = path.resolve().relative_to(above).as_posix()
        several = is_pass(path)
        for prompt in load_pass(path) if several else [SoftPrompt.from_pretrained(path)]:
            label = f"{name} {prompt.provenance['task']}" if several else name
            task = by_mapping.get(path) or prompt.provenance.get("task") or by_name[path]
            group = ON_THE_WAY if SNAPSHOT in prompt.provenance else GIVEN
            rows.append(prompt_row(label, task, group, numbers[task], prompt))
            numbers[task] += 1
            prompts.append(prompt)
    return _grouped(rows), tuple(prompts)


def _grouped(rows: Sequence[PromptRow]) -> tuple[PromptRow, ...]:
    """Tunings of an analysis, grouped as there: those of the commonest start whose two seeds moved together are the
    ones that are compared, of texts all; where starts or seeds are unknown, all are."""
    known = [_kind(row) for row in rows if None not in (row.init, row.init_seed, row.order_seed)]
    if len(known) < len(rows):
        return tuple(rows)
    ((init, _),) = Counter(known).most_common(1)

    def group(row: PromptRow) -> str:
        if row.group == ON_THE_WAY:
            return row.group
        if _kind(row) != init:
            return f"from {row.init}"
        if init == _TEXT:
            return GIVEN
        return GIVEN if row.init_seed == row.order_seed else f"from {init}, one seed moved"

    return tuple(row.model_copy(update={"group": group(row)}) for row in rows)


def _kind(row: PromptRow) -> str | None:
    return _TEXT if row.init and row.init.startswith(_TEXT) else row.init


def content_hash_of(prompts: Sequence[SoftPrompt]) -> str:
    """SHA-256, in hexadecimal, of the vectors of all prompts in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{tuple(prompt.embeddings.shape)}".encode() + prompt.embeddings.numpy().tobytes())
    return digest.hexdigest()


def _mapped(found: Sequence[Path], mapping: Path) -> dict[Path, str]:
    tasks: dict[Path, str] = {}
    for row in read_table(mapping, ("file", "task")).rows:
        parts = Path(row["file"]).parts
        places = [path for path in found if path.parts[-len(parts) :] == parts]
        if len(places) != 1:
            said = "no soft prompt" if not places else f"{len(places)} soft prompts"
            raise UserError(f"{mapping} names '{row['file']}', which is {said} here.", "Name each file by its path.")
        if tasks.get(places[0], row["task"]) != row["task"]:
            raise UserError(f"{mapping} gives '{row['file']}' two tasks.", "Leave one row for each file.")
        tasks[places[0]] = row["task"]
    return tasks


def prompt_row(name: str, task: str, group: str, number: int, prompt: SoftPrompt) -> PromptRow:
    """The row of tuning `number` of a task, with the facts of its provenance."""
    facts = prompt.provenance

    def whole(*keys: str) -> int | None:
        text = next((facts[key] for key in keys if key in facts), "")
        return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None

    loss = facts.get("validation_loss", "")
    return PromptRow(
        name=name,
        task=task,
        group=group,
        tuning=number,
        n_tokens=prompt.n_tokens,
        d_model=prompt.d_model,
        init=facts.get("init"),
        init_seed=whole("init_seed", "seed"),
        order_seed=whole("order_seed", "seed"),
        validation_loss=float(loss) if re.fullmatch(r"\d+(\.\d+)?(e[-+]?\d{1,3})?", loss) else None,
        steps=whole("steps"),
    )


def tasks_of_names(paths: Sequence[Path], known: Collection[str] = ()) -> list[str]:
    """For each file or adapter folder the name of its task; `known` are names of existing tasks.

    The name without its suffix and without the word and number of a run at its end: 'rte_seed0.npy' is of 'rte'.
    A number alone is a run's where all numbers of the name in its folder count up from 0 or 1: 'rte-0.npy' and
    'rte-1.npy' are of 'rte', 'sst-2.npy' and 'sst-5.npy' of 'sst-2' and 'sst-5'. Where the rest is `GENERIC` or
    empty, the folder says it: 'rte/seed0.npy' and 'rte/checkpoint-100' are of 'rte'.
    """
    whole = [path.resolve() for path in paths]
    levels = [
        [(path, path.name if path.is_dir() else path.stem) for path in whole],
        [(path.parent, path.parent.name) for path in whole],
        [(path.parent.parent, path.parent.parent.name) for path in whole],
    ]
    named = zip(*(_reduced(level, known) for level in levels), strict=True)
    telling = ([name for name in names if not _says_nothing(name)] for names in named)
    return [names[0] if names else path.stem for path, names in zip(whole, telling, strict=True)]


def _reduced(named: Sequence[tuple[Path, str]], known: Collection[str]) -> list[str]:
    """Names without the runs' words and numbers; names of known tasks as they are."""
    counts: dict[tuple[Path, str], set[int]] = defaultdict(set)
    for path, name in named:
        if match := _NUMBERED.search(name):
            counts[path.parent, name[: match.start()]].add(int(match[1]))

    def reduced(path: Path, name: str) -> str:
        if name in known:
            return name
        if counted := _COUNTED.search(name):
            return name[: counted.start()]
        rest = _NUMBERED.sub("", name)
        numbers = counts.get((path.parent, rest), set())
        counts_up = numbers in ({*range(len(numbers))}, {*range(1, len(numbers) + 1)})
        return rest if rest in known or counts_up or _says_nothing(rest) else name

    return [reduced(path, name) for path, name in named]


def _says_nothing(name: str) -> bool:
    plain = re.sub(r"[-. ]+", "_", name.casefold()).strip("_")
    return not plain or plain in GENERIC or plain.isdigit()
