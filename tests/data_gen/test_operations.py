"""Made tasks: what their instructions ask for is what their examples do, and no task is in two splits."""

import calendar
import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from soft2hard.data_gen.dods.drawing_examples import Sizes
from soft2hard.data_gen.dods.lexical.words import CATEGORIES
from soft2hard.data_gen.dods.operations import KINDS, Operations
from soft2hard.data_gen.dods.registry import read_for_corpus
from soft2hard.data_gen.settings import CorpusSettings
from soft2hard.data_gen.tasks import SPLITS, Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.config import Tasks
from soft2hard.storage.yaml_files import read_yaml

ALL = {split: list(Operations().tasks(split)) for split in SPLITS}
BY_KIND: dict[str, list[Task]] = {}
for task in (task for tasks in ALL.values() for task in tasks):
    BY_KIND.setdefault(task.family, []).append(task)


def examples(kind: str, asked: str = "") -> list[Example]:
    """Of all tasks of a kind whose instruction holds a text."""
    found = [example for task in BY_KIND[kind] if asked in task.instruction for example in task.examples]
    assert found, f"no example of {kind} {asked}"
    return found


# --- the collection -----------------------------------------------------------------------------------


def test_every_task_is_in_one_split_and_its_examples_in_one_part() -> None:
    names = [task.name for tasks in ALL.values() for task in tasks]
    assert len(set(names)) == len(names) and {task.family for tasks in ALL.values() for task in tasks} == set(KINDS)
    assert len(ALL["train"]) > 400 and min(map(len, ALL.values())) > 20
    for task in (task for tasks in ALL.values() for task in tasks):
        inputs = [{example.input for example in part} for part in (task.train, task.validation, task.test)]
        assert sum(map(len, inputs)) == len(set().union(*inputs)) == len(task.examples)


def test_every_kind_is_asked_for_in_five_ways_that_name_all_its_parameters() -> None:
    written = read_yaml(Path("soft2hard/data_gen/dods/operations/phrasings.yaml"), "the phrasings")
    assert set(written) == set(KINDS)
    for name, phrasings in written.items():
        slots = {frozenset(re.findall(r"{(\w+?)(?:_or|\[\d\])?}", text)) for text in phrasings}
        assert slots == {frozenset(KINDS[name].parameters)}, name
        assert len(set(phrasings)) >= 5
    for task in (task for tasks in ALL.values() for task in tasks):
        assert len(set(task.phrasings)) == len(task.phrasings) and not any("('" in text for text in task.phrasings)


def test_the_order_is_fixed_kinds_in_turn_and_the_seed_draws_examples() -> None:
    some, others = (list(Operations().tasks("train", 60, seed=seed)) for seed in (4, 5))
    assert len({task.family for task in some}) == 60
    assert some == list(Operations().tasks("train", 60, seed=4))
    assert [task.name for task in some] == [task.name for task in others]
    assert all(one.train != other.train for one, other in zip(some, others, strict=True))


def test_kinds_and_sizes_can_be_chosen() -> None:
    dod = Operations(sizes=Sizes(5, 2, 3), families=("roman", "topic"))
    tasks = [task for split in SPLITS for task in dod.tasks(split)]
    assert {task.family for task in tasks} == {"roman", "topic"}
    assert {(len(task.train), len(task.validation), len(task.test)) for task in tasks} == {(5, 2, 3)}


def test_it_is_named_without_a_folder_and_refuses_one(tmp_path: Path) -> None:
    read, dropped = read_for_corpus("operations", None, "train", 7)
    assert len(read.read) == 7 and not dropped
    assert Tasks(dod="operations", n=3).folder is None
    assert CorpusSettings(split="train", n_tasks=3, dod="operations").folder is None
    with pytest.raises(UserError, match="made, not read"):
        read_for_corpus("operations", tmp_path, "train", 7)
    with pytest.raises(UserError, match="no kind 'romans'"):
        read_for_corpus("operations", None, "train", 7, options={"families": "romans"})
    with pytest.raises(UserError, match="The package has .* tasks of operations, not 5000"):
        read_for_corpus("operations", None, "train", 5000)


