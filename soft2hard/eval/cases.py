"""The cases of an evaluation, and its cells on disk.

Cases are tasks with examples drawn for a seed, and soft prompts tuned on them. Cells are the outcomes of methods for
cases, one line each, so that a killed run loses at most the line that is being written.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from more_itertools import chunked
from safetensors.torch import load_file, save_file

from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.dods.registry import FOLDER_DODS
from soft2hard.data_gen.taskfiles import read_tasks
from soft2hard.data_gen.tasks import Split, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.eval.config import Tasks
from soft2hard.eval.methods.base import Case, Cost, Outcome
from soft2hard.eval.run_records import PromptKind
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.storage.files import atomic_write

_EXAMPLES_SEED = 100
"""Keeps the examples of evaluations apart from those of corpora, whose seeds are small."""
_BATCH = 64
"""Soft prompts that are tuned before they are saved."""

Log = Callable[[str], None]


def silent(message: str) -> None:
    """A log that nobody reads."""


class Pace:
    """Says now and then how much of a long work is done, and about how long the rest takes."""

    EVERY_SECONDS = 30.0

    def __init__(self, log: Log, what: str):
        self.log, self.what = log, what
        self._begun = self._said = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` are done by now."""
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        if now - self._said < self.EVERY_SECONDS:
            return
        self._said = now
        made = done - self._first
        rest = f", about {(now - self._begun) / made * (total - done) / 60:.0f} min" if made else ""
        self.log(f"{self.what}: {done} of {total} are done; {total - done} remain{rest}")


# --- tasks ------------------------------------------------------------------------------------


class Draw:
    """The tasks of an evaluation, those of each split and seed drawn once."""

    def __init__(self, choice: Tasks):
        self.choice = choice
        self.dropped: Counter[str] = Counter()
        """What a published collection leaves out of its test tasks, with the reason, over all seeds drawn by now."""
        self._drawn: dict[tuple[Split, int], list[Task]] = {}

    def __call__(self, split: Split, seed: int) -> list[Task]:
        """The tasks of a split with the examples of a seed. Raises UserError as `drawn_tasks` does."""
        if (split, seed) not in self._drawn:
            dropped = self.dropped if split == "test" else None
            self._drawn[split, seed] = drawn_tasks(self.choice, split, seed, dropped)
        return self._drawn[split, seed]


def drawn_tasks(choice: Tasks, split: Split, seed: int, dropped: Counter[str] | None = None) -> list[Task]:
    """The tasks of an evaluation with the examples of a seed; the tasks themselves are the same for every seed.

    Of more test examples than asked for, as many are drawn. Where several lengths of soft prompts are compared, each
    task is there once for each length, with the same examples.
    Raises UserError where a task file has no test examples.
    """
    tasks, n = _read_tasks(choice, split, seed, dropped), choice.n_test
    if n is not None:
        drawn = [Random(f"{seed}/{task.name}/test").sample(task.test, min(n, len(task.test))) for task in tasks]
        tasks = [replace(task, test=tuple(test)) for task, test in zip(tasks, drawn, strict=True)]
    if not choice.lengths:
        return tasks
    each = [(task, of_length(length)) for length in choice.lengths for task in tasks]
    return [replace(task, name=f"{task.name}{end}", family=f"{task.family}{end}") for task, end in each]


def of_length(n_tokens: int) -> str:
    """What the name of a task ends in where its soft prompt is to have so many tokens."""
    return f", {n_tokens} tokens"


def _read_tasks(choice: Tasks, split: Split, seed: int, dropped: Counter[str] | None) -> list[Task]:
    """The tasks as their source gives them.

    Examples that a published collection leaves out are counted in `dropped` by reason.
    Raises UserError where a task file has no test examples.
    """
    n = choice.n if split == "test" else choice.n_validation
    if choice.dod == "lexical":
        drawn = LexicalDoD(for_translator=split != "test").draw(split, n, choice.seed)
        return [task.record(_EXAMPLES_SEED + seed, n_train=choice.n_train) for task in drawn]
    if choice.dod is not None:
        dod = FOLDER_DODS[choice.dod](choice.folder, choice.dod_options)
        tasks = list(dod.tasks(split, n, seed))
        if dropped is not None:
            dropped.update(dod.dropped)
        return tasks
    if split != "test":
        return []
    tasks = read_tasks(list(choice.files), seed)[:n]
    untested = [task.name for task in tasks if not task.test]
    if untested:
        raise UserError(
            f"{len(untested)} task files have too few examples to set some aside for testing, such as '{untested[0]}'.",
            "Give them at least 20 distinct inputs.",
        )
    return tasks


# --- soft prompts -----------------------------------------------------------------------------


