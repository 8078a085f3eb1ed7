"""Work for processes that hold a subject: functions of a module, as they need them, and the subject they hold."""

import os
import signal
from pathlib import Path

from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.workers.subject_workers import Tell
from tests.tiny_training import llama_subject


def subject(seed: int = 0) -> Subject:
    return llama_subject(seed)


def who(held: Subject, item: int, tell: Tell) -> tuple[int, int, str]:
    """The item squared, by whom, on which subject."""
    tell(item)
    return item**2, os.getpid(), held.name


def refuse(held: Subject, item: int, tell: Tell) -> int:
    if item == 1:
        raise UserError("One is no number.", "Give another.")
    return item


def die(held: Subject, item: int, tell: Tell) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def wait_for_ever(held: Subject, item: Path, tell: Tell) -> None:
    """Notes its process and does not end; the first item, 'fail' by name, ends in an error once another has begun."""
    if item.name == "fail":
        while not any(item.parent.glob("pid-*")):
            pass
        raise UserError("This one fails.", "")
    (item.parent / f"pid-{os.getpid()}").touch()
    while True:
        pass
