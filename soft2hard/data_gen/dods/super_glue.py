"""SuperGLUE as text tasks: CB, RTE, COPA, WSC, BoolQ, WiC and MultiRC.

Wang et al. (arXiv 1905.00537). Licences differ by set, most are for research: see super.gluebenchmark.com.
Instructions, label words and the wording of inputs are ours (`super_glue.yaml`); the pronoun of WSC stands between
asterisks as in T5 (arXiv 1910.10683). Outputs of the published test sets are hidden, so tests come from the published
validation set. The sets serve evaluation: every one is a test task. ReCoRD is left out: it has no labels, and
several right answers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from soft2hard.data_gen.dods.drawing_examples import EvaluationDoD, apart, draw, usable
from soft2hard.data_gen.tables import read_hub, read_jsonl
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

Row = Mapping[str, Any]

HUB_NAME = "aps/super_glue"


@dataclass(frozen=True)
class _Set:
    folder: str
    """Name of its folder in the published archive."""
    classes: list[str]
    """As the files name them, in the order of the numbers that stand for them."""
    words: list[str]
    """Label words in the same order."""
    wording: str
    """How an input is written, from the row's fields."""
    instruction: str


SETS = {name: _Set(**one) for name, one in read_yaml(Path(__file__).with_suffix(".yaml"), "the sets").items()}


@dataclass
class SuperGlue(EvaluationDoD):
    """A folder with a folder a set, as in the published archives (`CB/train.jsonl`, `CB/val.jsonl`).

    Without a folder the sets come from the hub. Raises UserError for unknown sets.
    """

    max_words: int = 200
    """Longer inputs are left out."""
    sets: tuple[str, ...] = tuple(SETS)
    """Which of them, by their names on the hub."""
    hub_name: str = HUB_NAME
    metric: Literal["label_accuracy", "exact_match"] = "label_accuracy"
    """'exact_match': whether the subject writes the label, as studies that generate have it."""

    name = "super-glue"
    licence = "differs by set; see super.gluebenchmark.com"
    source = "super.gluebenchmark.com, hub aps/super_glue; Wang et al., arXiv 1905.00537"

    def __post_init__(self) -> None:
        unknown = [name for name in self.sets if name not in SETS]
        if unknown:
            raise UserError(f"There is no set '{unknown[0]}'.", f"Choose among {', '.join(SETS)}.")

    def test_tasks(self, seed: int) -> Iterator[Task]:
        """The sets of which the folder holds both parts, or all that were asked for where they come from the hub."""
        names = self.sets
        if self.folder is not None:
            folders = {name: self.folder / SETS[name].folder for name in self.sets}
            said = f"{self.folder} has none of the folders {', '.join(SETS[name].folder for name in self.sets)}."
            none = (said, "Unpack the archives of SuperGLUE there.")
            names = self.whole_sets(folders, ("train.jsonl", "val.jsonl"), none)
        for name in names:
            one = SETS[name]
            train, test = (
                usable(self._examples(name, part), self.dropped, self.max_words) for part in ("train", "val")
            )
            parts = draw(apart(train, test, self.dropped), self.sizes, Random(f"{name}/{seed}"), test=test)
            yield parts.task(name, self.name, one.instruction, labels=tuple(one.words), metric=self.metric)

    def _examples(self, name: str, part: str) -> Iterator[Example]:
        if self.folder is None:
            records = read_hub(self.hub_name, name, {"train": "train", "val": "validation"}[part])
            origin, numbered = records.origin, enumerate(records.rows)
        else:
            path = self.folder / SETS[name].folder / f"{part}.jsonl"
            origin, numbered = str(path), read_jsonl(path)
        for number, row in numbered:
            try:
                yield from (_example(SETS[name], flat) for flat in _FLATTENED.get(name, lambda row: (row,))(row))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                place = "row" if self.folder is None else "line"
                raise UserError(
                    f"{origin}, {place} {number}: no example of {name} ({type(error).__name__}: {error}).",
                    "Get it from its source again.",
                ) from error


def _example(one: _Set, row: Row) -> Example:
    """Files give a class as its name, as true or false, or as its number."""
    label = row["label"]
    number = one.classes.index(label) if isinstance(label, str) else int(label)
    if not 0 <= number < len(one.classes):  # hidden labels are -1
        raise ValueError(f"there is no class {number}")
    return Example(" ".join(one.wording.format_map(row).split()), one.words[number])


def _wsc(row: Row) -> Iterator[Row]:
    """The row with its pronoun marked; the published files keep the spans in `target`, the hub beside the text."""
    row = {**row, **row.get("target", {})}
    words = row["text"].split()
    first, last = row["span2_index"], row["span2_index"] + len(row["span2_text"].split()) - 1
    words[first], words[last] = f"*{words[first]}", (f"*{words[last]}*" if first == last else f"{words[last]}*")
    yield {**row, "marked": " ".join(words)}


def _multirc(row: Row) -> Iterator[Row]:
    """A row an answer: the published files nest answers in questions in passages, the hub does not."""
    if "passage" not in row:
        yield row
        return
    for question in row["passage"]["questions"]:
        for answer in question["answers"]:
            yield {
                "paragraph": row["passage"]["text"],
                "question": question["question"],
                "answer": answer["text"],
                "label": answer["label"],
            }


_FLATTENED: dict[str, Callable[[Row], Iterable[Row]]] = {"wsc": _wsc, "multirc": _multirc}
