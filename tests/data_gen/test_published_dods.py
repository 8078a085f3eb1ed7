"""Published collections: what their files hold is what the tasks hold, and what is left out is counted."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from soft2hard.data_gen.dods.drawing_examples import Sizes
from soft2hard.data_gen.dods.published import (
    SENTIMENTS,
    SETS,
    FewShotClassification,
    InstructionInduction,
    StyleTransfer,
)
from soft2hard.data_gen.tasks import Example
from soft2hard.errors import UserError
from tests.paths import ROOT, SHARED

SHARED = SHARED
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not on this machine")


# --- 16-shot classification ---------------------------------------------------------------------


def write_set(folder: Path, name: str, **parts: list[tuple[str, int]]) -> None:
    for part, rows in parts.items():
        path = folder / name / "16-100" / f"{part}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))


ROWS = [("dull", 0), ('a "fine" film', 1), ("word " * 200, 1)]


def test_labels_become_their_words_and_long_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    write_set(tmp_path, "sst-2", train=ROWS, dev=ROWS[:2], test=ROWS[:1])
    write_set(tmp_path, "yelp-2", train=ROWS, dev=ROWS)
    dod = FewShotClassification(tmp_path)
    [task] = dod.tasks("test")
    assert task.train == (Example("dull", "terrible"), Example('a "fine" film', "great"))
    assert task.labels == ("terrible", "great")
    assert dod.dropped == Counter({"texts that are too long": 1, "sets without train.tsv and dev.tsv and test.tsv": 1})
    assert list(dod.tasks("train")) == []


def test_damaged_sets_are_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds none of sst-2"):
        list(FewShotClassification(tmp_path).tasks("test"))
    write_set(tmp_path, "sst-2", train=ROWS)
    with pytest.raises(UserError, match="None of the sets"):
        list(FewShotClassification(tmp_path).tasks("test"))
    write_set(tmp_path, "sst-2", train=[*ROWS, ("odd", 7)], dev=ROWS, test=ROWS)
    with pytest.raises(UserError, match=r"train.tsv, line 5: no text and label"):
        list(FewShotClassification(tmp_path).tasks("test"))


def test_every_label_word_stands_in_its_instruction() -> None:
    for name, one in SETS.items():
        assert all(label in one.instruction for label in one.labels), name


@needs_data
def test_the_published_sets_have_sixteen_examples_a_class() -> None:
    folder = SHARED / "few_shot_classification" / "16-shot"
    tasks = list(FewShotClassification(folder, max_words=10_000).tasks("test"))
    assert {task.name for task in tasks} == {f"{name}/16-100" for name in SETS if name != "yelp-2"}
    for task in tasks:
        for part in (task.train, task.validation):
            assert Counter(e.output for e in part) == {label: 16 for label in task.labels}
        with (folder / task.name / "test.tsv").open(newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        known = {(text.strip(), task.labels[int(label)]) for text, label in rows}
        assert len(task.test) == 64 and {(e.input, e.output) for e in task.test} <= known


# --- instruction induction ------------------------------------------------------------------------


def write_task(folder: Path, name: str, induce: list[dict], execute: list[dict], annotations: list[str]) -> None:
    for part, content in (
        ("raw/induce", {"examples": {str(i): r for i, r in enumerate(induce)}}),
        ("raw/execute", {"examples": {str(i): r for i, r in enumerate(execute)}}),
        ("annotations", {"annotations": annotations}),
    ):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / f"{name}.json").write_text(json.dumps(content))


def pairs(first: int, last: int) -> list[dict]:
    return [{"input": str(i), "output": str(2 * i)} for i in range(first, last)]


def test_held_out_examples_are_none_of_the_others(tmp_path: Path) -> None:
    write_task(tmp_path, "double", pairs(0, 40), pairs(30, 60), ["double it", "times two"])
    dod = InstructionInduction(tmp_path, Sizes(30, 10, 60))
    [task] = dod.tasks("test")
    assert (task.instruction, task.paraphrases) == ("double it", ("times two",))
    assert len(task.train) == 30 and len(task.validation) == 10
    assert {e.input for e in task.test} == {str(i) for i in range(40, 60)}
    assert dod.dropped["held-out examples that are among the others"] == 10
    other = next(iter(InstructionInduction(tmp_path).tasks("test", seed=1)))
    assert set(other.train) != set(task.train)


def test_records_in_parts_become_input_and_output(tmp_path: Path) -> None:
    cause = [{"cause": f"b{i}", "effect": f"a{i}"} for i in range(9)]
    write_task(tmp_path, "cause_and_effect", cause[:8], cause[8:], ["Find the cause."])
    concept = [{"items": ["x", f"y{i}"], "concept": "letters"} for i in range(9)]
    write_task(tmp_path, "common_concept", concept[:8], concept[8:], ["What is common?"])
    first, second = InstructionInduction(tmp_path).tasks("test")
    assert Example("Sentence 1: a3 Sentence 2: b3", "b3") in (*first.train, *first.validation)
    assert Example("Objects: x, y3", "letters") in (*second.train, *second.validation)


def test_a_folder_of_something_else_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no raw/induce"):
        list(InstructionInduction(tmp_path).tasks("test"))
    write_task(tmp_path, "double", [{"question": "1"}], pairs(0, 1), ["double it"])
    with pytest.raises(UserError, match="records of another kind"):
        list(InstructionInduction(tmp_path).tasks("test"))
    (tmp_path / "raw" / "execute" / "double.json").write_text("{")
    write_task(tmp_path, "double", pairs(0, 9), pairs(0, 9), ["double it"])
    with pytest.raises(UserError, match="too few distinct examples"):
        list(InstructionInduction(tmp_path).tasks("test"))
    write_task(tmp_path, "double", pairs(0, 9), pairs(9, 20), [])
    with pytest.raises(UserError, match="holds no instructions"):
        list(InstructionInduction(tmp_path).tasks("test"))
    (tmp_path / "raw" / "induce" / "double.json").write_text('{"metadata": {}}')
    with pytest.raises(UserError, match="records of another kind"):
        list(InstructionInduction(tmp_path).tasks("test"))
    write_task(tmp_path, "a", pairs(0, 9), pairs(0, 9), ["double it"])
    (tmp_path / "raw" / "induce" / "a.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        list(InstructionInduction(tmp_path).tasks("test"))


@needs_data
def test_the_24_published_tasks_load_with_instructions_and_examples() -> None:
    tasks = list(InstructionInduction(SHARED / "instruction_induction").tasks("test"))
    assert len(tasks) == 24
    for task in tasks:
        assert task.instruction and len(task.paraphrases) >= 3
        assert min(len(task.train), len(task.validation), len(task.test)) >= 3
        inputs = [e.input for e in (*task.train, *task.validation, *task.test)]
        assert len(inputs) == len(set(inputs))
    assert {task.name for task in tasks if task.labels} == {"sentence_similarity", "sentiment", "word_in_context"}


# --- style transfer -------------------------------------------------------------------------------


def write_sentences(folder: Path, n: int = 12, **changed: list[str]) -> Path:
    """Both sentiments' files; the development files hold the test sentences too, as the published ones do."""
    for number, name in enumerate(SENTIMENTS):
        test = [f"{name} place {i}" for i in range(n)]
        lines = {"test": test, "ref": [f"changed {line}" for line in test], "dev": [*test, f"{name} meal", "ok", "ok"]}
        for part, of_part in (lines | changed).items():
            (folder / f"sentiment.{part}.{number}.clean").write_text("\n".join(of_part) + "\n")
    return folder


