"""A Ray cluster of two workers for tests, and work to hand to them: functions of a module, as a pool needs them."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from soft2hard.errors import UserError
from tests.paths import ROOT

# Read when Ray is imported, so before any test can do that: the cluster of the tests is for nobody else.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def ray_of_this_machine() -> Iterator[str]:
    """Address of a Ray cluster with two cores in processes of its own.

    Its agents have ports that are given: Ray would wait for them to be told, and on a busy machine not long enough.
    """
    import ray

    host = ray.util.get_node_ip_address()
    agents = ("dashboard-agent-grpc-", "dashboard-agent-listen-", "runtime-env-agent-")
    ports = {name: _free_port() for name in ("", *agents)}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2"]
    command += ["--include-dashboard", "false", "--disable-usage-stats"]
    command += [f"--{name}port={port}" for name, port in ports.items()]
    process = _started(command, (host, ports[""]))
    try:
        yield f"{host}:{ports['']}"
    finally:
        _end(process)


def _started(command: list[str], address: tuple[str, int]) -> subprocess.Popen:
    """The process of a cluster that has a node. Ray gives up after half a minute, so a busy machine has three tries."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for _ in range(3):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            with suppress(OSError):
                socket.create_connection(address, timeout=1).close()
                if any("raylet/raylet" in _command(pid) for pid in descendants(process.pid)):
                    return process
            time.sleep(0.2)
    raise TimeoutError("Ray did not start")


def _end(process: subprocess.Popen) -> None:
    """The process, and what it began."""
    left = descendants(process.pid)
    process.terminate()
    process.wait(60)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def descendants(of: int) -> list[int]:
    """Process ids of the children of a process, of theirs, and so on; of Linux, which lists them in /proc."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            found = re.search(r"PPid:\t(\d+)\n", (process / "status").read_text())
            children.setdefault(int(found[1]), []).append(int(process.name))
    found, waiting = [], [of]
    while waiting:
        waiting += children.get(waiting[0], [])
        found.append(waiting.pop(0))
    return found[1:]


def actors() -> list[int]:
    """Process ids of the workers of pools on clusters of this process."""
    return [pid for pid in descendants(os.getpid()) if "_Worker" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


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
