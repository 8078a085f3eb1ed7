"""Having a list of questions answered: the ledger's answers are not asked for again, the others are sent at known cost.

Many requests are out at once; each is claimed before it is sent, and its outcome is on disk before its place is given
to the next.
"""

import asyncio
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from soft2hard.api.answers import Answer, Fault
from soft2hard.api.client import ApiClient, Patience, read_key
from soft2hard.api.ledger import Ledger, Outcome
from soft2hard.api.prices import Estimate, Price, PriceTable, check_limit, estimate
from soft2hard.api.requests import ApiModel, Request

_LOOK_AGAIN = 0.5  # seconds between looks at what other processes are doing


@dataclass
class Sent:
    """The result of sending a list of requests."""

    faults: dict[str, Fault] = field(default_factory=dict)
    """The last fault of each request that was given up, by key."""
    over_budget: bool = False
    """True if requests were left because they might have passed the limit on cost."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """Of `Asker.ask` alone: the answers by key, refusals and those of earlier runs among them."""

    @property
    def stop(self) -> Fault | None:
        """A fault that all further requests to this model would meet too."""
        return next((fault for fault in self.faults.values() if fault.stops or fault.kind == "unreachable"), None)


@dataclass(frozen=True)
class Asker:
    """One model, asked through one ledger."""

    model: ApiModel
    ledger: Path
    """Made with the first question."""
    prices: PriceTable
    concurrency: int = 32
    patience: Patience = Patience()
    max_cost: float | None = None
    """USD that all requests of the ledger may cost."""
    on_settled: Callable[[int], None] = lambda n: None
    """Hears of answers as they come, and of those that other processes have got."""

    @property
    def _price(self) -> Price | None:
        return self.prices.of(self.model.base_url, self.model.name)

    def stored(self, requests: Sequence[Request]) -> dict[str, Answer]:
        """The answers that the ledger has, by key; nothing is sent."""
        if not self.ledger.exists():
            return {}
        with Ledger(self.ledger) as ledger:
            return ledger.answers(request.key for request in requests)

    def spent(self) -> float:
        """USD that the ledger's requests have cost so far, as far as that is known; lost answers at their most."""
        if not self.ledger.exists():
            return 0.0
        with Ledger(self.ledger) as ledger:
            spent = ledger.spent()
            return spent.known + spent.possible

    def estimate(self, requests: Sequence[Request], title: str) -> Estimate:
        """Number, length and price of distinct requests, one at least; nothing is sent."""
        return estimate(title, requests, self.stored(requests), self._price)

    def ask(self, requests: Sequence[Request]) -> Sent:
        """Answers to all requests, as far as there are any.

        An interrupt (Ctrl-C) sends nothing more, waits for the answers that are out, and then raises
        KeyboardInterrupt. Raises UserError where something is to be sent and there is no key, or a limit on cost cannot
        be kept, and where the ledger cannot be used.
        """
        stored = self.stored(requests)
        missing = list({r.key: r for r in requests if r.key not in stored}.values())
        if not missing:
            return Sent(answers=stored)
        read_key(self.model)
        check_limit(self.model, self._price, missing, self.max_cost)
        with Ledger(self.ledger) as ledger:
            ledger.drop_dead_claims()
            sent = asyncio.run(self._send(ledger, missing))
            return replace(sent, answers=ledger.answers(request.key for request in requests))

    def try_out(self, request: Request, anew: bool = False) -> None:
        """Ask, unless the ledger shows that the model has ever answered, or in any case (`anew`); nothing is stored.

        Raises Fault where there is no answer.
        """

        async def ask() -> None:
            async with ApiClient(self.model, 1, self.patience) as client:
                await client.ask(request)

        if self.ledger.exists() and not anew:
            with Ledger(self.ledger) as ledger:
                if ledger.has_answer_of(self.model.base_url, self.model.name):
                    return
        asyncio.run(ask())

    async def _send(self, ledger: Ledger, requests: Sequence[Request]) -> Sent:
        async with ApiClient(self.model, self.concurrency, self.patience) as client:
            sender = Sender(Means(client, ledger, self._price, self.max_cost, self.on_settled))
            with patient_interrupt(sender.stop):
                return await sender.send(requests, self.concurrency)


@contextmanager
def patient_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `stop`, the block waits for the answers that are out, which are paid for; then KeyboardInterrupt.

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


