"""Keyword classification: say which of five classes a sentence is about, which it does not name.

After the keyword-classification collection of arXiv 2605.27642: a teacher proposes categories of five classes each and
writes sentences for every class (`keyword_classification_generation`). This module reads the folder of such tasks.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from soft2hard.api.requests import problems
from soft2hard.data_gen.dods.drawing_examples import Sizes, draw, in_fixed_order, usable
from soft2hard.data_gen.tables import read_json, read_jsonl
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError

SCHEMA_VERSION = 1
N_CLASSES = 5
ABOUT, TASKS, REJECTED, PROMPTS = "dod.json", "tasks.jsonl", "rejected.jsonl", "prompts.jsonl"


class Filled(BaseModel, extra="forbid", frozen=True):
    """A category with its sentences: one line of the tasks' file."""

    category: str = Field(min_length=1)
    """A noun phrase in the singular."""
    sentences: dict[str, list[str]]
    """By class, in the order in which the instruction names the classes."""

    @model_validator(mode="after")
    def _whole(self) -> "Filled":
        if len(self.sentences) != N_CLASSES or not all(self.sentences.values()):
            raise ValueError(f"give {N_CLASSES} classes with sentences")
        return self


class About(BaseModel, extra="forbid", frozen=True):
    """Where a collection comes from."""

    schema_version: int = Field(ge=1, le=SCHEMA_VERSION)
    licence: str
    source: str
    teacher: dict[str, Any]
    """Model, endpoint and parameters."""
    settings: dict[str, Any]
    made: str
    """Date of the making, ISO."""
    soft2hard: str
    """Version of the package."""
    counts: dict[str, int]
    rejected: dict[str, int]
    """Number of texts of the teacher that are not used, by reason."""


def split_of(category: str) -> Split:
    """The split of a category, by a hash of its name in small letters: the same whatever else is in the collection."""
    digest = hashlib.sha256(category.casefold().encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if place < 0.8 else "validation" if place < 0.9 else "test"


@dataclass
class KeywordClassification:
    """A folder that `soft2hard generate keyword-classification` has made.

    Raises UserError for a folder that is none, and for damaged files.
    """

    folder: Path
    sizes: Sizes = Sizes()
    dropped: Counter[str] = field(default_factory=Counter)
    """Examples that the last reading left out, by reason."""

    name = "keyword-classification"

    @property
    def licence(self) -> str:
        return read_about(self.folder).licence

    @property
    def source(self) -> str:
        return read_about(self.folder).source

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """The tasks of a split in a fixed order; `seed` draws their examples."""
        self.dropped.clear()
        filled = {task.category: task for task in read_filled(self.folder)}
        chosen = in_fixed_order(name for name in filled if split_of(name) == split)
        yield from (self._task(filled[name], seed) for name in chosen[:n])

    def _task(self, filled: Filled, seed: int) -> Task:
        examples = [Example(text, label) for label, texts in filled.sentences.items() for text in texts]
        try:
            parts = draw(usable(examples, self.dropped), self.sizes, Random(f"{filled.category}/{seed}"))
        except UserError as error:
            raise UserError(f"{self.folder}, '{filled.category}': {error.problem}", error.remedy) from error
        *others, last = labels = tuple(filled.sentences)
        instruction = f"Say which {filled.category} the sentence is about: {', '.join(others)} or {last}."
        return parts.task(filled.category, self.name, instruction, labels=labels, metric="label_accuracy")


def read_about(folder: Path) -> About:
    """Where the collection in a folder comes from. Raises UserError where there is none."""
    if not (folder / ABOUT).is_file():
        raise UserError(
            f"{folder} holds no keyword-classification tasks (it has no {ABOUT}).",
            "Make some with soft2hard generate keyword-classification.",
        )
    try:
        return About.model_validate(read_json(folder / ABOUT))
    except ValidationError as error:
        raise _damaged(folder / ABOUT, error) from error


def read_filled(folder: Path) -> list[Filled]:
    """All categories with their sentences. Raises UserError where a line is damaged or a category comes twice."""
    read_about(folder)
    path, found = folder / TASKS, dict[str, Filled]()
    for number, record in read_jsonl(path):
        try:
            filled = Filled.model_validate(record)
        except ValidationError as error:
            raise _damaged(f"{path}, line {number}", error) from error
        if filled.category in found:
            raise UserError(f"{path} has the category '{filled.category}' twice.", "Make the collection again.")
        found[filled.category] = filled
    return list(found.values())


def _damaged(where: Path | str, error: ValidationError) -> UserError:
    return UserError(
        f"{where}: {problems(error)}.", "Make the collection again; what is in the ledger is not paid for twice."
    )
