"""Answers lost and requests paid twice when a transfer is killed again and again, on a server that fails at random.

    python benchmarks/transfer_kill.py

A server on loopback answers one request in five with a fault (all kinds but stalls, which only cost time). A process
sends all requests and is killed (SIGKILL) at random moments; then it is run to the end. The server counts what it
answered.
"""

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from soft2hard.errors import run_script

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.killing import killed_and_run_again
from soft2hard.api.asking import Means, Sender
from soft2hard.api.client import ApiClient, Patience
from soft2hard.api.ledger import Ledger
from soft2hard.api.requests import ApiModel, Request, make_request
from tests.fault_server import FaultServer


def all_requests(url: str, n: int) -> list[Request]:
    """n requests that differ in their input."""
    model = ApiModel("m", url)
    return [make_request(model, "Say it.", f"word{i}", {"temperature": 0, "max_tokens": 5}) for i in range(n)]


def send_all(url: str, path: Path, n: int, concurrency: int) -> None:
    """The process that is killed: sends what the ledger lacks; exit status 0 when every request has an answer."""

    async def send(ledger: Ledger) -> bool:
        patience = Patience(attempts=12, timeout=30.0, first_wait=0.05, longest_wait=1.0)
        async with ApiClient(ApiModel("m", url), concurrency, patience) as client:
            sent = await Sender(Means(client, ledger)).send(all_requests(url, n), concurrency)
        return not sent.faults

    with Ledger(path) as ledger:
        ledger.drop_dead_claims()
        done = asyncio.run(send(ledger))
    raise SystemExit(0 if done else 1)


def main(
    *,
    requests: int = 1000,
    kills: int = 5,
    concurrency: int = 32,
    fault_rate: float = 0.2,
    latency: float = 0.05,
    seed: int = 0,
) -> None:
    """Kill, rerun, and count.

    Args:
        requests: Requests in all.
        kills: Times the process is killed.
        concurrency: Requests out at once.
        fault_rate: Share of requests that meet a fault.
        latency: Seconds the server takes.
        seed: Of faults and moments.
    """
    rng = random.Random(seed)
    moments = sorted(rng.sample(range(requests // 20, requests * 19 // 20), kills))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.sqlite"
        with FaultServer(latency=latency, fault_rate=fault_rate, seed=seed) as server:
            killing = killed_and_run_again(server, moments, send_all, server.url, ledger, requests, concurrency)
            wanted = all_requests(server.url, requests)
            with Ledger(ledger) as book:
                answers = book.answers(request.key for request in wanted)
            faults = sum(outcome != "ok" for outcome in server.outcomes)
            n_asked = len(server.outcomes)
    right = sum(answers[r.key].text == f" word{i}" for i, r in enumerate(wanted) if r.key in answers)
    print(f"requests {requests}, {killing.text}")
    print(f"sent {n_asked}, of these faulted {faults}; {time.monotonic() - started:.0f} s")
    print(f"answers lost {requests - right}")
    out = f"at most {kills * concurrency}: concurrency at each kill; at the server {killing.in_flight}"
    print(f"paid twice {killing.paid_twice} ({out})")


if __name__ == "__main__":
    run_script(main)
