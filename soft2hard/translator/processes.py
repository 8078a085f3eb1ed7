"""Training by several processes: what each takes of a step, and how their group ends.

A step is over the same number of pairs for the whole of a training, whatever number of processes goes on with it: the
first sitting decides (`batch_size` pairs a process), and later ones share that number out, over several passes
(gradient accumulation) where they are fewer.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed

from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_write

_STEP_FILE = Path("checkpoints") / "step.json"


@dataclass(frozen=True)
class Share:
    """What one process does of each step."""

    pairs: int
    """Pairs a pass."""
    passes: int
    """Passes whose gradients are added up."""

    def smaller(self) -> "Share | None":
        """The same pairs in passes of half as many, or of fewer where they must be equal; None for passes of one."""
        sizes = [size for size in range(1, self.pairs // 2 + 1) if self.pairs % size == 0]
        return Share(sizes[-1], self.passes * (self.pairs // sizes[-1])) if sizes else None


def n_processes() -> int:
    """Processes of this training, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def share_of_step(folder: Path, batch_size: int) -> Share:
    """This process's share of a training's steps; the first sitting in a folder leaves their size there.

    Raises UserError for a number of processes that cannot share a step evenly.
    """
    path, n = folder / _STEP_FILE, n_processes()
    pairs = _saved_pairs(path) if path.exists() else batch_size * n
    if is_first() and not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"pairs": pairs}))
    if pairs % n:
        raise UserError(
            f"{n} processes cannot share the steps of {pairs} pairs that the training in '{folder}' was begun with.",
            f"Go on with a number of processes that divides {pairs}.",
        )
    each = pairs // n
    passes = max(1, each // batch_size) if each % batch_size == 0 else 1
    return Share(each // passes, passes)


def _saved_pairs(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["pairs"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged.", "Train in another folder.") from error


@contextmanager
def process_group_ended() -> Iterator[None]:
    """End the group of processes, if one was begun within the block: ZeRO-3 hangs or complains at exit otherwise."""
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
