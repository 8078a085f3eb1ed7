"""Everyday tasks: whole, right in form, in one split each, and none of those that real-tasks holds out."""

from collections import Counter
from pathlib import Path

import pytest

from soft2hard.data_gen.dods.drawing_examples import Sizes
from soft2hard.data_gen.dods.everyday import Everyday, EverydayTask, themes
from soft2hard.data_gen.dods.real_tasks import HELD_OUT, RealTasks, split_of
from soft2hard.data_gen.dods.registry import read_for_corpus
from soft2hard.data_gen.tasks import SPLITS, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml
from soft2hard.translator.material import made_tasks
from tests.paths import ROOT, SHARED

WRITTEN = [task for tasks in themes().values() for task in tasks]
ALL = {split: list(Everyday().tasks(split)) for split in SPLITS}
FILES = ("function_vectors", "relations", "persona_statements")


def test_there_are_hundreds_of_tasks_each_in_one_split_and_with_a_name_of_its_own() -> None:
    names = [task.name for tasks in ALL.values() for task in tasks]
    assert len(names) == len(set(names)) == len(WRITTEN) > 500
    assert len(ALL["train"]) / len(names) == pytest.approx(0.85, abs=0.04)
    assert {task.family for task in ALL["train"]} == set(themes())


def is_whole(task: EverydayTask) -> bool:
    """Six phrasings and two dozen examples of other inputs, labels in balance."""
    phrasings = [task.instruction, *task.paraphrases]
    inputs, outputs = zip(*task.examples, strict=True)
    found = Counter(outputs)
    most = 2 * len(outputs) / len(found) + 2 if len(found) <= 6 else len(outputs)
    return (
        len({text.casefold() for text in phrasings}) == 6
        and all(text == " ".join(text.split()) and len(text.split()) <= 30 for text in phrasings)
        and len(set(inputs)) == len(inputs) >= 22
        and all(text and text == text.strip() and "\n" not in text for text in (*inputs, *outputs))
        and len(found) > 1
        and max(found.values()) <= most
    )


def test_a_task_has_six_phrasings_and_two_dozen_examples_that_are_whole() -> None:
    assert not [task.name for task in WRITTEN if not is_whole(task)]


def normal(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())


def test_no_instruction_is_one_of_a_held_out_real_task() -> None:
    held_out = set()
    for file in FILES:
        for name, texts in read_yaml(ROOT / f"soft2hard/data_gen/dods/{file}.yaml", "phrasings").items():
            if split_of(f"{file.replace('_', '-')}/{name}") != "train":
                held_out |= set(map(normal, texts))
    assert len(held_out) > 200
    written = {normal(text) for task in WRITTEN for text in (task.instruction, *task.paraphrases)}
    assert not written & held_out


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data")
def test_no_instruction_is_one_that_people_wrote_for_the_collections_that_are_never_trained_on() -> None:
    real = [task for task in RealTasks(SHARED).tasks("test") if task.name.partition("/")[0] in HELD_OUT]
    written = {normal(text) for task in WRITTEN for text in (task.instruction, *task.paraphrases)}
    assert len(real) > 25 and not written & {normal(text) for task in real for text in task.phrasings}


def test_the_seed_draws_examples_and_themes_and_sizes_can_be_chosen() -> None:
    theme = next(iter(themes()))
    some, others = (list(Everyday(families=(theme,)).tasks("train", 5, seed)) for seed in (0, 1))
    assert [task.name for task in some] == [task.name for task in others] and some != others
    assert {task.family for task in some} == {theme}
    small = next(Everyday(sizes=Sizes(8, 2, 3)).tasks("train"))
    assert [len(part) for part in (small.train, small.validation, small.test)] == [8, 2, 3]
    assert len(set(small.examples)) == 13


def test_labels_are_known_where_a_task_has_few() -> None:
    of_name = {task.name: task for tasks in ALL.values() for task in tasks}
    for written in WRITTEN:
        outputs = {output for _, output in written.examples}
        task: Task = of_name[f"everyday/{written.name}"]
        assert task.labels == (tuple(sorted(outputs)) if len(outputs) <= 8 else None)


def test_it_is_named_without_a_folder_and_refuses_one(tmp_path: Path) -> None:
    read, dropped = read_for_corpus("everyday", None, "train", 7)
    assert len(read.read) == 7 and not dropped
    with pytest.raises(UserError, match="comes with the package"):
        read_for_corpus("everyday", tmp_path, "train", 7)
    with pytest.raises(UserError, match="no theme 'poems'"):
        read_for_corpus("everyday", None, "train", 7, options={"families": "poems"})


def test_themes_are_read_first_in_equal_parts_and_their_tasks_again_by_other_examples() -> None:
    n = 2 * len(ALL["train"])
    tasks = made_tasks(("everyday",), n, lambda _: True, 0)
    of_theme = Counter(task.family for task in tasks)
    assert len(tasks) == n and set(of_theme) == set(themes())
    assert max(of_theme.values()) - min(of_theme.values()) <= 1
    again = [task for task in tasks if task.name == tasks[0].name]
    assert len(again) > 1 and again[0].train != again[1].train
