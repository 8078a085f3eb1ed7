"""Sending what the ledger lacks: many requests at once, each claimed before, each outcome stored before the next."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from soft2hard.api.answers import Answer, Fault
from soft2hard.api.claims import Claims, claim, drop_dead_claims
from soft2hard.api.client import ApiClient
from soft2hard.api.ledger import Ledger, Outcome
from soft2hard.api.prices import Price
from soft2hard.api.requests import Request

_LOOK_AGAIN = 0.5  # seconds between looks at what other processes are doing


@dataclass
class Sent:
    """What became of a list of requests."""

    faults: dict[str, Fault] = field(default_factory=dict)
    """The last fault of each request that was given up, by key."""
    over_budget: bool = False
    """Whether requests were left because they might have passed the limit on cost."""


class Recorder:
    """Stores outcomes as they come. Those that come while the disk is busy share the next transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[list[Outcome], list[Request], asyncio.Future[None] | None]] = []
        self._writer: asyncio.Task[None] | None = None

    def note(self, outcome: Outcome) -> None:
        """Store an outcome without waiting for it."""
        self._put([outcome], [], None)

    async def store(self, outcomes: Sequence[Outcome] = (), release: Sequence[Request] = ()) -> None:
        """Store outcomes and end claims; on disk when this returns. Raises UserError where it cannot be written."""
        done = asyncio.get_running_loop().create_future()
        self._put(list(outcomes), list(release), done)
        await done

    def _put(self, outcomes: list[Outcome], release: list[Request], done: "asyncio.Future[None] | None") -> None:
        self._waiting.append((outcomes, release, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._waiting:
            part, self._waiting = self._waiting, []
            outcomes = [outcome for some, _, _ in part for outcome in some]
            release = [request for _, some, _ in part for request in some]
            try:
                await asyncio.to_thread(self._ledger.store, outcomes, release)
            except Exception as error:
                _settle(part, error)
            else:
                _settle(part, None)


def _settle(
    part: "list[tuple[list[Outcome], list[Request], asyncio.Future[None] | None]]", error: Exception | None
) -> None:
    for _, _, done in part:
        if done is None or done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


class Sender:
    """Sends requests of one model until all are answered, given up, or sending has to stop."""

    def __init__(
        self,
        client: ApiClient,
        ledger: Ledger,
        price: Price | None,
        max_cost: float | None = None,
        on_settled: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._client, self._ledger, self._price, self._max_cost = client, ledger, price, max_cost
        self._on_settled = on_settled
        self._recorder = Recorder(ledger)
        self._pending: deque[Request] = deque()
        self._busy: deque[Request] = deque()
        self._ready: deque[Request] = deque()
        self._out = 0
        self._settled = asyncio.Event()
        self._refilling = asyncio.Lock()
        self._stopped = False
        self._chunk = 1
        self.sent = Sent()

    def stop(self) -> None:
        """Send nothing more, and give up on retries; what is out comes to its end."""
        self._stopped = self._client.stopped = True

    async def send(self, requests: Sequence[Request], concurrency: int) -> Sent:
        """Send those that the ledger lacks. Raises UserError where outcomes cannot be stored."""
        self._pending.extend(requests)
        self._chunk = concurrency
        workers = [self._work() for _ in range(min(concurrency, len(requests)))]
        ends = await asyncio.gather(*workers, return_exceptions=True)
        errors = [end for end in ends if isinstance(end, BaseException)]
        if self._ready and not errors:
            await self._recorder.store(release=list(self._ready))
        self._ready.clear()
        if errors:
            raise errors[0]
        return self.sent

    async def _work(self) -> None:
        try:
            while (request := await self._next()) is not None:
                await self._handle(request)
        except BaseException:
            self.stop()
            raise

    async def _handle(self, request: Request) -> None:
        try:
            answer = await self._client.ask(request, lambda fault: self._note(request, fault))
        except Fault as fault:
            self.sent.faults[request.key] = fault
            if fault.stops:
                self.stop()
            await self._recorder.store(release=[request])
        else:
            await self._recorder.store([Outcome(request, answer, self._cost(answer), self._bound(request))])
        finally:
            self._out -= 1
            self._settled.set()
        self._on_settled(1)

    def _note(self, request: Request, fault: Fault) -> None:
        self._recorder.note(Outcome(request, fault, bound=self._bound(request)))

    async def _next(self) -> Request | None:
        """A claimed request, or None when there is no more to do."""
        async with self._refilling:
            while not self._ready and not self._stopped:
                if not self._pending and not self._busy:
                    return None
                await self._refill()
            if self._stopped:
                return None
            self._out += 1
            return self._ready.popleft()

    async def _refill(self) -> None:
        if not self._pending:
            await asyncio.sleep(_LOOK_AGAIN)  # others have all that is left
            await asyncio.to_thread(drop_dead_claims, self._ledger)
            self._pending, self._busy = self._busy, self._pending
        part = [self._pending.popleft() for _ in range(min(self._chunk, len(self._pending)))]
        bounds = [self._bound(request) for request in part]
        self._settled.clear()
        claims: Claims = await asyncio.to_thread(claim, self._ledger, part, bounds, self._max_cost)
        self._ready.extend(claims.taken)
        self._busy.extend(claims.busy)
        self._on_settled(len(claims.answered))
        self._pending.extendleft(reversed(claims.too_dear))
        if claims.too_dear and not claims.taken:
            if self._out:
                await self._settled.wait()  # it may cost less than it might have
            else:
                self.sent.over_budget = True
                self._stopped = True

    def _bound(self, request: Request) -> float | None:
        return self._price.bound(request) if self._price else None

    def _cost(self, answer: Answer) -> float | None:
        if self._price is None or answer.input_tokens is None or answer.output_tokens is None:
            return None
        return self._price.cost(answer.input_tokens, answer.output_tokens)
