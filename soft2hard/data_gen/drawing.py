"""A task's examples as tokens, and the order in which they are drawn."""

from collections.abc import Sequence
from random import Random
from typing import Literal

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.lm.shared_prefix import EncodedExample, encode_example
from soft2hard.lm.subject import Subject


def encode_examples(subject: Subject, task: Task, part: Literal["train", "validation"]) -> list[EncodedExample]:
    """The examples of a part of a task as tokens; raises UserError where it has none."""
    examples = getattr(task, part)
    if not examples:
        raise UserError(f"Task '{task.name}' has no {part} examples.", "Give it some, or leave it out.")
    return [encode_example(subject, example.input, example.output) for example in examples]


class Deck:
    """Deals a task's examples: every one once before any comes again."""

    def __init__(self, examples: Sequence[EncodedExample], rng: Random):
        self.examples, self.rng = examples, rng
        self._order: list[int] = []

    def deal(self, n: int) -> list[EncodedExample]:
        """The next `n` examples."""
        while len(self._order) < n:
            self._order += self.rng.sample(range(len(self.examples)), len(self.examples))
        dealt, self._order = self._order[:n], self._order[n:]
        return [self.examples[i] for i in dealt]
