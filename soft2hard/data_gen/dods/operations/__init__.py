"""Made tasks of many kinds: spelling, lists, numbers, times, records and sentences, in splits fixed by a hash.

Their outputs are computed, so there is no end of examples, and a translator can learn from them, at the price of
reading, what many kinds of instruction look like. How each kind is asked for stands in phrasings.yaml. Left out is what
would be a held-out task of `real-tasks` under another name (counting letters, first letters, adding, topics of news,
picking animals or colours), and what the lexical collection keeps from translators (does a list contain ...).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from random import Random

from soft2hard.data_gen.dods.drawing_examples import (
    Sizes,
    canonical_name,
    draw,
    in_fixed_order,
    labels_where_few,
    split_by_hash,
    usable,
)
from soft2hard.data_gen.dods.operations import numbers, records, sentences, words
from soft2hard.data_gen.dods.operations.kinds import Kind, Values
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

TEST_SHARE, VALIDATION_SHARE = 0.10, 0.05
_DRAWS = 3  # for each example that is wanted, since some inputs come up twice

KINDS = {**words.KINDS, **numbers.KINDS, **records.KINDS, **sentences.KINDS}
"""In a fixed order: drawing depends on it."""


def _tasks_of(kind: Kind) -> list["OperationTask"]:
    """One for each choice of parameters."""
    return [
        OperationTask(kind, dict(zip(kind.parameters, chosen, strict=True)))
        for chosen in product(*kind.parameters.values())
    ]


@dataclass(frozen=True)
class OperationTask:
    """A kind with its parameters chosen."""

    kind: Kind
    values: Values

    @property
    def key(self) -> str:
        """The canonical name."""
        return canonical_name(f"operations.{self.kind.name}", self.values)

    @property
    def split(self) -> Split:
        """Where the task always belongs, by a hash of its name."""
        return split_by_hash(self.key, TEST_SHARE, VALIDATION_SHARE)

    def record(self, seed: int, sizes: Sizes) -> Task:
        """The task with examples drawn, which share no input."""
        rng = Random(f"{self.key}/{seed}")
        n = _DRAWS * (sizes.train + sizes.validation + sizes.test)
        drawn = [Example(*self.kind.example(rng, self.values)) for _ in range(n)]
        examples = usable(drawn, Counter())
        slots = dict(self.values) | {f"{k}_or": _or(v) for k, v in self.values.items() if not isinstance(v, str)}
        first, *others = (phrasing.format(**slots) for phrasing in _phrasings()[self.kind.name])
        more = {"paraphrases": tuple(others), "labels": labels_where_few(examples)}
        return draw(examples, sizes, rng).task(self.key, self.kind.name, first, **more)


@dataclass
class Operations:
    """The tasks of all kinds, kinds in turn.

    Raises UserError, as tasks are read, where a folder is given.
    """

    folder: Path | None = None
    sizes: Sizes = Sizes(test=16)
    families: tuple[str, ...] = ()
    """Kinds, all by default."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Nothing: what is made has no faults to leave out."""

    name = "operations"
    licence = "Apache-2.0"
    source = "made by soft2hard"

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """Tasks of a split in a fixed order; `seed` draws their examples. A kind that has run out drops out."""
        if self.folder is not None:
            raise UserError("'operations' are made, not read.", "Leave out --dod-folder.")
        if unknown := set(self.families) - set(KINDS):
            raise UserError(f"'operations' has no kind '{min(unknown)}'.", f"There are {', '.join(KINDS)}.")
        kinds = [KINDS[name] for name in in_fixed_order(self.families or KINDS)]
        of_kind = [_in_fixed_order([task for task in _tasks_of(kind) if task.split == split]) for kind in kinds]
        longest = max(map(len, of_kind), default=0)
        in_turn = [tasks[i] for i in range(longest) for tasks in of_kind if i < len(tasks)]
        for task in in_turn[:n]:
            yield task.record(seed, self.sizes)


def _in_fixed_order(tasks: Sequence[OperationTask]) -> list[OperationTask]:
    by_name = {task.key: task for task in tasks}
    return [by_name[name] for name in in_fixed_order(by_name)]


def _or(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} or {items[-1]}"


@cache
def _phrasings() -> dict[str, list[str]]:
    return read_yaml(Path(__file__).with_name("phrasings.yaml"), "the phrasings of operations")