def test_sentences_go_with_the_rewriting_on_their_line_and_no_test_sentence_is_tuned_on(tmp_path: Path) -> None:
    dod = StyleTransfer(write_sentences(tmp_path))
    worse, better, sentiment = sorted(dod.tasks("test"), key=lambda task: task.metric == "label_accuracy")
    assert [worse.name, better.name, sentiment.name] == ["negative-to-positive", "positive-to-negative", "sentiment"]
    assert all(e.output == f"changed {e.input}" for e in (*worse.train, *worse.validation, *worse.test))
    assert sentiment.labels == SENTIMENTS and all(label in sentiment.instruction for label in SENTIMENTS)
    tuned_on = {e.input for e in (*sentiment.train, *sentiment.validation)}
    assert tuned_on == {"negative meal", "positive meal"} and len(sentiment.test) == 24
    assert dod.dropped == {
        "training examples that are test examples": 24,
        "repeated examples": 2,
        "inputs with several outputs": 1,  # "ok" is in both files
    }
    assert list(dod.tasks("train")) == [] and len(list(dod.tasks("test", 2))) == 2


def test_rewriting_tasks_bring_sentences_of_both_styles_without_pairs_and_none_that_is_tested(tmp_path: Path) -> None:
    worse, better, _ = StyleTransfer(write_sentences(tmp_path)).tasks("test")
    assert (worse.given, worse.wanted, better.given, better.wanted) == (*SENTIMENTS, *SENTIMENTS[::-1])
    assert set(worse.labelled) == {Example(f"{name} meal", name) for name in SENTIMENTS} == set(better.labelled)
    assert worse.sources == ("negative meal",) and better.sources == ("positive meal",)
    write_sentences(tmp_path, dev=[f"sentence {i}" for i in range(9)])
    (tmp_path / "sentiment.dev.1.clean").write_text("\n".join(f"another {i}" for i in range(3)))
    task = next(StyleTransfer(tmp_path, labelled=4).tasks("test", seed=1))
    assert [sum(e.output == name for e in task.labelled) for name in SENTIMENTS] == [4, 3]
    assert task != next(StyleTransfer(tmp_path, labelled=4).tasks("test", seed=2))


