"""This project's own method: the translator, greedy or verified."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from soft2hard.compute.metering import listening
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome, shares
from soft2hard.eval.methods.options import GreedyOptions, TranslatedOptions
from soft2hard.translator.candidates import propose
from soft2hard.translator.settings import TranslateConfig
from soft2hard.translator.translate import Translation, translate

_AT_ONCE = 16  # proposals of so many soft prompts are decoded together


class GreedyTranslation(GreedyOptions):
    """One pass of the translator over all cases."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One text a soft prompt."""
        started = time.monotonic()
        with listening() as heard:
            texts = propose(bench.translator, [case.soft_prompt for case in cases], 1)
        costs = shares(Cost(time.monotonic() - started), len(cases), heard.own)
        yield from (_outcome(found[0] if found else "", cost, {}) for found, cost in zip(texts, costs, strict=True))


class VerifiedTranslation(TranslatedOptions):
    """Candidates of the translator, chosen among by the subject."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One verified text a soft prompt; the trace holds the other candidates."""
        config = TranslateConfig(self.n_candidates, self.n_probes, self.n_checks, self.refine_rounds, seed=bench.seed)
        _ = bench.subject.scorer.shares_prefixes  # the trial behind it is no case's cost
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
            for found, cost in zip(translations, shares(together, len(chunk), heard.own), strict=True):
                yield _outcome(found.text, cost, _trace(found))


def _trace(found: Translation) -> dict[str, object]:
    kept = {name: getattr(found, name) for name in ("verdict", "greedy", "n_probes", "n_checks")}
    return kept | {"confidence": found.agreement, "candidates": [asdict(candidate) for candidate in found.candidates]}


def _outcome(text: str, cost: Cost, trace: dict[str, object]) -> Outcome:
    return Outcome(text or None, cost, trace, None if text else "the translator wrote nothing")
