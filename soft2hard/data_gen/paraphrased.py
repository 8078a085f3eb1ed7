"""Paraphrases beside a collection: a file `paraphrases.jsonl` in its folder gives them to its tasks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soft2hard.data_gen.tables import read_jsonl
from soft2hard.data_gen.tasks import DoD, Split, Task
from soft2hard.errors import UserError

PARAPHRASES = "paraphrases.jsonl"


class InstructionParaphrases(BaseModel):
    """A line of the file. Paraphrases belong to an instruction word for word: of another one they say nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instruction: str = Field(min_length=1)
    paraphrases: tuple[str, ...]


def read_paraphrases(path: Path) -> dict[str, tuple[str, ...]]:
    """Paraphrases by instruction. Raises UserError for a line that holds something else."""
    found: dict[str, tuple[str, ...]] = {}
    for number, record in read_jsonl(path):
        try:
            line = InstructionParaphrases.model_validate(record)
        except ValidationError as error:
            raise UserError(
                f"{path}, line {number}: no instruction with paraphrases.",
                'Write {"instruction": "...", "paraphrases": ["...", "..."]}, or make the file again.',
            ) from error
        found[line.instruction] = (*found.get(line.instruction, ()), *line.paraphrases)
    return found


class WithParaphrases:
    """A DoD whose tasks have further paraphrases, by their instructions; in all else the one it is made from."""

    def __init__(self, dod: DoD, folder: Path) -> None:
        self._dod, self._path = dod, folder / PARAPHRASES

    def __getattr__(self, name: str) -> Any:
        """The collection's own name, licence, dropped examples and so on."""
        if name.startswith("__"):  # copying and pickling ask before there is a collection to ask
            raise AttributeError(name)
        return getattr(self._dod, name)

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """The collection's tasks with the file's paraphrases after their own."""
        found = read_paraphrases(self._path)
        for task in self._dod.tasks(split, n, seed):
            more = found.get(task.instruction, ())
            yield replace(task, paraphrases=tuple(dict.fromkeys((*task.paraphrases, *more))))


def with_paraphrases(factory: Callable[[Path | None], DoD]) -> Callable[[Path | None], DoD]:
    """A factory of the same collections, that reads the paraphrases in their folders where there are some."""

    def make(folder: Path | None) -> DoD:
        dod = factory(folder)
        return WithParaphrases(dod, folder) if folder is not None and (folder / PARAPHRASES).is_file() else dod

    make.name = factory.name  # type: ignore[attr-defined]
    return make
