"""Processes of this machine that share its cores: small matrices do not fill several."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from transformers.utils.logging import disable_progress_bar

from soft2hard.errors import UserError
from soft2hard.workers.cluster import available_cores

Result = TypeVar("Result")
POLL_SECONDS = 1.0

CONTEXT = multiprocessing.get_context("spawn")
"""Processes that begin as new ones: a fork of one with threads may hang."""


@contextmanager
def process_pool(
    n: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of `n` processes with an equal share of the cores each; `begin(*arguments)` is called in each first.

    Where the block ends in an error, Ctrl-C among them, they are ended too; and they end with this process, whatever
    its end is.
    """
    share, others = max(1, available_cores() // n), set(multiprocessing.active_children())
    with ProcessPoolExecutor(n, CONTEXT, initializer=_begin, initargs=(share, begin, arguments)) as pool:
        try:
            yield pool
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def result_of(future: "Future[Result]") -> Result:
    """What a process made; raises what it raised, and UserError where the process itself was lost."""
    try:
        return future.result()
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
    """A process whose parent was killed would go on beside the one that resumes the run."""
    parent = multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        time.sleep(POLL_SECONDS)
    os._exit(1)
