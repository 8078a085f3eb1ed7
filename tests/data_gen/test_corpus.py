"""A corpus is the same however often its making was cut short, and is never mixed from two plans."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import datasets
import numpy as np
import pytest
import torch

from soft2hard.data_gen.corpus.folder import CorpusFolder, CorpusPlan
from soft2hard.data_gen.corpus.rows import content_hash, corpus_features, corpus_plan, load_corpus, soft_prompt_of
from soft2hard.data_gen.corpus.shards import CorpusBuilder, ShardMaker
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuned, Tuner
from soft2hard.errors import UserError
from tests import tiny_models, tiny_training

SUBJECT = tiny_models.subject("llama")
TUNING = Tuning(n_tokens=2, init="vocabulary", steps=4, batch_size=2, eval_every=2, slots=3)


class Copying:
    """A DoD of tasks of two or three words to be repeated."""

    name = "copying"

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        yield from islice((self._task(f"{split}/{seed}/{number}") for number in range(100)), n)

    def _task(self, name: str) -> Task:
        rng = Random(name)
        words = [" ".join(rng.choices(tiny_models.WORDS[3:], k=rng.choice((2, 3)))) for _ in range(6)]
        examples = tuple(Example(word, word) for word in words)
        return Task(name, "copy", "Copy.", ("Repeat.", "Say it."), examples[:4], examples[4:], ())


PLAN = CorpusPlan(
    dod="copying",
    split="train",
    n_tasks=8,
    subject=SUBJECT.fingerprint,
    tuning=TUNING,
    snapshot_steps=(1, 3),
    shard_size=3,
)


def builder(folder: Path, plan: CorpusPlan = PLAN) -> CorpusBuilder:
    return CorpusBuilder(folder, plan, Copying(), SUBJECT)


class Killed(Exception):
    """Stands for a kill: nothing in the code under test catches it."""


def killed_after(n_tasks: int):
    """An `on_task` that dies at a task."""
    count = 0

    def on_task(tuned: Tuned) -> None:
        nonlocal count
        count += 1
        if count == n_tasks:
            raise Killed

    return on_task


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus made in one go."""
    folder = tmp_path_factory.mktemp("corpus") / "whole"
    assert list(builder(folder).build()) == [0, 1, 2]
    return folder


def test_a_corpus_holds_every_task_of_its_plan_once(whole):
    expected = [task.name for task in Copying().tasks("train", 8)]
    assert load_corpus(whole, snapshots=False)["task"][:] == expected
    with_snapshots = load_corpus(whole)
    assert list(dict.fromkeys(with_snapshots["task"])) == expected
    assert all(step < best for step, best in _steps_before_the_best(with_snapshots)), (
        "a snapshot is from before the best prompt"
    )


def _steps_before_the_best(corpus) -> Iterator[tuple[int, int]]:
    best = {row["task"]: row["step"] for row in corpus if row["is_best"]}
    yield from ((row["step"], best[row["task"]]) for row in corpus if not row["is_best"])


@pytest.mark.parametrize("kill_at", [1, 3, 5, 8])
def test_a_killed_corpus_ends_the_same_and_repeats_no_finished_shard(tmp_path, whole, kill_at):
    folder = tmp_path / "corpus"
    with pytest.raises(Killed):
        list(builder(folder).build(on_task=killed_after(kill_at)))
    finished = (kill_at - 1) // 3
    again: list[str] = []
    made = list(builder(folder).build(on_task=lambda tuned: again.append(tuned.task.name)))
    assert made == list(range(finished, 3))
    assert len(again) == 8 - 3 * finished
    assert content_hash(load_corpus(folder)) == content_hash(load_corpus(whole))
    assert load_corpus(folder, snapshots=False)["task"][:] == load_corpus(whole, snapshots=False)["task"][:]


def test_a_corpus_from_before_plans_named_the_training_examples_is_resumed(tmp_path):
    folder = tmp_path / "corpus"
    with pytest.raises(Killed):
        list(builder(folder).build(on_task=killed_after(4)))
    path = folder / "corpus.json"
    about = json.loads(path.read_text())
    assert about["plan"].pop("n_train") == 64
    path.write_text(json.dumps(about))
    assert builder(folder).missing() == [1, 2]


def test_a_killed_shard_leaves_nothing_that_could_be_taken_for_one(tmp_path):
    folder = tmp_path / "corpus"
    with pytest.raises(Killed):
        list(builder(folder).build(on_task=killed_after(2)))
    with pytest.raises(UserError, match="half-made: it has 0 of 3 shards"):
        load_corpus(folder)
    (folder / "shards").mkdir(exist_ok=True)
    (folder / "shards" / ".00000.x.tmp").mkdir()  # as a kill within the writing would leave it
    with pytest.raises(UserError, match="half-made: it has 0 of 3 shards"):
        load_corpus(folder)
    assert builder(folder).missing() == [0, 1, 2]
    list(builder(folder).build())
    assert sorted(path.name for path in (folder / "shards").iterdir()) == ["00000", "00001", "00002"]


