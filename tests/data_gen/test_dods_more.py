"""Collections of files and of the hub: what is read is what the files hold, and what is left out is counted."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import get_args

import pytest
import yaml

from soft2hard.data_gen.dods.drawing_examples import ALL, Sizes, apart, draw, in_fixed_order, labels_where_few, usable
from soft2hard.data_gen.dods.manifest import Manifest, Manifests
from soft2hard.data_gen.dods.published import FunctionVectors, read_wordings
from soft2hard.data_gen.dods.registry import FOLDER_DODS, MADE_DODS, checked_options, read_for_corpus
from soft2hard.data_gen.dods.super_glue import SETS, SuperGlue
from soft2hard.data_gen.dods.super_natural_instructions import SuperNaturalInstructions
from soft2hard.data_gen.tables import Records, read_records
from soft2hard.data_gen.tasks import DoD, Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.cases import drawn_tasks
from soft2hard.eval.config import Tasks
from soft2hard.eval.metrics.task_score import METRICS
from tests.paths import ROOT, SHARED

FUNCTION_VECTORS = SHARED / "function_vectors"
needs_data = pytest.mark.skipif(not FUNCTION_VECTORS.is_dir(), reason="the published files are not on this machine")


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(n: int, of: int = 1000) -> list[dict]:
    return [{"input": f"in {i}", "output": f"out {i % of}"} for i in range(n)]


def inputs_of(task: Task) -> list[str]:
    return [e.input for part in (task.train, task.validation, task.test) for e in part]


# --- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4, 10, 143, 144, 500])
def test_parts_are_disjoint_and_none_is_empty_or_too_large(n: int) -> None:
    sizes = Sizes(64, 16, 64)
    examples = [Example(str(i), "x") for i in range(n)]
    parts = draw(examples, sizes, Random(0))
    drawn = [*parts.train, *parts.validation, *parts.test]
    assert len(drawn) == len(set(drawn)) == min(n, 144) and set(drawn) <= set(examples)
    for part, most in ((parts.train, 64), (parts.validation, 16), (parts.test, 64)):
        assert 1 <= len(part) <= most
    assert draw(examples, sizes, Random(0)) == parts
    assert n == 3 or draw(examples, sizes, Random(1)) != parts


def test_test_examples_come_from_what_the_source_sets_aside() -> None:
    train, test = [Example(str(i), "x") for i in range(10)], [Example(f"t{i}", "x") for i in range(5)]
    parts = draw(train, Sizes(100, 2, 3), Random(0), test=test)
    assert {*parts.train, *parts.validation} <= set(train) and set(parts.test) < set(test) and len(parts.test) == 3


@pytest.mark.parametrize(
    ("sizes", "n", "n_test", "expected"),
    [
        # A test part of its own takes nothing from the others, nor they from it.
        (Sizes(ALL, 32, ALL), 400, 500, (368, 32, 500)),
        (Sizes(64, 32, ALL), 400, 500, (64, 32, 500)),
        (Sizes(ALL, 32, 100), 400, 500, (368, 32, 100)),
        # Without one, all is what the others leave ...
        (Sizes(64, 16, ALL), 400, None, (64, 16, 320)),
        # ... and where they leave little, as large a share as the largest of them.
        (Sizes(64, 16, ALL), 82, None, (37, 9, 36)),
        (Sizes(64, 16, ALL), 9, None, (4, 1, 4)),
    ],
)
def test_a_part_of_all_the_examples_has_what_the_others_leave_and_never_next_to_nothing(
    sizes: Sizes, n: int, n_test: int | None, expected: tuple[int, ...]
) -> None:
    examples = [Example(f"i{i}", "o") for i in range(n)]
    test = None if n_test is None else [Example(f"t{i}", "o") for i in range(n_test)]
    parts = draw(examples, sizes, Random(0), test)
    assert tuple(map(len, (parts.train, parts.validation, parts.test))) == expected


def test_too_few_examples_and_sizes_of_zero_are_refused() -> None:
    with pytest.raises(UserError, match="1 distinct examples to tune on"):
        draw([Example("a", "b")], Sizes(), Random(0), test=[Example("c", "d")])
    with pytest.raises(UserError, match="Each part of a task needs an example"):
        Sizes(validation=0)


def test_inputs_are_distinct_and_those_with_several_outputs_are_left_out() -> None:
    dropped: Counter[str] = Counter()
    given = [("a", "1"), ("b", "1"), (" a ", "1"), ("b", "2"), ("", "1"), ("c", " "), ("d e f", "1"), ("g", "1 2 3")]
    assert usable([Example(*one) for one in given], dropped, max_words=2) == [Example("a", "1")]
    assert dropped == {
        "repeated examples": 1,
        "inputs with several outputs": 1,
        "examples with an empty input or output": 2,
        "examples that are too long": 2,
    }
    assert apart([Example("a", "1"), Example("b", "1")], [Example("b", "2")], dropped) == [Example("a", "1")]
    assert dropped["training examples that are test examples"] == 1


def test_outputs_are_labels_where_they_are_few_among_many() -> None:
    def cycling(n: int, k: int) -> list[Example]:
        return [Example(str(i), "abcdefghi"[i % k]) for i in range(n)]

    assert labels_where_few(cycling(36, 8)) == tuple("abcdefgh")
    assert labels_where_few(cycling(35, 2)) is None and labels_where_few(cycling(100, 9)) is None


def test_the_order_of_names_does_not_depend_on_the_others() -> None:
    names = [f"task {i}" for i in range(50)]
    order = in_fixed_order(names)
    assert order == in_fixed_order(reversed(names)) != names
    assert in_fixed_order(names[:20]) == [name for name in order if name in names[:20]]


# --- function vectors -----------------------------------------------------------------------------


def test_repeated_and_contradictory_examples_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*pairs(30), *pairs(2), {"input": "in 5", "output": "another"}, {"input": "long " * 9, "output": "x"}]
    write_json(tmp_path / "abstractive" / "antonym.json", rows)
    write_json(tmp_path / "extractive" / "my_own.json", pairs(30))
    dod = FunctionVectors(tmp_path, Sizes(10, 5, 10), max_words=8)
    [task] = dod.tasks("test")
    assert (task.name, task.family, task.metric) == ("antonym", "abstractive", "exact_match")
    assert dod.dropped == {
        "repeated examples": 2,
        "inputs with several outputs": 1,
        "examples that are too long": 1,
        "files that are none of the 56 tasks": 1,
    }
    assert "in 5" not in inputs_of(task) and len(inputs_of(task)) == 25
    [other] = dod.tasks("test", seed=1)
    assert other.train != task.train and sum(dod.dropped.values()) == 5  # counts are of the last reading
    assert list(dod.tasks("train")) == []


def test_folders_and_files_that_are_no_function_vectors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no task of function vectors"):
        list(FunctionVectors(tmp_path).tasks("test"))
    write_json(tmp_path / "abstractive" / "antonym.json", [{"question": "a"}])
    with pytest.raises(UserError, match="antonym.json has records of another kind"):
        list(FunctionVectors(tmp_path).tasks("test"))
    write_json(tmp_path / "abstractive" / "antonym.json", pairs(2))
    with pytest.raises(UserError, match="too few for a task"):
        list(FunctionVectors(tmp_path).tasks("test"))


@needs_data
def test_every_published_task_has_an_instruction_and_disjoint_examples_of_its_file() -> None:
    files = {path.stem: path for path in FUNCTION_VECTORS.glob("*tractive/*.json")}
    tasks = {task.name: task for task in FunctionVectors(FUNCTION_VECTORS).tasks("test")}
    assert files.keys() == tasks.keys() == read_wordings("function_vectors").keys() and len(tasks) == 56
    for name, task in tasks.items():
        assert (len(task.train), len(task.validation), len(task.test)) == (64, 16, 64)
        assert len(set(inputs_of(task))) == 144
        in_file = {(row["input"].strip(), row["output"].strip()) for row in json.loads(files[name].read_text())}
        assert {(e.input, e.output) for e in (*task.train, *task.validation, *task.test)} <= in_file
        assert task.family == files[name].parent.name


@needs_data
def test_labels_stand_in_the_instructions_of_the_published_tasks_that_have_some() -> None:
    labelled = [task for task in FunctionVectors(FUNCTION_VECTORS).tasks("test") if task.labels]
    assert {task.name for task in labelled} == {
        "ag_news",
        "commonsense_qa",
        "person-instrument",
        "person-sport",
        "sentiment",
    }
    for task in labelled:
        assert set(task.labels) <= set(task.instruction.replace(",", "").replace(".", "").replace(":", "").split())


def listed(choose: Callable[[list[str]], str]) -> Callable[[str], str]:
    return lambda words: choose(words.split(", "))


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZA"
MECHANICAL: dict[str, Callable[[str], str]] = {
    "Capitalize the word.": str.title,
    "Write the first letter of the word as a capital.": lambda word: word[0].upper(),
    "Write the second letter of the word as a capital.": lambda word: word[1].upper(),
    "Write the last letter of the word as a capital.": lambda word: word[-1].upper(),
    "Write the first letter of the word in lower case.": lambda word: word[0].lower(),
    "Write the last letter of the word in lower case.": lambda word: word[-1].lower(),
    "Take the first letter of the word and write the letter after it in the alphabet as a capital.": (
        lambda word: LETTERS[LETTERS.index(word[0].upper()) + 1]
    ),
    "Count the characters of the word.": lambda word: str(len(word)),
    "Pick the first word of the list.": listed(lambda words: words[0]),
    "Pick the word in the middle of the list.": listed(lambda words: words[len(words) // 2]),
    "Pick the last word of the list.": listed(lambda words: words[-1]),
    "Pick the word of the list that comes first in the alphabet.": listed(lambda words: min(words, key=str.lower)),
    "Pick the word of the list that comes last in the alphabet.": listed(lambda words: max(words, key=str.lower)),
}
"""Instructions that a function can follow."""


@needs_data
def test_published_examples_do_what_our_instructions_ask_for() -> None:
    texts = {name: one["instruction"] for name, one in read_wordings("function_vectors").items()}
    checked = [(name, MECHANICAL[text]) for name, text in texts.items() if text in MECHANICAL]
    assert len(checked) == 8 + 5 * 2  # lists of three and of five
    for name, asked in checked:
        [path] = FUNCTION_VECTORS.glob(f"*/{name}.json")
        rows = json.loads(path.read_text())
        # Not all: some published lists order the word I as a capital, before all others.
        assert sum(asked(row["input"]) == row["output"] for row in rows) >= 0.99 * len(rows), name


# --- Super-NaturalInstructions --------------------------------------------------------------------


def natural_task(folder: Path, name: str, instances: list[dict], **other: object) -> None:
    """A task file in the format of the repository's README."""
    content = {
        "Contributors": ["Ann"],
        "Source": ["made up"],
        "Categories": ["Text Matching"],
        "Definition": ["Say  it\nagain."],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Positive Examples": [{"input": "a", "output": "b", "explanation": "c"}],
        "Negative Examples": [],
        "Instances": instances,
    }
    write_json(folder / "tasks" / f"{name}.json", content | other)


