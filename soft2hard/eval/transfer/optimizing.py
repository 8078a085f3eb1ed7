"""The best text for a model behind an API, at a price agreed before.

Candidates are the texts of a translation and their paraphrases, each alone and with demonstrations. They compete on
the API model itself by successive halving (Karnin et al. 2013; Jamieson and Talwalkar, arXiv 1502.07943): all are asked
with the same few examples, the better half with some more, until one is left. What won is judged once, beside the text
that it began with, on examples that chose nothing.

While choosing, a reply without words is a wrong one, and so is a prompt that the model does not take (too long, against
its policy): a prompt that leads there is no good prompt. Where a request was given up for a fault that passes, its
example counts for no candidate. Judgement counts replies that are lacking apart.

Every request goes through the ledger, and what is asked depends on the answers alone: after a kill the same command
asks for nothing twice. All tasks of a round are asked together.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import fmean
from typing import Annotated, Any

from pydantic import BeforeValidator, NonNegativeFloat, NonNegativeInt, PositiveInt

from soft2hard.api.answers import Fault, as_user_error
from soft2hard.api.asking import Asker
from soft2hard.api.prices import check_limit, money, total
from soft2hard.api.requests import OUTPUT_LIMITS, Request, text_request
from soft2hard.data_gen.paraphrasing import Original, fault_of, label_words
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.metrics.task_score import check_metric, grade_one
from soft2hard.eval.transfer.contests import Answers, Contest, most_arms, n_rounds
from soft2hard.eval.transfer.optimized import Arm, Judged, Optimization, Optimized, Stage
from soft2hard.eval.transfer.plan import Asking
from soft2hard.eval.transfer.settings import TransferChoices
from soft2hard.settings import settings

_COPIED_WORDS = 5
_PARAPHRASE = "Write the instruction below in other words. It must ask for exactly the same. Reply with it alone.\n\n{}"
_PARAPHRASE_TOKENS = 96


def _counts(given: Any) -> Any:
    return given.split(",") if isinstance(given, str) else given


@settings
class OptimizeChoices:
    """What is tried, how often, and at what cost."""

    max_calls: PositiveInt = 128
    """Requests of each task, at most, by which candidates are chosen and paraphrased; judging what won comes on top."""
    shots: Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_counts)] = (0, 4, 8)
    """Numbers of demonstrations that each text is tried with, such as 0,4,8; 0 is the text alone."""
    texts: PositiveInt = 8
    """Texts of each task that are tried, the best first."""
    paraphrases: NonNegativeInt = 0
    """Paraphrases of each task's best text that the model itself is asked for."""
    judging: PositiveInt = 32
    """Test examples of each task that judge what won, at most."""
    max_tokens: PositiveInt | None = None
    """Tokens of an answer at most. If not given, 64, or what a task's longest output may take where that is more."""
    max_cost: NonNegativeFloat | None = None
    """US dollars that the ledger's requests may cost in all; sending stops before they might be passed."""
    concurrency: PositiveInt = 32
    """Requests out at once, at most."""
    template: str | None = None
    """Text around input and output, as of transfer."""
    seed: int = 0
    """Of the examples that choose and of those that are shown."""

    @property
    def asking(self) -> TransferChoices:
        """How the model is asked."""
        return TransferChoices(max_tokens=self.max_tokens, template=self.template)


