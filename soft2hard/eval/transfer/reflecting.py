"""Prompt optimisers of other packages on a model behind an API: the rivals of `optimizing`, through the same client,
ledger, limits and judgement.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

from soft2hard.api.answers import FINAL, as_user_error
from soft2hard.api.requests import Request
from soft2hard.api.text_generation import ApiGenerator
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods import gepa, mipro
from soft2hard.eval.methods.reflective import NOTHING, OutOfBudget, Terms
from soft2hard.eval.transfer.contests import Answers, Contest
from soft2hard.eval.transfer.optimized import Arm, Optimization, Stage
from soft2hard.eval.transfer.optimizing import Optimizer
from soft2hard.lm.text_generation import WholeTextGenerator

Rival = Literal["gepa", "mipro"]
REFLECTIONS = "reflections"
"""The stage of what the model that reflects was asked."""
_AT_ONCE = 8  # tasks: each search asks for little at a time
_REFLECTION_TOKENS = 1024


@dataclass(frozen=True)
class Reflective(Optimizer):
    """Starts from each task's first candidate; `choices.max_calls` is the budget in answers ("metric calls")."""

    writer: WholeTextGenerator = field(kw_only=True)
    """Writes better texts. What it is asked is no metric call; behind an API, its cost is in the ledger."""
    from_nothing: bool = False
    """Start from a sentence that says nothing instead of the candidates."""
    meta_prompt: str | None = None
    """As of `SearchOptions`."""
    by: Rival = "gepa"
    interrupted: threading.Event = field(default_factory=threading.Event, init=False)

    def run(self, candidates: Mapping[str, Sequence[Arm]], tasks: Sequence[Task]) -> Optimization:
        """The best prompts of all tasks. Raises UserError as `Optimizer.run` does, and where no reflection is answered
        or a request is given up: the same command then asks for the rest alone."""
        first = {name: arms[:1] for name, arms in candidates.items() if arms}
        if self.from_nothing:
            first = {name: [Arm(NOTHING, origin="nothing")] for name in first}
        plain = replace(self, choices=replace(self.choices, shots=(0,), paraphrases=0))
        contests = plain._contests(first, tasks)
        at_once = min(_AT_ONCE, self.choices.concurrency)
        searching = replace(self, asker=replace(self.asker, concurrency=self.choices.concurrency // at_once))
        with mipro.quiet() if self.by == "mipro" else nullcontext(), ThreadPoolExecutor(at_once) as pool:
            try:
                list(pool.map(searching._search, contests))
            except BaseException:
                searching.interrupted.set()  # the other searches ask for nothing more
                raise
        reflections = [stage for contest in contests for stage in contest.stages if stage.name == REFLECTIONS]
        n = sum(stage.calls for stage in reflections)
        if n and n == sum(stage.missing for stage in reflections):
            raise UserError(
                f"The model that reflects answered none of {n} requests.",
                "See what it says with a smaller --max-calls, or name another --reflection-model.",
            )
        return self._judge(contests)

    def _search(self, contest: Contest) -> None:
        asked: dict[str, Request] = {}
        start = contest.arms[0].text
        writer = self.writer.apart() if isinstance(self.writer, ApiGenerator) else self.writer
        asking = writer if self.meta_prompt else writer.whole(_REFLECTION_TOKENS)
        texts: list[str] = []

        def answers(prompt: str, examples: Sequence[Example]) -> list[str | None]:
            if self.interrupted.is_set():
                raise OutOfBudget
            requests = [contest.asking.request(prompt, example.input) for example in examples]
            sent = self.asker.ask(requests)
            asked.update({request.key: request for request in requests})
            if sent.stop is not None:
                raise as_user_error(sent.stop, self.asker.model)
            if sent.over_budget:
                raise OutOfBudget
            for fault in sent.faults.values():
                if fault.kind not in FINAL:
                    raise as_user_error(fault, self.asker.model)
            found = Answers(sent.answers)
            return [found.text(request) for request in requests]

        def reflect(prompt: str) -> str:
            texts.append(asking.sample([prompt], 1, self.choices.seed + len(texts) + 1)[0][0])
            return texts[-1]

        choices, search = self.choices, {"gepa": gepa.search, "mipro": mipro.search}[self.by]
        terms = Terms(choices.max_calls, choices.seed, self.meta_prompt, choices.asking.laid_out)
        found = search(contest.task, start, answers, reflect, terms)
        contest.stopped = found.stopped
        if (found.text, found.shown) != (start, ()):
            contest.arms, contest.left = [contest.arms[0], Arm(found.text, found.shown, origin=self.by)], [1]
            contest.scores = {0: [], 1: []}
        contest.n_calls = len(asked)
        cost = Answers(self.asker.stored(list(asked.values()))).cost(list(asked.values()))
        contest.stages.append(Stage(self.by, found.tried, 0, best=found.score, **cost))
        spent = writer.spent() if isinstance(writer, ApiGenerator) else {"price": 0.0, "tokens": 0}
        contest.stages.append(Stage(REFLECTIONS, 0, 0, len(texts), missing=texts.count(""), **spent))