def instances(n: int, k: int = 1000) -> list[dict]:
    return [{"id": f"x-{i}", "input": f"in {i}", "output": [f"out {i % k}"]} for i in range(n)]


def default_split(folder: Path, train: list[str], test: list[str]) -> None:
    for part, names in (("train", train), ("test", test)):
        path = folder / "splits" / "default" / f"{part}_tasks.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names) + "\n")


def test_definitions_become_instructions_and_first_outputs_outputs(tmp_path: Path) -> None:
    several = [*instances(60), {"input": "in 99", "output": ["one", "two", "one"]}]
    natural_task(tmp_path, "task1_a_b", several, Definition=["Say  it\nagain.", "Repeat."])
    natural_task(tmp_path, "task2_a_b", instances(60, k=3), Definition="Old files give a text.", Categories=["Other"])
    default_split(tmp_path, ["task4_gone_b"], ["task1_a_b", "task2_a_b", "task3_gone_b"])
    dod = SuperNaturalInstructions(tmp_path)
    free, closed = sorted(dod.tasks("test"), key=lambda task: task.name)
    assert (free.instruction, free.paraphrases, free.family) == ("Say it again.", ("Repeat.",), "Text Matching")
    assert (free.labels, free.metric) == (None, "rougeL")
    assert Example("in 99", "one") in (*free.train, *free.validation, *free.test)
    assert (closed.instruction, closed.family) == ("Old files give a text.", "Other")
    assert (closed.labels, closed.metric) == (("out 0", "out 1", "out 2"), "exact_match")
    assert dod.dropped == {"other right outputs": 1, "tasks of the default split without a file": 2}


