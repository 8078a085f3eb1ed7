"""The lexical DoD: unlimited procedural tasks over English words, in splits fixed by a hash.

Every instruction parses back to its task.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random

from soft2hard.data_gen.dods.drawing_examples import canonical_name, split_by_hash
from soft2hard.data_gen.dods.lexical.families import FAMILIES, UNSEEN_FAMILIES
from soft2hard.data_gen.dods.lexical.grammar import Values, Variant, normalise, read, render
from soft2hard.data_gen.tasks import Example, Split, Task

TEST_SHARE, VALIDATION_SHARE = 0.10, 0.05
N_TRAIN = 64
"""Training examples of a task, where no other number is asked for."""
_MAX_TRIES = 4000  # draws without a new task after which a family is taken to be exhausted


@dataclass(frozen=True)
class LexicalTask:
    """A task of the lexical world by its parameters, always in canonical form."""

    family: str
    variant: Variant
    values: Values

    @cached_property
    def key(self) -> str:
        """The canonical name: equal exactly when the tasks are equal."""
        return canonical_name(f"{self.family}.{self.variant.name}", self.values)

    @property
    def split(self) -> Split:
        """Where the task always belongs, by a hash of its canonical name."""
        return split_by_hash(self.key, TEST_SHARE, VALIDATION_SHARE)

    def instruction(self, phrasing: int = 0, rng: Random | None = None) -> str:
        """The task in words; with `rng`, sets and exchangeable parts come in random order."""
        values = self.values if rng is None else self._shuffled(rng)
        return normalise(render(self.variant.phrasings[phrasing], values))

    def _shuffled(self, rng: Random) -> Values:
        values = {k: tuple(rng.sample(v, len(v))) if k in self.variant.sets else v for k, v in self.values.items()}
        if self.variant.swap and rng.random() < 0.5:
            for a, b in zip(*self.variant.swap, strict=True):
                values[a], values[b] = values[b], values[a]
        return values

    def example(self, rng: Random) -> Example:
        """Draw one example."""
        return self.variant.example(self.values, rng)

    def record(self, seed: int = 0, n_train: int = N_TRAIN, n_validation: int = 16, n_test: int = 16) -> Task:
        """The task with examples drawn; train, validation and test share no input.

        Validation and test hold distinct inputs, fewer where a task has few (a relation has 16); train repeats
        inputs where it needs to, so that it keeps the task's own mix of outputs.
        """
        rng = Random(f"{self.key}/{seed}")
        train, validation, test = self._parts(rng, (n_train, n_validation, n_test))
        phrasings = range(1, len(self.variant.phrasings))
        return Task(
            name=self.key,
            family=self.family,
            instruction=self.instruction(),
            paraphrases=tuple(self.instruction(i, rng) for i in phrasings),
            train=train,
            validation=validation,
            test=test,
            labels=self.variant.labels(self.values) if self.variant.labels else None,
        )

    def _parts(self, rng: Random, sizes: tuple[int, int, int]) -> tuple[tuple[Example, ...], ...]:
        """Train, validation and test examples.

        Every input belongs to one part, dealt out 2 : 1 : 1 as inputs come up (for each output apart, where outputs
        form a small closed set), and each part is filled from the same draws. From one pool of distinct inputs
        the 16 words of a category would be used up in train, and test would hold the other answer alone.
        """
        parts: tuple[list[Example], ...] = ([], [], [])
        part_of: dict[str, int] = {}
        deals: dict[str, Iterator[int]] = {}
        taken: set[str] = set()
        for _ in range(20 * sum(sizes)):
            example = self.example(rng)
            group = example.output if self.variant.labels else ""
            if example.input not in part_of:
                part_of[example.input] = next(deals.setdefault(group, itertools.cycle((0, 1, 0, 2))))
            part = part_of[example.input]
            if len(parts[part]) < sizes[part] and (part == 0 or example.input not in taken):
                parts[part].append(example)
                taken.add(example.input)
            if all(len(found) == size for found, size in zip(parts, sizes, strict=True)):
                break
        return tuple(map(tuple, parts))


def make_task(family: str, variant: Variant, values: Values) -> LexicalTask:
    """A task in canonical form."""
    return LexicalTask(family, variant, variant.canonical(values))


def draw_task(family: str, rng: Random) -> LexicalTask:
    """A random task of a family, of any split; every variant is as likely as another."""
    variant = rng.choice(FAMILIES[family])
    return make_task(family, variant, variant.draw(rng))


def parse(text: str) -> LexicalTask | None:
    """The task that a text describes, or None when it is not in the language of instructions."""
    text = normalise(text)
    for family, variants in FAMILIES.items():
        for variant in variants:
            for phrasing in variant.phrasings:
                values = read(phrasing, text)
                if values is not None:
                    return make_task(family, variant, values)
    return None


def same_task(text: str, other: str) -> bool:
    """True if two instructions describe one and the same task; False also where one cannot be parsed."""
    first, second = parse(text), parse(other)
    return first is not None and second is not None and first.key == second.key


class LexicalDoD:
    """Tasks of the lexical world, families in turn.

    `families` restricts the collection; `for_translator=True` leaves out the two families that a
    translator must not have met. Records hold `n_train` training examples.
    """

    name = "lexical"

    def __init__(
        self, families: tuple[str, ...] | None = None, *, for_translator: bool = False, n_train: int = N_TRAIN
    ):
        names = families or tuple(FAMILIES)
        self.n_train = n_train
        self.families = tuple(f for f in names if not (for_translator and f in UNSEEN_FAMILIES))

    def draw(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[LexicalTask]:
        """Distinct tasks of a split by their parameters, one family after another.

        A family that has run out of tasks drops out; the stream ends when all have.
        """
        rng = Random(f"{self.name}/{split}/{seed}")
        seen: set[str] = set()
        alive = list(self.families)
        count = itertools.count()
        while alive:
            for family in tuple(alive):
                task = self._new_task(family, split, rng, seen)
                if task is None:
                    alive.remove(family)
                    continue
                if n is not None and next(count) >= n:
                    return
                yield task

    @staticmethod
    def _new_task(family: str, split: Split, rng: Random, seen: set[str]) -> LexicalTask | None:
        for _ in range(_MAX_TRIES):
            task = draw_task(family, rng)
            if task.key not in seen and task.split == split:
                seen.add(task.key)
                return task
        return None

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """Like `draw`, as full records with examples."""
        for task in self.draw(split, n, seed):
            yield task.record(seed, n_train=self.n_train)