class SoftPromptStore:
    """Soft prompts of one seed and split in a file, tuned in batches of tasks; those in it are not tuned again.

    Those of a task that is there for one of several `lengths` have that length.
    """

    def __init__(self, path: Path, subject: Subject, tuning: Tuning, lengths: Sequence[int] = ()):
        self.path, self.subject, self.tuning, self.lengths = path, subject, tuning, lengths
        self.losses_path = path.with_suffix(".losses.json")

    def cases(self, tasks: Sequence[Task], log: Log = silent) -> list[Case]:
        """Each task with its soft prompt, in order."""
        found, losses = load_file(self.path) if self.path.exists() else {}, self.losses()
        missing = [task for task in tasks if task.name not in found]
        what = f"seed {self.tuning.seed}: soft prompts of {self.path.stem.partition('-')[2]} tasks"
        n_found, pace = len(found), Pace(log, what)
        for tuning, batch in self._batches(missing):
            n_tuned = len(found) - n_found
            log(f"seed {self.tuning.seed}: tuning {len(batch)} of {len(missing)} soft prompts, {n_tuned} are tuned")
            for tuned in Tuner(self.subject, tuning).tune(batch):
                found[tuned.task.name] = tuned.soft_prompt.embeddings
                losses[tuned.task.name] = list(tuned.losses)
                pace(len(found) - n_found, len(missing))
            with atomic_write(self.losses_path) as temporary:
                temporary.write_text(json.dumps(losses), encoding="utf-8")
            with atomic_write(self.path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in found.items()}, temporary)
        return [Case(task, self._soft_prompt(found[task.name], task)) for task in tasks]

    def _batches(self, tasks: Sequence[Task]) -> Iterator[tuple[Tuning, list[Task]]]:
        """The tasks that are tuned together, and how."""
        for n_tokens in self.lengths or (self.tuning.n_tokens,):
            alike = [task for task in tasks if not self.lengths or task.name.endswith(of_length(n_tokens))]
            for batch in chunked(alike, _BATCH):
                yield replace(self.tuning, n_tokens=n_tokens), batch

    def losses(self) -> dict[str, list[tuple[int, float]]]:
        """Validation losses of each task's tuning, nats a token, with their steps."""
        if not self.losses_path.exists():
            return {}
        found = json.loads(self.losses_path.read_text(encoding="utf-8"))
        return {task: [(step, loss) for step, loss in of_task] for task, of_task in found.items()}

    def _soft_prompt(self, embeddings: torch.Tensor, task: Task) -> SoftPrompt:
        provenance = {"task": task.name, "seed": str(self.tuning.seed)}
        subject = self.subject
        return SoftPrompt(
            embeddings, subject.name, subject.fingerprint, provenance, subject.template, scale=subject.embedding_scale
        )


# --- cells ------------------------------------------------------------------------------------


class CellFile:
    """Outcomes of one method under one seed, by task, in the order in which they came."""

    def __init__(self, folder: Path, label: str, seed: int):
        name = "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):02x}" for c in label)
        self.path = folder / "cells" / str(seed) / f"{name}.jsonl"
        self._n_read = self._n_lines = 0

    def read(self, cases: dict[str, Case], keep_failed: bool = True) -> dict[str, Outcome]:
        """Finished outcomes by task; a line cut short by a kill, and failures by wish, are dropped from the file."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text(encoding="utf-8").split("\n")
        try:
            records = [json.loads(line) for line in lines[:-1]]
            kept = [record for record in records if keep_failed or record["failure"] is None]
            if lines[-1] or len(kept) < len(records):
                with atomic_write(self.path) as temporary:
                    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            return {r["task"]: _outcome(r, cases[r["task"]]) for r in kept if r["task"] in cases}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is damaged.", "Remove it: its cells are made again.") from error

    def n_lines(self) -> int:
        """Finished outcomes by now; of a file that grows, only what is new is read."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._n_read:
            self._n_read = self._n_lines = 0
        if size > self._n_read:
            with self.path.open("rb") as file:
                file.seek(self._n_read)
                new = file.read()
            self._n_read, self._n_lines = self._n_read + len(new), self._n_lines + new.count(b"\n")
        return self._n_lines

    def append(self, case: Case, outcome: Outcome) -> None:
        """Add one outcome; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kind = kind_of(outcome.prompt)
        record = {"task": case.task.name, "kind": kind, "prompt": outcome.prompt if kind == "hard" else None}
        record |= {"cost": asdict(outcome.cost), "trace": outcome.trace, "failure": outcome.failure}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def kind_of(prompt: Prompt) -> PromptKind:
    """'soft', 'hard' or 'none'."""
    return "none" if prompt is None else "hard" if isinstance(prompt, str) else "soft"


def _outcome(record: dict[str, Any], case: Case) -> Outcome:
    # The only soft prompts that come out are those that went in.
    prompt = case.soft_prompt if record["kind"] == "soft" else record["prompt"]
    return Outcome(prompt, Cost(**record["cost"]), record["trace"], record["failure"])
