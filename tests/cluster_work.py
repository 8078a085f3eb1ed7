"""Work that tests/test_cluster.py hands to workers: functions of a module, as a pool needs them."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from soft2hard.errors import UserError


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
