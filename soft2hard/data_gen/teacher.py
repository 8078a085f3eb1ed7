"""A teacher: a model behind an API that writes data. Its answers are paid for once and kept in a ledger."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soft2hard.api.answers import Answer, Fault, as_user_error
from soft2hard.api.asking import Asker
from soft2hard.api.prices import Estimate
from soft2hard.api.requests import OUTPUT_LIMITS, ApiModel, Request, text_request
from soft2hard.errors import UserError

NO_JSON = "not the JSON that was asked for"
"""Why an answer is of no use as a whole."""


@dataclass(frozen=True)
class Rejected:
    """Something a teacher wrote that is not used, and why."""

    kind: str
    """What it was meant to be: 'answer', 'category', 'sentence' or 'paraphrase'."""
    reason: str
    text: str
    of: str = ""
    """What it was written for: a category and class, or an instruction."""


@dataclass(frozen=True)
class Questions:
    """How a teacher is asked: plain sampling, unless the parameters say otherwise."""

    model: ApiModel
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every request, over the defaults (temperature 1, seed, max_tokens); a value of None takes one out."""
    seed: int = 0

    def request(self, text: str, max_tokens: int) -> Request:
        """One question, which depends on nothing but what is given here: the same one has the same answer for ever."""
        defaults: dict[str, Any] = {"temperature": 1, "seed": self.seed}
        if not any(self.parameters.get(name) for name in OUTPUT_LIMITS):
            defaults["max_tokens"] = max_tokens
        return text_request(self.model, text, {**defaults, **self.parameters})


class Teacher:
    """Asks questions and keeps count of them. `on_asking(n)` hears how many are about to be sent."""

    def __init__(self, questions: Questions, asker: Asker, on_asking: Callable[[int], None] = lambda n: None) -> None:
        self.questions, self.asked = questions, dict[str, Request]()
        """`asked`: every request that was put, by its key, whether the ledger had its answer or not."""
        self._asker, self._on_asking = asker, on_asking

    def estimates(self, stages: Mapping[str, Sequence[Request]]) -> list[Estimate]:
        """What the requests of each stage come to; nothing is sent."""
        return [self._asker.estimate(requests, stage) for stage, requests in stages.items()]

    def stored(self, requests: Sequence[Request]) -> list[str]:
        """The answers that the ledger has, in order; nothing is sent."""
        found = self._asker.stored(requests)
        return [_text(found[request.key]) for request in requests if request.key in found]

    def ask(self, requests: Sequence[Request]) -> list[str]:
        """The answers, in order; a refusal is an empty one.

        Raises UserError unless every request has an answer: later questions depend on these, and would be others, paid
        for in vain, were a lost answer to come in the next run.
        """
        stored = self._asker.stored(requests)
        self._on_asking(len({request.key for request in requests} - stored.keys()))
        found = self._asker.ask(requests)
        self.asked |= {request.key: request for request in requests}
        if found.stop is not None:
            raise self._error(found.stop, len(found.faults))
        if found.over_budget:
            raise UserError(
                "Stopped before --max-cost might have been passed.",
                f"What is answered is kept in {self._asker.ledger}: raise the limit and run the same command again.",
            )
        if found.faults:
            raise self._error(next(iter(found.faults.values())), len(found.faults))
        return [_text(found.answers[request.key]) for request in requests]

    def _error(self, fault: Fault, n: int) -> UserError:
        """What one of `n` faults means for whoever started the command."""
        error = as_user_error(fault, self.questions.model)
        remedy = "Use a model with a longer context." if fault.kind == "too_long" else error.remedy
        return UserError(error.problem if fault.stops else f"{n} answers could not be had. {error.problem}", remedy)


def read_list(answer: str, field: str) -> list[Any] | None:
    """The list under a field of the JSON object in an answer, whatever stands around it; None where there is none."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        value = json.loads(answer[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        return None
    found = value.get(field) if isinstance(value, dict) else None
    return found if isinstance(found, list) else None


def _text(answer: Answer) -> str:
    return "" if answer.refused else answer.text


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Records as the text of a JSONL file."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
