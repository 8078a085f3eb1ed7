"""The interface of every method: a case in, an outcome out.

A *case* is a task, a soft prompt tuned for it, or both. A *method* makes a prompt of it: a text, a soft prompt or none.
The harness runs all methods on the same cases, subject and template, and scores what comes out; no method ever sees a
test example.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from soft2hard.compute.metering import Count
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.options import Need
from soft2hard.eval.rewriting import Styling
from soft2hard.lm.sentences import Encoder
from soft2hard.lm.subject import Subject
from soft2hard.lm.text_generation import TextGenerator
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.translator.model import Translator


@dataclass(frozen=True)
class Cost:
    """Time and model passes that an outcome took."""

    seconds: float = 0.0
    """Wall time; where cases share batches, the case's equal share of it."""
    model_calls: int = 0
    """Sequences that went through a language model, forwards (a backward pass is not counted apart)."""
    tokens: int = 0
    """Tokens of these sequences, padding left out, cached prefixes counted once."""


def shares(cost: Cost, n: int, own: Mapping[int, Count] | None = None) -> list[Cost]:
    """A cost in `n` equal parts, the remainder going to the first; to part `i`, `own[i]` is added."""
    found = []
    for i in range(n):
        more = (own or {}).get(i, Count())
        calls, tokens = (whole // n + whole % n * (i == 0) for whole in (cost.model_calls, cost.tokens))
        found.append(Cost(cost.seconds / n, calls + more.sequences, tokens + more.tokens))
    return found


@dataclass(frozen=True)
class Case:
    """One task under one seed, as methods see it."""

    task: Task
    """Methods may read everything but `task.test`."""
    soft_prompt: SoftPrompt | None = None
    """Tuned on the task's training examples, where the method needs one."""

    def soft_prompt_problem(self, subject: Subject) -> str | None:
        """The reason why the subject cannot read the case's soft prompt; None where it can."""
        if self.soft_prompt is None:
            return "the case has no soft prompt"
        try:
            subject.check(self.soft_prompt)
        except UserError as error:
            return str(error)
        return None


@dataclass(frozen=True)
class Outcome:
    """The prompt that a method made for one case."""

    prompt: Prompt
    """A hard prompt (text), a soft prompt, or None for no prompt."""
    cost: Cost = Cost()
    trace: dict[str, Any] = field(default_factory=dict)
    """How it came about, as plain JSON values: candidates with scores, rewards by step, the chosen layers, ..."""
    failure: str | None = None
    """Why there is no prompt; such an outcome counts as a failure in every figure and is never averaged away."""


@dataclass
class Bench:
    """The models, validation cases, seed and budget that methods work with."""

    subject: Subject
    tuning_subject: Subject | None = None
    """The same model in the precision that is fastest for many passes; None: `subject` itself."""
    translator: Translator | None = None
    reference: Subject | None = None
    """Reference LM, for perplexity."""
    encoder: Encoder | None = None
    """Embeds texts, for the likeness of prompts to gold instructions; used in scoring alone."""
    style: Styling | None = None
    """Samples, rewards and measures what is rewritten in another style."""
    generator: TextGenerator | None = None
    """A language model, local or behind an API, that is asked for instructions."""
    validation: Sequence[Case] = ()
    """Cases of validation tasks, for choices that hold for all tasks (a layer pair, a weight)."""
    seed: int = 0
    max_seconds: float | None = None
    """Budget of one `run`: a method that optimises stops when it is spent and returns the best so far."""
    max_model_calls: int | None = None
    """Likewise, for each case."""
    log: Callable[[str], None] = lambda message: None

    @property
    def fast_subject(self) -> Subject:
        """The subject in the precision that is fastest for many passes."""
        return self.tuning_subject or self.subject


@runtime_checkable
class Method(Protocol):
    """A way to get a prompt, constructed with its options (`methods.options`) as keyword arguments.

    It may also have a `check(bench)` that raises UserError where a model of the bench cannot serve.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[Need]]

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One outcome a case, in order. Cases share batches where the algorithm allows it and change nothing for each
        other. A case that fails yields an outcome with `failure` set."""
        ...
