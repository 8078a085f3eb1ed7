"""Language models behind an OpenAI-compatible API that are asked for instructions.

What is sent, retried and kept is the business of `soft2hard.api`: the answers lie in a ledger, and none is paid for
twice.
"""

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soft2hard.api.answers import Fault
from soft2hard.api.claims import drop_dead_claims
from soft2hard.api.client import ApiClient, Patience, read_key
from soft2hard.api.faults import as_user_error
from soft2hard.api.ledger import Ledger, StoredAnswer
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import OUTPUT_LIMITS, ApiModel, Request, text_request
from soft2hard.api.sending import Sender, Sent
from soft2hard.errors import UserError
from soft2hard.eval.generators import first_line, numbered

_PROBE = "Say hello."
_REMEDIES = {
    "rejected": "Set what it wants under 'parameters' of the generator; null leaves a default out.",
    "too_long": "Use a model with a longer context.",
}


class ApiGenerator:
    """A model behind an API, sampled at temperature 1; a request for each sample.

    Raises UserError where there is no key.
    """

    def __init__(
        self,
        model: ApiModel,
        ledger: Path,
        concurrency: int = 32,
        patience: Patience = Patience(),
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`ledger` is made with the first answer; `log` hears of samples that could not be had."""
        self.model, self.ledger = model, ledger
        self._concurrency, self._patience, self._log = concurrency, patience, log
        self._price = read_prices().of(model.base_url, model.name)
        try:
            read_key(model)
        except UserError as error:
            raise UserError(error.problem, "Set it, or name another variable as 'key_env' of the generator.") from None

    def check(self) -> None:
        """Ask one short question, unless the ledger shows that the model has answered before; nothing is stored.

        Raises UserError where the model cannot be asked: a wrong key, an unknown model or parameter, no quota, an
        endpoint that is not there.
        """
        if self.ledger.exists():
            with Ledger(self.ledger) as ledger:
                if ledger.has_answer_of(self.model.base_url, self.model.name):
                    return
        try:
            asyncio.run(self._probe())
        except Fault as fault:
            raise self._as_user_error(fault) from None

    def sample(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        """`n` answers to each text, each up to its first line break; empty where it was refused or could not be had.

        The ledger's answers are not asked for again. Raises UserError where nothing more can be had: a key that is
        refused, an unknown model, an exhausted quota, an endpoint that is not there, or a ledger that cannot be used;
        what was answered before is kept.
        """
        requests = [self._request(text, number, seed) for text, number in numbered(texts, n)]
        with Ledger(self.ledger) as ledger:
            stored = ledger.answers(request.key for request in requests)
            missing = [request for request in requests if request.key not in stored]
            if missing:
                self._deliver(ledger, missing)
                stored = ledger.answers(request.key for request in requests)
        answers = [_text(stored.get(request.key)) for request in requests]
        return [answers[i : i + n] for i in range(0, len(answers), n)]

    def _deliver(self, ledger: Ledger, requests: Sequence[Request]) -> None:
        """Send requests; what cannot be had is told, unless it stands for all that would follow."""
        drop_dead_claims(ledger)
        sent = asyncio.run(self._send(ledger, requests))
        of_all = (fault for fault in sent.faults.values() if fault.stops or fault.kind == "unreachable")
        if (fault := next(of_all, None)) is not None:
            raise self._as_user_error(fault)
        if sent.faults:
            kinds = Counter(fault.kind.replace("_", " ") for fault in sent.faults.values())
            said = next(iter(sent.faults.values())).detail
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            self._log(f"{self.model.title}: {len(sent.faults)} samples could not be had ({counts}; {said})")

    async def _send(self, ledger: Ledger, requests: Sequence[Request]) -> Sent:
        async with ApiClient(self.model, self._concurrency, self._patience) as client:
            sender = Sender(client, ledger, self._price)
            with _patient_interrupt(sender.stop):
                return await sender.send(requests, self._concurrency)

    async def _probe(self) -> None:
        async with ApiClient(self.model, 1, self._patience) as client:
            await client.ask(self._request(_PROBE, 0, 0))

    def _request(self, text: str, repeat: int, seed: int) -> Request:
        """One question as it is sent: the text and nothing besides. Repeats differ by `seed + repeat`."""
        return text_request(self.model, text, {"seed": seed + repeat, **_defaults(self.model)}, repeat)

    def _as_user_error(self, fault: Fault) -> UserError:
        error = as_user_error(fault, self.model)
        return UserError(error.problem, _REMEDIES.get(fault.kind, error.remedy))


def _defaults(model: ApiModel) -> Mapping[str, Any]:
    """Plain sampling of a short answer; a chat model may begin its answer with a line break, so that none ends it."""
    defaults: dict[str, Any] = {"temperature": 1}
    if not any(model.parameters.get(name) for name in OUTPUT_LIMITS):
        defaults["max_tokens"] = 64
    if model.layout == "completion":
        defaults["stop"] = ["\n"]
    return defaults


def _text(answer: StoredAnswer | None) -> str:
    return "" if answer is None or answer.refused else first_line(answer.text)


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
