"""A Ray cluster of two workers for tests, and work to hand to them: functions of a module, as a pool needs them."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from soft2hard import cluster
from soft2hard.errors import UserError


@contextmanager
def ray_of_this_machine() -> Iterator[None]:
    """A Ray cluster with two cores, which all pools within the block use; within another block, the other's."""
    ray = cluster._import_ray()
    if ray.is_initialized():
        yield
        return
    cluster._connect(ray, cluster.Cluster(workers=2, cores=1))
    try:
        yield
    finally:
        ray.shutdown()


def children(of: int) -> list[Path]:
    """Folders in /proc of the processes that are the children of a process."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"PPid:\t{of}\n" in (process / "status").read_text():
                found.append(process)
        except OSError:  # it has just ended
            continue
    return found


def actors() -> list[int]:
    """Process ids of the workers of a pool of this process."""
    grandchildren = [process for child in children(os.getpid()) for process in children(int(child.name))]
    return [int(process.name) for process in grandchildren if "_Worker" in (process / "cmdline").read_text()]


def squaring(log: Path) -> Callable[[int], int]:
    """Squares; notes who did what. Loses its worker once at each number that `log` has a file for."""
    (log / f"made-{os.getpid()}").touch()

    def work(number: int) -> int:
        with (log / "done").open("a") as file:
            file.write(f"{number} {os.getpid()} {os.environ['OMP_NUM_THREADS']}\n")
        for reason in (log / f"die-{number}", log / f"always-die-{number}"):
            if reason.exists():
                if reason.name.startswith("die"):
                    reason.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return number**2

    return work


def refusing() -> Callable[[int], int]:
    """Raises an error of the user's at 2, and a bug at 3."""

    def work(number: int) -> int:
        if number == 2:
            raise UserError("Two is no number.", "Give another.")
        if number == 3:
            raise ZeroDivisionError("a bug")
        return number

    return work


def lost_at_once() -> Callable[[int], int]:
    """No worker ever begins."""
    os._exit(1)