def test_filters_leave_tasks_out_and_say_why(tmp_path: Path) -> None:
    natural_task(tmp_path, "task1_a_b", instances(60), Output_language=["German"])
    natural_task(tmp_path, "task2_a_b", instances(60), Definition=["word " * 151])
    natural_task(
        tmp_path, "task3_a_b", [{"input": f"in {i}", "output": ["yes" if i % 10 else "no"]} for i in range(60)]
    )
    natural_task(
        tmp_path, "task4_a_b", [*instances(40), *({"input": f"{i} " * 101, "output": ["x"]} for i in range(20))]
    )
    natural_task(tmp_path, "task5_a_b", instances(60))
    natural_task(tmp_path, "task6_a_b", instances(60))
    default_split(tmp_path, [], [f"task{i}_a_b" for i in range(1, 6)])
    dod = SuperNaturalInstructions(tmp_path)
    assert [task.name for task in dod.tasks("test")] == ["task5_a_b"]
    assert dod.left_out == {
        "task1_a_b": "another language than English",
        "task2_a_b": "a definition that is too long",
        "task3_a_b": "one output almost throughout",
        "task4_a_b": "too few usable instances",
        "task6_a_b": "not in the default split",
    }
    assert dod.dropped == {f"tasks: {why}": 1 for why in dod.left_out.values()} | {"examples that are too long": 20}
    lax = SuperNaturalInstructions(
        tmp_path, english_only=False, max_words=999, max_definition_words=999, max_share=None, fewest=3
    )
    assert len(list(lax.tasks("test"))) == 5


