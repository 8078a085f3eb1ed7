"""What collections of files have in common: examples with distinct inputs, drawn into three parts that share none."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from random import Random

from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError

MOST_LABELS = 8
FEWEST_FOR_LABELS = 36
"""More than four of each where there are as many labels as may be."""


ALL = 10**9
"""A bound on examples or words that is none."""


@dataclass(frozen=True)
class Sizes:
    """Examples of each part of a task, at most; `ALL` for all that the other parts leave."""

    train: int = 64
    validation: int = 16
    test: int = 64

    def __post_init__(self) -> None:
        if min(self.train, self.validation, self.test) < 1:
            raise UserError("Each part of a task needs an example.", "Give sizes of at least 1.")


@dataclass(frozen=True)
class Parts:
    """Examples of a task; no input is in two parts, and none is there twice."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]

    def task(self, name: str, family: str, instruction: str, **more: object) -> Task:
        """The task with these examples; `more` are further fields of `Task`."""
        return Task(
            **{"name": name, "family": family, "instruction": instruction, "paraphrases": ()} | vars(self) | more
        )


@dataclass
class EvaluationDoD(ABC):
    """A folder of published tasks that serve evaluation: every one is a test task.

    Raises UserError, as its tasks are read, for another folder and for damaged files.
    """

    folder: Path | None = None
    sizes: Sizes = Sizes()
    max_words: int = 100
    """Longer texts are left out."""
    dropped: Counter[str] = field(default_factory=Counter)
    """What the last reading left out and why."""

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """The tasks in a fixed order; `seed` draws their examples."""
        self.dropped.clear()
        if split == "test":
            yield from islice(self.test_tasks(seed), n)

    @abstractmethod
    def test_tasks(self, seed: int) -> Iterator[Task]:
        """All of them."""

    def whole_sets(self, folders: Mapping[str, Path], files: Sequence[str], none: tuple[str, str]) -> list[str]:
        """The sets whose folder has all these files; others with a folder are counted as dropped.

        Raises UserError: `none` where no set has a folder, or a word about the files where none has them all.
        """
        present = [name for name, folder in folders.items() if folder.is_dir()]
        whole = [name for name in present if all((folders[name] / file).is_file() for file in files)]
        if not present:
            raise UserError(*none)
        if not whole:
            raise UserError(f"None of the sets in {self.folder} is whole.", f"Each needs {' and '.join(files)}.")
        if len(whole) < len(present):
            self.dropped[f"sets without {' and '.join(files)}"] = len(present) - len(whole)
        return whole


def usable(examples: Iterable[Example], dropped: Counter[str], max_words: int | None = None) -> list[Example]:
    """Examples with distinct inputs, in order, stripped of white space at their ends; the rest is counted in `dropped`.

    An input with several outputs is left out whole: no answer to it could be called right or wrong. An output counts
    as too long by the same number of words as an input.
    """
    outputs: dict[str, set[str]] = {}
    for example in examples:
        input, output = example.input.strip(), example.output.strip()
        if not input or not output:
            dropped["examples with an empty input or output"] += 1
        elif max_words is not None and max(len(input.split()), len(output.split())) > max_words:
            dropped["examples that are too long"] += 1
        elif output in outputs.setdefault(input, set()):
            dropped["repeated examples"] += 1
        else:
            outputs[input].add(output)
    found = [Example(input, *one) for input, one in outputs.items() if len(one) == 1]
    # A Counter keeps a zero, and a report of what was left out is to name nothing that was not.
    if len(found) < len(outputs):
        dropped["inputs with several outputs"] += len(outputs) - len(found)
    return found


def draw(examples: Sequence[Example], sizes: Sizes, rng: Random, test: Sequence[Example] | None = None) -> Parts:
    """Disjoint parts, drawn at random; `test` is what test examples come from where the source sets some aside.

    All inputs must be distinct. Where there are fewer than asked for, each part has its share of them, and at least
    one. A part of all the examples has what the others leave, or as many as the largest of them if that is more.
    Raises UserError where that cannot be.
    """
    pool = rng.sample(list(examples), len(examples))
    if test is not None and sizes.test == ALL:
        sizes = replace(sizes, test=len(test))
    sizes = _bounded(sizes, len(pool), ("train", "validation") if test is not None else ("train", "validation", "test"))
    if test is None:
        n_test = _share(len(pool), sizes.test, sizes.train + sizes.validation + sizes.test)
        chosen, pool = pool[:n_test], pool[n_test:]
    else:
        chosen = rng.sample(list(test), min(sizes.test, len(test)))
    n_validation = _share(len(pool), sizes.validation, sizes.train + sizes.validation)
    validation, train = pool[:n_validation], pool[n_validation : n_validation + sizes.train]
    if not (train and validation and chosen):
        raise UserError(
            f"{len(examples)} distinct examples to tune on and {len(chosen)} to test on are too few for a task.",
            "Each task needs one to tune on, one to validate on and one to test on.",
        )
    return Parts(tuple(train), tuple(validation), tuple(chosen))


def apart(examples: Iterable[Example], test: Iterable[Example], dropped: Counter[str]) -> list[Example]:
    """Examples whose input is none of the test's."""
    held_out = {example.input for example in test}
    found = list(examples)
    kept = [example for example in found if example.input not in held_out]
    if len(kept) < len(found):
        dropped["training examples that are test examples"] += len(found) - len(kept)
    return kept


def labels_where_few(examples: Sequence[Example], fewest: int = FEWEST_FOR_LABELS) -> tuple[str, ...] | None:
    """All outputs, sorted, where they form a small closed set: at most `MOST_LABELS` among `fewest` examples."""
    outputs = sorted({example.output for example in examples})
    return tuple(outputs) if len(outputs) <= MOST_LABELS and len(examples) >= fewest else None


def canonical_name(kind: str, values: Mapping[str, str | tuple[str, ...]]) -> str:
    """Of a made task: equal exactly when kind and parameters are."""
    written = ", ".join(f"{k}={v if isinstance(v, str) else '+'.join(v)}" for k, v in values.items())
    return f"{kind}({written})"


def split_by_hash(name: str, test_share: float, validation_share: float) -> Split:
    """Where what has this name always belongs."""
    point = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if point < test_share:
        return "test"
    return "validation" if point < test_share + validation_share else "train"


def in_fixed_order(names: Iterable[str]) -> list[str]:
    """Names by their hash: the first few are a mixture of kinds, and the same ones whatever else is there."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def _bounded(sizes: Sizes, n: int, parts: Sequence[str]) -> Sizes:
    """With numbers for those of the `parts` of `n` examples that are to have all."""
    wanted = {part: getattr(sizes, part) for part in parts}
    greedy = [part for part, size in wanted.items() if size == ALL]
    others = [size for size in wanted.values() if size != ALL]
    return replace(sizes, **{part: max((n - sum(others)) // len(greedy), *others, 1) for part in greedy})


def _share(n: int, size: int, all_sizes: int) -> int:
    return min(size, max(1, n * size // all_sizes))
