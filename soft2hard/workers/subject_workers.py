"""Work on a subject that can be shared out: done by this process alone, or by several that each hold the subject."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import ExitStack
from functools import cached_property
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import TypeVar

from soft2hard.errors import UserError
from soft2hard.lm.shared_prefix import Runner, make_runner
from soft2hard.lm.subject import Subject
from soft2hard.workers.cluster import available_cores
from soft2hard.workers.processes import CONTEXT, POLL_SECONDS, process_pool, result_of

Item = TypeVar("Item")
Result = TypeVar("Result")
Tell = Callable[[int], None]
"""Told how much more of the work is done, in whatever the work counts."""
Work = Callable[[Runner, Item, Tell], Result]
"""What is done with an item: a function of a module."""

_SMALL = 100_000_000
"""Parameters below which a subject's matrices do not fill the cores of a machine, and copies of it cost little."""


def usual_workers(subject: Subject) -> int:
    """A process a core for a small subject on a CPU, else this process alone."""
    is_small = sum(parameter.numel() for parameter in subject.model.parameters()) < _SMALL
    return available_cores() if subject.device.type == "cpu" and is_small else 1


class SubjectWorkers:
    """A subject here, or in `n` processes with an equal share of the cores each; a context manager.

    What comes out does not depend on `n` beyond rounding. `make` gives a process its subject, which must be the same
    one; it is picklable (a `partial` of a module's function), and needed where `n` is above 1. Processes are started
    with the first work that can be shared out.
    """

    def __init__(self, subject: Subject, n: int = 1, make: Callable[[], Subject] | None = None) -> None:
        if n < 1:
            raise UserError(f"{n} workers do no work.", "Give at least 1.")
        if n > 1 and make is None:
            raise ValueError("several workers need a way to make the subject")
        self.subject, self.n, self._make = subject, n, make
        self._told: Synchronized[int] = CONTEXT.Value("q", 0)
        self._stack = ExitStack()

    @cached_property
    def runner(self) -> Runner:
        """The runner of this process."""
        return make_runner(self.subject)

    def __enter__(self) -> "SubjectWorkers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def map(
        self, work: "Work[Item, Result]", items: Sequence[Item], tell: Tell = lambda n: None
    ) -> Iterator[tuple[int, Result]]:
        """Each item's number with what was made of it, as they are finished.

        Raises what the work raises, and UserError for a process that is lost.
        """
        if self.n == 1 or len(items) == 1:
            for number, item in enumerate(items):
                yield number, work(self.runner, item, tell)
            return
        # Bytes, since tensors would otherwise go by way of shared memory, of which containers have little.
        futures = {self._pool.submit(_do, pickle.dumps((work, item))): i for i, item in enumerate(items)}
        waiting, told = set(futures), self._told.value
        while waiting:
            done, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            now = self._told.value
            tell(now - told)
            told = now
            for future in done:
                yield futures[future], pickle.loads(result_of(future))

    @cached_property
    def _pool(self) -> ProcessPoolExecutor:
        given = (self._make, self.subject.fingerprint, self._told)
        return self._stack.enter_context(process_pool(self.n, _begin, given))


class _Member:
    """One of the processes: its subject is read when the first item comes, so that errors come back as errors."""

    def __init__(self, make: Callable[[], Subject], fingerprint: str, told: "Synchronized[int]") -> None:
        self._make, self._fingerprint, self._told = make, fingerprint, told

    @cached_property
    def runner(self) -> Runner:
        subject = self._make()
        if subject.fingerprint != self._fingerprint:
            raise UserError("The subject's files have changed since the work began.", "Run the command again.")
        return make_runner(subject)

    def tell(self, n: int) -> None:
        with self._told.get_lock():
            self._told.value += n


_member: _Member | None = None


def _begin(make: Callable[[], Subject], fingerprint: str, told: "Synchronized[int]") -> None:
    global _member
    _member = _Member(make, fingerprint, told)


def _do(given: bytes) -> bytes:
    assert _member is not None
    work, item = pickle.loads(given)
    return pickle.dumps(work(_member.runner, item, _member.tell))
