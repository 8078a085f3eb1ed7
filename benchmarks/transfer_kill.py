"""Answers lost and requests paid twice when a transfer is killed again and again, on a server that fails at random.

    python benchmarks/transfer_kill.py

A server on loopback answers one request in five with a fault (all kinds but stalls, which only cost time). A process
sends all requests and is killed (SIGKILL) at random moments; then it is run to the end. The server counts what it
answered.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.transfer_kill_worker import all_requests
from soft2hard.api.ledger import Ledger
from tests.fault_server import FaultServer

WORKER = Path(__file__).with_name("transfer_kill_worker.py")


def main(
    requests: int = typer.Option(1000, help="Requests in all."),
    kills: int = typer.Option(5, help="Times the process is killed."),
    concurrency: int = typer.Option(32, help="Requests out at once."),
    fault_rate: float = typer.Option(0.2, help="Share of requests that meet a fault."),
    latency: float = typer.Option(0.05, help="Seconds the server takes."),
    seed: int = typer.Option(0, help="Of faults and moments."),
) -> None:
    """Kill, rerun, and count."""
    rng = random.Random(seed)
    moments = sorted(rng.sample(range(requests // 20, requests * 19 // 20), kills))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.sqlite"
        with FaultServer(latency=latency, fault_rate=fault_rate, seed=seed) as server:
            arguments = [server.url, str(ledger), str(requests), str(concurrency)]
            command = [sys.executable, str(WORKER), *arguments]
            in_flight, outcomes = 0, []
            for moment in moments:
                process = subprocess.Popen(command)
                while len(server.paid) < moment and process.poll() is None:
                    time.sleep(0.002)
                in_flight += server.active
                os.kill(process.pid, signal.SIGKILL)
                outcomes.append(process.wait())
            outcomes.append(subprocess.run(command).returncode)
            wanted = all_requests(server.url, requests)
            with Ledger(ledger) as book:
                answers = book.answers(request.key for request in wanted)
            faults = sum(outcome != "ok" for outcome in server.outcomes)
            n_asked = len(server.outcomes)
            twice = sum(n - 1 for n in server.paid.values())
    right = sum(answers[r.key].text == f" word{i}" for i, r in enumerate(wanted) if r.key in answers)
    print(f"requests {requests}, kills {outcomes.count(-signal.SIGKILL)}, last exit {outcomes[-1]}")
    print(f"sent {n_asked}, of these faulted {faults}; {time.monotonic() - started:.0f} s")
    print(f"answers lost {requests - right}")
    print(f"paid twice {twice} (at most {kills * concurrency}: concurrency at each kill; at the server {in_flight})")


if __name__ == "__main__":
    typer.run(main)