def test_shards_made_by_several_workers_are_those_of_one(tmp_path, whole):
    folder = tmp_path / "corpus"
    assert list(builder(folder).build([1])) == [1]
    assert builder(folder).missing() == [0, 2]
    assert list(builder(folder).build([0, 1, 2])) == [0, 2]
    assert content_hash(load_corpus(folder)) == content_hash(load_corpus(whole))


def test_a_corpus_that_lacks_a_shard_is_refused_until_it_is_made(tmp_path):
    folder = tmp_path / "corpus"
    assert list(builder(folder).build([0, 2])) == [0, 2]
    with pytest.raises(UserError, match="half-made: it has 2 of 3 shards"):
        load_corpus(folder)
    assert list(builder(folder).build()) == [1]
    assert len(load_corpus(folder, snapshots=False)) == 8


def test_a_shard_that_another_worker_has_saved_meanwhile_stays(tmp_path, whole):
    place = CorpusFolder(tmp_path / "corpus", PLAN)
    place.claim("tiny-llama")
    number, tasks = next(place.waiting(Copying(), [1]))
    maker = ShardMaker(place, SUBJECT)
    maker.make(number, tasks)
    before = {path: path.stat().st_mtime_ns for path in place.shard_path(1).rglob("*")}
    maker.make(number, tasks)
    assert {path: path.stat().st_mtime_ns for path in place.shard_path(1).rglob("*")} == before
    assert not list((tmp_path / "corpus" / "shards").glob(".*")), "nothing is left of the second one"


def test_a_finished_corpus_is_left_alone(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert list(builder(whole).build()) == []
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"n_tasks": 9},
        {"n_train": None},
        {"split": "test"},
        {"task_seed": 1},
        {"subject": "another"},
        {"snapshot_steps": ()},
        {"tuning": replace(TUNING, lr=0.5)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_folder_of_another_plan_is_refused_and_the_setting_named(whole, change):
    with pytest.raises(UserError, match=rf"made with other settings \({next(iter(change))}(.lr)?\)"):
        builder(whole, replace(PLAN, **change))


def test_a_corpus_whose_tasks_have_changed_is_refused(tmp_path):
    plan = replace(PLAN, n_train=None, tasks_hash="a")
    builder(tmp_path / "corpus", plan)
    builder(tmp_path / "corpus", plan)
    with pytest.raises(UserError, match="a corpus .* has changed since: tasks"):
        builder(tmp_path / "corpus", replace(plan, tasks_hash="b"))


def test_a_plan_from_before_a_setting_was_there_has_its_default(tmp_path):
    builder(tmp_path / "corpus", replace(PLAN, tuning=replace(TUNING, patience=Tuning().patience)))
    path = tmp_path / "corpus" / "corpus.json"
    about = json.loads(path.read_text())
    del about["plan"]["tuning"]["patience"]
    path.write_text(json.dumps(about))
    assert builder(tmp_path / "corpus").missing() == [0, 1, 2]
    with pytest.raises(UserError, match=r"other settings \(tuning.patience\)"):
        builder(tmp_path / "corpus", replace(PLAN, tuning=replace(TUNING, patience=9)))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"plan": {}}', '{"plan": []}', '{"plan": {"tuning": 3}}'])
def test_a_damaged_plan_is_refused(tmp_path, text):
    (tmp_path / "corpus.json").write_text(text)
    for read in (load_corpus, corpus_plan, builder):
        with pytest.raises(UserError, match="corpus.json is (damaged|of another command)"):
            read(tmp_path)


def test_soft_prompts_of_a_corpus_are_those_of_the_tuner(whole):
    tasks = list(Copying().tasks("train", 8))
    expected = {result.task.name: result for result in Tuner(SUBJECT, TUNING).tune(tasks)}
    for row in load_corpus(whole, snapshots=False):
        result = expected[row["task"]]
        prompt = soft_prompt_of(row, SUBJECT.fingerprint)
        torch.testing.assert_close(prompt.embeddings, result.soft_prompt.embeddings, atol=1e-4, rtol=1e-4)
        assert row["step"] == result.best_step
        assert row["validation_loss"] == pytest.approx(result.validation_loss, abs=1e-4)
        assert row["initial_loss"] == pytest.approx(result.initial_loss, abs=1e-4)
        assert (row["instruction"], row["paraphrases"]) == ("Copy.", ["Repeat.", "Say it."])
        SUBJECT.check(prompt)


def test_the_hash_tells_of_any_change():
    embeddings = np.random.default_rng(0).normal(size=(2, 2, 16)).astype(np.float32)
    changed = embeddings.copy()
    changed[1, 1, 3] = np.nextafter(changed[1, 1, 3], np.float32(9))

    def made(tasks: list[str], steps: list[int], vectors: np.ndarray) -> str:
        every = corpus_features(2, 16)
        features = datasets.Features(
            {name: every[name] for name in ("task", "instruction", "paraphrases", "step", "embeddings")}
        )
        columns = {
            "instruction": ["i", "j"],
            "paraphrases": [["p"], []],
            "task": tasks,
            "step": steps,
            "embeddings": list(vectors),
        }
        return content_hash(datasets.Dataset.from_dict(columns, features=features))

    original = made(["a", "b"], [1, 2], embeddings)
    assert made(["a", "b"], [1, 2], embeddings.copy()) == original
    assert made(["a", "c"], [1, 2], embeddings) != original
    assert made(["a", "b"], [1, 3], embeddings) != original
    assert made(["a", "b"], [1, 2], changed) != original
    assert made(["b", "a"], [2, 1], embeddings[::-1]) != original


