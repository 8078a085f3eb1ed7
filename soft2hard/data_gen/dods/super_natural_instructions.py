"""Super-NaturalInstructions: some 1600 tasks with definitions that people wrote, from a folder of JSON files.

Wang et al. (arXiv 2204.07705), Apache-2.0. As in the paper, the default split sets tasks of 12 categories aside for
testing, the first 100 instances of these are what is tested on (where enough others are left to tune on), and outputs
are scored by ROUGE-L or, where they are a few labels, exactly. Other than in the paper, of an instance with several
right outputs the first alone counts: `dropped` says how many others there are.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

from soft2hard.data_gen.dods.drawing_examples import Sizes, draw, in_fixed_order, labels_where_few, usable
from soft2hard.data_gen.tables import Records, read_hub, read_json, read_text
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError

HUB_NAME = "Muennighoff/natural-instructions"
"""The English tasks of the default split as a table, a row an output."""
_COLUMNS = ("task_name", "id", "definition", "inputs", "targets")
_N_TESTED = 100
"""Instances of a test task that the published evaluation uses; they stand first (its splits/README.md)."""


@dataclass
class SuperNaturalInstructions:
    """A clone of the repository, with `tasks/*.json` and `splits/default`, any folder of such task files, or the hub.

    Where there are lists of the default split, its test tasks are ours, a tenth of its training tasks serves
    validation, and tasks in neither list are left out. Else a tenth of the tasks each serves validation and testing.
    Both tenths are taken by a hash of the source dataset that a task is named after, since tasks of one source share
    texts.

    `dropped` counts what the last reading left out and why, `left_out` says it for each task by name. Both are about
    the tasks that were read: with `n` there may be more to come. Raises UserError for another folder and damaged files.
    """

    folder: Path | None = None
    """None: the English tasks of the default split come from the hub, all of one family."""
    sizes: Sizes = Sizes()
    english_only: bool = True
    """Leave out tasks with another language than English in input or output."""
    max_words: int = 100
    """Instances with a longer input or output are left out."""
    max_definition_words: int = 150
    """Tasks with a longer definition are left out."""
    max_share: float | None = 0.8
    """Tasks where more of the instances than this have one and the same output are left out; None: no task is."""
    fewest: int = 48
    """Tasks with fewer usable instances are left out."""
    hub_name: str = HUB_NAME
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)

    name = "super-natural-instructions"
    licence = "Apache-2.0"
    source = "github.com/allenai/natural-instructions; Wang et al., arXiv 2204.07705"

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """The tasks of a split in a fixed order; `seed` draws their examples."""
        self.dropped.clear()
        self.left_out.clear()
        found = (self._task(name, read(), split, seed) for name, read in self._contents(split))
        yield from islice((task for task in found if task is not None), n)

    def _contents(self, split: Split) -> Iterator[tuple[str, Callable[[], "_Content"]]]:
        """Names of the tasks of a split, each with what reads it."""
        if self.folder is None:
            records = read_hub(self.hub_name, split="test" if split == "test" else "train", columns=_COLUMNS)
            lacking = [column for column in _COLUMNS if column not in records.columns]
            if lacking:
                raise UserError(f"{records.origin} has no column {lacking[0]}.", f"It must have {', '.join(_COLUMNS)}.")
            names = pd.Series(records.rows["task_name"][:])
            rows_of = names.groupby(names).indices
            for name in in_fixed_order(rows_of):
                if split == "test" or (_tenth(name) == 0) == (split == "validation"):
                    yield name, partial(_read_from_hub, records, name, rows_of[name].tolist())
            return
        files = self._files()
        for name, of_task in self._splits(files).items():
            if of_task == split:
                yield name, partial(_read, files[name])

    def _files(self) -> dict[str, Path]:
        within = self.folder / "tasks" if (self.folder / "tasks").is_dir() else self.folder
        files = {path.stem: path for path in within.glob("*.json")}
        if not files:
            raise UserError(f"{self.folder} has no task files.", "Give a clone of allenai/natural-instructions.")
        return {name: files[name] for name in in_fixed_order(files)}

    def _splits(self, files: Mapping[str, Path]) -> dict[str, Split]:
        """The split of each task, in the order of the files; tasks that belong to none are counted and absent."""
        lists, of_tenth = self._lists(), {0: "validation", 1: "test"}
        if lists is None:
            return {name: of_tenth.get(_tenth(name), "train") for name in files}
        for name in sorted(files.keys() - lists["test"] - lists["train"]):
            self._leave_out(name, "not in the default split")
        if without := (lists["test"] | lists["train"]) - files.keys():
            self.dropped["tasks of the default split without a file"] = len(without)
        listed = [name for name in files if name not in self.left_out]
        train = ("validation", *["train"] * 9)
        return {name: "test" if name in lists["test"] else train[_tenth(name)] for name in listed}

    def _lists(self) -> dict[str, frozenset[str]] | None:
        """Names of the default split's training and test tasks, None where there are no lists."""
        roots = (self.folder, self.folder.parent) if self.folder.name == "tasks" else (self.folder,)
        for folder in (root / "splits" / "default" for root in roots):
            paths = {part: folder / f"{part}_tasks.txt" for part in ("train", "test")}
            there = [path for path in paths.values() if path.is_file()]
            if len(there) == 1:
                raise UserError(
                    f"{folder} has {there[0].name} alone.", "Get train_tasks.txt and test_tasks.txt, or remove both."
                )
            if there:
                return {part: frozenset(read_text(path).split()) for part, path in paths.items()}
        return None

    def _task(self, name: str, content: "_Content", split: Split, seed: int) -> Task | None:
        """A task, or None where a filter leaves it out."""
        if self.english_only and content.languages != {"English"}:
            return self._leave_out(name, "another language than English")
        if len(content.instruction.split()) > self.max_definition_words:
            return self._leave_out(name, "a definition that is too long")
        if content.n_further:
            self.dropped["other right outputs"] += content.n_further
        examples = usable(content.examples, self.dropped, self.max_words)
        if len(examples) < self.fewest:
            return self._leave_out(name, "too few usable instances")
        commonest = Counter(example.output for example in examples).most_common(1)[0][1]
        if self.max_share is not None and commonest > self.max_share * len(examples):
            return self._leave_out(name, "one output almost throughout")
        return self._drawn(name, content, examples, Random(f"{name}/{seed}"), split)

    def _drawn(self, name: str, content: "_Content", examples: list[Example], rng: Random, split: Split) -> Task:
        # What `usable` kept of the instances that the published evaluation uses.
        first = {example.input.strip() for example in content.examples[:_N_TESTED]} if split == "test" else set()
        tested = [example for example in examples if example.input in first]
        others = [example for example in examples if example.input not in first]
        if tested and len(others) >= self.fewest:
            parts = draw(others, self.sizes, rng, test=tested)
        else:
            parts = draw(examples, self.sizes, rng)
        labels = labels_where_few(examples)
        metric = "exact_match" if labels else "rougeL"
        more = {"paraphrases": content.paraphrases, "labels": labels, "metric": metric}
        return parts.task(name, content.category, content.instruction, **more)

    def _leave_out(self, name: str, why: str) -> None:
        self.left_out[name] = why
        self.dropped[f"tasks: {why}"] += 1