def test_the_default_split_is_kept_and_validation_shares_no_source_with_training(tmp_path: Path) -> None:
    names = [f"task{i:03}_source{i // 3}_kind{i % 3}" for i in range(90)]
    for name in names:
        natural_task(tmp_path, name, instances(50))
    default_split(tmp_path, names[:80], names[80:])
    dod = SuperNaturalInstructions(tmp_path)
    found = {split: [task.name for task in dod.tasks(split)] for split in ("train", "validation", "test")}
    assert set(found["test"]) == set(names[80:])
    assert sorted(found["train"] + found["validation"]) == names[:80] and found["validation"]
    sources = {split: {name.split("_")[1] for name in of_split} for split, of_split in found.items()}
    assert not sources["train"] & sources["validation"]
    assert [task.name for task in dod.tasks("train", n=5, seed=9)] == found["train"][:5]
    # Without the lists a hash of the source decides, over all three.
    bare = SuperNaturalInstructions(tmp_path / "tasks")
    assert {task.name for task in bare.tasks("test")} == set(found["test"])  # it finds the lists beside the folder
    for path in (tmp_path / "splits" / "default").iterdir():
        path.unlink()
    hashed = {split: {task.name.split("_")[1] for task in bare.tasks(split)} for split in found}
    assert sum(map(len, hashed.values())) == len(set.union(*hashed.values())) == 30
    assert all(hashed.values()) and len(hashed["train"]) > 15


def test_published_test_instances_are_what_a_test_task_is_tested_on(tmp_path: Path) -> None:
    natural_task(tmp_path, "task1_a_b", instances(160))
    default_split(tmp_path, [], ["task1_a_b"])
    [task] = SuperNaturalInstructions(tmp_path, Sizes(40, 10, 100)).tasks("test")
    first = {f"in {i}" for i in range(100)}
    assert {e.input for e in task.test} == first
    assert not first & {e.input for e in (*task.train, *task.validation)}


def test_files_of_another_kind_and_half_a_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no task files"):
        list(SuperNaturalInstructions(tmp_path).tasks("test"))
    natural_task(tmp_path, "task1_a_b", [{"input": "a", "output": []}])
    default_split(tmp_path, ["task1_a_b"], [])
    (tmp_path / "splits" / "default" / "test_tasks.txt").unlink()
    with pytest.raises(UserError, match="has train_tasks.txt alone"):
        list(SuperNaturalInstructions(tmp_path).tasks("test"))
    default_split(tmp_path, [], ["task1_a_b"])
    with pytest.raises(UserError, match="no task of Super-NaturalInstructions .an empty list"):
        list(SuperNaturalInstructions(tmp_path).tasks("test"))
    for content in ([], {"Definition": ["a"]}, {"Definition": [3]}):
        write_json(tmp_path / "tasks" / "task1_a_b.json", content)
        with pytest.raises(UserError, match="task1_a_b.json is no task of Super-NaturalInstructions"):
            list(SuperNaturalInstructions(tmp_path).tasks("test"))


# --- SuperGLUE ------------------------------------------------------------------------------------

PUBLISHED: dict[str, tuple[dict, Example]] = {
    "boolq": (
        {"question": "is tea hot", "passage": "Tea is  hot.", "idx": 0, "label": True},
        Example("Passage: Tea is hot. Question: is tea hot?", "yes"),
    ),
    "cb": (
        {"premise": "It rains.", "hypothesis": "it is wet", "label": "neutral", "idx": 3},
        Example("Premise: It rains. Hypothesis: it is wet", "maybe"),
    ),
    "copa": (
        {"premise": "It rained.", "choice1": "Sun.", "choice2": "Mud.", "question": "effect", "label": 1, "idx": 0},
        Example("Premise: It rained. Question: What is the effect? A: Sun. B: Mud.", "B"),
    ),
    "multirc": (
        {
            "idx": 0,
            "version": 1.1,
            "passage": {
                "text": "Ann ran.",
                "questions": [{"question": "Who ran?", "idx": 0, "answers": [{"text": "Bob", "idx": 0, "label": 0}]}],
            },
        },
        Example("Passage: Ann ran. Question: Who ran? Answer: Bob", "no"),
    ),
    "rte": (
        {"premise": "It rains.", "hypothesis": "It is dry.", "label": "not_entailment", "idx": 0},
        Example("Premise: It rains. Hypothesis: It is dry.", "no"),
    ),
    "wic": (
        {
            "word": "bank",
            "sentence1": "A bank.",
            "sentence2": "The banks.",
            "idx": 0,
            "label": False,
            "start1": 2,
            "start2": 4,
            "end1": 6,
            "end2": 9,
            "version": 1.1,
        },
        Example("Word: bank Sentence 1: A bank. Sentence 2: The banks.", "no"),
    ),
    "wsc": (
        {
            "idx": 0,
            "label": True,
            "target": {"span1_index": 0, "span1_text": "Ann", "span2_index": 3, "span2_text": "she"},
            "text": "Ann ran, and she, too, fell.",
        },
        Example("Text: Ann ran, and *she,* too, fell. Candidate: Ann", "yes"),
    ),
}
"""A row of each set in the format of its published archive, and the example it stands for."""


def numbered(row: dict, i: int) -> dict:
    """The row with another text."""
    return json.loads(
        json.dumps(row)
        .replace("ain", f"ain{i}")
        .replace("Ann", f"Ann{i}")
        .replace("hot", f"hot{i}")
        .replace(" bank", f" b{i}")
    )