def test_the_plan_and_the_versions_are_on_record(whole):
    assert corpus_plan(whole)["n_tasks"] == 8
    assert corpus_plan(whole)["tuning"]["steps"] == TUNING.steps
    about = json.loads((whole / "corpus.json").read_text())
    assert about["subject_name"] == "tiny-llama" and about["versions"]["torch"] == torch.__version__


def test_a_folder_that_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a corpus"):
        load_corpus(tmp_path)


def test_reading_a_corpus_leaves_nothing_in_it_and_damaged_shards_are_named(tmp_path: Path) -> None:
    subject = tiny_training.llama_subject()
    rows = tiny_training.corpus(subject, ["cat"], copies=2)
    rows.save_to_disk(str(tmp_path / "shards" / "00000"))
    plan = {"n_tasks": 1, "shard_size": 1, "subject": "s", "tuning": {"n_tokens": 3}}
    (tmp_path / "corpus.json").write_text(json.dumps({"plan": plan}))
    before = sorted(tmp_path.rglob("*"))
    best = load_corpus(tmp_path, snapshots=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert best["task"] == [row["task"] for row in rows if row["is_best"]]
    arrow = next(tmp_path.rglob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(UserError, match="00000' is damaged"):
        load_corpus(tmp_path)


@pytest.mark.parametrize("column", ["instruction", "paraphrases", "task", "step", "embeddings"])
def test_the_hash_of_a_corpus_depends_on_all_that_a_translator_learns(column: str) -> None:
    rows = tiny_training.corpus(tiny_training.llama_subject(), ["cat"])
    values = rows.to_list()
    values[1][column] = {"paraphrases": ["other"], "step": 9, "embeddings": values[2]["embeddings"]}.get(column, "x")
    changed = type(rows).from_list(values, features=rows.features)
    assert content_hash(rows) == content_hash(type(rows).from_list(rows.to_list(), features=rows.features))
    assert content_hash(rows) != content_hash(changed)


# --- examples beside the soft prompts -------------------------------------------------------------


def examples_of(row: dict) -> list[Example]:
    return [Example(*pair) for pair in zip(row["inputs"], row["outputs"], strict=True)]


class Many(Copying):
    """The same with 40 training examples, of which 20 are distinct."""

    def _task(self, name: str) -> Task:
        of_name = super()._task(name)
        once = [Example(f"{one} {other}", name[-1]) for one in WORDS[:5] for other in WORDS[5:9]]
        twice = tuple(example for i in range(20) for example in (once[i], once[i // 2]))
        return replace(of_name, train=twice)


WORDS = tiny_models.WORDS[3:]


def test_a_corpus_keeps_the_training_examples_of_each_task_beside_all_its_rows(whole):
    tasks = {task.name: task for task in Copying().tasks("train", 8)}
    rows = load_corpus(whole)
    assert not all(rows["is_best"])
    for row in rows:
        assert examples_of(row) == list(dict.fromkeys(tasks[row["task"]].train))


def test_of_many_training_examples_the_first_sixteen_distinct_ones_are_kept(tmp_path):
    plan = replace(PLAN, n_tasks=2, snapshot_steps=())
    list(CorpusBuilder(tmp_path, plan, Many(), SUBJECT).build())
    for row, task in zip(load_corpus(tmp_path), Many().tasks("train", 2), strict=True):
        kept, at = examples_of(row), [task.train.index(example) for example in examples_of(row)]
        assert len(set(kept)) == len(kept) == 16 and at == sorted(at)
        assert set(task.train[: at[-1]]) <= set(kept)  # none was passed over
        assert (len(task.train), len(set(task.train))) == (40, 20)


def test_a_shard_from_before_examples_were_kept_is_read_without_any(tmp_path, whole):
    folder = tmp_path / "corpus"
    shutil.copytree(whole, folder)
    shard = datasets.load_from_disk(str(whole / "shards" / "00001")).remove_columns(["inputs", "outputs"])
    shutil.rmtree(folder / "shards" / "00001")
    shard.save_to_disk(str(folder / "shards" / "00001"))
    before, found = load_corpus(whole), load_corpus(folder)
    assert found.features == before.features and content_hash(found) == content_hash(before)
    old = set(shard["task"])
    assert 0 < len(old) < len(set(found["task"]))
    for row, expected in zip(found, before, strict=True):
        assert (row["inputs"], row["outputs"]) == (
            ([], []) if row["task"] in old else (expected["inputs"], expected["outputs"])
        )
