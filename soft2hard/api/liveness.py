"""Whether the process that left a mark on disk is still there: a lock that the operating system drops at its death."""

import fcntl
import os
from pathlib import Path


def hold(path: Path) -> int:
    """Make a file and lock it; the descriptor keeps the lock for as long as it is open."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file. The file of one that does not is removed."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(descriptor)
