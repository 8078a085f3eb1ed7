"""Processes of this machine that share its cores, since small matrices do not fill several; and work on a subject that
is done by this process alone, or by several that each hold the subject.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property, partial
from multiprocessing.sharedctypes import Synchronized
from typing import Any, TypeVar

import torch
from transformers.utils.logging import disable_progress_bar

from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.prompts.template import Template
from soft2hard.workers.cluster import available_cores

Item = TypeVar("Item")
Key = TypeVar("Key")
Result = TypeVar("Result")
Tell = Callable[[int], None]
"""Told how much more of the work is done, in whatever the work counts."""
Work = Callable[[Subject, Item, Tell], Result]
"""What is done with an item: a function of a module."""

_CONTEXT = multiprocessing.get_context("spawn")
"""Processes that begin as new ones: a fork of one with threads may hang."""
_POLL_SECONDS = 1.0
_SMALL = 100_000_000
"""Parameters below which a subject's matrices do not fill the cores of a machine, and copies of it cost little."""


# --- processes --------------------------------------------------------------------------------


@contextmanager
def process_pool(n: int, begin: Callable[..., None] | None = None, *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """A pool of `n` processes with an equal share of the cores each; `begin(*arguments)` is called in each first.

    Where the block ends in an error, Ctrl-C among them, they are ended too; and they end with this process, whatever
    its end is.
    """
    share, others = max(1, available_cores() // n), set(multiprocessing.active_children())
    with ProcessPoolExecutor(n, _CONTEXT, initializer=_begin, initargs=(share, begin, arguments)) as pool:
        try:
            yield pool
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def results(futures: "Mapping[Future[Result], Key]", tell: Callable[[], None]) -> Iterator[tuple[Key, Result]]:
    """Each key with its result, as they are finished; `tell` is called every second meanwhile.

    Raises what a process raises, and UserError where the process itself was lost.
    """
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        tell()
        try:
            yield from [(futures[future], future.result()) for future in done]
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process has ended in the middle of its work, perhaps for want of memory.",
                "Ask for fewer --workers and run the same command again: what is finished is kept.",
            ) from error


def _begin(n_threads: int, begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the process that began this one to act on
    torch.set_num_threads(n_threads)
    disable_progress_bar()  # those of loading, over in a moment
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """A process whose parent was killed would otherwise work beside the one that resumes the run."""
    parent = multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        time.sleep(_POLL_SECONDS)
    os._exit(1)


# --- processes that hold a subject ------------------------------------------------------------


def usual_workers(subject: Subject) -> int:
    """A process a core for a small subject on a CPU, else this process alone."""
    is_small = sum(parameter.numel() for parameter in subject.model.parameters()) < _SMALL
    return available_cores() if subject.device.type == "cpu" and is_small else 1


class SubjectWorkers(ExitStack):
    """A subject here, or in `n` processes with an equal share of the cores each; a context manager.

    What comes out does not depend on `n` beyond rounding. `make` gives a process its subject, which must be the same
    one; it is picklable (a `partial` of a module's function), and needed where `n` is above 1. Processes are started
    with the first work that can be shared out.
    """

    def __init__(self, subject: Subject, n: int = 1, make: Callable[[], Subject] | None = None) -> None:
        super().__init__()
        if n < 1:
            raise UserError(f"{n} workers do no work.", "Give at least 1.")
        if n > 1 and make is None:
            raise ValueError("several workers need a way to make the subject")
        self.subject, self.n, self._make = subject, n, make
        self._told: Synchronized[int] = _CONTEXT.Value("q", 0)

    def use_template(self, template: Template) -> None:
        """Run the subject under another template, here and in processes that are still to be started."""
        self.subject = self.subject.with_template(template)
        if self._make is not None:
            self._make = partial(under, self._make, template)

    def map(
        self, work: "Work[Item, Result]", items: Sequence[Item], tell: Tell = lambda n: None
    ) -> Iterator[tuple[int, Result]]:
        """Each item's number with what was made of it, as they are finished.

        Raises what the work raises, and UserError for a process that is lost.
        """
        if self.n == 1 or len(items) == 1:
            for number, item in enumerate(items):
                yield number, work(self.subject, item, tell)
            return
        # Bytes, since tensors would otherwise go by way of shared memory, of which containers have little.
        futures = {self._pool.submit(_do, pickle.dumps((work, item))): i for i, item in enumerate(items)}
        told = self._told.value

        def tell_more() -> None:
            nonlocal told
            now = self._told.value
            tell(now - told)
            told = now

        for number, result in results(futures, tell_more):
            yield number, pickle.loads(result)

    @cached_property
    def _pool(self) -> ProcessPoolExecutor:
        begin = (_hold_subject, self._make, self.subject.fingerprint, self._told)
        return self.enter_context(process_pool(self.n, *begin))


_own: tuple[Callable[[], Subject], str, Any]
"""In one of the processes: what makes its subject, the subject's fingerprint, and where progress is counted."""


def _hold_subject(*given: Any) -> None:
    global _own
    _own = given


@cache
def _own_subject() -> Subject:
    """Made when the first item comes, so that errors come back as errors."""
    make, fingerprint, _ = _own
    subject = make()
    if subject.fingerprint != fingerprint:
        raise UserError("The subject's files have changed since the work began.", "Run the command again.")
    return subject


def _do(given: bytes) -> bytes:
    def tell(n: int) -> None:
        with _own[2].get_lock():
            _own[2].value += n

    work, item = pickle.loads(given)
    return pickle.dumps(work(_own_subject(), item, tell))


def under(make: Callable[[], Subject], template: Template) -> Subject:
    """The subject that is made, under a template; picklable as a `partial`."""
    return make().with_template(template)