def test_another_folder_and_files_that_do_not_match_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no sentiment.test.0.clean"):
        list(StyleTransfer(tmp_path).tasks("test"))
    with pytest.raises(UserError, match="has 2 lines for the 12"):
        list(StyleTransfer(write_sentences(tmp_path, ref=["one", "two"])).tasks("test"))
    (tmp_path / "sentiment.test.0.clean").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        list(StyleTransfer(tmp_path).tasks("test"))


@needs_data
def test_the_published_sentences_become_three_tasks_with_examples_of_their_files() -> None:
    folder = SHARED / "style_transfer_yelp"
    lines = {p: (folder / f"sentiment.{p}.clean").read_text().splitlines() for p in ("test.0", "ref.0", "dev.0")}
    to_positive, to_negative, sentiment = StyleTransfer(folder).tasks("test")
    for task in (to_positive, to_negative):
        assert (len(task.train), len(task.validation), len(task.test), task.metric) == (64, 16, 64, "rougeL")
    written = dict(zip(lines["test.0"], lines["ref.0"], strict=True))
    assert all(written[e.input] == e.output for e in (*to_positive.train, *to_positive.test))
    assert "positive" in to_positive.instruction and len(sentiment.test) == 64
    assert {e.input for e in sentiment.test if e.output == "negative"} <= set(lines["test.0"])
    assert {e.input for e in sentiment.train if e.output == "negative"} <= set(lines["dev.0"]) - set(lines["test.0"])


WITHOUT_A_COLLECTION = {"relations", "persona_statements"}
"""Data without instructions of their own, for which no collection has been written yet."""


def test_every_published_data_set_has_a_test_that_reads_it() -> None:
    """So that a data set added to the folder is not forgotten; `test_analysis_statistics` reads the soft prompts."""
    read = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for folder in SHARED.iterdir() if SHARED.is_dir() else ():
        if folder.is_dir() and folder.name not in WITHOUT_A_COLLECTION:
            assert f'"{folder.name}"' in read, folder
