"""Instruction induction: a language model is shown examples and asked for the instruction.

Honovich et al. (arXiv 2205.10782) ask once; APE (Zhou et al., arXiv 2211.01910, algorithm 1) draws many proposals
from several sets of examples and keeps the one that scores best on held-out examples. With one proposal this is
the former, with more the latter.
"""

import time
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np

from soft2hard.compute.metering import count, listening, on_behalf_of
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome, shares
from soft2hard.eval.methods.options import InductionOptions
from soft2hard.lm.sequences import Query
from soft2hard.translator.proposers.base import distinct
from soft2hard.translator.proposers.describe import pair, request


class InstructionInduction(InductionOptions):
    """All requests of all cases are sent in one call of the generator."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """The best proposal for each case; the trace holds all with their scores."""
        started = time.monotonic()
        with listening() as heard:
            proposals = [distinct(texts) for texts in self._proposals(cases, bench)]
            scores = _scores(cases, proposals, bench)
        together = Cost(time.monotonic() - started, heard.shared.sequences, heard.shared.tokens)
        costs = shares(together, len(cases), heard.own)
        for texts, of_case, cost in zip(proposals, scores, costs, strict=True):
            found = list(zip(of_case, texts, strict=True))
            if not found:
                yield Outcome(None, cost, failure="the model proposed no instruction")
                continue
            found.sort(key=lambda pair: -pair[0])
            yield Outcome(found[0][1], cost, {"candidates": [{"text": t, "log_likelihood": s} for s, t in found]})

    def _proposals(self, cases: Sequence[Case], bench: Bench) -> list[list[str]]:
        """The texts that the generator wrote for each case.

        Where it does not count what it runs, as behind an API, each request counts as a sequence of the tokens that
        are sent and come back.
        """
        requests = [[self._request(case, bench, i) for i in range(self.n)] for case in cases]
        with listening() as heard:
            found = bench.generator.sample([text for of_case in requests for text in of_case], 1, bench.seed)
        written = iter(found)
        proposals = [[next(written)[0] for _ in of_case] for of_case in requests]
        if not heard.total.sequences:
            for number, (sent, received) in enumerate(zip(requests, proposals, strict=True)):
                with on_behalf_of(number):
                    count(len(sent), _n_tokens([*sent, *received], bench))
        return proposals

    def _request(self, case: Case, bench: Bench, i: int) -> str:
        examples = list(dict.fromkeys(case.task.train))
        rng = Random(f"{bench.seed}/{case.task.name}/{i}")
        shown = rng.sample(examples, min(self.k, len(examples)))
        return request(self.meta_prompt, [pair(example.input, example.output) for example in shown])


def _n_tokens(texts: Sequence[str], bench: Bench) -> int:
    """By the generator's own tokenizer where it is a local model, else by the subject's."""
    tokenizer = getattr(bench.generator, "lm", bench.subject).tokenizer
    return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts if text)


def _scores(cases: Sequence[Case], proposals: Sequence[Sequence[str]], bench: Bench) -> list[list[float]]:
    """Mean log-likelihood of the validation outputs under each proposal of each case, nats a token."""
    found = []
    for number, (case, texts) in enumerate(zip(cases, proposals, strict=True)):
        queries = [Query(text, e.input, e.output) for text in texts for e in case.task.validation]
        # A call a case, so that each knows its cost: its queries fill batches alone.
        with on_behalf_of(number):
            scored = iter(bench.fast_subject.target_scores(queries))
        means = []
        for _ in texts:
            of_text = [next(scored) for _ in case.task.validation]
            means.append(float(np.mean([score.log_likelihood / score.n_tokens for score in of_text])))
        found.append(means)
    return found