def write_super_glue(folder: Path, name: str) -> None:
    row = PUBLISHED[name][0]
    write_jsonl(folder / SETS[name].folder / "train.jsonl", [numbered(row, i) for i in range(1, 30)])
    write_jsonl(folder / SETS[name].folder / "val.jsonl", [row, *(numbered(row, i) for i in range(30, 35))])


@pytest.mark.parametrize("name", SETS)
def test_rows_of_the_published_archives_become_examples(tmp_path: Path, name: str) -> None:
    write_super_glue(tmp_path, name)
    [task] = SuperGlue(tmp_path, Sizes(20, 5, 10)).tasks("test")
    assert PUBLISHED[name][1] in task.test
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 5, 6)
    assert (task.name, task.metric, task.labels) == (name, "label_accuracy", tuple(SETS[name].words))


MEANT: dict[str, dict[bool | int | str, str]] = {
    "boolq": {True: "yes", False: "no"},
    "cb": {"entailment": "yes", "contradiction": "no", "neutral": "maybe"},
    "copa": {0: "A", 1: "B"},
    "multirc": {0: "no", 1: "yes"},
    "rte": {"entailment": "yes", "not_entailment": "no"},
    "wic": {True: "yes", False: "no"},
    "wsc": {True: "yes", False: "no"},
}
"""What a label in the published archives means, by the definition of the set."""


@pytest.mark.parametrize(("name", "label"), [(name, label) for name, of_set in MEANT.items() for label in of_set])
def test_labels_become_the_words_that_mean_them(tmp_path: Path, name: str, label: bool | int | str) -> None:
    write_super_glue(tmp_path, name)
    row = json.loads(json.dumps(PUBLISHED[name][0]))
    holder = row["passage"]["questions"][0]["answers"][0] if name == "multirc" else row
    holder["label"] = label
    write_jsonl(tmp_path / SETS[name].folder / "val.jsonl", [row])
    [task] = SuperGlue(tmp_path).tasks("test")
    assert [e.output for e in task.test] == [MEANT[name][label]]


def test_every_label_word_of_super_glue_stands_in_its_instruction() -> None:
    for one in SETS.values():
        assert set(one.words) <= set(one.instruction.replace(",", "").replace(".", "").split())
        assert len(one.words) == len(one.classes)


def test_texts_that_are_long_or_tested_on_are_not_tuned_on(tmp_path: Path) -> None:
    write_super_glue(tmp_path, "rte")
    row = PUBLISHED["rte"][0]
    rows = [*(numbered(row, i) for i in range(1, 8)), row, {**row, "premise": "word " * 300}]
    write_jsonl(tmp_path / "RTE" / "train.jsonl", rows)
    (tmp_path / "CB").mkdir()
    dod = SuperGlue(tmp_path)
    [task] = dod.tasks("test")
    assert len(task.train) + len(task.validation) == 7
    assert dod.dropped == {
        "examples that are too long": 1,
        "training examples that are test examples": 1,
        "sets without train.jsonl and val.jsonl": 1,
    }


def test_a_pronoun_of_several_words_is_marked_as_a_whole(tmp_path: Path) -> None:
    write_super_glue(tmp_path, "wsc")
    target = {"span1_index": 0, "span1_text": "Bob", "span2_index": 2, "span2_text": "that man"}
    row = {"idx": 0, "label": False, "target": target, "text": "Bob saw that man."}
    write_jsonl(tmp_path / "WSC" / "val.jsonl", [row])
    [task] = SuperGlue(tmp_path).tasks("test")
    assert task.test == (Example("Text: Bob saw *that man.* Candidate: Bob", "no"),)


def test_folders_without_sets_and_hidden_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no set 'record'"):
        SuperGlue(tmp_path, sets=("record",))
    with pytest.raises(UserError, match="has none of the folders BoolQ, CB"):
        list(SuperGlue(tmp_path).tasks("test"))
    (tmp_path / "CB").mkdir()
    with pytest.raises(UserError, match="None of the sets"):
        list(SuperGlue(tmp_path).tasks("test"))
    write_super_glue(tmp_path, "cb")
    good = PUBLISHED["cb"][0]
    unlabelled = {key: value for key, value in good.items() if key != "label"}
    for bad in ({**good, "label": -1}, {**good, "label": "perhaps"}, unlabelled, {"label": "neutral"}):
        write_jsonl(tmp_path / "CB" / "train.jsonl", [good, bad])
        with pytest.raises(UserError, match="CB/train.jsonl, line 2: no example of cb"):
            list(SuperGlue(tmp_path).tasks("test"))


# --- the hub --------------------------------------------------------------------------------------


