"""The folder of a corpus: the plan that it is made to, and which of its shards are there.

`corpus.json` holds the `CorpusPlan`; `shards/00000`, `shards/00001`, ... appear under their names only when they are
whole, so any number of processes on a shared file system may make them, and a rerun makes what is missing.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from soft2hard.data_gen.tasks import DoD, Split, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.storage import run_folders

SCHEMA_VERSION = 1
PLAN_FILE = "corpus.json"


@dataclass(frozen=True)
class CorpusPlan:
    """All that decides what a corpus holds; a folder made to one plan is never continued under another."""

    dod: str
    """Name of the DoD that the tasks come from."""
    split: Split
    n_tasks: int
    subject: str
    """Fingerprint of the subject."""
    tuning: Tuning
    snapshot_steps: tuple[int, ...] = ()
    """Steps at which prompts on the way are kept as well."""
    shard_size: int = 512
    """Tasks a shard."""
    task_seed: int = 0
    """Seed of the choice of tasks and of their examples."""
    n_train: int | None = 64
    """Training examples a task; None where tasks bring their own number."""
    tasks_hash: str | None = None
    """SHA-256 of all tasks (`taskfiles.content_hash`) where they are read from files; None where they are drawn."""
    dtype: str = "auto"
    """How the subject's weights were rounded, as `Loading` names it."""
    quantization: str = "none"
    template: str | None = None
    """The template as it was asked for, and further endings, as `Loading` names them."""
    stop: tuple[str, ...] = ()

    @property
    def n_shards(self) -> int:
        return count_shards(self.n_tasks, self.shard_size)


def count_shards(n_tasks: int, shard_size: int) -> int:
    """Shards of so many tasks; the last may be smaller."""
    return -(-n_tasks // shard_size)


@dataclass(frozen=True)
class CorpusFolder:
    """The folder of a corpus that is being made, by one process or by many at once."""

    folder: Path
    plan: CorpusPlan

    def shard_path(self, number: int) -> Path:
        return self.folder / "shards" / f"{number:05d}"

    def missing(self) -> list[int]:
        """Shards still to be made."""
        return [i for i in range(self.plan.n_shards) if not self.shard_path(i).exists()]

    def waiting(self, dod: DoD, shards: Iterable[int]) -> Iterator[tuple[int, list[Task]]]:
        """The missing ones of these shards, in order, with their tasks; a shard made meanwhile is passed over."""
        wanted = set(shards) & set(self.missing())
        tasks = dod.tasks(self.plan.split, self.plan.n_tasks, self.plan.task_seed)
        for number in range(max(wanted, default=-1) + 1):
            batch = list(islice(tasks, self.plan.shard_size))
            if number in wanted and not self.shard_path(number).exists():
                yield number, batch

    def tidy(self) -> None:
        """Remove what killed workers have begun, once no shard is missing."""
        if not self.missing():
            for begun in (self.folder / "shards").glob(".*.tmp"):
                shutil.rmtree(begun, ignore_errors=True)

    def claim(self, subject_name: str) -> None:
        """Begin the corpus, or resume it. Raises UserError where the folder holds one made to another plan."""
        about = {"schema_version": SCHEMA_VERSION, "plan": asdict(self.plan), "subject_name": subject_name}
        run_folders.claim(self.folder, CORPUS, about | run_folders.made_with())


def saved_plan(folder: Path) -> dict[str, Any]:
    """The plan of the corpus in a folder. Raises UserError where it cannot be read or is none."""
    return run_folders.read_record(folder, CORPUS)["plan"]


def _identity(record: run_folders.Record) -> dict[str, Any]:
    """The plan with the defaults of fields that it lacks, since corpora acted by these before the fields were there."""
    found = record["plan"]
    if not (found.keys() >= {"n_tasks", "shard_size", "subject"} and "n_tokens" in found["tuning"]):
        raise KeyError("a part of the plan")
    defaults = {f.name: f.default for f in fields(CorpusPlan) if f.default is not MISSING}
    plan = defaults | found | {"tuning": asdict(Tuning()) | found["tuning"]}
    return plan | {"snapshot_steps": list(plan["snapshot_steps"]), "inputs": {"tasks": plan.pop("tasks_hash")}}


CORPUS = run_folders.Kind("a corpus", PLAN_FILE, _identity, alone=False)
