"""The best text for a model behind an API, at a price agreed before.

Candidates are the texts of a translation and their paraphrases, each alone and with demonstrations. They compete on
the API model itself by successive halving (Karnin et al. 2013; Jamieson and Talwalkar, arXiv 1502.07943): all are asked
with the same few examples, the better half with some more, until one is left. What won is judged once, beside the text
that it began with, on examples that chose nothing.

Every request goes through the ledger, and what is asked depends on the answers alone: after a kill the same command
asks for nothing twice. All tasks of a round are asked together.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil, log2
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Annotated, Any

from pydantic import BeforeValidator, NonNegativeFloat, NonNegativeInt, PositiveInt, TypeAdapter

from soft2hard.api.answers import as_user_error
from soft2hard.api.asking import Asker
from soft2hard.api.prices import check_limit, money, table, total
from soft2hard.api.requests import ApiModel, Request, text_request
from soft2hard.data_gen.paraphrasing import Original, fault_of
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval, PairedDifference, mean_interval, paired_difference
from soft2hard.eval.metrics.task_score import check_metric, grade_one
from soft2hard.eval.transfer.plan import Asking
from soft2hard.eval.transfer.settings import TransferChoices
from soft2hard.prompts.template import Template
from soft2hard.settings import settings
from soft2hard.storage.files import atomic_write

SCHEMA_VERSION = 1
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
    max_tokens: PositiveInt = 64
    """Tokens of an answer at most."""
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
class Arm:
    """A candidate prompt."""

    text: str
    shown: tuple[Example, ...] = ()
    origin: str = "translation"
    """'translation', 'paraphrase', or what else the text comes from."""

    def prompt(self, template: Template) -> str:
        """As it is sent."""
        return template.few_shot_text(self.shown, self.text) if self.shown else self.text


@dataclass(frozen=True)
class Stage:
    """One round."""

    name: str
    arms: int
    examples: int
    """New ones."""
    calls: int
    price: float | None
    """USD; None where unknown."""
    best: float | None = None
    """Mean score of the best arm over all examples that it was asked with by then."""
    missing: int = 0
    """Requests without an answer in words; they are in no mean."""
    tokens: int | None = None
    """Of the requests and their answers; None where a reply does not say, or a file is from before this was kept."""


@dataclass(frozen=True)
class Judged:
    """A prompt on the examples that chose nothing."""

    score: float | None
    """None where there is no answer."""
    by_example: tuple[float | None, ...]
    missing: int = 0


@dataclass(frozen=True)
class Optimized:
    """What came of one task."""

    task: str
    prompt: str
    """As it is sent before an input."""
    text: str
    """Its instruction."""
    shown: tuple[tuple[str, str], ...]
    """Its demonstrations."""
    origin: str
    start: str
    """The text that it began with: the first of the candidates, alone."""
    stages: tuple[Stage, ...]
    judged: Judged | None
    judged_start: Judged | None
    copied: tuple[str, ...] = ()
    """Runs of five words in the text that stand in training inputs or outputs: it may have learned these by heart."""
    stopped: bool = False
    """Whether the limit on cost ended the search."""


@dataclass(frozen=True)
class Optimization:
    """All tasks on one model."""

    model: ApiModel
    template: str | None
    tasks: tuple[Optimized, ...]

    @property
    def gain(self) -> PairedDifference | None:
        """Of what won over what each began with: over tasks; with a single one, over its examples."""
        pairs = [(t.task, t.judged, t.judged_start) for t in self.tasks if t.judged and t.judged_start]
        pairs = [(task, a, b) for task, a, b in pairs if a.score is not None and b.score is not None]
        if len(pairs) == 1:
            [(_, a, b)] = pairs
            both = [(x, y) for x, y in zip(a.by_example, b.by_example, strict=True) if None not in (x, y)]
            won, began = ({str(i): pair[side] for i, pair in enumerate(both)} for side in (0, 1))
            return paired_difference(won, began) if both else None
        won, began = {task: a.score for task, a, _ in pairs}, {task: b.score for task, _, b in pairs}
        return paired_difference(won, began) if pairs else None

    def mean(self, which: str) -> Interval | None:
        """Mean score of 'judged' or 'judged_start': over tasks; with a single one, over its examples."""
        judged = [one for task in self.tasks if (one := getattr(task, which)) and one.score is not None]
        scores = [one.score for one in judged]
        if len(judged) == 1:
            scores = [score for score in judged[0].by_example if score is not None]
        return mean_interval(scores) if scores else None

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        with atomic_write(path) as temporary:
            record = {"schema_version": SCHEMA_VERSION} | asdict(self)
            temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Optimization":
        """Read what `save` wrote. Raises UserError where the file is damaged or newer."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value.pop("schema_version") > SCHEMA_VERSION:
                raise UserError(f"{path} was written by a later soft2hard.", "Update soft2hard.")
            return TypeAdapter(cls).validate_python(value)
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.", "Give the file that optimize wrote.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no result of optimize.", "Give the file that optimize wrote.") from error

    def text(self) -> str:
        """For the terminal: what each stage cost and what it found, and what won."""
        rows = []
        for name in dict.fromkeys(stage.name for task in self.tasks for stage in task.stages):
            of_name = [stage for task in self.tasks for stage in task.stages if stage.name == name]
            best = [stage.best for stage in of_name if stage.best is not None]
            rows.append(
                (
                    name,
                    sum(stage.arms for stage in of_name),
                    sum(stage.calls for stage in of_name),
                    sum(stage.missing for stage in of_name),
                    "unknown" if (n := total([stage.tokens for stage in of_name])) is None else n,
                    money(total([stage.price for stage in of_name])),
                    f"{fmean(best):.3f}" if best else "",
                )
            )
        lines = table(("stage", "prompts", "requests", "no answer", "tokens", "cost", "best, on what chose it"), rows)
        lines += [
            "",
            f"Judged on examples that chose nothing: {self.mean('judged')} (began with {self.mean('judged_start')})",
        ]
        if (gain := self.gain) is not None:
            lines.append(f"Gain: {gain.difference}, p = {gain.p_value:.2g}")
        lines += [f"{t.task}: {len(t.copied)} runs of words stand in training examples" for t in self.tasks if t.copied]
        if any(task.stopped for task in self.tasks):
            lines.append("The limit on cost ended the search; raise --max-cost to go on from here.")
        return "\n".join(lines)


