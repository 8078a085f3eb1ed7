"""The candidates of one task while `optimize` chooses among them, and what the model has answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, log2
from random import Random
from statistics import fmean
from typing import Any

from soft2hard.api.answers import FINAL, Fault
from soft2hard.api.prices import total
from soft2hard.api.requests import Request
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.transfer.optimized import Arm, Stage
from soft2hard.eval.transfer.plan import Asking


@dataclass
class Contest:
    """The arms of one task and what is known of them."""

    task: Task
    arms: list[Arm]
    pool: list[Example]
    """Examples that choose, in the order in which they are used; none of them is shown."""
    asking: Asking
    n_calls: int = 0
    n_seen: int = 0
    scores: dict[int, list[float]] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.left = list(range(len(self.arms)))
        self.scores = {i: [] for i in self.left}

    def add(self, arms: Sequence[Arm]) -> None:
        """Further arms, before the first round."""
        self.arms += arms
        self.__post_init__()

    def best_mean(self) -> float | None:
        """Of the best arm over all examples that it was asked with."""
        scores = self.scores[self.ranked()[0]]
        return fmean(scores) if scores else None

    def ranked(self) -> list[int]:
        """The arms that are left, best first; of equals the one that stood first."""
        return sorted(self.left, key=lambda arm: (-self._mean(arm), arm))

    def keep_half(self, seed: int) -> None:
        """Drop the worse half of the arms. Many are equal after an example or two: of these the likelier texts go on,
        which stood first, and of those with one text it is drawn, lest the most demonstrations be dropped always."""
        rank = {text: place for place, text in enumerate(dict.fromkeys(arm.text for arm in self.arms))}
        rng = Random(f"optimize/{seed}/{self.task.name}/{self.n_seen}")
        order = rng.sample(self.left, len(self.left))
        best_first = sorted(order, key=lambda arm: (-self._mean(arm), rank[self.arms[arm].text]))
        self.left = best_first[: ceil(len(order) / 2)]

    def _mean(self, arm: int) -> float:
        """-1 where nothing was answered at all."""
        return fmean(self.scores[arm]) if self.scores[arm] else -1.0

    @property
    def best(self) -> Arm:
        return self.arms[self.ranked()[0]]


def most_arms(calls: int) -> int:
    """The most arms that so many requests can halve down to one, with one example each in every round."""
    return next((n for n in range(calls, 1, -1) if n * n_rounds(n) <= calls), 1)


def n_rounds(n_arms: int) -> int:
    """Halvings that it takes."""
    return max(1, ceil(log2(n_arms)))


@dataclass(frozen=True)
class Answers:
    """Answers by the keys of their requests."""

    by_key: Mapping[str, Any]
    over_budget: bool = False
    faults: Mapping[str, Fault] = field(default_factory=dict)

    def came_to_nothing(self, request: Request) -> bool:
        """Whether there is neither an answer nor a refusal of the request itself."""
        fault = self.faults.get(request.key)
        return request.key not in self.by_key and not (fault and fault.kind in FINAL)

    def text(self, request: Request) -> str | None:
        answer = self.by_key.get(request.key)
        if answer is None or answer.lack:
            return None
        return "" if answer.refused else request.cut(answer.text).strip()

    def cost(self, requests: Sequence[Request]) -> dict[str, Any]:
        """What requests came to, as a Stage has it; what was not sent costs nothing."""
        had = [answer for request in requests if (answer := self.by_key.get(request.key)) is not None]
        tokens = [total([answer.input_tokens, answer.output_tokens]) for answer in had]
        return {
            "calls": len(requests),
            "price": total([0.0, *(answer.price for answer in had)]),
            "tokens": total(tokens),
        }
