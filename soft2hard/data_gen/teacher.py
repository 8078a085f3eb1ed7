"""A teacher: a model behind an API that writes data. Its answers are paid for once and kept in a ledger."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, TypeVar

from soft2hard.api.answers import Answer, as_user_error
from soft2hard.api.asking import Asker
from soft2hard.api.requests import OUTPUT_LIMITS, ApiModel, Request, text_request
from soft2hard.errors import UserError

W = TypeVar("W")
ROUNDS = 3
"""Times that the same thing is asked for, at most."""


@dataclass(frozen=True)
class Rejected:
    """Something a teacher wrote that is not used, and why."""

    kind: str
    """Its purpose: 'answer', 'category', 'sentence' or 'paraphrase'."""
    reason: str
    text: str
    of: str = ""
    """The category and class, or the instruction, that it was written for."""


@dataclass
class Teacher:
    """A model that is asked by plain sampling, unless the parameters say otherwise, and what it was asked."""

    asker: Asker
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every request, over the defaults (temperature 1, seed, max_tokens); a value of None takes one out."""
    seed: int = 0
    on_asking: Callable[[int], None] = lambda n: None
    """Hears how many requests are about to be sent."""
    asked: dict[str, Request] = field(default_factory=dict)
    """By key, whether the ledger had the answer or not."""

    @property
    def model(self) -> ApiModel:
        return self.asker.model

    def request(self, text: str, max_tokens: int) -> Request:
        """One question, which depends on these arguments alone: the same one has the same answer for ever."""
        defaults: dict[str, Any] = {"temperature": 1, "seed": self.seed}
        if not any(self.parameters.get(name) for name in OUTPUT_LIMITS):
            defaults["max_tokens"] = max_tokens
        return text_request(self.model, text, {**defaults, **self.parameters})

    def stored(self, requests: Sequence[Request]) -> list[str]:
        """The answers that the ledger has, in order; nothing is sent."""
        found = self.asker.stored(requests)
        return [_text(found[request.key]) for request in requests if request.key in found]

    def ask(self, requests: Sequence[Request]) -> list[str]:
        """The answers, in order; a refusal is an empty one.

        Raises UserError unless every request has an answer: later questions depend on these, and would be others, paid
        for in vain, were a lost answer to come in the next run.
        """
        if not requests:
            return []
        stored = self.asker.stored(requests)
        self.on_asking(len({request.key for request in requests} - stored.keys()))
        found = self.asker.ask(requests)
        self.asked |= {request.key: request for request in requests}
        if found.over_budget and found.stop is None:
            raise UserError(
                "Stopped before --max-cost might have been passed.",
                f"What is answered is kept in {self.asker.ledger}: raise the limit and run the same command again.",
            )
        if found.faults:
            fault = found.stop or next(iter(found.faults.values()))
            error, n = as_user_error(fault, self.model), len(found.faults)
            remedy = "Use a model with a longer context." if fault.kind == "too_long" else error.remedy
            raise UserError(error.problem if fault.stops else f"{n} answers are missing. {error.problem}", remedy)
        return [_text(found.answers[request.key]) for request in requests]

    def fill(
        self,
        wanted: Sequence[W],
        request: Callable[[W, int], Request],
        take: Callable[[W, str], None],
        is_short: Callable[[W], bool],
    ) -> None:
        """Ask for all things wanted at once, and again for those that are short after `take` has had their answers.

        `request` is given the number of the round, from 0. Raises UserError as `ask` does.
        """
        for round_ in range(ROUNDS):
            short = [one for one in wanted if is_short(one)]
            for one, answer in zip(short, self.ask([request(one, round_) for one in short]), strict=True):
                take(one, answer)


def _text(answer: Answer) -> str:
    return "" if answer.refused else answer.text


def listed(answer: str, field: str, rejected: list[Rejected], of: str = "") -> list[Any]:
    """The list under a field of the JSON object in an answer, whatever stands around it.

    Empty where there is none, which is added to `rejected`.
    """
    value: Any = None
    with suppress(ValueError, RecursionError):
        value = json.loads(answer[answer.find("{") : answer.rfind("}") + 1])
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, list):
        rejected.append(Rejected("answer", "not the JSON that was asked for", answer, of))
    return found if isinstance(found, list) else []


def usable_texts(
    answer: str, kind: str, fault_of: Callable[[str], str | None], rejected: list[Rejected], of: str
) -> Iterator[str]:
    """The texts that an answer lists as `{"<kind>s": [...]}` and that have no fault; the others go to `rejected`."""
    for item in listed(answer, f"{kind}s", rejected, of):
        text = item.strip() if isinstance(item, str) else str(item)
        reason = fault_of(text) if isinstance(item, str) else "not a text"
        if reason is None:
            yield text
        else:
            rejected.append(Rejected(kind, reason, text, of))


def variation(round_: int, hint: str) -> str:
    """A line that asks for another list than those of the rounds before; empty in the first round, number 0."""
    return f"\n- This is list number {round_ + 1}: {hint}." if round_ else ""


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Records as the text of a JSONL file."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@lru_cache(maxsize=1 << 16)
def normal_form(text: str) -> str:
    """The stems of a text's words in small letters, without punctuation and articles; empty where there is no word.

    Two texts of one normal form are copies of each other. Stems are Porter's (1980), as nltk has them, so that "Dogs"
    and "dog", "skiing" and "skis" are alike.
    """
    plain = re.sub("['’]", "", unicodedata.normalize("NFKC", text).casefold())
    words = re.findall(r"[^\W_]+", plain)
    return " ".join(_stem(word) for word in words if word not in ("a", "an", "the"))


def names(text: str, phrase: str) -> bool:
    """True if a text has a phrase in it: the stems of its words, side by side."""
    wanted = normal_form(phrase)
    return bool(wanted) and f" {wanted} " in f" {normal_form(text)} "


@cache
def _stem(word: str) -> str:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer().stem(word)