def write_hub_folder(folder: Path, config: str, rows: dict[str, list[dict]], classes: dict[str, list[str]]) -> None:
    """A dataset as it lies on the hub: files, and a card with configurations and the types of columns."""
    for split, of_split in rows.items():
        write_jsonl(folder / config / f"{split}.jsonl", of_split)
    columns = next(iter(rows.values()))[0]
    features = [
        {"name": name, "dtype": {"class_label": {"names": dict(enumerate(classes[name]))}}}
        if name in classes
        else {"name": name, "dtype": "int32" if isinstance(columns[name], int) else "string"}
        for name in columns
    ]
    files = [{"split": split, "path": f"{config}/{split}.jsonl"} for split in rows]
    card = {
        "configs": [{"config_name": config, "data_files": files}],
        "dataset_info": [{"config_name": config, "features": features}],
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared datasets go to a folder of the test's own."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_without_a_folder_super_glue_is_read_from_the_hub_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def from_hub(name: str, config: str, split: str) -> Records:
        asked.append(f"{name} {config}")
        numbers = range(9) if split == "train" else [9]
        fields = ("passage", "question", "premise", "hypothesis")
        rows = [dict.fromkeys(fields, f"Text {number}") | {"label": number % 2} for number in numbers]
        return Records("the hub", (*fields, "label"), rows)

    monkeypatch.setattr("soft2hard.data_gen.dods.super_glue.read_hub", from_hub)
    found = drawn_tasks(Tasks(dod="super-glue", n=2), "test", 0)
    assert [task.name for task in found] == list(SuperGlue().sets[:2])
    assert set(asked) == {f"aps/super_glue {name}" for name in SuperGlue().sets[:2]}
    read, _ = read_for_corpus("super-glue", None, "test", 2)
    assert [task.name for task in read.read] == [task.name for task in found]
    with pytest.raises(UserError, match="Give the folder that they lie in with --dod-folder"):
        read_for_corpus("instruction-induction", None, "test", 2)


@pytest.mark.usefixtures("cache")
def test_super_glue_comes_from_the_hub_with_classes_as_numbers(tmp_path: Path) -> None:
    row = {"premise": "It rains.", "hypothesis": "It is dry.", "idx": 0, "label": 1}
    rows = {"train": [{**numbered(row, i), "idx": i} for i in range(1, 10)], "validation": [row]}
    write_hub_folder(tmp_path / "glue", "rte", rows, {"label": ["entailment", "not_entailment"]})
    [task] = SuperGlue(sets=("rte",), hub_name=str(tmp_path / "glue")).tasks("test")
    assert task.test == (PUBLISHED["rte"][1],) and len(task.train) + len(task.validation) == 9
    with pytest.raises(UserError, match="glue cb train cannot be loaded"):
        list(SuperGlue(sets=("cb",), hub_name=str(tmp_path / "glue")).tasks("test"))


@pytest.mark.usefixtures("cache")
def test_a_manifest_of_a_hub_dataset_names_its_classes_without_being_told(tmp_path: Path) -> None:
    rows = [{"text": f"in {i}", "label": i % 2} for i in range(40)]
    write_hub_folder(tmp_path / "moods", "plain", {"train": rows}, {"label": ["sad", "glad"]})
    source = {"hub": str(tmp_path / "moods"), "config": "plain", "split": "train[:36]"}
    path = write_manifest(tmp_path, source=source, input="text", output="label", metric="f1")
    [task] = Manifests(path).tasks("test")
    assert task.labels == ("sad", "glad") and len(inputs_of(task)) == 36
    assert all((e.output == "glad") == (int(e.input.split()[1]) % 2 == 1) for e in task.train)
    write_manifest(tmp_path, source=source, input="words", output="label")
    with pytest.raises(UserError, match="names the column 'words', but The dataset .* has text, label"):
        list(Manifests(path).tasks("test"))
    write_manifest(tmp_path, source={**source, "split": "dev"}, input="text", output="label")
    with pytest.raises(UserError, match="plain dev cannot be loaded"):
        list(Manifests(path).tasks("test"))


# --- manifests ------------------------------------------------------------------------------------


def write_manifest(folder: Path, name: str = "moods", **other: object) -> Path:
    content = {"name": name, "source": {"path": "rows.csv"}, "input": "text", "output": "label", "licence": "CC0-1.0"}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content | other, sort_keys=False))
    return path


def write_rows(folder: Path, suffix: str, rows: list[dict]) -> Path:
    path = folder / f"rows{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path
    return write_jsonl(path, rows) if suffix == ".jsonl" else write_json(path, rows)


ROWS = [{"text": f"in, {i}", "by": "ann", "label": i % 2} for i in range(40)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_a_manifest_makes_a_task_of_a_local_file(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path, suffix, ROWS)
    path = write_manifest(
        tmp_path,
        source={"path": f"rows{suffix}"},
        input="{by} says: {text} {{so}}",
        labels={0: "sad", 1: "glad"},
        instruction="Say whether the mood is sad or glad.",
        metric="label_accuracy",
        sizes={"train": 20, "validation": 5, "test": 10},
    )
    dod = Manifests(path)
    [task] = dod.tasks("test")
    assert (task.name, task.instruction, task.metric) == (
        "moods",
        "Say whether the mood is sad or glad.",
        "label_accuracy",
    )
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 5, 10)
    known = {Example(f"ann says: in, {i} {{so}}", ("sad", "glad")[i % 2]) for i in range(40)}
    assert {*task.train, *task.validation, *task.test} <= known
    assert task.labels == ("sad", "glad")
    assert (dod.licence, dod.source) == ("CC0-1.0", f"rows{suffix}")