class Recorder:
    """Stores outcomes as they come. Those that come while the disk is busy share the next transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._writing = ledger, asyncio.Lock()
        self._waiting: tuple[list[Outcome], list[Request]] = ([], [])
        self._error: Exception | None = None

    async def store(self, outcomes: Sequence[Outcome] = (), release: Sequence[Request] = ()) -> None:
        """Store outcomes and end claims; on disk when this returns. Raises UserError where it cannot be written."""
        mine = self._waiting
        mine[0].extend(outcomes)
        mine[1].extend(release)
        async with self._writing:
            if mine is self._waiting:  # else another has written it with its own
                self._waiting = ([], [])
                try:
                    await asyncio.to_thread(self._ledger.store, *mine)
                except Exception as error:
                    self._error = error
        if self._error is not None:
            raise self._error


@dataclass(frozen=True)
class Means:
    """All that it takes to send requests of one model, online or in batches."""

    client: ApiClient
    ledger: Ledger
    price: Price | None = None
    max_cost: float | None = None
    """USD that all requests of the ledger may cost."""
    on_settled: Callable[[int], None] = lambda n: None
    """Hears of answers as they come, and of those that other processes have got."""

    def bound(self, request: Request, batch: bool = False) -> float | None:
        """USD that a request can cost at most, where that is known."""
        return self.price.bound(request, batch) if self.price else None

    def priced(self, answer: Answer, batch: bool = False) -> Answer:
        """The answer with its cost, where the price and the number of tokens are known."""
        if self.price is None or answer.input_tokens is None or answer.output_tokens is None:
            return answer
        return replace(answer, price=self.price.cost(answer.input_tokens, answer.output_tokens, batch))


class Sender:
    """Sends requests of one model until all are answered, given up, or sending has to stop."""

    def __init__(self, means: Means) -> None:
        self._means, self._ledger, self._recorder = means, means.ledger, Recorder(means.ledger)
        self._pending, self._busy, self._ready = deque[Request](), deque[Request](), deque[Request]()
        """`_busy`: of other processes; `_ready`: claimed, and not sent yet."""
        self._out: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._error: Exception | None = None
        self.sent = Sent()

    def stop(self) -> None:
        """Send nothing more, and give up on retries; requests that are out come to their end."""
        self._stopped = self._means.client.stopped = True

    async def send(self, requests: Sequence[Request], concurrency: int) -> Sent:
        """Send those that the ledger lacks. Raises UserError where outcomes cannot be stored."""
        self._pending.extend(requests)
        places = asyncio.Semaphore(concurrency)
        try:
            while not self._stopped and (self._ready or self._pending or self._busy):
                if not self._ready:
                    await self._claim(concurrency)
                    continue
                await places.acquire()
                if not self._stopped:
                    task = asyncio.create_task(self._handle(self._ready.popleft()))
                    self._out.add(task)
                    task.add_done_callback(lambda task: (self._out.discard(task), places.release()))
                    await asyncio.sleep(0)  # else the first is sent when the last has been prepared
        except Exception as error:
            self._fail(error)
        await asyncio.gather(*self._out)
        if self._error is not None:
            raise self._error
        await self._recorder.store(release=list(self._ready))
        return self.sent

    async def _handle(self, request: Request) -> None:
        """Send one request and store its outcome."""
        bound = self._means.bound(request)

        async def on_fault(fault: Fault) -> None:
            await self._recorder.store([Outcome(request, fault, bound)])

        try:
            try:
                answer = await self._means.client.ask(request, on_fault)
                await self._recorder.store([Outcome(request, self._means.priced(answer), bound)])
            except Fault as fault:
                self.sent.faults[request.key] = fault
                if fault.stops:
                    self.stop()
                await self._recorder.store(release=[request])
            self._means.on_settled(1)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self.stop()

    async def _claim(self, n: int) -> None:
        """Claim some of the pending requests; waits where others have them all, or where the limit on cost is near."""
        if not self._pending:
            await asyncio.sleep(_LOOK_AGAIN)
            await asyncio.to_thread(self._ledger.drop_dead_claims)
            self._pending, self._busy = self._busy, self._pending
        part = [self._pending.popleft() for _ in range(min(n, len(self._pending)))]
        n_out = len(self._out)
        bounds, max_cost = list(map(self._means.bound, part)), self._means.max_cost
        claims = await asyncio.to_thread(self._ledger.claim, part, bounds, max_cost)
        self._ready.extend(claims.taken)
        self._busy.extend(claims.busy)
        self._means.on_settled(len(claims.answered))
        self._pending.extendleft(reversed(claims.too_dear))
        if claims.too_dear and not claims.taken:
            if not n_out:
                self.sent.over_budget = self._stopped = True
            elif len(self._out) == n_out:  # one of them may cost less than it might have
                await asyncio.wait(self._out, return_when=asyncio.FIRST_COMPLETED)
