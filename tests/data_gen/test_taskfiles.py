"""Task files: what a user writes is read as meant, or refused with the line to blame."""

import json
from pathlib import Path

import pytest

from soft2hard.data_gen.taskfiles import TaskFilesDoD, content_hash, read_examples, read_inputs, read_task, read_tasks
from soft2hard.data_gen.tasks import Example
from soft2hard.errors import UserError

ROWS = [{"input": f"word {i}", "output": "even" if i % 2 == 0 else "odd"} for i in range(40)]


def jsonl(path: Path, rows: list, header: dict | None = None) -> Path:
    lines = [json.dumps(row) for row in ([header] if header else []) + rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def text(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def examples(task) -> set[Example]:
    return {*task.train, *task.validation, *task.test}


def test_every_example_is_in_one_split_and_none_is_lost(tmp_path):
    task = read_task(jsonl(tmp_path / "parity.jsonl", ROWS))
    assert examples(task) == {Example(row["input"], row["output"]) for row in ROWS}
    assert len(task.train) + len(task.validation) + len(task.test) == len(ROWS)
    assert (len(task.validation), len(task.test)) == (8, 8)


def test_splits_share_no_input_even_where_an_input_has_several_outputs(tmp_path):
    rows = [{"input": f"word {i % 15}", "output": f"out {i}"} for i in range(45)]
    task = read_task(jsonl(tmp_path / "many.jsonl", rows))
    inputs = [{e.input for e in part} for part in (task.train, task.validation, task.test)]
    assert not inputs[0] & inputs[1]
    assert not inputs[2] & (inputs[0] | inputs[1])


@pytest.mark.parametrize("n", [2, 3, 19, 20, 500])
def test_validation_is_never_empty_and_test_only_where_examples_are_enough(tmp_path, n):
    rows = [{"input": f"word {i}", "output": "ab"[i % 2]} for i in range(n)]
    task = read_task(jsonl(tmp_path / "small.jsonl", rows))
    assert task.train
    assert task.validation
    assert bool(task.test) == (n >= 20)
    assert len(task.validation) <= 32  # all of them are read at every look


def test_the_split_depends_on_the_seed_alone(tmp_path):
    path = jsonl(tmp_path / "parity.jsonl", ROWS)
    assert read_task(path, seed=3) == read_task(path, seed=3)
    assert read_task(path, seed=3).validation != read_task(path, seed=4).validation


def test_jsonl_and_csv_of_the_same_examples_are_the_same_task(tmp_path):
    header = {"instruction": "Say whether the number is even.", "name": "parity", "family": "numbers", "metric": "f1"}
    one = jsonl(tmp_path / "one.jsonl", ROWS, header)
    comments = "".join(f"# {key}: {value}\n" for key, value in header.items())
    rows = "".join(f'{row["output"]},x,"{row["input"]}"\r\n' for row in ROWS)
    two = text(tmp_path / "two.csv", f"\ufeff{comments}output,id,input\r\n{rows}")
    assert read_task(one) == read_task(two)
    assert read_task(one).instruction == header["instruction"]
    assert read_task(one).metric == "f1"


def test_csv_values_may_hold_commas_quotes_line_breaks_and_hashes(tmp_path):
    path = text(tmp_path / "odd.csv", 'input,output\n"a, b","say ""hi"""\n"two\nlines",b\n# not a comment,c\n')
    assert examples(read_task(path)) == {
        Example("a, b", 'say "hi"'),
        Example("two\nlines", "b"),
        Example("# not a comment", "c"),
    }


@pytest.mark.parametrize(
    ("line", "instruction"),
    [
        ("# instruction: Say x.,", "Say x."),
        ("# instruction: Say x, or y.,,,", "Say x, or y."),
        ('"# instruction: Say x, or y.",', "Say x, or y."),
        ('"# instruction: Say ""x"".",,', 'Say "x".'),
        ("# instruction: Say x, or y.", "Say x, or y."),
    ],
)
def test_comment_lines_are_read_as_spreadsheet_programs_write_them(tmp_path, line, instruction):
    path = text(tmp_path / "a.csv", f"{line}\r\n# name: sheet,,\r\n,,\r\ninput,output,,\r\nx,1,,\r\ny,2,,\r\n")
    task = read_task(path)
    assert (task.instruction, task.name, len(examples(task))) == (instruction, "sheet", 2)


def test_long_fields_and_whole_characters_written_as_two_escapes_are_read(tmp_path):
    long = "a" * 200_000
    assert Example(long, "1") in examples(read_task(text(tmp_path / "a.csv", f"input,output\n{long},1\ny,2\n")))
    rows = '{"input": "\\ud83d\\ude00", "output": "1"}\n{"input": "y", "output": "2", "note": NaN}\n'
    assert Example("\U0001f600", "1") in examples(read_task(text(tmp_path / "a.jsonl", rows)))


def test_jsonl_strings_may_hold_unicode_line_separators(tmp_path):
    path = text(tmp_path / "odd.jsonl", '{"input": "a\u2028b", "output": "x"}\n\n{"input": "é", "output": 7}\n')
    assert examples(read_task(path)) == {Example("a\u2028b", "x"), Example("é", "7")}


def test_the_side_file_gives_the_instruction_and_the_header_outranks_it(tmp_path):
    text(tmp_path / "parity.instruction.txt", "Even\nor odd?\n")
    assert read_task(jsonl(tmp_path / "parity.jsonl", ROWS)).instruction == "Even or odd?"
    headed = jsonl(tmp_path / "parity.jsonl", ROWS, {"instruction": "Say the parity."})
    assert read_task(headed).instruction == "Say the parity."


def test_without_an_instruction_a_task_is_given_by_its_examples_alone(tmp_path):
    task = read_task(jsonl(tmp_path / "parity.jsonl", ROWS))
    assert (task.name, task.instruction, task.paraphrases) == ("parity", "", ())


def test_labels_are_the_outputs_when_they_are_few_and_repeat(tmp_path):
    assert read_task(jsonl(tmp_path / "parity.jsonl", ROWS)).labels == ("even", "odd")
    free = [{"input": f"word {i}", "output": f"drow {i}"} for i in range(30)]
    assert read_task(jsonl(tmp_path / "free.jsonl", free)).labels is None


def test_a_folder_stands_for_its_task_files_in_order(tmp_path):
    for name in ("b.jsonl", "a.csv", ".hidden.jsonl"):
        text(tmp_path / name, "input,output\nx,1\ny,2\n") if name.endswith("csv") else jsonl(tmp_path / name, ROWS)
    text(tmp_path / "notes.txt", "not a task")
    assert [task.name for task in read_tasks(tmp_path)] == ["a", "b"]


def test_a_file_given_twice_is_read_once(tmp_path):
    path = jsonl(tmp_path / "parity.jsonl", ROWS)
    assert [task.name for task in read_tasks([path, tmp_path, path])] == ["parity"]


BAD_FILES = {
    "missing column": ("a.csv", "input,answer\nx,1\n", "no column output"),
    "both columns missing": ("a.csv", "x,y\n1,2\n", "no column input"),
    "missing field": ("a.jsonl", '{"input": "x", "output": "1"}\n{"input": "y"}\n', "line 2: no output"),
    "short row": ("a.csv", "input,output\nx,1\ny\n", "line 3: no output"),
    "long row": ("a.csv", "# instruction: i\ninput,output\nx,1,2\n", "line 3: more values"),
    "no examples": ("a.csv", "input,output\n", "no examples"),
    "empty file": ("a.jsonl", "", "no examples"),
    "header alone": ("a.jsonl", '{"instruction": "i"}\n', "no examples"),
    "one class": ("a.csv", "input,output\nx,1\ny,1\n", "one output throughout"),
    "one input": ("a.csv", "input,output\nx,1\nx,2\n", "single input"),
    "bad JSON": ("a.jsonl", '{"input": "x", "output": "1"}\n\n{"input": \n', "line 3: not JSON"),
    "JSON that is no object": ("a.jsonl", "[1]\n", "line 1: JSON, but not an object"),
    "open quote": ("a.csv", 'input,output\n"x,1\n', "not CSV"),
    "list as output": ("a.jsonl", '{"input": "x", "output": ["1"]}\n', "output is a list"),
    "blank output": ("a.jsonl", '{"input": "x", "output": " "}\n', "output is empty"),
    "misspelt header": ("a.jsonl", '{"instrution": "i"}\n{"input": "x", "output": "1"}\n', "'instrution'"),
    "header that is no text": ("a.jsonl", '{"instruction": 3}\n{"input": "x", "output": "1"}\n', "instruction is not"),
    "column twice": ("a.csv", "input,output,output\nx,1,2\n", "has the column 'output' twice"),
    "ignored column twice": ("a.csv", "note,input,output,note\n,x,1,\n", "has the column 'note' twice"),
    "key twice": ("a.jsonl", '\n{"input": "x", "input": "y", "output": "1"}\n', "line 2: the key 'input' stands twice"),
    "NaN": ("a.jsonl", '{"input": "x", "output": "1"}\n{"input": "y", "output": NaN}\n', "line 2: no output"),
    "infinity": ("a.jsonl", '{"input": -Infinity, "output": "1"}\n', "line 1: no input"),
    "a number too large": ("a.jsonl", '{"input": 1e999, "output": "1"}\n', "line 1: no input"),
    "half a character": (
        "a.jsonl",
        '{"input": "x", "output": "1"}\n{"input": "\\ud83d", "output": "2"}\n',
        "line 2: half",
    ),
    "half a character in the header": ("a.jsonl", '{"instruction": "\\ud83d"}\n', "line 1: half a character"),
    "unknown suffix": ("a.tsv", "input\toutput\n", "neither .jsonl nor .csv"),
    "name that is a path": ("a.csv", "# name: ../x\ninput,output\nx,1\ny,2\n", "cannot be a file's name"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_by_name_and_place(tmp_path, case):
    name, content, problem = BAD_FILES[case]
    with pytest.raises(UserError) as error:
        read_task(text(tmp_path / name, content))
    assert problem in error.value.problem
    assert str(tmp_path / name) in error.value.problem
    assert "\n" not in str(error.value)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("input,output\ncafé,1\nthé,2\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_task(path)


def test_two_tasks_of_one_name_are_refused(tmp_path):
    jsonl(tmp_path / "a.jsonl", ROWS, {"name": "same"})
    jsonl(tmp_path / "b.jsonl", ROWS, {"name": "same"})
    with pytest.raises(UserError, match=r"a\.jsonl and .*b\.jsonl both hold a task named 'same'"):
        read_tasks(tmp_path)


def test_a_folder_without_task_files_and_a_missing_path_are_refused(tmp_path):
    with pytest.raises(UserError, match="no task files"):
        read_tasks(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        read_tasks(tmp_path / "nowhere.csv")


def test_inputs_are_read_from_every_format_without_outputs_and_each_once(tmp_path):
    files = [
        text(tmp_path / "i.txt", "cat\n\n dog \ncat\n"),
        text(tmp_path / "i.csv", "input\ncat\ndog\n"),
        text(tmp_path / "i.jsonl", '{"instruction": "i"}\n{"input": "cat"}\n{"input": "dog", "output": "x"}\n'),
    ]
    assert [read_inputs(path) for path in files] == [["cat", "dog"]] * 3
    with pytest.raises(UserError, match="no inputs"):
        read_inputs(text(tmp_path / "empty.txt", "\n"))


def test_the_inputs_of_a_task_file_are_those_that_are_not_set_aside_for_testing(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", ROWS)
    task = read_task(path)
    tested = {example.input for example in task.test}
    assert len(tested) == 8
    assert set(read_inputs(path)) == {row["input"] for row in ROWS} - tested
    # Without outputs there is no task, and nothing is tested.
    assert len(read_inputs(jsonl(tmp_path / "i.jsonl", [{"input": row["input"]} for row in ROWS]))) == 40


def test_as_a_dod_the_tasks_fall_into_train_and_validation(tmp_path):
    for i in range(6):
        jsonl(tmp_path / f"t{i}.jsonl", ROWS)
    dod = TaskFilesDoD(tuple(read_tasks(tmp_path)))
    names = {split: {task.name for task in dod.tasks(split)} for split in ("train", "validation", "test")}
    assert len(names["validation"]) == 1
    assert len(names["train"]) == 5
    assert not names["train"] & names["validation"]
    assert not names["test"]


def test_a_single_task_cannot_be_split(tmp_path):
    with pytest.raises(UserError, match="single task"):
        TaskFilesDoD(tuple(read_tasks(jsonl(tmp_path / "a.jsonl", ROWS))))


def test_the_hash_follows_the_content(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    before = content_hash(read_tasks(path))
    assert content_hash(read_tasks(path)) == before
    assert content_hash(read_tasks(jsonl(path, ROWS[:-1]))) != before


def test_white_space_around_the_names_of_columns_is_left_aside(tmp_path):
    (tmp_path / "a.csv").write_text("input, output\nhot, cold\nup, down\n")
    task = read_tasks(tmp_path / "a.csv")[0]
    assert {(one.input, one.output) for one in task.examples} == {("hot", "cold"), ("up", "down")}
    assert [one.output for one in read_examples(tmp_path / "a.csv")] == ["cold", "down"]
