"""Task files: a user's own tasks, as JSONL or CSV files of examples.

JSONL: one object a line with `input` and `output`; a first object without either is the header. CSV: columns
`input` and `output`, with leading comment lines (`# instruction: ...`) as the header. Header fields, all
optional: `instruction`, `name` (else the file's stem), `family` (else "user"), `metric` (else "exact_match"),
`paraphrases` of the instruction (a list in JSONL; in CSV a line for each). An instruction may also stand in a
side file, `<stem>.instruction.txt`. Other columns are ignored.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from soft2hard.data_gen.tables import SUFFIXES, read_table, read_text
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError

MOST_VALIDATION = 32
"""Validation examples of a task at most: all of them are read at every look at the validation loss."""
MOST_TEST = 200
FEWEST_FOR_TEST = 20
"""Distinct inputs below which none are set aside for testing."""
_MOST_LABELS = 10


def read_tasks(paths: str | Path | Sequence[str | Path], seed: int = 0) -> list[Task]:
    """The tasks of files, and of all task files in folders (not in folders within those).

    The examples of each are shuffled by `seed` and split by input: a fifth for validation (at least one, at
    most `MOST_VALIDATION`), a fifth for testing where there are `FEWEST_FOR_TEST` inputs, the rest to train on.

    Raises:
        UserError: a file cannot be read, is no table of examples, has none, or has one and the same output
            throughout; a folder has no task files; two tasks share a name.
    """
    found: dict[str, tuple[Path, Task]] = {}
    for path in find_task_files([paths] if isinstance(paths, str | Path) else paths):
        task = read_task(path, seed)
        other, _ = found.setdefault(task.name, (path, task))
        if other != path:
            raise UserError(
                f"{other} and {path} both hold a task named '{task.name}'.",
                "Rename one of the files, or give one another name in its header.",
            )
    return [task for _, task in found.values()]


def find_task_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files stand for themselves; a folder for its .jsonl and .csv files, sorted. Each comes once."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"No such file or folder: {path}.", "Check the path of the task file.")
        within = [path]
        if path.is_dir():
            within = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
            if not within:
                raise UserError(
                    f"The folder {path} has no task files.", f"Put files ending in {' or '.join(SUFFIXES)} there."
                )
        found |= dict.fromkeys(within)
    return list(found)


def read_task(path: str | Path, seed: int = 0) -> Task:
    """The task of one file; see `read_tasks`."""
    path = Path(path)
    table = read_table(path, ("input", "output"))
    examples = list(dict.fromkeys(Example(**row) for row in table.rows))
    outputs = sorted({example.output for example in examples})
    if len(outputs) < 2:
        raise UserError(
            f"{path} has one output throughout ('{outputs[0]}'), so there is nothing to learn.",
            "Add examples with other outputs.",
        )
    name = table.header.get("name") or path.stem
    if not name.isprintable() or name.startswith(".") or set(name) & set('/\\:*?"<>|'):
        raise UserError(  # soft prompts are saved under the names of their tasks
            f"{path} names its task '{name}', which cannot be a file's name.", "Use letters, digits, '-', '_' and '.'."
        )
    parts = _split(examples, Random(f"{seed}/{name}"), path)
    instruction, side_file = table.header.get("instruction"), path.with_name(f"{path.stem}.instruction.txt")
    if instruction is None:  # without a side file the task is given by its examples alone
        instruction = " ".join(read_text(side_file).split()) if side_file.exists() else ""
    paraphrases = tuple(dict.fromkeys(text for text in table.header.get("paraphrases", "").split("\n") if text))
    if paraphrases and not instruction:
        raise UserError(f"{path} has paraphrases but no instruction.", "Give the instruction in its header.")
    is_closed = len(outputs) <= _MOST_LABELS and 3 * len(outputs) <= len(examples)
    return Task(
        name=name,
        family=table.header.get("family", "user"),
        instruction=instruction,
        paraphrases=paraphrases,
        **parts,
        labels=tuple(outputs) if is_closed else None,
        metric=table.header.get("metric", "exact_match"),
    )


def read_inputs(path: str | Path) -> list[str]:
    """The distinct inputs of a file, in order: a task file, of which `output` may be missing, or a .txt, one a line.

    Where `read_task` sets test examples aside, their inputs are left out: what is chosen or verified by the others can
    be tested on them. Raises UserError where it cannot be read or has no input.
    """
    path = Path(path)
    if path.suffix.lower() == ".txt":
        inputs = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        if not inputs:
            raise UserError(f"{path} has no inputs.", "Write one input a line.")
    else:
        inputs = [row["input"] for row in read_table(path, ("input",)).rows]
        tested = _test_inputs(path)
        inputs = [text for text in inputs if text not in tested]
    return list(dict.fromkeys(inputs))


def _test_inputs(path: Path) -> set[str]:
    """Those that `read_task` sets aside; none of a file that is no task."""
    try:
        return {example.input for example in read_task(path).test}
    except UserError:
        return set()


def read_examples(path: str | Path) -> list[Example]:
    """Inputs and outputs of a file that `read_inputs` reads, as far as it has outputs."""
    try:
        rows = read_table(Path(path), ("input",), may_lack=("output",)).rows
    except UserError:
        return []
    return [Example(row["input"], row["output"]) for row in rows if row["output"]]


def content_hash(tasks: Iterable[Task]) -> str:
    """SHA-256, in hexadecimal, of all that the tasks hold: unequal once a file or the seed of its splits changes."""
    return hashlib.sha256("\n".join(map(repr, tasks)).encode()).hexdigest()


@dataclass(frozen=True)
class TaskFilesDoD:
    """A user's tasks as a DoD without test tasks: a fifth, at least one, for validation, chosen by a hash of the name.

    The name holds a hash of the content, so that a corpus is not continued once the files have changed.
    """

    all_tasks: tuple[Task, ...]
    fewest: int = 2
    """Tasks below which there is nothing to hold out; 1 where that is no matter."""

    def __post_init__(self) -> None:
        if len(self.all_tasks) < self.fewest:
            raise UserError(
                "There is a single task, and one must be held out to tell when to stop.", "Give at least two tasks."
            )

    @property
    def name(self) -> str:
        return f"files-{content_hash(self.all_tasks)[:16]}"

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """Yield the tasks of a split; the files fix their examples, so `seed` sets the order alone."""
        ranked = sorted(self.all_tasks, key=lambda task: hashlib.sha256(task.name.encode()).hexdigest())
        n_validation = max(1, len(ranked) // 5)
        chosen = {"validation": ranked[:n_validation], "train": ranked[n_validation:], "test": []}[split]
        yield from Random(seed).sample(chosen, len(chosen))[:n]


def _split(examples: Sequence[Example], rng: Random, path: Path) -> dict[str, tuple[Example, ...]]:
    """Train, validation and test examples; all examples of an input stay together, so that none leaks."""
    inputs = list(dict.fromkeys(example.input for example in examples))
    if len(inputs) < 2:
        raise UserError(f"{path} has a single input.", "Give at least two: one to tune on and one to validate on.")
    rng.shuffle(inputs)
    fifth = len(inputs) // 5
    n_validation = min(max(1, fifth), MOST_VALIDATION)
    n_test = min(fifth, MOST_TEST) if len(inputs) >= FEWEST_FOR_TEST else 0
    sizes = {"validation": n_validation, "test": n_test, "train": len(inputs) - n_validation - n_test}
    part_of = dict(zip(inputs, (part for part, size in sizes.items() for _ in range(size)), strict=True))
    place = {input: number for number, input in enumerate(inputs)}
    shuffled = sorted(examples, key=lambda example: place[example.input])
    return {part: tuple(e for e in shuffled if part_of[e.input] == part) for part in sizes}