def test_rows_without_a_value_are_left_out_and_tasks_are_in_the_split_they_name(tmp_path: Path) -> None:
    write_rows(tmp_path, ".csv", [*ROWS, {"text": "", "by": "bob", "label": 1}])
    write_manifest(tmp_path, "a", input="{by}: {text}", use="train")
    write_manifest(tmp_path, "b", input="text", sizes={"train": 5, "validation": 5, "test": 5})
    dod = Manifests(tmp_path)
    [train] = dod.tasks("train")
    assert dod.dropped == {"examples with an empty input or output": 1}
    assert train.name == "a" and train.labels == ("0", "1") and list(dod.tasks("validation")) == []
    [test] = dod.tasks("test", seed=3)
    assert len(test.train) == 5 and next(dod.tasks("test", seed=4)).train != test.train


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    write_rows(tmp_path, ".csv", ROWS)
    for wrong in ({"input": "txt"}, {"input": "{by} {txt}"}, {"output": "txt"}):
        with pytest.raises(UserError) as caught:
            list(Manifests(write_manifest(tmp_path, **wrong)).tasks("test"))
        assert "moods.yaml names the column 'txt'" in str(caught.value)
        assert "rows.csv has text, by, label." in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"source": {"path": "a.csv", "hub": "b"}}, "give either path or hub"),
        ({"source": {"path": "a.csv", "split": "test"}}, "are for a hub dataset"),
        ({"metric": "accuracy"}, "metric: Input should be 'exact_match'"),
        ({"input": "{text"}, "braces do not match"),
        ({"input": "{text.__class__!r}"}, "braces hold the name of a column"),
        ({"input": "{}"}, "braces hold the name of a column"),
        ({"labels": {0: False}}, "write them between quotes"),
        ({"licence": None}, "licence: Input should be a valid string"),
        ({"sizes": {"train": 0}}, "sizes.train: Input should be greater"),
        ({"labels": {0: "sad"}}, "has no label for '1', a value of 'label' .there are 0"),
        ({"output": "text", "metric": "f1"}, "too many values to be labels"),
        ({"max_words": 1}, "moods.yaml: 0 distinct examples"),
        ({"source": {"path": "rows.tsv"}}, "rows.tsv is none of .csv, .jsonl, .json"),
        ({"source": {"path": "gone.csv"}}, "Cannot read .*gone.csv"),
    ],
)
def test_manifests_with_unknown_fields_columns_or_labels_are_refused(tmp_path: Path, change: dict, said: str) -> None:
    write_rows(tmp_path, ".csv", ROWS)
    with pytest.raises(UserError, match=said):
        list(Manifests(write_manifest(tmp_path, **change)).tasks("test"))


def test_folders_and_files_that_are_no_manifests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no manifests"):
        list(Manifests(tmp_path).tasks("test"))
    (tmp_path / "a.yaml").write_text("name: [")
    with pytest.raises(UserError, match="a.yaml is not YAML"):
        list(Manifests(tmp_path).tasks("test"))
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(UserError, match="a.yaml: the file: Input should be"):
        list(Manifests(tmp_path).tasks("test"))
    write_rows(tmp_path, ".csv", ROWS)
    (tmp_path / "a.yaml").write_text(write_manifest(tmp_path).read_text())
    with pytest.raises(UserError, match="Two manifests .* are named 'moods'"):
        list(Manifests(tmp_path).tasks("test"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", 'text\n"a', "not CSV"),
        ("a.csv", "text\na,b", "line 2: more values than columns"),
        ("a.jsonl", '{"text": "a"}\n[1]', "line 2: JSON, but not an object"),
        ("a.json", '{"text": "a"}', "is no list of objects"),
        ("a.json", "{", "a.json: not JSON"),
        ("a.json", '[{"text": 1, "text": 2}]', "the key 'text' stands twice"),
        ("a.csv", "text,text\na,b", "the column 'text' twice"),
    ],
)
def test_damaged_tables_are_refused_with_the_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        read_records(tmp_path / name, (".csv", ".jsonl", ".json"))


def test_nested_values_are_no_texts(tmp_path: Path) -> None:
    write_rows(tmp_path, ".json", [{"text": ["a"], "label": 1}])
    with pytest.raises(UserError, match="'text', which holds a list, not a text"):
        list(Manifests(write_manifest(tmp_path, source={"path": "rows.json"})).tasks("test"))