# --- what its tasks ask for, by definitions from elsewhere ----------------------------------------------


def _is_same_time(example: Example) -> bool:
    return datetime.strptime(example.output, "%I:%M %p") == datetime.strptime(example.input, "%H:%M")


def _roman_value(text: str) -> int:
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
    numbers = [values[sign] for sign in text]
    return sum(-n if n < max(numbers[i:]) else n for i, n in enumerate(numbers))


def _sorted_by_length(example: Example) -> bool:
    lengths = [len(word) for word in example.output.split(", ")]
    return lengths == sorted((len(word) for word in example.input.split(", ")), reverse=True)


def _sorted_down(example: Example) -> bool:
    return [int(n) for n in example.output.split(", ")] == sorted(map(int, example.input.split(", ")), reverse=True)


def _grouped_by_thousands(example: Example) -> bool:
    return example.output == format(int(example.input), ",d") and "," in example.output


@pytest.mark.parametrize(
    ("kind", "asked", "holds"),
    [
        ("roman", "", lambda e: _roman_value(e.output) == int(e.input) and not re.search(r"(.)\1{3}", e.output)),
        ("twelve_hours", "", _is_same_time),
        ("month_of_numbers", "", lambda e: datetime.fromisoformat(e.input).strftime("%B") == e.output),
        ("month_number", "", lambda e: datetime.strptime(e.input, "%B %Y").month == int(e.output)),
        ("as_json", "key text", lambda e: json.loads(e.output) == {"text": e.input}),
        ("value_in_json", "age", lambda e: str(json.loads(e.input)["age"]) == e.output),
        ("leap_year", "Answer yes", lambda e: calendar.isleap(int(e.input)) == (e.output == "yes")),
        ("thousands", "", _grouped_by_thousands),
        ("times", "seven", lambda e: int(e.output) == 7 * int(e.input)),
        ("rounded", "hundred", lambda e: int(e.output) % 100 == 0 and abs(int(e.output) - int(e.input)) < 50),
        ("sorted_numbers", "descending", _sorted_down),
        ("digits_added", "", lambda e: (int(e.input) - int(e.output)) % 9 == 0),
        ("capital_letters", "", lambda e: e.output.isupper() and e.output.casefold() == e.input.casefold()),
        ("backwards", "", lambda e: "".join(reversed(e.output)) == e.input),
        ("without_vowels", "", lambda e: re.sub("[aeiouAEIOU]", "", e.input) == e.output),
        ("by_length", "longest", _sorted_by_length),
        ("without_tags", "", lambda e: re.sub("<[^>]+>", "", e.input) == e.output),
        ("titled", "Captain", lambda e: e.output == f"Captain {e.input.split()[1]}"),
        ("extracted", "the city", lambda e: {e.output} == {*CATEGORIES["city"]} & {*re.findall(r"\w+", e.input)}),
    ],
)
def test_examples_do_what_the_instruction_says(kind: str, asked: str, holds: Callable[[Example], bool]) -> None:
    assert not [example for example in examples(kind, asked) if not holds(example)]


_WRITTEN = ("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th", "123rd")


def test_ordinals_have_their_endings() -> None:
    found = {int(example.input): example.output for seed in range(6) for example in _ordinals(seed)}
    known = dict(zip((1, 2, 3, 4, 11, 12, 13, 21, 112, 123), _WRITTEN, strict=True))
    assert {number: found.get(number, text) for number, text in known.items()} == known
    assert len(set(found) & set(known)) >= 8


def _ordinals(seed: int) -> list[Example]:
    [task] = [t for s in SPLITS for t in Operations(families=("ordinal_number",)).tasks(s, seed=seed)]
    return list(task.examples)


def test_two_answers_are_about_as_frequent() -> None:
    for task in (task for tasks in ALL.values() for task in tasks):
        if task.labels is not None and len(task.labels) == 2 and task.family != "longer_word":
            outputs = [example.output for example in task.examples]
            # Few words begin with a vowel, and no input comes twice.
            assert 0.15 < outputs.count(task.labels[0]) / len(outputs) < 0.85, task.name
