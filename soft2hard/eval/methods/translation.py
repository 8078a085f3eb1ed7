"""This project's own method: the translator, greedy or verified."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from soft2hard.compute.metering import listening
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Cost, Need, Outcome, shares
from soft2hard.translator.candidates import propose
from soft2hard.translator.settings import TranslateConfig
from soft2hard.translator.translate import Translation, runner_of, translate

_AT_ONCE = 16  # proposals of so many soft prompts are decoded together


@dataclass(frozen=True)
class GreedyTranslation:
    """What the translator writes first, unverified."""

    name: ClassVar[str] = "greedy"
    source: ClassVar[str] = "soft2hard translator, greedy decoding"
    needs: ClassVar[frozenset[Need]] = frozenset({"soft_prompt", "translator"})

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One text a soft prompt."""
        started = time.monotonic()
        with listening() as heard:
            texts = propose(bench.translator, [case.soft_prompt for case in cases], 1)
        costs = shares(Cost(time.monotonic() - started), len(cases), heard.own)
        for found, cost in zip(texts, costs, strict=True):
            yield Outcome(found[0], cost) if found else Outcome(None, cost, failure="the translator wrote nothing")


@dataclass(frozen=True)
class VerifiedTranslation:
    """The candidate with the highest posterior on probe inputs (`soft2hard.translator.candidates`)."""

    n_candidates: int = 64
    n_probes: int = 32
    n_checks: int = 16
    refine_rounds: int = 2
    inputs: str = "examples"
    """Where probe inputs come from: 'examples' (the task's own inputs, without their outputs) or 'invented'."""

    name: ClassVar[str] = "translated"
    source: ClassVar[str] = "soft2hard translator with verification"
    needs: ClassVar[frozenset[Need]] = frozenset({"soft_prompt", "translator", "train", "validation"})

    def __post_init__(self) -> None:
        if self.inputs not in ("examples", "invented"):
            raise UserError(f"translated: inputs is '{self.inputs}'.", "It must be 'examples' or 'invented'.")

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One verified text a soft prompt; the trace holds the other candidates."""
        config = TranslateConfig(self.n_candidates, self.n_probes, self.n_checks, self.refine_rounds, seed=bench.seed)
        runner_of(bench.subject)  # the trial that picks it is no case's cost
        for start in range(0, len(cases), _AT_ONCE):
            chunk = cases[start : start + _AT_ONCE]
            started = time.monotonic()
            inputs = [[e.input for e in (*case.task.validation, *case.task.train)] for case in chunk]
            with listening() as heard:
                translations = translate(
                    [case.soft_prompt for case in chunk],
                    bench.translator,
                    bench.subject,
                    config,
                    inputs=inputs if self.inputs == "examples" else None,
                )
            together = Cost(time.monotonic() - started, heard.shared.sequences, heard.shared.tokens)
            yield from map(self._outcome, translations, shares(together, len(chunk), heard.own))

    def _outcome(self, translation: Translation, cost: Cost) -> Outcome:
        trace = {
            "verdict": translation.verdict,
            "confidence": translation.agreement,
            "greedy": translation.greedy,
            "n_probes": translation.n_probes,
            "n_checks": translation.n_checks,
            "candidates": [asdict(candidate) for candidate in translation.candidates],
        }
        if not translation.text:
            return Outcome(None, cost, trace, failure="the translator wrote nothing")
        return Outcome(translation.text, cost, trace)