# --- the search ---------------------------------------------------------------------------------


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

    def mean(self, arm: int) -> float:
        return fmean(self.scores[arm]) if self.scores[arm] else -1.0

    def ranked(self) -> list[int]:
        """The arms that are left, best first; of equals the one that stood first."""
        return sorted(self.left, key=lambda arm: (-self.mean(arm), arm))

    @property
    def best(self) -> Arm:
        return self.arms[self.ranked()[0]]


@dataclass(frozen=True)
class Optimizer:
    """Finds the best prompt of each task for one model."""

    asker: Asker
    choices: OptimizeChoices = OptimizeChoices()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every request, as of transfer."""
    log: Callable[[str], None] = lambda line: None

    def run(self, candidates: Mapping[str, Sequence[Arm]], tasks: Sequence[Task]) -> Optimization:
        """The best prompts of all tasks, whose candidates are given by their names, the likeliest first.

        Raises UserError, before anything is sent: a task without candidates, without examples to choose on or to judge
        on, or that cannot be scored; a limit on cost that is below the price of the first round or cannot be kept.
        And where the model cannot be asked.
        """
        for task in tasks:
            self._check(task, candidates.get(task.name, ()))
        contests = [self._contest(task, list(candidates[task.name])) for task in tasks]
        self._check_price(contests)
        if self.choices.paraphrases:
            self._paraphrase(contests)
        n_rounds = max(ceil(log2(max(2, len(contest.arms)))) for contest in contests)
        for number in range(1, n_rounds + 1):
            self._round(contests, f"round {number}", n_rounds - number + 1)
        return self._judge(contests)

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
        texts = list({arm.text: arm for arm in arms if arm.text.strip()}.values())[: self.choices.texts]
        asking = Asking(self.asker.model, task, self.choices.asking, self.parameters, self.choices.seed)
        return Contest(task, self._with_shown(texts, shown), pool, asking)

    def _with_shown(self, texts: Sequence[Arm], shown: Sequence[Example]) -> list[Arm]:
        """Each text alone first, then each with demonstrations; as many arms as may be asked at least twice."""
        counts = sorted({k for k in self.choices.shots if k <= len(shown)}) or [0]
        found = [replace(arm, shown=(*arm.shown, *shown[:k])) for k in counts for arm in texts]
        return found[: max(2, self.choices.max_calls // 2)]

    def _check_price(self, contests: Sequence[Contest]) -> None:
        requests = [c.asking.request(self._sent(c, a), c.pool[0].input) for c in contests for a in range(len(c.arms))]
        price = self.asker.prices.of(self.asker.model.base_url, self.asker.model.name)
        check_limit(self.asker.model, price, requests, self.choices.max_cost)
        if self.choices.max_cost is None or price is None:
            return
        stored = self.asker.stored(requests)
        needed = sum(price.bound(request) or 0.0 for request in requests if request.key not in stored)
        if needed > self.choices.max_cost:
            raise UserError(
                f"Asking every candidate once may cost {money(needed)}, which is above --max-cost "
                f"{self.choices.max_cost:g}.",
                "Raise it, or try fewer --texts or --shots.",
            )

    def _sent(self, contest: Contest, arm: int) -> str:
        return contest.arms[arm].prompt(self.choices.asking.laid_out)

    def _round(self, contests: Sequence[Contest], name: str, rounds_left: int) -> None:
        """Ask what is left of each task with further examples, and keep the better half."""
        planned: list[tuple[Contest, list[Example]]] = []
        for contest in contests:
            calls = (self.choices.max_calls - contest.n_calls) // rounds_left
            n = min(calls // max(1, len(contest.left)), len(contest.pool) - contest.n_seen)
            if len(contest.left) > 1 and n > 0 and not contest.stopped:
                planned.append((contest, contest.pool[contest.n_seen : contest.n_seen + n]))
        found = self._answers(
            [
                contest.asking.request(self._sent(contest, arm), example.input)
                for contest, examples in planned
                for arm in contest.left
                for example in examples
            ]
        )
        for contest, examples in planned:
            calls = [
                (arm, e, contest.asking.request(self._sent(contest, arm), e.input))
                for arm in contest.left
                for e in examples
            ]
            scores = [(arm, self._score(contest.task, request, e, found)) for arm, e, request in calls]
            for arm, score in scores:
                if score is not None:
                    contest.scores[arm].append(score)
            contest.n_calls += len(calls)
            contest.n_seen += len(examples)
            contest.stopped = found.over_budget
            ranked = contest.ranked()
            missing = sum(score is None for _, score in scores)
            best = contest.mean(ranked[0]) if contest.scores[ranked[0]] else None
            cost = found.cost([request for _, _, request in calls])
            contest.stages.append(Stage(name, len(contest.left), len(examples), best=best, missing=missing, **cost))
            if not found.over_budget:
                contest.left = ranked[: ceil(len(ranked) / 2)]
        if planned:
            self.log(f"{name}: {sum(c.stages[-1].calls for c, _ in planned)} requests")

    def _paraphrase(self, contests: Sequence[Contest]) -> None:
        """Further arms: the best text of each task in other words, by the model itself, where they pass the checks."""
        n = self.choices.paraphrases
        wanted = {
            id(contest): [self._paraphrase_request(contest.arms[0].text, number) for number in range(n)]
            for contest in contests
        }
        found = self._answers([request for requests in wanted.values() for request in requests])
        for contest in contests:
            first, requests = contest.arms[0], wanted[id(contest)]
            texts = [found.text(request) for request in requests]
            kept: list[str] = []
            for text in filter(None, (" ".join((text or "").split()) for text in texts)):
                if fault_of(text, Original(first.text), kept) is None:
                    kept.append(text)
            shown = max((arm.shown for arm in contest.arms), key=len)
            more = self._with_shown([Arm(text, origin="paraphrase") for text in kept], shown)
            contest.add(more[: max(0, self.choices.max_calls // 2 - len(contest.arms))])
            contest.n_calls += len(requests)
            missing = sum(text is None for text in texts)
            contest.stages.append(Stage("paraphrases", len(kept), 0, missing=missing, **found.cost(requests)))

    def _paraphrase_request(self, text: str, number: int) -> Request:
        defaults = {"temperature": 1, "max_tokens": _PARAPHRASE_TOKENS, "seed": self.choices.seed + number}
        return text_request(self.asker.model, _PARAPHRASE.format(text), {**defaults, **self.parameters}, number)

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
                    copied=tuple(copied_runs(best.text, (*contest.task.train, *contest.task.validation))),
                    stopped=contest.stopped or found.over_budget,
                )
            )
        return Optimization(self.asker.model, self.choices.template, tuple(tasks))

    def _judged(self, contest: Contest, prompt: str, examples: Sequence[Example], found: "Answers") -> Judged:
        scores = [
            self._score(contest.task, contest.asking.request(prompt, example.input), example, found)
            for example in examples
        ]
        had = [score for score in scores if score is not None]
        return Judged(fmean(had) if had else None, tuple(scores), len(scores) - len(had))

    def _answers(self, requests: Sequence[Request]) -> "Answers":
        """What the model says, from the ledger or now. Raises UserError where it cannot be asked."""
        if not requests:
            return Answers({}, False)
        sent = self.asker.ask(requests)
        if sent.stop is not None:
            raise as_user_error(sent.stop, self.asker.model)
        return Answers(sent.answers, sent.over_budget)

    @staticmethod
    def _score(task: Task, request: Request, example: Example, found: "Answers") -> float | None:
        """By the task's metric; None where there is no answer in words. A refusal is wrong."""
        text = found.text(request)
        return None if text is None else grade_one(task.metric, text, example.output)


@dataclass(frozen=True)
class Answers:
    """Answers by the keys of their requests."""

    by_key: Mapping[str, Any]
    over_budget: bool

    def text(self, request: Request) -> str | None:
        answer = self.by_key.get(request.key)
        if answer is None or answer.lack:
            return None
        return "" if answer.refused else request.cut(answer.text).strip()

    def cost(self, requests: Sequence[Request]) -> dict[str, Any]:
        """What requests came to, as a Stage has it; what was not sent costs nothing."""
        had = [answer for request in requests if (answer := self.by_key.get(request.key)) is not None]
        tokens = [total([answer.input_tokens, answer.output_tokens]) for answer in had]
        return {"calls": len(requests), "price": total([answer.price for answer in had]), "tokens": total(tokens)}


def copied_runs(text: str, examples: Sequence[Example], n: int = _COPIED_WORDS) -> Iterator[str]:
    """Runs of `n` words of a text that stand in an input or output, whatever their case."""
    held = {run for e in examples for of in (e.input, e.output) for run in _runs(of, n)}
    yield from (run for run in dict.fromkeys(_runs(text, n)) if run in held)


def _runs(text: str, n: int) -> Iterator[str]:
    words = text.casefold().split()
    yield from (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
