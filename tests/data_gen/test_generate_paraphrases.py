"""Paraphrases from a teacher: which are kept, where they go, and that tasks and corpora have them."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from soft2hard.data_gen.corpus.folder import CorpusPlan
from soft2hard.data_gen.corpus.rows import load_corpus
from soft2hard.data_gen.corpus.shards import CorpusBuilder
from soft2hard.data_gen.dods.registry import FOLDER_DODS, read_for_corpus, read_paraphrases
from soft2hard.data_gen.paraphrasing import Original, fault_of, label_words, originals, with_header
from soft2hard.data_gen.taskfiles import TaskFilesDoD, read_task, read_tasks
from soft2hard.data_gen.tasks import SPLITS, Example, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.errors import UserError
from tests import tiny_models
from tests.command_line import Result, run
from tests.fault_server import KEY, FaultServer
from tests.teachers import good
from tests.tiny_models import WORDS

KINDS = Original("Say whether the word is an animal or a fruit.", ("animal", "fruit"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks with one instruction, one in CSV and one in JSONL, and one without an instruction."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [(f"w{i}", "animal" if i % 2 else "fruit") for i in range(10)]
    csv = "".join(f"{a},{b},{i}\n" for i, (a, b) in enumerate(rows))
    (folder / "one.csv").write_text(
        f"# a remark\n# instruction: {KINDS.instruction}\n# metric: f1\ninput,output,n\n{csv}"
    )
    (folder / "two.jsonl").write_text("\n".join(json.dumps({"input": a, "output": b, "n": 1}) for a, b in rows) + "\n")
    (folder / "two.instruction.txt").write_text(f"{KINDS.instruction}\n")
    (folder / "three.csv").write_text(f"input,output,n\n{csv}")
    return folder


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Result]:
    def generate(url: str, source: Path, *more: object, n: int = 3, output: str = "out") -> Result:
        fixed = ["--model", "m", "--base-url", url, "--ledger", tmp_path / "ledger.sqlite", "--attempts", 4]
        return run("generate", "paraphrases", source, *fixed, "-n", n, "-o", tmp_path / output, *more)

    return generate


def task(instruction: str, outputs: list[str], labels: tuple[str, ...] | None = None) -> Task:
    examples = tuple(Example(f"w{i}", output) for i, output in enumerate(outputs))
    return Task("t", "f", instruction, (), examples, (), (), labels)


# --- checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paraphrase", "fault"),
    [
        ("Decide if a given word names an animal or a fruit.", None),
        ("Is it a fruit or an animal?", None),
        ("say whether a word is the animal, or fruit!", "a copy of the instruction"),
        ("Is this word an animal, or is it a fruit?", "a copy of another paraphrase"),
        ("Decide if a given word names an animal or a plant.", "a label word is lost"),
        ("Decide if a given word names an animal or fruits.", "a label word is lost"),
        ("Decide if a given word names an Animal or a fruit.", "a label word is lost"),
        ("animal or fruit", "too short or too long"),
        (" ".join(["animal fruit", *["very"] * 19]), "too short or too long"),
        ("Is it an animal\nor a fruit or neither?", "empty or several lines"),
        ("", "empty or several lines"),
    ],
)
def test_a_paraphrase_is_kept_only_if_it_asks_for_the_same_in_other_words(paraphrase: str, fault: str | None):
    assert fault_of(paraphrase, KINDS, ["Is this word an animal or is it a fruit"]) == fault


def test_a_short_instruction_leaves_room_for_a_longer_paraphrase():
    assert Original("Count birds.").lengths() == (1, 6) and KINDS.lengths() == (5, 20)


def test_label_words_are_the_labels_or_the_outputs_that_come_again_and_again():
    assert label_words(task("x", ["a", "b"], ("a", "b", "c"))) == ["a", "b", "c"]
    assert label_words(task("x", ["no"] * 4 + [f"w{i}" for i in range(6)])) == ["no"]
    assert label_words(task("x", ["went", "sang"])) == [], "an output that comes once is an answer, not a label"


def test_words_that_must_stay_are_those_the_instruction_names_of_all_tasks_that_share_it():
    one, two = (
        task("Say yes, no or maybe.", [], ("yes", "no", "perhaps")),
        task("Say yes, no or maybe.", [], ("maybe",)),
    )
    assert originals([one, two, task("", [], ("yes",))]) == [Original(one.instruction, ("yes", "no", "maybe"))]


# --- task files -----------------------------------------------------------------------------------


def test_copies_of_task_files_have_paraphrases_and_are_the_same_in_all_else(
    go: Callable[..., Result], tasks: Path, tmp_path: Path
):
    with FaultServer(["429"], answer=good, key=KEY) as server:
        done = go(server.url, tasks)
    assert done.exit_code == 0, done.stderr
    assert len(server.seen) == 1 + 1, "the instruction that two tasks share is asked for once"
    before = {task.name: task for task in read_tasks(tasks)}
    after = {task.name: task for task in read_tasks(tmp_path / "out")}
    assert {name: replace(task, paraphrases=()) for name, task in after.items()} == before
    kept = after["one"].paraphrases
    assert len(kept) == 3 and after["two"].paraphrases == kept and after["three"].paraphrases == ()
    assert all(fault_of(text, KINDS) is None for text in kept)
    assert (tmp_path / "out" / "one.csv").read_text().startswith(f"# instruction: {KINDS.instruction}\n# paraphrases: ")
    assert "# a remark\n" in (tmp_path / "out" / "one.csv").read_text()
    assert "3 paraphrases of 1 instructions" in done.stdout


def test_a_corpus_made_of_paraphrased_tasks_has_the_paraphrases(tmp_path: Path):
    header = {"instruction": "Say cat.", "paraphrases": ["Write cat.", "Answer cat."]}
    rows = [{"input": word, "output": output} for word, output in zip(WORDS[:6], ("cat", "dog") * 3, strict=True)]
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, [header, *rows])))
    subject = tiny_models.subject("llama")
    tuning = Tuning(n_tokens=2, init="vocabulary", steps=1, batch_size=2, eval_every=1, slots=2)
    tasks = TaskFilesDoD(tuple(read_tasks([tmp_path / "one.jsonl", tmp_path / "two.jsonl"])))
    plan = CorpusPlan(tasks.name, "train", 1, subject.fingerprint, tuning)
    list(CorpusBuilder(tmp_path / "corpus", plan, tasks, subject).build())
    assert load_corpus(tmp_path / "corpus")["paraphrases"][0] == header["paraphrases"]


def test_paraphrases_that_are_there_are_replaced_only_by_new_ones(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("# instruction: x y\n# paraphrases: old one\n# paraphrases: old two\ninput,output\na,b\nc,d\n")
    assert read_task(path).paraphrases == ("old one", "old two")
    assert with_header(path, "x y", []) == path.read_text()
    assert with_header(path, "x y", ["new"]).count("# paraphrases: ") == 1
    lines = tmp_path / "b.jsonl"
    lines.write_text('{"instruction": "x y", "paraphrases": ["old"]}\n{"input": "a", "output": "b"}\n')
    header = json.loads(with_header(lines, "x y", ["new", "newer"]).split("\n")[0])
    assert header == {"instruction": "x y", "paraphrases": ["new", "newer"]}


@pytest.mark.parametrize(
    ("header", "said"),
    [({"instruction": "x", "paraphrases": [1]}, "not a list of texts"), ({"paraphrases": ["x"]}, "but no instruction"),
     ({"instruction": "x", "paraphrases": {}}, "not a list of texts")],
)  # fmt: skip
def test_a_header_with_odd_paraphrases_is_refused(header: dict, said: str, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    rows = [header, {"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=said):
        read_task(path)


# --- the command ----------------------------------------------------------------------------------


def test_a_collection_gets_a_file_of_paraphrases_that_is_read_with_it(go: Callable[..., Result], tmp_path: Path):
    options = ["--model", "m", "--ledger", tmp_path / "ledger.sqlite", "--n-categories", 6, "--n-sentences", 4]
    with FaultServer(answer=good) as server:
        run("generate", "keyword-classification", *options, "--base-url", server.url, "-o", tmp_path / "kc")
        done = go(server.url, tmp_path / "kc", "--dod", "keyword-classification", n=2, output="kc/paraphrases.jsonl")
    assert done.exit_code == 0, done.stderr
    dod = FOLDER_DODS["keyword-classification"](tmp_path / "kc")
    found = [task for split in SPLITS for task in dod.tasks(split)]
    assert len(found) == 6 and dod.name == "keyword-classification" and not dod.dropped
    for one in found:
        assert len(one.paraphrases) == 2
        assert all(label in text for label in one.labels for text in one.paraphrases)
    split = next(split for split in SPLITS if any(dod.tasks(split)))
    for_corpus, _ = read_for_corpus("keyword-classification", tmp_path / "kc", split, 1)
    assert [len(one.paraphrases) for one in for_corpus.tasks(split)] == [2]


def test_a_careless_teacher_is_asked_again_and_what_it_loses_is_counted(
    go: Callable[..., Result], tasks: Path, tmp_path: Path
):
    """Malformed, then a copy, one without the label words and one good, then the same again."""
    only = "Tell animal from fruit in what is given."
    lines = [KINDS.instruction, "Say what it is, in one word.", only]
    answers = iter(["{broken", *[json.dumps({"paraphrases": lines})] * 2])
    with FaultServer(answer=lambda text: next(answers)) as server:
        done = go(server.url, tasks)
        n = len(server.seen)
        again = go(server.url, tasks, output="again")
    assert done.exit_code == again.exit_code == 0 and n == len(server.seen) == 3
    assert read_task(tmp_path / "out" / "one.csv").paraphrases == (only,)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.txt").read_text().splitlines()]
    assert Counter(line["reason"] for line in rejected) == {
        "not the JSON that was asked for": 1, "a copy of the instruction": 2, "a label word is lost": 2,
        "a copy of another paraphrase": 1,
    }  # fmt: skip
    assert "1 instructions have fewer than 3" in done.stderr and "rejected: 2 x paraphrase, a label word" in done.stderr
    texts = [body["messages"][0]["content"] for body in server.seen]
    assert len(set(texts)) == 3 and all('"animal", "fruit"' in text for text in texts)


def test_a_plan_says_the_price_and_sends_nothing(go: Callable[..., Result], tasks: Path, tmp_path: Path):
    with FaultServer(answer=good) as server:
        planned = go(server.url, tasks, "--plan")
        assert not server.seen and not (tmp_path / "out").exists() and not (tmp_path / "ledger.sqlite").exists()
        go(server.url, tasks)
    assert re.search(r"\| paraphrases \| 1 \| 0 \| \d+ \| 240 \| unknown \|", planned.stdout), planned.stdout
    assert json.loads(planned.stdout[planned.stdout.index("{") :]) == server.seen[0]


@pytest.mark.parametrize("fault", ["401", "404"])
def test_a_wrong_key_or_model_is_one_line_and_writes_nothing(
    fault: str, go: Callable[..., Result], tasks: Path, tmp_path: Path
):
    with FaultServer([fault] * 9, answer=good) as server:
        done = go(server.url, tasks)
    assert done.exit_code == 2 and not (tmp_path / "out").exists() and "Traceback" not in done.stderr


def test_what_cannot_be_paraphrased_is_refused_before_anything_is_sent(
    go: Callable[..., Result], tasks: Path, tmp_path: Path
):
    (tmp_path / "out").write_text("mine")
    with FaultServer(answer=good) as server:
        for result, said in (
            (go(server.url, tasks), "is in use"),
            (go(server.url, tasks / "three.csv", output="x"), "None of the 1 tasks has an instruction"),
            (go(server.url, tasks, "--dod", "kw", output="x"), "There is no collection 'kw'"),
            (go(server.url, tmp_path / "no", "--dod", "manifests", output="x"), "takes one folder"),
            (go(server.url, tmp_path / "no", output="x"), "No such file or folder"),
        ):
            assert result.exit_code == 2 and said in result.stderr, result.stderr
        assert not server.seen
    assert (tmp_path / "out").read_text() == "mine"


def test_a_damaged_file_of_paraphrases_is_named_with_its_line(tmp_path: Path):
    path = tmp_path / "paraphrases.jsonl"
    path.write_text('{"instruction": "x", "paraphrases": ["y"]}\n{"instruction": "x"}\n')
    with pytest.raises(UserError, match="line 2: no instruction with paraphrases"):
        read_paraphrases(path)