@dataclass(frozen=True)
class Optimizer:
    """Finds the best prompt of each task for one model."""

    asker: Asker
    choices: OptimizeChoices = OptimizeChoices()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every request, as of transfer."""
    log: Callable[[str], None] = lambda line: None
    faults: dict[str, Fault] = field(default_factory=dict, init=False)
    """Of requests that were given up, by their keys."""

    def run(self, candidates: Mapping[str, Sequence[Arm]], tasks: Sequence[Task]) -> Optimization:
        """The best prompts of all tasks, whose candidates are given by their names, the likeliest first.

        Raises UserError, before anything is sent: a task without candidates, without examples to choose on or to judge
        on, or that cannot be scored; a limit on cost that is below the price of the first round or cannot be kept.
        And where the model cannot be asked.
        """
        contests = self._contests(candidates, tasks)
        if self.choices.paraphrases:
            self._paraphrase(contests)
        number = 1
        while self._round(contests, f"round {number}"):
            number += 1
        return self._judge(contests)

    def most(self, candidates: Mapping[str, Sequence[Arm]], tasks: Sequence[Task]) -> tuple[int, float | None]:
        """Requests that `run` may make at most, and US dollars that they may cost at most, None where that is unknown:
        as if all were as long as each task's longest. Nothing is sent. Raises UserError as `run` does."""
        price = self.asker.prices.of(self.asker.model.base_url, self.asker.model.name)
        n_all, costs = 0, []
        for contest in self._arranged(candidates, tasks):
            tests = contest.task.test[: self.choices.judging]
            n = self.choices.max_calls + 2 * len(tests)
            prompt = max((self._sent(contest, arm) for arm in range(len(contest.arms))), key=len)
            longest = max((e.input for e in (*contest.pool, *tests)), key=len)
            bound = None if price is None else price.bound(contest.asking.request(prompt, longest))
            n_all += n
            costs.append(None if bound is None else n * bound)
        return n_all, total(costs)

    def _contests(self, candidates: Mapping[str, Sequence[Arm]], tasks: Sequence[Task]) -> list[Contest]:
        """One for each task, checked, and the model tried. Raises UserError as `run` does."""
        contests = self._arranged(candidates, tasks)
        first = [c.asking.request(self._sent(c, a), c.pool[0].input) for c in contests for a in range(len(c.arms))]
        if self.choices.paraphrases:
            first += [self._paraphrase_request(c, n) for c in contests for n in range(self.choices.paraphrases)]
        self._check_price(first)
        self._try_out(first)
        return contests

    def _arranged(self, candidates: Mapping[str, Sequence[Arm]], tasks: Sequence[Task]) -> list[Contest]:
        if not tasks:
            raise UserError("There is no task.", "Give candidates with their tasks.")
        arms = {task.name: [arm for arm in candidates.get(task.name, ()) if arm.text.strip()] for task in tasks}
        for task in tasks:
            self._check(task, arms[task.name])
        return [self._contest(task, arms[task.name]) for task in tasks]

    def _check(self, task: Task, arms: Sequence[Arm]) -> None:
        if not arms:
            raise UserError(f"There is no candidate for the task '{task.name}'.", "Name tasks as the candidates do.")
        check_metric(task)
        if not task.test:
            raise UserError(
                f"The task '{task.name}' has no examples left to judge on.",
                "Give its file at least 20 distinct inputs.",
            )
        if not (task.train or task.validation):
            raise UserError(f"The task '{task.name}' has no examples to choose on.", "Give it some besides the test's.")

    def _contest(self, task: Task, arms: list[Arm]) -> Contest:
        distinct = list(dict.fromkeys((*task.train, *task.validation)))
        pool = Random(f"optimize/{self.choices.seed}/{task.name}").sample(distinct, len(distinct))
        most = max((k for k in self.choices.shots if 2 * k <= len(pool)), default=0)
        shown, pool = pool[:most], pool[most:]
        texts = list({arm.text: arm for arm in arms}.values())[: self._n_texts(len(self._counts(shown)))]
        asking = Asking(self.asker.model, task, self.choices.asking, self.parameters, self.choices.seed)
        return Contest(task, self._with_shown(texts, shown), pool, asking)

    def _n_texts(self, n_counts: int) -> int:
        """Texts that --max-calls leaves room for, each with every number of demonstrations, paraphrases apart.

        Raises UserError where paraphrases leave room for none.
        """
        n = self.choices.paraphrases
        room = most_arms(self.choices.max_calls - n) // n_counts - n
        if n and room < 1:
            raise UserError(
                f"{n} paraphrases with {n_counts} numbers of demonstrations leave no room for a text among "
                f"{self.choices.max_calls} requests.",
                "Raise --max-calls, or ask for fewer --paraphrases or --shots.",
            )
        return min(self.choices.texts, max(1, room))

    def _counts(self, shown: Sequence[Example]) -> list[int]:
        return sorted({k for k in self.choices.shots if k <= len(shown)}) or [0]

    def _with_shown(self, texts: Sequence[Arm], shown: Sequence[Example]) -> list[Arm]:
        """Each text alone first, then each with demonstrations, as far as there are requests to choose by."""
        found = [replace(arm, shown=(*arm.shown, *shown[:k])) for k in self._counts(shown) for arm in texts]
        return found[: most_arms(self.choices.max_calls)]

    def _check_price(self, requests: Sequence[Request]) -> None:
        price = self.asker.prices.of(self.asker.model.base_url, self.asker.model.name)
        check_limit(self.asker.model, price, requests, self.choices.max_cost)
        if self.choices.max_cost is None or price is None:
            return
        stored, spent = self.asker.stored(requests), self.asker.spent()
        needed = sum(price.bound(request) or 0.0 for request in requests if request.key not in stored)
        if needed + spent > self.choices.max_cost:
            before = f" after the {money(spent)} of this ledger so far" if spent else ""
            raise UserError(
                f"Asking every candidate once may cost {money(needed)}{before}, which is above --max-cost "
                f"{self.choices.max_cost:g}.",
                "Raise it, which is for all requests of the ledger, or try fewer --texts or --shots.",
            )

    def _try_out(self, requests: Sequence[Request]) -> None:
        """Ask the shortest request alone. Raises UserError for whatever keeps it from an answer."""
        shortest = min(requests, key=lambda request: len(request.content))
        found = self._answers([shortest])
        if (fault := found.faults.get(shortest.key)) is not None:
            raise as_user_error(fault, self.asker.model)

    def _sent(self, contest: Contest, arm: int) -> str:
        return contest.arms[arm].prompt(self.choices.asking.laid_out)

    def _n_next(self, contest: Contest) -> int:
        """Examples of the next round; 0 where there is none."""
        if len(contest.left) < 2 or contest.stopped:
            return 0
        calls = (self.choices.max_calls - contest.n_calls) // n_rounds(len(contest.left))
        return min(calls // len(contest.left), len(contest.pool) - contest.n_seen)

    def _round(self, contests: Sequence[Contest], name: str) -> bool:
        """Ask what is left of each task with further examples, and keep the better half; False where nothing is to be
        asked any more."""
        planned = [(contest, contest.pool[contest.n_seen :][: self._n_next(contest)]) for contest in contests]
        planned = [(contest, examples) for contest, examples in planned if examples]
        if not planned:
            return False
        requests = {
            (contest.task.name, arm, e): contest.asking.request(self._sent(contest, arm), e.input)
            for contest, examples in planned
            for e in examples
            for arm in contest.left
        }
        found = self._answers(list(requests.values()))
        for contest, examples in planned:
            asked = {e: {arm: requests[contest.task.name, arm, e] for arm in contest.left} for e in examples}
            calls = [request for of_example in asked.values() for request in of_example.values()]
            for example, of_example in asked.items():
                self._note(contest, example, of_example, found)
            contest.n_calls += len(calls)
            contest.n_seen += len(examples)
            contest.stopped = found.over_budget
            missing = sum(found.text(request) is None for request in calls)
            best, n = contest.best_mean(), len(contest.left)
            contest.stages.append(Stage(name, n, len(examples), best=best, missing=missing, **found.cost(calls)))
            if not found.over_budget:
                contest.keep_half(self.choices.seed)
        self.log(f"{name}: {len(requests)} requests")
        return True

    def _note(self, contest: Contest, example: Example, asked: Mapping[int, Request], found: Answers) -> None:
        """The scores of all arms on one example; none where a request came to nothing that might have passed."""
        if any(found.came_to_nothing(request) for request in asked.values()):
            return
        for arm, request in asked.items():
            contest.scores[arm].append(self._score(contest.task, request, example, found) or 0.0)

    def _paraphrase(self, contests: Sequence[Contest]) -> None:
        """Further arms: the best text of each task in other words, by the model itself, where they pass the checks."""
        n = self.choices.paraphrases
        wanted = {
            id(contest): [self._paraphrase_request(contest, number) for number in range(n)] for contest in contests
        }
        found = self._answers([request for requests in wanted.values() for request in requests])
        for contest in contests:
            first, requests = contest.arms[0].text, wanted[id(contest)]
            named = tuple(word for word in label_words(contest.task) if word.casefold() in first.casefold())
            original = Original(first, named)
            texts = [found.text(request) for request in requests]
            kept: list[str] = []
            for text in filter(None, (" ".join((text or "").split()) for text in texts)):
                if fault_of(text, original, kept) is None:
                    kept.append(text)
            shown = max((arm.shown for arm in contest.arms), key=len)
            contest.add(self._with_shown([Arm(text, origin="paraphrase") for text in kept], shown))
            contest.n_calls += len(requests)
            missing = sum(text is None for text in texts)
            contest.stages.append(Stage("paraphrases", len(kept), 0, missing=missing, **found.cost(requests)))

    def _paraphrase_request(self, contest: Contest, number: int) -> Request:
        defaults: dict[str, Any] = {"temperature": 1, "seed": self.choices.seed + number}
        if not any(self.parameters.get(name) for name in OUTPUT_LIMITS):
            defaults["max_tokens"] = _PARAPHRASE_TOKENS
        asked = _PARAPHRASE.format(contest.arms[0].text)
        return text_request(self.asker.model, asked, {**defaults, **self.parameters}, number)

    def _judge(self, contests: Sequence[Contest]) -> Optimization:
        """What won and what each began with, on test examples."""
        tests = {id(c): c.task.test[: self.choices.judging] for c in contests}
        prompts = {id(c): (c.best.prompt(self.choices.asking.laid_out), c.arms[0].text) for c in contests}
        found = self._answers(
            [c.asking.request(prompt, e.input) for c in contests for prompt in prompts[id(c)] for e in tests[id(c)]]
        )
        tasks = []
        for contest in contests:
            examples, (won, began) = tests[id(contest)], prompts[id(contest)]
            judged, judged_start = (self._judged(contest, prompt, examples, found) for prompt in (won, began))
            requests = {r.key: r for p in (won, began) for e in examples for r in [contest.asking.request(p, e.input)]}
            cost = found.cost(list(requests.values()))
            stage = Stage(
                "judging", 2 - (won == began), len(examples), best=judged.score, missing=judged.missing, **cost
            )
            best = contest.best
            tasks.append(
                Optimized(
                    task=contest.task.name,
                    prompt=won,
                    text=best.text,
                    shown=tuple((e.input, e.output) for e in best.shown),
                    origin=best.origin,
                    start=began,
                    stages=(*contest.stages, stage),
                    judged=judged,
                    judged_start=judged_start,
                    copied=tuple(copied_runs(best.text, contest.task.examples)),
                    stopped=contest.stopped or found.over_budget,
                    sent=contest.asking.settings,
                )
            )
        faults = Counter(fault.kind for fault in self.faults.values())
        return Optimization(self.asker.model, self.choices.template, tuple(tasks), faults)

    def _judged(self, contest: Contest, prompt: str, examples: Sequence[Example], found: Answers) -> Judged:
        scores = [
            self._score(contest.task, contest.asking.request(prompt, example.input), example, found)
            for example in examples
        ]
        had = [score for score in scores if score is not None]
        return Judged(fmean(had) if had else None, tuple(scores), len(scores) - len(had))

    def _answers(self, requests: Sequence[Request]) -> Answers:
        """What the model says, from the ledger or now. Raises UserError where it cannot be asked."""
        sent = self.asker.ask(requests)
        if sent.stop is not None:
            raise as_user_error(sent.stop, self.asker.model)
        self.faults.update(sent.faults)
        return Answers(sent.answers, sent.over_budget, sent.faults)

    @staticmethod
    def _score(task: Task, request: Request, example: Example, found: Answers) -> float | None:
        """By the task's metric; None where there is no answer in words. A refusal is wrong."""
        text = found.text(request)
        return None if text is None else grade_one(task.scored_by, text, example.output)


def copied_runs(text: str, examples: Sequence[Example], n: int = _COPIED_WORDS) -> Iterator[str]:
    """Runs of `n` words of a text that stand in an input or output, whatever their case."""
    held = {run for e in examples for of in (e.input, e.output) for run in _runs(of, n)}
    yield from (run for run in dict.fromkeys(_runs(text, n)) if run in held)


def _runs(text: str, n: int) -> Iterator[str]:
    words = text.casefold().split()
    yield from (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
