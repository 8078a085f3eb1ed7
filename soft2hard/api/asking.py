"""Having a list of questions answered: what the ledger has is not asked again, what it lacks is sent at known cost."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from soft2hard.api.answers import Fault
from soft2hard.api.claims import drop_dead_claims
from soft2hard.api.client import ApiClient, Patience, read_key
from soft2hard.api.estimates import Estimate, estimate
from soft2hard.api.ledger import Ledger, StoredAnswer
from soft2hard.api.prices import PriceTable, check_limit
from soft2hard.api.requests import ApiModel, Request
from soft2hard.api.sending import Sender, Sent


@dataclass(frozen=True)
class Asked:
    """What became of a list of requests."""

    answers: dict[str, StoredAnswer]
    """Refusals among them, by the key of the request."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """The last fault of each request that was given up, by its key."""
    over_budget: bool = False
    """Whether requests were left because they might have passed the limit on cost."""

    @property
    def stop(self) -> Fault | None:
        """A fault that would befall all further requests to this model too."""
        return next((fault for fault in self.faults.values() if fault.stops or fault.kind == "unreachable"), None)


class Asker:
    """One model, asked through one ledger."""

    def __init__(
        self,
        model: ApiModel,
        ledger: Path,
        prices: PriceTable,
        concurrency: int = 32,
        patience: Patience = Patience(),
        max_cost: float | None = None,
        on_settled: Callable[[int], None] = lambda n: None,
    ) -> None:
        """`ledger` is made with the first question; `max_cost` (USD) bounds what all its requests may cost.

        `on_settled(n)` hears of answers as they come, and of those that other processes have got.
        """
        self.model, self.ledger = model, ledger
        self._prices, self._price = prices, prices.of(model.base_url, model.name)
        self._concurrency, self._patience, self._max_cost = concurrency, patience, max_cost
        self._on_settled = on_settled

    def has_answered(self) -> bool:
        """Whether the ledger has an answer of the model to anything."""
        if not self.ledger.exists():
            return False
        with Ledger(self.ledger) as ledger:
            return ledger.has_answer_of(self.model.base_url, self.model.name)

    def stored(self, requests: Sequence[Request]) -> dict[str, StoredAnswer]:
        """The answers that the ledger has, by key; nothing is sent."""
        if not self.ledger.exists():
            return {}
        with Ledger(self.ledger) as ledger:
            return ledger.answers(request.key for request in requests)

    def estimate(self, requests: Sequence[Request], title: str | None = None) -> Estimate:
        """What distinct requests, one at least, come to; nothing is sent."""
        if not self.ledger.exists():
            return estimate(self.model, requests, None, self._prices, title=title)
        with Ledger(self.ledger) as ledger:
            return estimate(self.model, requests, ledger, self._prices, title=title)

    def ask(self, requests: Sequence[Request]) -> Asked:
        """Answers to all requests, as far as they can be had.

        An interrupt (Ctrl-C) sends nothing more, waits for the answers that are out, and then raises
        KeyboardInterrupt. Raises UserError where something is to be sent and there is no key, or a limit on cost cannot
        be kept, and where the ledger cannot be used.
        """
        stored = self.stored(requests)
        missing = list({r.key: r for r in requests if r.key not in stored}.values())
        if not missing:
            return Asked(stored)
        read_key(self.model)
        check_limit(self.model, self._price, missing, self._max_cost)
        with Ledger(self.ledger) as ledger:
            drop_dead_claims(ledger)
            sent = asyncio.run(self._send(ledger, missing))
            return Asked(ledger.answers(request.key for request in requests), sent.faults, sent.over_budget)

    def try_out(self, request: Request) -> None:
        """Ask, and store nothing. Raises Fault where there is no answer to be had."""
        asyncio.run(self._try_out(request))

    async def _send(self, ledger: Ledger, requests: Sequence[Request]) -> Sent:
        async with ApiClient(self.model, self._concurrency, self._patience) as client:
            sender = Sender(client, ledger, self._price, self._max_cost, self._on_settled)
            with _patient_interrupt(sender.stop):
                return await sender.send(requests, self._concurrency)

    async def _try_out(self, request: Request) -> None:
        async with ApiClient(self.model, 1, self._patience) as client:
            await client.ask(request)


@contextmanager
def _patient_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C sends nothing more and waits for the answers that are out, which are paid for; then KeyboardInterrupt.

    A second one ends the process at once. Only a main thread hears of interrupts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, interrupted = asyncio.get_running_loop(), False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        stop()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if interrupted:
        raise KeyboardInterrupt
