"""Records shared by every stage: an example, a task, and a dataset of datasets (DoD)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal, Protocol, runtime_checkable

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """One input and the output wanted for it."""

    input: str
    output: str


@dataclass(frozen=True)
class Task:
    """A task: what is asked, in words, and by examples.

    `train` tunes soft prompts, `validation` stops the tuning and verifies translations, `test` is
    only ever scored on. The three share no input unless the task has too few distinct inputs.
    """

    name: str
    """Unique within its DoD, and stable: for procedural DoDs the canonical form of the task."""
    family: str
    """The kind of task, for results broken down by kind."""
    instruction: str
    """The reference ("gold") instruction; empty when a task is given by examples alone."""
    paraphrases: tuple[str, ...]
    """Other phrasings of the same instruction."""
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] | None = None
    """All possible outputs when they form a small closed set, else None."""
    metric: str = "exact_match"
    """How outputs of this task are scored."""

    @property
    def examples(self) -> tuple[Example, ...]:
        """Of every part."""
        return (*self.train, *self.validation, *self.test)

    @cached_property
    def scored_by(self) -> str:
        """The metric as answers are compared: 'exact_text' instead of 'exact_match' for a task that is about what this
        one overlooks, such as capital letters: after `normalise_answer` most outputs are their inputs, or half of the
        labels are the others."""
        if self.metric != "exact_match":
            return self.metric
        labels = {label.strip() for label in self.labels or ()}
        merged = len(labels) > 1 and 2 * len({normalise_answer(label) or label for label in labels}) <= len(labels)
        changed = [one for one in self.examples if one.input.strip() != one.output.strip()]
        same = sum(normalise_answer(one.input) == normalise_answer(one.output) for one in changed)
        return "exact_text" if merged or 2 * same > len(self.examples) else self.metric

    @property
    def phrasings(self) -> list[str]:
        """The reference instruction and its paraphrases."""
        return [self.instruction, *self.paraphrases]


@dataclass(frozen=True)
class StyleTask(Task):
    """Rewriting sentences of one style in another, which is learnt from sentences of both that are no pairs.

    The examples are pairs, a sentence and how people rewrote it: they tune soft prompts and are what answers are set
    beside. Rewards read the inputs of `validation` and `labelled` alone (arXiv 2205.12548, section 3.2).
    """

    given: str = ""
    """Style of the inputs."""
    wanted: str = ""
    """Style that outputs are to have."""
    labelled: tuple[Example, ...] = ()
    """Sentences of both styles, each with the name of its style as output; no validation or test input is there."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Sentences to rewrite whose rewritings nobody knows."""
        return tuple(example.input for example in self.labelled if example.output == self.given)


_LEAD = re.compile(r"^(?:(?:answer|output) ?: ?)+")
_CLOSING = " .,;:!?"


def normalise_answer(text: str) -> str:
    """An answer as it is compared: the one definition of what does not count.

    In this order: runs of white space become one space and none is left at the ends; case is folded; leading
    'Answer:' or 'Output:' go; closing punctuation goes.
    """
    return _LEAD.sub("", " ".join(text.split()).casefold()).rstrip(_CLOSING)


def demonstrations(task: Task, k: int, seed: int) -> list[Example]:
    """Up to `k` distinct training examples for a few-shot prompt, the same for the same task and seed."""
    distinct = list(dict.fromkeys(task.train))
    return Random(f"{seed}/{task.name}").sample(distinct, min(k, len(distinct)))


@runtime_checkable
class DoD(Protocol):
    """A dataset of datasets: many tasks, each in one fixed split."""

    name: str

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """Yield up to `n` distinct tasks of a split (all of them when None), in an order set by `seed`."""
        ...