class _Content:
    """What is published of a task: of the right outputs of an input the first alone counts."""

    def __init__(
        self, definitions: list[str], category: str, languages: list[str], instances: list[tuple[str, list[str]]]
    ) -> None:
        self.instruction, *paraphrases = (" ".join(text.split()) for text in definitions)
        self.paraphrases, self.category, self.languages = tuple(paraphrases), category, set(languages)
        self.examples = [Example(input, outputs[0]) for input, outputs in instances]
        self.n_further = sum(len(set(outputs)) - 1 for _, outputs in instances)


def _read(path: Path) -> _Content:
    found = read_json(path)
    try:
        return _Content(
            _texts(found["Definition"]),
            _texts(found["Categories"])[0],
            _texts(found["Input_language"]) + _texts(found["Output_language"]),
            [(_text(instance["input"]), _texts(instance["output"])) for instance in found["Instances"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no task of Super-NaturalInstructions ({error}).",
            "It must have Definition, Categories, Input_language, Output_language and Instances with input and output.",
        ) from error


def _read_from_hub(records: Records, name: str, numbers: Iterable[int]) -> _Content:
    """A task from its rows. Raises UserError where they hold something else than text."""
    rows = [records.rows[int(number)] for number in numbers]
    if not all(isinstance(row[column], str) for row in rows for column in _COLUMNS):
        raise UserError(f"{records.origin}: {name} holds something else than text.", "Give another dataset.")
    outputs: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        outputs.setdefault((row["id"], row["inputs"]), []).append(row["targets"])
    instances = [(input, of_instance) for (_, input), of_instance in outputs.items()]
    return _Content([rows[0]["definition"]], SuperNaturalInstructions.name, ["English"], instances)


def _texts(value: Any) -> list[str]:
    """One or more texts; old files give a single one without a list."""
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise ValueError("an empty list")
    return [_text(text) for text in texts]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} for a text")
    return value


def _tenth(name: str) -> int:
    """0 to 9, the same for all tasks of a source: files are named task<number>_<source>_<kind>."""
    parts = name.split("_")
    return int(hashlib.sha256((parts[1] if len(parts) > 2 else name).encode()).hexdigest(), 16) % 10
