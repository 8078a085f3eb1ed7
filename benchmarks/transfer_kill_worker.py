"""The process that `transfer_kill.py` kills: sends what the ledger lacks; exit status 0 when nothing is lacking."""

import asyncio
import sys
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soft2hard.api.asking import Sender
from soft2hard.api.client import ApiClient, Patience
from soft2hard.api.ledger import Ledger
from soft2hard.api.requests import ApiModel, Request, make_request


def all_requests(url: str, n: int) -> list[Request]:
    """n requests that differ in their input."""
    model = ApiModel("m", url)
    return [make_request(model, "Say it.", f"word{i}", {"temperature": 0, "max_tokens": 5}) for i in range(n)]


async def send(url: str, ledger: Ledger, n: int, concurrency: int) -> bool:
    """Whether all have an answer."""
    patience = Patience(attempts=12, timeout=30, first_wait=0.05, longest_wait=1)
    async with ApiClient(ApiModel("m", url), concurrency, patience) as client:
        sent = await Sender(client, ledger, None).send(all_requests(url, n), concurrency)
    return not sent.faults


def main(url: str, path: Path, n: int, concurrency: int) -> None:
    """Send n requests to `url`, keeping the answers in the ledger at `path`."""
    with Ledger(path) as ledger:
        ledger.drop_dead_claims()
        raise SystemExit(0 if asyncio.run(send(url, ledger, n, concurrency)) else 1)


if __name__ == "__main__":
    typer.run(main)
