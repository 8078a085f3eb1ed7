"""What the prompt optimisers of other packages share: they ask models through our doors and give back a prompt.

What such a search asks goes through the subject here, or through the client and ledger of an API model
(`eval.transfer.reflecting`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, ParamSpec, Protocol, TypeVar

from soft2hard.compute.metering import listening, on_behalf_of
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome
from soft2hard.eval.methods.options import SearchOptions
from soft2hard.eval.methods.translation import greedy_texts
from soft2hard.eval.metrics.task_score import grade_one
from soft2hard.lm.sequences import Query
from soft2hard.lm.text_generation import TextGenerator, WholeTextGenerator
from soft2hard.prompts.template import Template
from soft2hard.translator.proposers.describe import pair, request

P, T = ParamSpec("P"), TypeVar("T")

NOTHING = "Write the output for the input."
"""Where a search starts that knows nothing of its task."""
_REFLECTION_TOKENS = 512
_SHOWN = 10
"""Examples in a meta prompt."""
_LONGEST_ANSWER = 16

Answers = Callable[[str, Sequence[Example]], Sequence[str | None]]
"""What a model writes for each example's input under a prompt; None where there is no answer."""
Reflect = Callable[[str], str]
"""What a model writes when it is asked for a better text."""


class OutOfBudget(Exception):
    """Raised by `Answers` where nothing more may be asked: a search then gives the best that it has."""


@dataclass(frozen=True)
class Found:
    """The best prompt of a search."""

    text: str
    """Its instruction."""
    score: float | None
    """Mean over the validation examples; None where the budget ended before any prompt was tried on all of them."""
    calls: int
    """Answers that it asked for."""
    tried: int
    """Prompts that it kept."""
    shown: tuple[Example, ...] = ()
    """Its demonstrations."""
    stopped: bool = False
    """Whether `OutOfBudget` ended the search."""

    def prompt(self, template: Template) -> str:
        """As it is sent."""
        return template.prompt_text(self.text, self.shown)


@dataclass(frozen=True)
class Terms:
    """What a search is given beside its task and its models."""

    max_metric_calls: int
    seed: int = 0
    meta_prompt: str | None = None
    """As of `SearchOptions`."""
    template: Template = Template()
    """By which demonstrations are laid out."""


class Search(Protocol):
    """The search of one package, by a task's training and validation examples."""

    def __call__(self, task: Task, start: str, answers: Answers, reflect: Reflect, terms: Terms) -> Found:
        """The best prompt from the instruction `start`.

        What `answers` and `reflect` raise ends the search, also where the package would take it for a wrong answer.
        Raises UserError where the package is missing or there is nothing to learn from.
        """


@dataclass
class Watched:
    """Keeps the first error of the calls that a package makes, most of which take any error for a wrong answer."""

    error: BaseException | None = None

    def calling(self, call: Callable[P, T]) -> Callable[P, T]:
        """The same call, watched: after an error every further one raises it again."""

        def watched(*args: P.args, **kwargs: P.kwargs) -> T:
            if self.error is not None:
                raise self.error
            try:
                return call(*args, **kwargs)
            except BaseException as error:
                self.error = error
                raise

        return watched

    def out_of_budget(self) -> bool:
        """Whether `OutOfBudget` ended the search; raises any other error that did."""
        if self.error is not None and not isinstance(self.error, OutOfBudget):
            raise self.error
        return self.error is not None


def score_of(task: Task, answer: str | None, example: Example) -> float:
    """One answer by the task's metric; nothing is wrong."""
    return grade_one(task.scored_by, answer or "", example.output)


def learning_examples(task: Task) -> tuple[list[Example], list[Example]]:
    """Training and validation examples, each once; the same ones for both where there is no validation.

    Raises UserError where there are none to learn from.
    """
    train, validation = list(dict.fromkeys(task.train)), list(dict.fromkeys(task.validation))
    if not train:
        raise UserError(f"The task '{task.name}' has no training examples.", "Give it some.")
    return train, validation or train


def asked_by(meta_prompt: str, task: Task, first: Sequence[str], rng: Random) -> str:
    """A meta prompt with the training examples of the inputs `first` and as many others as make ten."""
    train = list(dict.fromkeys(task.train))
    shown = [e for e in train if e.input in first]
    others = [e for e in train if e not in shown]
    shown += rng.sample(others, min(max(0, _SHOWN - len(shown)), len(others)))
    return request(meta_prompt, [pair(e.input, e.output) for e in shown])


class Optimising(SearchOptions):
    """One search a case, on the subject; the bench's generator reflects."""

    search: ClassVar[Search]

    def check(self, bench: Bench) -> None:
        """Raise UserError where the generator writes single lines alone."""
        if not self.meta_prompt and not isinstance(bench.generator, WholeTextGenerator):
            raise UserError("The generator cannot write whole texts.", "Give a local model or one behind an API.")

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """The best prompt for each case; the trace holds its score on the validation examples and what it took."""
        writer = bench.generator if self.meta_prompt else bench.generator.whole(_REFLECTION_TOKENS)
        starts, template = self._starts(cases, bench), bench.subject.template
        n = min(self.max_metric_calls, bench.max_model_calls or self.max_metric_calls)
        terms = Terms(n, bench.seed, self.meta_prompt, template)
        for number, (case, start) in enumerate(zip(cases, starts, strict=True)):
            started = time.monotonic()
            with listening() as heard, on_behalf_of(number):
                answers, reflect = self._answers(case, bench), _reflecting(writer, bench.seed)
                found = self.search(case.task, start, answers, reflect, terms)
            cost = Cost(time.monotonic() - started, heard.total.sequences, heard.total.tokens)
            trace = {"start": start, "validation_score": found.score, "metric_calls": found.calls, "kept": found.tried}
            yield Outcome(found.prompt(template), cost, trace)

    def _starts(self, cases: Sequence[Case], bench: Bench) -> list[str]:
        if self.start == "gold":
            return [case.task.instruction or NOTHING for case in cases]
        if self.start == "translation":
            return [text or NOTHING for text in greedy_texts(bench.translator, cases, bench)]
        return [NOTHING] * len(cases)

    @staticmethod
    def _answers(case: Case, bench: Bench) -> Answers:
        subject = bench.fast_subject
        outputs = [example.output for example in (*case.task.train, *case.task.validation)]
        limit = max(_LONGEST_ANSWER, *(len(subject.encode_output(output)) for output in outputs))

        def answers(prompt: str, examples: Sequence[Example]) -> list[str | None]:
            room = subject.context_length
            if room is not None and len(subject.prompt_embeddings(prompt)) > room // 2:
                return [None] * len(examples)  # a prompt that leaves no room is as bad as any
            return list(subject.generate([Query(prompt, e.input) for e in examples], max_new_tokens=limit))

        return answers


def _reflecting(writer: TextGenerator, seed: int) -> Callable[[str], str]:
    asked: dict[str, int] = {}

    def reflect(prompt: str) -> str:
        # The same question again is another sample.
        asked[prompt] = asked.get(prompt, -1) + 1
        return writer.sample([prompt], 1, seed + asked[prompt])[0][0]

    return reflect
