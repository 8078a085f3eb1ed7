"""soft2hard tune --dod NAME --dod-folder PATH: a corpus of any collection, or one line that says why not."""

import json
import shutil
from pathlib import Path

import pytest

from soft2hard.data_gen.corpus.rows import corpus_plan, load_corpus
from soft2hard.data_gen.dods.registry import FOLDER_DODS
from soft2hard.data_gen.taskfiles import content_hash
from tests import tiny_models
from tests.command_line import Result, run
from tests.paths import SHARED

PUBLISHED = SHARED
QUICK = ["--steps", 2, "--eval-every", 1, "--n-tokens", 2, "--shard-size", 2]
WORDS = tiny_models.WORDS[3:]


def write_manifests(folder: Path, n: int, use: str = "train", instruction: str = "Say {word}.") -> Path:
    """A collection of `n` tasks over the words of the tiny subject: two words answered by two others."""
    folder.mkdir()
    for i in range(n):
        one, two = WORDS[i], WORDS[i + 1]
        rows = [{"text": f"{a} {b}", "say": one if a < b else two} for a in WORDS[:6] for b in WORDS[6:12]]
        (folder / f"{i}.json").write_text(json.dumps(rows))
        manifest = {"name": f"task-{i}", "source": {"path": f"{i}.json"}, "input": "text", "output": "say", "use": use}
        manifest |= {"instruction": instruction.format(word=one), "licence": "ours"}
        (folder / f"{i}.yaml").write_text(json.dumps(manifest))  # JSON is YAML
    return folder


