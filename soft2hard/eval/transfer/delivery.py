"""Sending the questions of a transfer: a probe of every model, and then all that the ledger lacks."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from soft2hard.api.answers import Fault, as_user_error
from soft2hard.api.asking import Means, Sender, Sent, patient_interrupt
from soft2hard.api.batch import BatchSender, any_open
from soft2hard.api.client import ApiClient, Patience, read_key
from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import Price, PriceTable, check_limit
from soft2hard.api.requests import ApiModel, Request
from soft2hard.errors import UserError
from soft2hard.eval.transfer.plan import Cell, Judge, Judged, distinct_requests, judge_cells, judged
from soft2hard.eval.transfer.settings import TransferChoices

T = TypeVar("T")


@dataclass(frozen=True)
class Delivery:
    """How the sending went, over all models."""

    over_budget: bool
    faults: dict[str, int]
    """Requests given up, by kind of their last fault."""
    stopped: tuple[UserError, ...]
    """Why models were given up in mid-run."""


@dataclass(eq=False)
class Transfer:
    """Sends the requests of a plan."""

    cells: Sequence[Cell]
    ledger: Ledger
    prices: PriceTable
    choices: TransferChoices = TransferChoices()
    patience: Patience = Patience()
    on_settled: Callable[[str, int], None] = lambda title, n: None
    """Hears of answers as they come, by the title of their model."""
    log: Callable[[str], None] = lambda line: None
    """Hears lines for people."""

    def __post_init__(self) -> None:
        self._models = list({cell.model.title: cell.model for cell in self.cells}.values())
        self._senders: list[Sender | BatchSender] = []
        self._interrupted = False

    def run(self) -> Delivery:
        """Probe, then send until all is answered, given up, or over the limit on cost.

        An interrupt (Ctrl-C) sends nothing more, waits for what is out, and then raises KeyboardInterrupt.
        Raises UserError where a probe finds that a model cannot be asked, and where the ledger cannot be written.
        """
        for model in self._models:
            requests = distinct_requests(self.cells, model)
            check_limit(model, self._price(model), requests, self.choices.max_cost)
            read_key(model)
        self.ledger.drop_dead_claims()
        return asyncio.run(self._run())

    async def _run(self) -> Delivery:
        async with AsyncExitStack() as stack:
            means = [await self._means(model, stack) for model in self._models]
            with patient_interrupt(self._stop):
                probed = await _all(map(self._probe, means))
                sent = await _all(self._send(one, *found) for one, found in zip(means, probed, strict=True))
        return self._delivery(sent)

    async def _means(self, model: ApiModel, stack: AsyncExitStack) -> Means:
        client = ApiClient(model, self.choices.concurrency, self.patience)
        await stack.enter_async_context(client)
        on_settled = partial(self.on_settled, model.title)
        return Means(client, self.ledger, self._price(model), self.choices.max_cost, on_settled)

    def _stop(self) -> None:
        self._interrupted = True
        self.log("Interrupted: waiting for the answers that are out. Once more to give them up.")
        for sender in self._senders:
            sender.stop()

    async def _probe(self, means: Means) -> tuple[list[Request], Sent]:
        """Ask the longest of the missing requests, alone; gives those still to be sent, and the result of the probe.

        Raises UserError for all that every other request would meet too, and for a prompt beyond the model's context.
        """
        model = means.client.model
        requests = distinct_requests(self.cells, model)
        stored = self.ledger.answers(request.key for request in requests)
        missing = [request for request in requests if request.key not in stored]
        means.on_settled(len(stored))
        if not missing or any_open(self.ledger, model):
            return missing, Sent()
        longest = max(missing, key=lambda request: len(request.content))
        is_known = self.ledger.has_answer_of(model.base_url, model.name)
        sent = await self._sender(means).send([longest], 1)
        fault = sent.faults.get(longest.key)
        if fault and (fault.kind != "rejected" or not is_known):
            prompt = next(cell.prompt.id for cell in self.cells if cell.request.key == longest.key)
            raise as_user_error(fault, model, prompt)
        return [request for request in missing if request is not longest], sent

    async def _send(self, means: Means, requests: Sequence[Request], probe: Sent) -> Sent:
        if self._interrupted or probe.over_budget:
            return probe
        model = means.client.model
        try:
            if self.choices.batch:
                sent = await self._batches(means).send(requests)
            else:
                online = asyncio.create_task(self._sender(means).send(requests, self.choices.concurrency))
                if any_open(self.ledger, model):
                    self.log(f"{model.title}: batches of an earlier run are under way; waiting for them.")
                    await self._batches(means).collect()
                sent = await online
        except Fault as fault:
            raise as_user_error(fault, model) from fault
        return Sent(probe.faults | sent.faults, sent.over_budget)

    def _sender(self, means: Means) -> Sender:
        self._senders.append(sender := Sender(means))
        return sender

    def _batches(self, means: Means) -> BatchSender:
        self._senders.append(sender := BatchSender(means, self.choices.poll_seconds, self.log))
        return sender

    def _price(self, model: ApiModel) -> Price | None:
        return self.prices.of(model.base_url, model.name)

    def _delivery(self, sent: Sequence[Sent]) -> Delivery:
        stopped = []
        for model, of_model in zip(self._models, sent, strict=True):
            stop = next((fault for fault in of_model.faults.values() if fault.stops), None)
            stopped += [as_user_error(stop, model)] if stop else []
        kinds = Counter(fault.kind for of_model in sent for fault in of_model.faults.values())
        return Delivery(any(of_model.over_budget for of_model in sent), dict(kinds), tuple(stopped))


def judge_answers(
    cells: Sequence[Cell],
    ledger: Ledger,
    prices: PriceTable,
    judge: Judge,
    choices: TransferChoices = TransferChoices(),
    patience: Patience = Patience(),
    log: Callable[[str], None] = lambda line: None,
) -> Judged:
    """Ask the judge about every answer in words, through the same ledger, and collect what it says.

    Raises UserError as `Transfer.run` does.
    """
    asked = judge_cells(cells, ledger.answers(cell.request.key for cell in cells), judge)
    questions = [cell for cell in asked if cell is not None]
    if questions:
        log(f"{judge.model.title}: {len(distinct_requests(questions, judge.model))} answers are to be judged.")
        Transfer(questions, ledger, prices, choices, patience, log=log).run()
    return judged(cells, asked, ledger.answers(cell.request.key for cell in questions), judge)


async def _all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, once all have ended; the first error is raised after that, so that no answer is cut off."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
