"""Batches that fit the memory: halved where it runs out, and sized beforehand by a trial.

Nothing here changes a result: a batch's items are worked on in the same order whatever their company.
"""

import gc
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from soft2hard.compute import metering
from soft2hard.errors import UserError

_T, _R = TypeVar("_T"), TypeVar("_R")

SHARE = 0.8
"""How much of the free memory a trial may plan for: allocators leave gaps, and other programs need some too."""


class Halving:
    """Runs batches, in halves where the memory does not suffice for them.

    A batch that runs out of memory is cut in two, down to batches of one, and so are all that come after it, so that
    what does not fit is tried once. Raises UserError where one item alone does not fit.
    """

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy
        """Advice for the user where one item alone is too much."""
        self._times = 0

    def run(
        self, batches: Iterable[Sequence[_T]], work: Callable[[Sequence[_T]], _R]
    ) -> Iterator[tuple[Sequence[_T], _R]]:
        """Each batch, or part of one, with what `work` makes of it; in order, and all of them."""
        for batch in batches:
            waiting = deque(_cut(batch, 2**self._times))
            while waiting:
                part = waiting.popleft()
                done, result = _attempt(work, part)
                if done:
                    yield part, result
                    continue
                if len(part) == 1:
                    raise UserError("There is not enough memory for a batch of one.", self.remedy)
                self._times += 1
                # The rest of this batch is halved too: the parts are equal, so none of them would fit.
                waiting = deque(half for whole in (part, *waiting) for half in _cut(whole, 2))
                free_memory()


def _attempt(work: Callable[[Sequence[_T]], _R], part: Sequence[_T]) -> tuple[bool, _R | None]:
    """Whether there was memory enough, and the result. The error is gone on return, and the tensors it held with it."""
    try:
        with metering.if_it_succeeds():
            return True, work(part)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False, None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU or of the machine is used up."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or should_reduce_batch_size(error)


def _cut(items: Sequence[_T], n: int) -> list[Sequence[_T]]:
    """At most `n` parts of like size, none of them empty."""
    size = max(1, math.ceil(len(items) / n))
    return [items[start : start + size] for start in range(0, len(items), size)]


def free_memory() -> None:
    """Give back what is no longer used."""
    gc.collect()
    clear_device_cache()


def affordable(run: Callable[[int], object], device: torch.device, *, at_most: int, unit: int = 1) -> int:
    """The largest batch, in steps of `unit`, that the free memory has room for; at least one unit.

    `run(n)` works on a batch of n. It is tried with one and with two units; what the second one takes more is what
    each further one will take.
    """
    try:
        one, two = (_peak_bytes(run, n * unit, device) for n in (1, 2))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return unit
    finally:
        free_memory()
    more = max(two - one, one // 8, 1)  # where the second unit hid in what the first left unused, it says too little
    room = SHARE * free_bytes(device) - one
    return min(at_most, unit * (1 + max(0, int(room // more))))


def free_bytes(device: torch.device) -> int:
    """Memory that a batch on this device may still take, in bytes.

    On a GPU what the driver has free and what PyTorch holds in reserve; else the machine's available memory, or less
    where a control group of Linux sets a limit.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(psutil.virtual_memory().available, _left_of_group())


def _left_of_group(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes left under the memory limit of this process's control group (version 2); infinite without one."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return math.inf if limit == "max" else max(0.0, float(int(limit) - int(used)))
    except (OSError, ValueError):
        return math.inf


def _peak_bytes(run: Callable[[int], object], n: int, device: torch.device) -> int:
    """The most memory that `run(n)` holds at a time, beyond what was held before, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(n)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with PeakMemory() as held:
        run(n)
    return held.peak


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors made within the block that are alive at a time, on any device.

    Memory that an operation takes and gives back before it returns is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.alive = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        before = {id(x.untyped_storage()) for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in before:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.alive -= size
