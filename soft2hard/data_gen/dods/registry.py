"""Collections by name, but for the lexical one: published files and made tasks, each imported when it is used."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, get_type_hints

from pydantic import BaseModel, Field, PositiveInt, TypeAdapter, ValidationError

from soft2hard.data_gen.dods.drawing_examples import ALL, Sizes
from soft2hard.data_gen.tables import read_jsonl
from soft2hard.data_gen.tasks import SPLITS, DoD, Split, Task
from soft2hard.errors import UserError, first_line

_CLASSES = {
    "everyday": "everyday:Everyday",
    "few-shot-classification": "published:FewShotClassification",
    "function-vectors": "published:FunctionVectors",
    "instruction-induction": "published:InstructionInduction",
    "keyword-classification": "keyword_classification:KeywordClassification",
    "manifests": "manifest:Manifests",
    "operations": "operations:Operations",
    "persona-statements": "published:PersonaStatements",
    "real-tasks": "real_tasks:RealTasks",
    "relations": "published:Relations",
    "style-transfer": "published:StyleTransfer",
    "super-glue": "super_glue:SuperGlue",
    "super-natural-instructions": "super_natural_instructions:SuperNaturalInstructions",
}
MADE_DODS = frozenset({"everyday", "operations"})
"""Collections that come with the package."""
WITHOUT_FOLDER = MADE_DODS | {"super-glue", "super-natural-instructions"}
"""Collections that need no folder: they are made, or read from the hub."""


class ReadableDoD(DoD, Protocol):
    """A DoD that counts what its last reading left out, by reason."""

    dropped: Counter[str]


class InstructionParaphrases(BaseModel, extra="forbid"):
    """A line of `paraphrases.jsonl`. They belong to an instruction word for word: of another one they say nothing."""

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

    def __init__(self, dod: ReadableDoD, path: Path) -> None:
        self._dod, self._path = dod, path

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


_NO_OPTIONS = frozenset({"folder", "dropped", "left_out"})


def _class_of(name: str) -> type:
    module, of_name = _CLASSES[name].split(":")
    return getattr(import_module(f"soft2hard.data_gen.dods.{module}"), of_name)


def checked_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a collection, such as `{"max_words": 60, "sizes": {"test": "all"}}` or `{"sizes.test": "all"}`.

    They are checked against the fields of its class; 'all' is without a bound.

    Raises UserError for an option that the collection has not, and for a value of another kind or out of range.
    """
    cls = _class_of(name)
    known = {f.name: f for f in fields(cls) if f.name not in _NO_OPTIONS}
    nested: dict[str, Any] = {}
    for key, value in given.items():
        outer, _, inner = key.partition(".")
        if inner:
            nested[outer] = {**nested.get(outer, {}), inner: value}
        else:
            nested[outer] = {**nested.get(outer, {}), **value} if isinstance(value, Mapping) else value
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if key not in known:
            there = f"its options are {', '.join(known)}" if known else "it has none"
            raise UserError(f"The collection '{name}' has no option '{key}'.", f"Of '{name}', {there}.")
        try:
            found[key] = _option(getattr(cls, key), get_type_hints(cls)[key], value)
        except (ValidationError, TypeError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
            raise UserError(f"{name}: the option {key} cannot be {value!r} ({problem}).", _OPTION_REMEDY) from error
    return found


_OPTION_REMEDY = "docs/datasets.md has what each takes."


def _option(default: Any, kind: Any, value: Any) -> Any:
    if isinstance(default, Sizes):
        asked = {part: ALL if n == "all" else TypeAdapter(PositiveInt).validate_python(n) for part, n in value.items()}
        return replace(default, **asked)
    if value == "all" and isinstance(default, int) and not isinstance(default, bool):
        return ALL
    if isinstance(default, tuple) and isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    found = TypeAdapter(kind).validate_python(value)
    if isinstance(found, int | float) and not isinstance(found, bool) and found <= 0:
        raise TypeError("it must be above 0")
    return found


def _open(name: str, folder: Path | None, options: Mapping[str, Any] | None = None) -> ReadableDoD:
    dod = _class_of(name)(folder, **checked_options(name, options or {}))
    path = folder / "paraphrases.jsonl" if folder is not None else None
    return WithParaphrases(dod, path) if path is not None and path.is_file() else dod


FOLDER_DODS: dict[str, Callable[..., ReadableDoD]] = {name: partial(_open, name) for name in _CLASSES}
"""What makes a collection of its folder, with the `paraphrases.jsonl` that lies there, and its options, by name."""


@dataclass(frozen=True)
class TasksInMemory:
    """Tasks of one split that have been read, as a DoD: it gives them in the order in which they were read."""

    name: str
    split: Split
    read: tuple[Task, ...]

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """The tasks, at most `n`, if the split is theirs; `seed` has done its work when they were read."""
        yield from self.read[:n] if split == self.split else ()


def read_for_corpus(
    name: str, folder: Path | None, split: Split, n: int, seed: int = 0, options: Mapping[str, Any] | None = None
) -> tuple[TasksInMemory, dict[str, int]]:
    """Exactly `n` tasks of a split of a collection, and what was left out on the way, by reason.

    Raises UserError for an unknown name, a missing folder, damaged files, fewer tasks than asked for, and tasks
    without an instruction: a translator could not learn from them.
    """
    if name not in FOLDER_DODS:
        raise UserError(
            f"There is no DoD '{name}'.", f"There are lexical, {', '.join(FOLDER_DODS)}; or give task files."
        )
    if folder is None and name not in WITHOUT_FOLDER:
        raise UserError(f"'{name}' is read from files.", "Give the folder that they lie in with --dod-folder.")
    if folder is not None and not folder.exists():
        raise UserError(f"No such file or folder: {folder}.", "docs/datasets.md says where to get the files.")
    dod = FOLDER_DODS[name](folder, options)
    tasks = tuple(dod.tasks(split, n, seed))
    dropped, origin = dict(+dod.dropped), folder or ("The package" if name in MADE_DODS else "The hub")
    if not tasks:
        others = [other for other in SPLITS if other != split and any(True for _ in dod.tasks(other, 1, seed))]
        remedy = f"Choose --split {' or '.join(others)}." if others else "Check the folder."
        raise UserError(f"{origin} has no {split} tasks of {name}.", remedy)
    if len(tasks) < n:
        raise UserError(
            f"{origin} has {len(tasks)} {split} tasks of {name}, not {n}.", f"Ask for fewer: --n-tasks {len(tasks)}."
        )
    without = [task.name for task in tasks if not task.instruction]
    if without:
        raise UserError(
            f"{len(without)} of {n} tasks have no instruction, such as '{without[0]}'.",
            "Write their instructions, which a translator learns to write, or leave them out of the folder.",
        )
    return TasksInMemory(name, split, tasks), dropped