def assert_refused(result: Result, *parts: str) -> None:
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "subject"
    tiny_models.model("llama").save_pretrained(folder)
    tiny_models.tokenizer("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    return write_manifests(tmp_path / "manifests", 3)


def tune(subject: Path, dod: str, folder: Path, output: Path, *more: object) -> Result:
    return run(
        "tune", "--dod", dod, "--dod-folder", folder, "--subject", subject, "-o", output, *QUICK, "--n-tasks", 3, *more
    )


def test_a_corpus_of_a_collection_has_its_tasks_with_their_instructions(subject, manifests, tmp_path):
    result = tune(subject, "manifests", manifests, tmp_path / "corpus")
    assert result.exit_code == 0, result.stderr
    corpus = load_corpus(tmp_path / "corpus")
    tasks = list(FOLDER_DODS["manifests"](manifests).tasks("train", 3, 0))
    assert corpus["task"][:] == [task.name for task in tasks]
    assert corpus["instruction"][:] == [task.instruction for task in tasks] == [f"Say {word}." for word in WORDS[:3]]
    plan = corpus_plan(tmp_path / "corpus")
    assert (plan["dod"], plan["n_train"], plan["tasks_hash"]) == ("manifests", None, content_hash(tasks))


def test_a_corpus_is_resumed_and_refused_once_its_folder_has_changed(subject, manifests, tmp_path):
    assert tune(subject, "manifests", manifests, tmp_path / "corpus").exit_code == 0
    shutil.rmtree(tmp_path / "corpus" / "shards" / "00001")
    assert tune(subject, "manifests", manifests, tmp_path / "corpus").exit_code == 0
    assert len(load_corpus(tmp_path / "corpus")) == 3
    rows = json.loads((manifests / "1.json").read_text())
    (manifests / "1.json").write_text(json.dumps(rows[1:]))
    assert_refused(tune(subject, "manifests", manifests, tmp_path / "corpus"), "has changed since: tasks")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not here")
@pytest.mark.parametrize(
    ("dod", "folder"),
    [
        ("few-shot-classification", "few_shot_classification/16-shot"),
        ("function-vectors", "function_vectors"),
        ("instruction-induction", "instruction_induction"),
    ],
)
def test_published_collections_become_corpora(subject, dod, folder, tmp_path):
    source = PUBLISHED / folder
    # The tiny subject reads 64 tokens: the texts of some collections are longer, and said to be.
    result = tune(subject, dod, source, tmp_path / "corpus", "--split", "test")
    if result.exit_code:
        assert_refused(result, "tokens with its prompt; the subject reads 64")
        assert not (tmp_path / "corpus").exists(), "nothing is begun that could not be finished"
    else:
        expected = [task.name for task in FOLDER_DODS[dod](source).tasks("test", 3, 0)]
        assert load_corpus(tmp_path / "corpus")["task"][:] == expected


def test_a_split_without_tasks_is_refused_with_the_split_that_has_some(subject, tmp_path):
    folder = write_manifests(tmp_path / "manifests", 3, use="test")
    assert_refused(tune(subject, "manifests", folder, tmp_path / "corpus"), "no train tasks", "--split test")
    assert not (tmp_path / "corpus").exists()


def test_fewer_tasks_than_asked_for_are_refused_with_their_number(subject, manifests, tmp_path):
    result = tune(subject, "manifests", manifests, tmp_path / "corpus", "--n-tasks", 4)
    assert_refused(result, "has 3 train tasks of manifests, not 4", "--n-tasks 3")
    assert not (tmp_path / "corpus").exists()


def test_tasks_without_an_instruction_are_refused(subject, tmp_path):
    folder = write_manifests(tmp_path / "manifests", 3, instruction="")
    assert_refused(
        tune(subject, "manifests", folder, tmp_path / "corpus"), "3 of 3 tasks have no instruction", "task-0"
    )


def test_a_task_with_too_few_examples_is_refused_by_name(subject, manifests, tmp_path):
    (manifests / "2.json").write_text(json.dumps([{"text": "cat", "say": "dog"}]))
    assert_refused(tune(subject, "manifests", manifests, tmp_path / "corpus"), "2.yaml", "too few")


def test_a_task_too_long_for_the_subject_is_refused_before_anything_is_tuned(subject, manifests, tmp_path):
    rows = json.loads((manifests / "2.json").read_text())
    rows = [row | {"text": f"{row['text']} " + "cat " * 70} for row in rows]
    (manifests / "2.json").write_text(json.dumps(rows))
    assert_refused(tune(subject, "manifests", manifests, tmp_path / "corpus"), "'task-2' needs", "reads 64")
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("dod", "more", "said"),
    [
        ("nothing", ["--dod-folder", "."], "There is no DoD 'nothing'"),
        ("manifests", [], "Give the folder that they lie in with --dod-folder"),
        ("manifests", ["--dod-folder", "no-such-folder"], "No such file or folder: no-such-folder"),
        ("super-glue", ["--dod-folder", "."], "has no"),
        ("lexical", ["--dod-folder", "."], "'lexical' has no folder"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(subject, tmp_path, dod, more, said):
    result = run("tune", "--dod", dod, *more, "--subject", subject, "-o", tmp_path / "corpus", *QUICK)
    assert_refused(result, said)
    assert not (tmp_path / "corpus").exists()


def test_train_refuses_a_half_made_corpus(subject, manifests, tmp_path):
    assert tune(subject, "manifests", manifests, tmp_path / "corpus").exit_code == 0
    shutil.rmtree(tmp_path / "corpus" / "shards" / "00001")
    command = ["train", tmp_path / "corpus", "--validation", tmp_path / "corpus", "--subject", subject]
    assert_refused(run(*command, "-o", tmp_path / "out"), "half-made: it has 1 of 2 shards")


def test_a_corpus_begun_in_another_precision_is_refused(subject, manifests, tmp_path):
    assert tune(subject, "manifests", manifests, tmp_path / "corpus").exit_code == 0
    shutil.rmtree(tmp_path / "corpus" / "shards" / "00001")
    again = tune(subject, "manifests", manifests, tmp_path / "corpus", "--dtype", "bfloat16")
    assert_refused(again, "made with other settings (dtype)")
