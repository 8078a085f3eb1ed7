"""Published collections together, in splits of their own: some train a translator, others are never shown to it."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import islice
from pathlib import Path

from soft2hard.data_gen.dods.drawing_examples import EvaluationDoD, Sizes, in_fixed_order, split_by_hash
from soft2hard.data_gen.dods.published import (
    FewShotClassification,
    FunctionVectors,
    InstructionInduction,
    PersonaStatements,
    Relations,
)
from soft2hard.data_gen.tasks import Split, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

_FOLDERS: dict[type[EvaluationDoD], str] = {
    InstructionInduction: "instruction_induction",
    FewShotClassification: "few_shot_classification/16-shot",
    FunctionVectors: "function_vectors",
    Relations: "relations",
    PersonaStatements: "persona_statements",
}
"""Collections, and where each lies in the folder of all."""
_NAMES = frozenset(kind.name for kind in _FOLDERS)
HELD_OUT = frozenset({InstructionInduction.name, FewShotClassification.name})
"""Collections that no translator is trained on, nor on a task that is like one of theirs."""
TEST_SHARE, VALIDATION_SHARE = 0.20, 0.10
"""Of the groups of tasks of the other collections."""


@dataclass
class RealTasks:
    """Instruction induction, 16-shot classification, function vectors, relations and persona statements.

    Tasks that are alike under different names form a group (`same_tasks.yaml`), and a group is in one split: in the
    test split where it has a task of `HELD_OUT`, else by a hash. Names are 'collection/task', the collection is the
    family. Raises UserError, as tasks are read, where the folder has none of the collections, and for damaged files.
    """

    folder: Path | None = None
    sizes: Sizes = Sizes()
    max_words: int = 60
    """Examples with a longer text are left out: each step of tuning reads several."""
    dropped: Counter[str] = field(default_factory=Counter)
    """What the last reading left out and why."""

    name = "real-tasks"
    licence = "Apache-2.0, MIT and CC BY 4.0, by collection"
    source = "arXiv 2205.10782, 2012.15723, 2310.15213, 2308.09124, 2212.09251; see each collection"

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """Tasks of a split in a fixed order, collections mixed; `seed` draws their examples."""
        self.dropped.clear()
        found = {task.name: task for task in self._all(seed) if split_of(task.name) == split}
        yield from (found[name] for name in islice(in_fixed_order(found), n))

    def _all(self, seed: int) -> Iterator[Task]:
        present = {kind: self.folder / place for kind, place in _FOLDERS.items() if (self.folder / place).is_dir()}
        if not present:
            raise UserError(
                f"{self.folder} has none of the folders {', '.join(_FOLDERS.values())}.",
                "Give the folder that the collections lie in (docs/datasets.md).",
            )
        for kind, folder in present.items():
            collection = kind(folder, self.sizes, self.max_words)
            for task in collection.tasks("test", seed=seed):
                name = task.name.partition("/")[0]  # of a 16-shot set, without its sample
                yield replace(task, name=f"{kind.name}/{name}", family=kind.name)
            self.dropped.update(collection.dropped)


# --- splits -----------------------------------------------------------------------------------------


@cache
def _groups() -> tuple[tuple[str, ...], ...]:
    found = read_yaml(Path(__file__).with_name("same_tasks.yaml"), "the groups of tasks that are alike")
    return tuple(tuple(group) for group in found)


@cache
def group_of(task: str) -> tuple[str, ...]:
    """Tasks that this one is like, itself among them, as patterns of 'collection/task'."""
    return next((group for group in _groups() if any(fnmatchcase(task, one) for one in group)), (task,))


def split_of(task: str) -> Split:
    """Where a task, as 'collection/task', always belongs."""
    group = group_of(task)
    if _is_held_out(task):
        return "test"
    return split_by_hash(group[0], TEST_SHARE, VALIDATION_SHARE)


def _is_held_out(task: str) -> bool:
    return any(one.partition("/")[0] in HELD_OUT for one in group_of(task))


def is_apart(task: str, splits: Collection[Split] = ("validation", "test")) -> bool:
    """True if a task, of this collection or of the lexical one, is like no task of this one in these splits."""
    name = task if task.partition("/")[0] in _NAMES else f"lexical/{task}"
    is_real = any(one.partition("/")[0] in _NAMES for one in group_of(name))
    return not is_real or split_of(name) not in splits