def test_the_example_of_the_docs_is_a_manifest(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "datasets.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "moods.yaml").write_text(example)
    write_rows(tmp_path, ".csv", [{"title": f"t {i}", "body": f"b {i}", "stars": i % 2 * 4 + 1} for i in range(40)])
    (tmp_path / "rows.csv").rename(tmp_path / "reviews.csv")
    [task] = Manifests(tmp_path).tasks("test")
    assert set(task.labels) == {e.output for e in (*task.train, *task.validation, *task.test)}


def test_a_manifest_may_name_every_metric_that_evaluations_know_and_no_other() -> None:
    assert get_args(Manifest.model_fields["metric"].annotation) == METRICS


# --- registry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLDER_DODS)
def test_collections_are_made_from_a_folder_and_say_where_they_are_from(tmp_path: Path, name: str) -> None:
    dod = FOLDER_DODS[name](tmp_path)
    assert isinstance(dod, DoD) and dod.name == name and dod.dropped == Counter()
    says_it_in_its_files = name in ("manifests", "keyword-classification")
    assert says_it_in_its_files or (dod.licence and ("arXiv" in dod.source or name in MADE_DODS))
    with pytest.raises(UserError):
        list(dod.tasks("test"))


@pytest.mark.usefixtures("cache")
def test_without_a_folder_natural_instructions_come_from_the_hub_a_row_an_output(tmp_path: Path) -> None:
    names = {"train": [f"task{i}_source{i}_kind" for i in range(30)], "test": ["task900_other_kind"]}
    rows = {
        part: [
            {"task_name": name, "id": f"{name}-{i}", "definition": f"Do\n {name}.", "inputs": f"in {i}", "targets": out}
            for i in range(60)
            for name in of_part  # rows of a task need not stand together
            for out in ([f"out {i}", f"or {i}"] if i == 3 else [f"out {i}"])
        ]
        for part, of_part in names.items()
    }
    write_hub_folder(tmp_path / "ni", "default", rows, {})
    dod = SuperNaturalInstructions(hub_name=str(tmp_path / "ni"), sizes=Sizes(8, 4, 8))
    found = {split: list(dod.tasks(split)) for split in ("train", "validation", "test")}
    assert [task.name for task in found["test"]] == names["test"] and dod.dropped["other right outputs"] == 1
    assert sorted(task.name for split in ("train", "validation") for task in found[split]) == sorted(names["train"])
    assert found["validation"]
    [task] = found["test"]
    assert task.instruction == "Do task900_other_kind." and task.metric == "rougeL"
    assert all(e.output == e.input.replace("in", "out") for e in (*task.train, *task.validation, *task.test))
    assert [task.name for task in dod.tasks("train", 3)] == [task.name for task in found["train"][:3]]


@pytest.mark.usefixtures("cache")
def test_a_dataset_of_the_hub_that_is_no_natural_instructions_is_refused(tmp_path: Path) -> None:
    write_hub_folder(tmp_path / "ni", "default", {"train": [{"a": "x"}], "test": [{"a": "x"}]}, {})
    with pytest.raises(UserError, match="has no column task_name"):
        list(SuperNaturalInstructions(hub_name=str(tmp_path / "ni")).tasks("test"))


# --- options --------------------------------------------------------------------------------------


def relations(folder: Path, n: int = 100) -> Path:
    samples = [{"subject": f"a{i}", "object": f"b{i}"} for i in range(n)]
    folder.mkdir()
    (folder / "adj_antonym.json").write_text(json.dumps({"name": "x", "samples": samples}))
    return folder


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"sizes": {"train": 8, "validation": 4, "test": 4}}, (8, 4, 4)),
        ({"sizes.test": "all", "sizes.train": 10}, (10, 16, 74)),
        ({"sizes": {"train": "all", "validation": 10, "test": "all"}}, (45, 10, 45)),
    ],
)
def test_sizes_of_a_collection_are_options_and_all_takes_what_the_others_leave(
    tmp_path: Path, options: dict, sizes: tuple[int, ...]
) -> None:
    [task] = FOLDER_DODS["relations"](relations(tmp_path / "r"), options).tasks("test")
    assert tuple(map(len, (task.train, task.validation, task.test))) == sizes


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("relations", {"sample": "x"}, "no option 'sample'"),
        ("relations", {"max_words": 0}, "cannot be 0"),
        ("relations", {"max_words": "many"}, "cannot be 'many'"),
        ("relations", {"sizes": {"test": 0}}, "sizes cannot be"),
        ("relations", {"sizes": {"exam": 3}}, "sizes cannot be"),
        ("super-glue", {"folder": "x"}, "no option 'folder'"),
        ("manifests", {"max_words": 3}, "it has none"),
    ],
)
def test_an_option_that_a_collection_has_not_or_out_of_range_is_refused(name: str, options: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        checked_options(name, options)


def test_options_of_several_kinds_are_read_as_the_command_line_writes_them() -> None:
    assert checked_options("super-glue", {"sets": "cb, rte"}) == {"sets": ("cb", "rte")}
    found = checked_options("super-natural-instructions", {"max_share": 0.5, "english_only": False, "max_words": "all"})
    assert found["max_share"] == 0.5 and found["english_only"] is False and found["max_words"] > 10**6
