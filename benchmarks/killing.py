"""What both kill benchmarks do: end a process at given moments, as `kill -9` does, and count what the server had."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.fault_server import FaultServer


@dataclass(frozen=True)
class Kills:
    """What came of it."""

    exits: tuple[int | None, ...]
    """Exit code of each process; the last one ran to its end."""
    in_flight: int
    """Requests that the server was answering at the kills, in all."""
    paid_twice: int

    @property
    def text(self) -> str:
        n = sum(code is not None and code < 0 for code in self.exits)
        return f"kills {n}, last exit {self.exits[-1]}"


def in_process(work: Callable[..., None], *arguments: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def killed_and_run_again(
    server: FaultServer, moments: Sequence[int], work: Callable[..., None], *arguments: object
) -> Kills:
    """Run `work`, kill it when the server has answered as many distinct requests as each moment says, and run it to its
    end."""
    in_flight, exits = 0, []
    for moment in (*moments, None):
        process = in_process(work, *arguments)
        while moment is not None and len(server.paid) < moment and process.is_alive():
            time.sleep(0.001)
        if moment is not None and process.is_alive():
            in_flight += server.active
            process.kill()
        process.join()
        exits.append(process.exitcode)
    return Kills(tuple(exits), in_flight, sum(n - 1 for n in server.paid.values()))
