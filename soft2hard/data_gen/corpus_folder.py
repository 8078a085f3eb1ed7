"""The folder of a corpus: what it is made of, and which of its shards are there.

`corpus.json` holds the `CorpusPlan`; `shards/00000`, `shards/00001`, ... appear under their names only when they are
whole, so any number of processes on a shared file system may make them, and a rerun makes what is missing.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from soft2hard.data_gen.tasks import DoD, Split, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_write

SCHEMA_VERSION = 1
PLAN_FILE = "corpus.json"
_NEEDED = {"n_tasks", "shard_size", "subject", "tuning"}
"""Fields that every plan has had."""


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
        """Begin the corpus, or go on with it. Raises UserError where the folder holds one made to another plan."""
        path = self.folder / PLAN_FILE
        if path.exists():
            self._check_same(saved_plan(path))
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {
            "schema_version": SCHEMA_VERSION,
            "plan": asdict(self.plan),
            "subject_name": subject_name,
            "versions": {name: version(name) for name in ("torch", "transformers", "datasets")},
        }
        with atomic_write(path) as temporary:
            Path(temporary).write_text(json.dumps(about, indent=2))

    def _check_same(self, found: dict[str, Any]) -> None:
        wanted = json.loads(json.dumps(asdict(self.plan)))
        found = _with_defaults(CorpusPlan, found) | {"tuning": _with_defaults(Tuning, found["tuning"])}
        changed = {name for name in wanted | found if wanted.get(name) != found.get(name)}
        if changed == {"tasks_hash"}:
            raise UserError(
                f"The tasks that the corpus '{self.folder}' was begun with have changed since.",
                "Choose another folder: soft prompts of old tasks do not fit new ones.",
            )
        if changed:
            raise UserError(
                f"'{self.folder}' holds a corpus made with other settings ({', '.join(sorted(changed))}).",
                "Choose another folder, or remove it.",
            )


def saved_plan(path: Path) -> dict[str, Any]:
    """The plan in a corpus.json. Raises UserError where it cannot be read or is none."""
    try:
        plan = json.loads(path.read_text())["plan"]
        whole = plan.keys() >= _NEEDED and "n_tokens" in plan["tuning"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}).", "Make the corpus again in another folder.") from error
    if not whole:
        raise UserError(f"{path} holds no whole plan.", "Make the corpus again in another folder.")
    return plan


def _with_defaults(cls: type, saved: dict[str, Any]) -> dict[str, Any]:
    """Saved fields of a dataclass; those that it did not have at the time have their defaults, as they acted then."""
    return {f.name: f.default for f in fields(cls) if f.default is not MISSING} | saved
