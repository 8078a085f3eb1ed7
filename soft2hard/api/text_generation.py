"""Language models behind an OpenAI-compatible API that are asked for instructions.

`soft2hard.api` sends, retries and keeps: the answers lie in a ledger, and none is paid for twice.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

from soft2hard.api.answers import Answer, Fault, as_user_error
from soft2hard.api.asking import Asker
from soft2hard.api.client import read_key
from soft2hard.api.prices import Estimate, total
from soft2hard.api.requests import OUTPUT_LIMITS, Request, text_request
from soft2hard.errors import UserError
from soft2hard.lm.text_generation import first_line, numbered

_PROBE = "Say hello."
REMEDIES: Mapping[str, str] = {
    "rejected": "Set what it wants under 'parameters' of the generator; null leaves a default out.",
    "too_long": "Use a model with a longer context.",
    "key": "Set it, or name another with key_env or --describer-key-env.",
}
"""What a user can do about a fault, by its kind, and about a key that is missing."""


class ApiGenerator:
    """A model behind an API, sampled at temperature 1; a request for each sample.

    Raises UserError where there is no key.
    """

    def __init__(
        self,
        asker: Asker,
        log: Callable[[str], None] = lambda line: None,
        announce: Callable[[Estimate], None] = lambda estimate: None,
        remedies: Mapping[str, str] = REMEDIES,
    ) -> None:
        """`log` is told of samples that are not available, `announce` the price of requests before they are sent.
        `remedies`: where the settings are another command's.
        """
        self.model, self._asker, self._log, self._announce = asker.model, asker, log, announce
        self._kept, self._max_tokens, self._remedies = first_line, 64, remedies
        self._answered: list[Answer] = []
        self._is_strict = False
        try:
            read_key(asker.model)
        except UserError as error:
            raise UserError(error.problem, remedies["key"]) from None

    def whole(self, max_new_tokens: int) -> "ApiGenerator":
        """The same model, asked for whole answers of up to so many tokens."""
        found = copy(self)
        found._kept, found._max_tokens = str.strip, max_new_tokens
        return found

    def apart(self) -> "ApiGenerator":
        """The same model, whose cost is counted anew, with that of what `whole` makes of it; a sample that is not
        available raises UserError."""
        found = copy(self)
        found._answered, found._is_strict = [], True
        return found

    def spent(self) -> dict[str, float | int | None]:
        """`price` (USD) and `tokens` of all answers so far, those of the ledger among them; None where unknown."""
        tokens = [total([answer.input_tokens, answer.output_tokens]) for answer in self._answered]
        return {"price": total([0.0, *(answer.price for answer in self._answered)]), "tokens": total(tokens)}

    def check(self, anew: bool = False) -> None:
        """Ask one short question, unless the ledger shows that the model has answered before, or in any case (`anew`);
        nothing is stored.

        Raises UserError where the model cannot be asked: a wrong key, an unknown model or parameter, no quota, an
        endpoint that is not there.
        """
        try:
            self._asker.try_out(self._request(_PROBE, 0, 0), anew)
        except Fault as fault:
            raise self._as_user_error(fault) from None

    def sample(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        """`n` answers to each text, each up to its first line break; empty where it was refused or is not available.

        The ledger's answers are not asked for again. Raises UserError where no further answer is available: a key that
        is refused, an unknown model, an exhausted quota, an endpoint that is not there, or a ledger that cannot be
        used; answers that came before are kept.
        """
        requests = [self._request(text, number, seed) for text, number in numbered(texts, n)]
        if requests:
            self._announce(self._asker.estimate(requests, self.model.title))
        asked = self._asker.ask(requests)
        if asked.over_budget:
            self._log(f"{self.model.title}: the limit on cost was reached before all samples were asked for")
        if asked.stop is not None:
            raise self._as_user_error(asked.stop)
        if asked.faults and self._is_strict:
            raise self._as_user_error(next(iter(asked.faults.values())))
        if asked.faults:
            kinds = Counter(fault.kind.replace("_", " ") for fault in asked.faults.values())
            said = next(iter(asked.faults.values())).detail
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            self._log(f"{self.model.title}: {len(asked.faults)} samples are not available ({counts}; {said})")
        self._answered += asked.answers.values()
        answers = [self._text(asked.answers.get(request.key)) for request in requests]
        return [answers[i : i + n] for i in range(0, len(answers), n)]

    def _request(self, text: str, repeat: int, seed: int) -> Request:
        """One question as it is sent: the text and nothing besides. Repeats differ by `seed + repeat`."""
        return text_request(self.model, text, {"seed": seed + repeat, **self._defaults()}, repeat)

    def _defaults(self) -> Mapping[str, Any]:
        """Plain sampling; a chat model may begin its answer with a line break, so that none ends it."""
        defaults: dict[str, Any] = {"temperature": 1}
        if not any(self.model.parameters.get(name) for name in OUTPUT_LIMITS):
            defaults["max_tokens"] = self._max_tokens
        if self.model.layout == "completion" and self._kept is first_line:
            defaults["stop"] = ["\n"]
        return defaults

    def _text(self, answer: Answer | None) -> str:
        return "" if answer is None or answer.refused else self._kept(answer.text)

    def _as_user_error(self, fault: Fault) -> UserError:
        error = as_user_error(fault, self.model)
        return UserError(error.problem, self._remedies.get(fault.kind, error.remedy))
