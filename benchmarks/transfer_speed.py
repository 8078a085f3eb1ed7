"""How much the transfer's client adds to what the server takes.

    python benchmarks/transfer_speed.py

Against a server on loopback, in a process of its own, with everything on: claims, ledger on disk, retries. Three
figures: wall time over the ideal (0.5 s of latency, 600 requests, 100 at once); milliseconds a request against an
instant server, wall and CPU; and speed against one request after another, as a loop over the bare client does it (0.2 s
of latency, 32 at once; the loop is timed on fewer requests).
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from openai import AsyncOpenAI

from soft2hard.cli.common import AtLeast1
from soft2hard.errors import run_script

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soft2hard.api.asking import Means, Sender
from soft2hard.api.client import ApiClient
from soft2hard.api.ledger import Ledger
from soft2hard.api.requests import ApiModel, Request, make_request

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def server(latency: float) -> Iterator[str]:
    """The base URL of a fault server without faults."""
    command = [sys.executable, "-m", "tests.fault_server", "--latency", str(latency)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def requests(url: str, n: int) -> list[Request]:
    model = ApiModel("m", url)
    return [make_request(model, "Say it.", f"word{i}", {"temperature": 0, "max_tokens": 5}) for i in range(n)]


async def transfer(url: str, n: int, concurrency: int) -> tuple[float, float]:
    """Wall and CPU seconds of n requests, after a few that open connections."""
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        async with ApiClient(ApiModel("m", url), concurrency) as client:
            some = requests(url, n + concurrency)
            await Sender(Means(client, ledger)).send(some[:concurrency], concurrency)
            wall, cpu = time.perf_counter(), time.process_time()
            sent = await Sender(Means(client, ledger)).send(some[concurrency:], concurrency)
            assert not sent.faults
            return time.perf_counter() - wall, time.process_time() - cpu


async def one_by_one(url: str, n: int) -> float:
    """Wall seconds of n requests by the bare client, one after another."""
    async with AsyncOpenAI(api_key="none", base_url=url) as client:
        started = time.perf_counter()
        for request in requests(url, n):
            await client.chat.completions.create(**request.body)
        return time.perf_counter() - started


def main(
    *,
    tries: AtLeast1 = 3,
) -> None:
    """Measure all three.

    Args:
        tries: Repetitions of each; the least disturbed counts.
    """
    names = ("openai", "tenacity", "aiohttp")
    print(f"Python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in names))
    with server(0.5) as url:
        walls = [asyncio.run(transfer(url, 600, 100)) for _ in range(tries)]
    ideal = 600 / 100 * 0.5
    print(f"0.5 s, 600 requests, 100 at once: {min(walls)[0]:.2f} s, {min(walls)[0] / ideal:.2f} times the ideal")
    with server(0.0) as url:
        walls = [asyncio.run(transfer(url, 600, 32)) for _ in range(tries)]
    wall, cpu = (1000 * min(values) / 600 for values in zip(*walls, strict=True))
    print(f"instant server, 32 at once: {wall:.2f} ms a request, of these {cpu:.2f} ms CPU of the client")
    with server(0.2) as url:
        walls = [asyncio.run(transfer(url, 600, 32)) for _ in range(tries)]
        alone = asyncio.run(one_by_one(url, 20)) / 20
    many = min(walls)[0] / 600
    print(
        f"0.2 s, 32 at once: {1000 * many:.1f} ms a request; one by one {1000 * alone:.1f} ms: {alone / many:.1f} times"
    )


if __name__ == "__main__":
    run_script(main)
