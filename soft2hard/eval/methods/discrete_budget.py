"""What searches for discrete prompts share: groups of cases, time, costs, and the best prompt so far."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome
from soft2hard.lm.shared_prefix import EncodedExample


class Clock:
    """The time of one group of cases."""

    def __init__(self, seconds: float | None):
        self.started, self.seconds = time.monotonic(), seconds

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def is_over(self) -> bool:
        return self.seconds is not None and self.elapsed >= self.seconds


def grouped(cases: Sequence[Case], size: int, bench: Bench) -> Iterator[tuple[Sequence[Case], Clock]]:
    """Cases in groups that are searched together, each with its share of the seconds that are left."""
    whole = Clock(bench.max_seconds)
    for start in range(0, len(cases), size):
        group = cases[start : start + size]
        left = None if whole.seconds is None else max(0.0, whole.seconds - whole.elapsed)
        yield group, Clock(None if left is None else left * len(group) / (len(cases) - start))


@dataclass
class Meter:
    """Counts what a case costs, and says when its budget is spent."""

    max_calls: int | None
    calls: int = 0
    tokens: int = 0

    def count(self, n_prompt: int, examples: Sequence[EncodedExample], times: int = 1) -> None:
        """These examples were run under a prompt of so many tokens, which was computed once."""
        self.calls += times * len(examples)
        self.tokens += times * (n_prompt + sum(example.n_read for example in examples))

    def affords(self, calls: int) -> bool:
        return self.max_calls is None or self.calls + calls <= self.max_calls


@dataclass
class Best:
    """The prompt with the highest score so far."""

    score: float = -math.inf
    text: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    """Each improvement: step, score and prompt."""

    def offer(self, step: int, text: str, score: float) -> None:
        """Take note of a prompt; of equal ones the first stays."""
        if score > self.score:
            self.score, self.text = score, text
            self.history.append({"step": step, "score": score, "prompt": text})


Job = TypeVar("Job")


class Group(Generic[Job]):
    """The cases that are searched together, as jobs with `best`, `meter` and `curve`; those that cannot be are kept
    with their reason, and leave the others alone."""

    def __init__(self, cases: Sequence[Case], job_of: Callable[[Case], Job]):
        self._all = [_attempt(job_of, case) for case in cases]
        self.jobs: list[Job] = [job for job in self._all if not isinstance(job, UserError)]

    def outcomes(self, clock: Clock) -> Iterator[Outcome]:
        """One outcome a case, in order; each has an equal share of the time."""
        seconds = clock.elapsed / max(1, len(self._all))
        for job in self._all:
            if isinstance(job, UserError):
                yield Outcome(None, failure=str(job))
            else:
                yield _finished(job.best, job.meter, seconds, {"curve": job.curve})


def _attempt(job_of: Callable[[Case], Job], case: Case) -> Job | UserError:
    try:
        return job_of(case)
    except UserError as error:
        return error


def _finished(best: Best, meter: Meter, seconds: float, trace: dict[str, Any]) -> Outcome:
    """The outcome of a search that took `seconds` of the time it shared."""
    cost = Cost(seconds, meter.calls, meter.tokens)
    trace = trace | {"best": best.history}
    if best.text is None:
        return Outcome(None, cost, trace, failure="no prompt had a score that is a number")
    return Outcome(best.text, cost, trace)
