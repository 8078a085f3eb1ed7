"""What a translator learns from: a corpus of soft prompts, and tasks of which labelled examples alone are read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import TYPE_CHECKING

from soft2hard.data_gen.dods.drawing_examples import Sizes
from soft2hard.data_gen.dods.everyday import Everyday, themes
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.dods.operations import KINDS, Operations
from soft2hard.data_gen.taskfiles import content_hash as hash_of_tasks
from soft2hard.data_gen.tasks import DoD, Example, Task
from soft2hard.translator.settings import MadeCollection

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Untuned:
    """Tasks of which no soft prompt is tuned, for a translator that reads examples."""

    tasks: tuple[Task, ...] = ()
    """Read in every epoch, each time by other examples."""
    held_out: tuple[Task, ...] = ()
    """Read to tell when to stop."""
    beside: tuple[Task, ...] = ()
    """Read against forgetting, `n_beside` of them in an epoch, in turn."""
    n_beside: int = 0
    n_tasks: int = 0
    """Readings of `tasks` in an epoch, several of each where there are fewer; 0: one of each."""


@dataclass(frozen=True)
class Material:
    """All that one training learns from and is validated on; there may be no soft prompts at all."""

    corpus: "datasets.Dataset | None"
    validation: "datasets.Dataset | None"
    untuned: Untuned = Untuned()

    @property
    def read_in_training(self) -> tuple[Task, ...]:
        """Tasks whose examples alone are read."""
        return (*self.untuned.tasks, *self.untuned.beside)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All that is learned from, each once, with its examples."""
        found = {task.name: task for task in self.read_in_training}
        for row in self.corpus or ():
            pairs = tuple(map(Example, map(str, row["inputs"]), map(str, row["outputs"])))
            if pairs and row["task"] not in found:
                phrasings = (str(row["instruction"]), tuple(map(str, row["paraphrases"])))
                found[row["task"]] = Task(row["task"], row["family"], *phrasings, pairs, (), ())
        return tuple(found.values())

    @property
    def train_tasks(self) -> set[str]:
        """Names of the tasks to learn; not of those that are read against forgetting."""
        return {*(self.corpus["task"] if self.corpus else ()), *(task.name for task in self.untuned.tasks)}

    @property
    def held_out(self) -> set[str]:
        """Names of the tasks to validate on."""
        return {*(self.validation["task"] if self.validation else ()), *(task.name for task in self.untuned.held_out)}

    @property
    def n_pairs(self) -> int:
        """Pairs of an epoch."""
        n_untuned = self.untuned.n_tasks or len(self.untuned.tasks)
        return len(self.corpus or ()) + n_untuned + self.untuned.n_beside

    @property
    def instructions(self) -> tuple[str, ...]:
        """The reference instructions."""
        of_corpus = self.corpus["instruction"] if self.corpus else ()
        return (*of_corpus, *(task.instruction for task in self.read_in_training))

    @property
    def texts(self) -> set[str]:
        """The distinct instructions, paraphrases among them."""
        paraphrases = self.corpus["paraphrases"] if self.corpus else ()
        of_tasks = (text for task in self.read_in_training for text in task.paraphrases)
        return {*self.instructions, *chain.from_iterable(paraphrases), *of_tasks}

    def hashes(self) -> dict[str, object]:
        """Of all that is read, to tell whether two trainings read the same."""
        from soft2hard.data_gen.corpus.rows import content_hash

        found: dict[str, object] = {
            "corpus": None if self.corpus is None else content_hash(self.corpus),
            "validation": None if self.validation is None else content_hash(self.validation),
        }
        if self.read_in_training:
            parts = (self.untuned.tasks, self.untuned.held_out, self.untuned.beside)
            found["untuned"] = [*map(hash_of_tasks, parts), self.untuned.n_tasks, self.untuned.n_beside]
        return found


def made_tasks(collections: Sequence[MadeCollection], n: int, usable: Callable[[Task], bool], seed: int) -> list[Task]:
    """`n` training tasks of collections that come with the package, collections in turn and in each of them its
    families. A family that has run out begins again with other examples: some have few tasks, too few to learn from
    once how examples say which they are."""

    def without_end(dods: Sequence[DoD]) -> Iterator[Task]:
        streams = [_again_and_again(dod, seed) for dod in dods if any(map(usable, dod.tasks("train")))]
        return chain.from_iterable(zip(*(filter(usable, stream) for stream in streams), strict=True))

    streams = [without_end(_by_family(name)) for name in dict.fromkeys(collections) if n]
    return list(islice(chain.from_iterable(zip(*streams, strict=True)), n))


def _again_and_again(dod: DoD, first_seed: int) -> Iterator[Task]:
    return chain.from_iterable(dod.tasks("train", seed=seed) for seed in count(first_seed))


def _by_family(collection: MadeCollection) -> list[DoD]:
    """A collection as one for each family, with as many examples of a task as a corpus keeps."""
    from soft2hard.data_gen.corpus.rows import MOST_EXAMPLES

    if collection == "operations":
        return [Operations(sizes=Sizes(MOST_EXAMPLES, 1, 1), families=(family,)) for family in KINDS]
    if collection == "everyday":
        return [Everyday(families=(theme,)) for theme in themes()]
    families = LexicalDoD(for_translator=True).families
    return [LexicalDoD((family,), n_train=MOST_EXAMPLES) for family in families]
