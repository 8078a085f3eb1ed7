"""GEPA on a model behind an API: the rival of `optimizing`, through the same client, ledger, limits and judgement."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from soft2hard.api.answers import as_user_error
from soft2hard.api.requests import Request
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.methods.reflective import NOTHING, search
from soft2hard.eval.transfer.optimizing import Answers, Arm, Contest, Optimization, Optimizer, Stage
from soft2hard.lm.text_generation import WholeTextGenerator

_AT_ONCE = 8  # tasks: each search asks for little at a time
_REFLECTION_TOKENS = 1024


class _OverBudget(Exception):
    """Ends a search."""


@dataclass(frozen=True)
class Reflective(Optimizer):
    """Starts from each task's first candidate; `choices.max_calls` is the budget in answers ("metric calls")."""

    writer: WholeTextGenerator = field(kw_only=True)
    """Reflects on wrong answers. What it is asked is no metric call, and its cost is in the ledger."""
    from_nothing: bool = False
    """Start from a sentence that says nothing instead of the candidates."""
    meta_prompt: str | None = None
    """As of `GepaOptions`."""

    def run(self, candidates: Mapping[str, Sequence[Arm]], tasks: Sequence[Task]) -> Optimization:
        """The best prompts of all tasks. Raises UserError as `Optimizer.run` does."""
        for task in tasks:
            self._check(task, candidates.get(task.name, ()))
        first = [Arm(NOTHING, origin="nothing") if self.from_nothing else candidates[t.name][0] for t in tasks]
        contests = [self._contest(task, [arm]) for task, arm in zip(tasks, first, strict=True)]
        self._check_price(contests)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._search, contests))
        return self._judge(contests)

    def _search(self, contest: Contest) -> None:
        asked: dict[str, Request] = {}
        start = contest.arms[0].text
        contest.arms, contest.left = [contest.arms[0]], [0]
        writer = self.writer if self.meta_prompt else self.writer.whole(_REFLECTION_TOKENS)
        n_reflections = 0

        def answers(prompt: str, examples: Sequence[Example]) -> list[str | None]:
            requests = [contest.asking.request(prompt, example.input) for example in examples]
            sent = self.asker.ask(requests)
            asked.update({request.key: request for request in requests})
            if sent.stop is not None:
                raise as_user_error(sent.stop, self.asker.model)
            if sent.over_budget:
                raise _OverBudget
            found = Answers(sent.answers, sent.over_budget)
            return [found.text(request) for request in requests]

        def reflect(prompt: str) -> str:
            nonlocal n_reflections
            n_reflections += 1
            return writer.sample([prompt], 1, self.choices.seed + n_reflections)[0][0]

        try:
            choices = self.choices
            found = search(contest.task, start, answers, reflect, choices.max_calls, choices.seed, self.meta_prompt)
            best, score, n = found.prompt, found.score, found.tried
        except _OverBudget:
            contest.stopped, best, score, n = True, start, None, 1
        if best != start:
            contest.arms, contest.left = [contest.arms[0], Arm(best, origin="gepa")], [1]
        paid = Answers(self.asker.stored(list(asked.values())), over_budget=False)
        contest.n_calls = len(asked)
        cost = paid.cost(list(asked.values()))
        contest.stages.append(Stage(f"gepa, {n_reflections} reflections", n, 0, best=score, **cost))
