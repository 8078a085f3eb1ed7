"""Everyday tasks of many kinds, written for soft2hard: what people ask of language models, in splits fixed by a hash.

Each task has six phrasings and some 24 examples, written one by one: few, but of a kind of its own. A translator that
reads examples learns from them how people ask for things that no rule makes (`operations`) and no small world holds
(`lexical`). Left out is what would be a held-out task of `real-tasks` under another name.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from soft2hard.data_gen.dods.drawing_examples import (
    Sizes,
    draw,
    in_fixed_order,
    labels_where_few,
    split_by_hash,
)
from soft2hard.data_gen.tables import read_jsonl
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError

TEST_SHARE, VALIDATION_SHARE = 0.10, 0.05
_MOST_WORDS = 4  # of outputs that can be wanted word for word
_FEWEST_FOR_LABELS = 20
"""Of these chosen examples, in which labels are in balance."""


class EverydayTask(BaseModel):
    """A line of a theme's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    instruction: str = Field(min_length=1)
    paraphrases: tuple[str, ...]
    examples: tuple[tuple[str, str], ...]

    @property
    def split(self) -> Split:
        """Where the task always belongs, by a hash of its name."""
        return split_by_hash(f"everyday/{self.name}", TEST_SHARE, VALIDATION_SHARE)

    def record(self, theme: str, seed: int, sizes: Sizes) -> Task:
        """The task with its examples drawn into parts."""
        examples = [Example(*pair) for pair in self.examples]
        parts = draw(examples, sizes, Random(f"everyday/{self.name}/{seed}"))
        more = {"paraphrases": self.paraphrases, "labels": labels_where_few(examples, _FEWEST_FOR_LABELS)}
        if median(len(example.output.split()) for example in examples) > _MOST_WORDS:
            more["metric"] = "rougeL"
        return parts.task(f"everyday/{self.name}", theme, self.instruction, **more)


@dataclass
class Everyday:
    """The tasks of all themes, themes mixed.

    Raises UserError, as tasks are read, where a folder is given, and for a theme that is not there.
    """

    folder: Path | None = None
    sizes: Sizes = Sizes(train=16, validation=4, test=4)
    families: tuple[str, ...] = ()
    """Themes, all by default."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Nothing: no faulty task is in the package."""

    name = "everyday"
    licence = "Apache-2.0"
    source = "written for soft2hard"

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """Tasks of a split in a fixed order; `seed` draws their examples."""
        if self.folder is not None:
            raise UserError("'everyday' comes with the package.", "Leave out --dod-folder.")
        if unknown := set(self.families) - set(themes()):
            raise UserError(f"'everyday' has no theme '{min(unknown)}'.", f"There are {', '.join(themes())}.")
        found = {
            task.name: (theme, task)
            for theme in self.families or themes()
            for task in themes()[theme]
            if task.split == split
        }
        for name in islice(in_fixed_order(found), n):
            theme, task = found[name]
            yield task.record(theme, seed, self.sizes)


@cache
def themes() -> dict[str, tuple[EverydayTask, ...]]:
    """Tasks by theme, one a file."""
    files = sorted(Path(__file__).parent.glob("*.jsonl"))
    return {path.stem: tuple(EverydayTask.model_validate(line) for _, line in read_jsonl(path)) for path in files}
