"""The evaluation harness: resumable cell by cell, failures counted, bad settings refused before anything runs."""

import json
import shutil
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.eval import harness as harness_module
from soft2hard.eval.cases import Pace, drawn_tasks
from soft2hard.eval.config import Evaluation, Tasks, parse_config, read_config
from soft2hard.eval.fan_out import run_evaluation
from soft2hard.eval.harness import Harness
from soft2hard.eval.methods import registry
from soft2hard.eval.methods.base import Bench, Case, Cost, Need, Outcome
from soft2hard.eval.metrics.scrutability import perplexities, subject_encoder
from soft2hard.eval.report import load_run
from soft2hard.eval.results import tuning_curves
from soft2hard.eval.run_records import ResultRow
from soft2hard.eval.transfer.material import SoftScores, read_evaluated_run
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from tests import tiny_models, tiny_training
from tests.oracles import accuracies

TUNING = {"n_tokens": 2, "steps": 4, "batch_size": 4, "eval_every": 2, "init": "vocabulary"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny subject and its translator on disk."""
    return tiny_training.save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks over the words of the tiny subject; the first has label words."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    tiny_training.write_task(folder / "kinds.jsonl", "red green")
    tiny_training.write_task(folder / "places.jsonl", "one two three four big small up")
    return folder


def asked(models: Path, tasks: Path, *methods: object, **more: object) -> Evaluation:
    raw = {
        "tasks": {"files": [str(tasks)]},
        "methods": list(methods),
        "subject": str(models / "subject"),
        "translator": str(models / "translator"),
        "reference": "subject",
        "generator": "subject",
        "tuning": TUNING,
        "seeds": [0],
    }
    return parse_config(raw | more, "test")


def with_lengths(models: Path, tasks: Path, lengths: list[int]) -> Evaluation:
    """Soft prompts of several lengths, and what they are read as."""
    raw = asked(models, tasks, "soft", "nearest-token").model_dump(mode="json")
    return parse_config(raw | {"tasks": {"files": [str(tasks)], "lengths": lengths}}, "test")


def by_cell(rows: Sequence[ResultRow]) -> dict[tuple[str, str, int], ResultRow]:
    return {(row.method, row.task, row.seed): row for row in rows}


@dataclass(frozen=True)
class Fragile:
    """Fails on one task, in one of two ways."""

    how: str = "raise"

    name: ClassVar[str] = "fragile"
    source: ClassVar[str] = "this test"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        for case in cases:
            if case.task.name == "kinds":
                if self.how == "raise":
                    raise RuntimeError("out of luck")
                yield Outcome(None, failure="gave up")
            else:
                yield Outcome("red cat", Cost(1.5, 7, 70), {"confidence": 0.5})


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.METHODS, "fragile", f"{__name__}:Fragile")


# --- results ------------------------------------------------------------------------------------


def test_every_method_gets_a_scored_row_for_every_task_and_seed(models: Path, tasks: Path, tmp_path: Path) -> None:
    methods = ["none", "gold", "soft", {"name": "few-shot", "k": 2}, {"name": "induction", "n": 2, "k": 2}, "greedy"]
    methods.append({"name": "translated", "n_candidates": 4, "n_probes": 4, "refine_rounds": 0})
    config = asked(models, tasks, *methods, seeds=[0, 1])
    rows = Harness(config, tmp_path / "run").run()
    assert len(by_cell(rows)) == len(rows) == 7 * 2 * 2
    for row in rows:
        if row.failure is None:
            assert 0 <= row.score <= 1 and row.loss > 0
    assert {row.kind for row in rows if row.method == "soft"} == {"soft"}
    assert all(row.kl == pytest.approx(0, abs=1e-5) and row.agreement == 1 for row in rows if row.method == "soft")
    for method, share in (("soft", 1), ("none", 0)):
        assert {row.explained_share for row in rows if row.method == method} == {share}
    assert all(row.rougeL == 1 for row in rows if row.method == "gold")
    assert all(row.perplexity is None for row in rows if row.kind != "hard")
    table = pq.read_table(tmp_path / "run" / "results.parquet").to_pylist()
    assert [(r["method"], r["task"], r["seed"], r["score"]) for r in table] == [
        (r.method, r.task, r.seed, r.score) for r in rows
    ]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["seconds"] > 0 and {m["label"] for m in record["methods"]} == {r.method for r in rows}


def test_scores_are_those_of_the_subject_itself(models: Path, tasks: Path, tmp_path: Path) -> None:
    config = asked(models, tasks, "none", "gold")
    rows = by_cell(Harness(config, tmp_path / "run").run())
    subject = Subject.from_pretrained(models / "subject")
    of_files = drawn_tasks(config.tasks, "test", 0)
    for label in ("none", "gold"):
        prompts = [None if label == "none" else task.instruction for task in of_files]
        expected = accuracies(subject, list(zip(prompts, of_files, strict=True)))
        assert [rows[label, task.name, 0].score for task in of_files] == expected


def test_several_lengths_of_soft_prompts_stand_side_by_side_on_the_same_examples(
    models: Path, tasks: Path, tmp_path: Path
) -> None:
    config = with_lengths(models, tasks, [1, 3])
    harness = Harness(config, tmp_path / "run")
    harness.run()
    drawn = {case.task.name: case for case in harness.cases(0, "test")}
    assert set(drawn) == {f"{name}, {n} tokens" for name in ("kinds", "places") for n in (1, 3)}
    for name in ("kinds", "places"):
        short, long = (drawn[f"{name}, {n} tokens"] for n in (1, 3))
        assert (short.soft_prompt.n_tokens, long.soft_prompt.n_tokens) == (1, 3)
        assert (short.task.train, short.task.test) == (long.task.train, long.task.test)
    run = load_run(tmp_path / "run")
    assert {len(row.prompt.split()) for row in run.by_method["nearest-token"] if ", 3 tokens" in row.task} == {3}
    assert "lengths" not in asked(models, tasks, "soft").model_dump()["tasks"]  # as runs have been recorded
    for wrong in ([0], [2, 2]):
        with pytest.raises(UserError, match="lengths"):
            with_lengths(models, tasks, wrong)


def test_the_performance_differential_is_the_distance_of_losses_from_the_soft_prompts(
    models: Path, tasks: Path, tmp_path: Path
) -> None:
    rows = by_cell(Harness(asked(models, tasks, "soft", "none", "gold"), tmp_path / "run").run())
    for (_, task, seed), row in rows.items():
        assert row.performance_differential == pytest.approx(abs(row.loss - rows["soft", task, seed].loss), abs=1e-9)
    assert max(row.performance_differential for row in rows.values()) > 0


@pytest.mark.parametrize("how", ["raise", "yield"])
def test_a_failure_is_a_row_with_its_reason_and_leaves_the_others_intact(
    how: str, models: Path, tasks: Path, tmp_path: Path, fragile: None
) -> None:
    rows = by_cell(Harness(asked(models, tasks, {"name": "fragile", "how": how}), tmp_path / "run").run())
    failed, fine = rows["fragile", "kinds", 0], rows["fragile", "places", 0]
    assert failed.failure == ("RuntimeError: out of luck" if how == "raise" else "gave up")
    assert failed.score is None and failed.prompt is None
    assert (fine.failure, fine.prompt, fine.confidence) == (None, "red cat", 0.5)
    assert (fine.seconds, fine.model_calls, fine.tokens) == (1.5, 7, 70)
    assert fine.score is not None


def test_seeds_in_processes_of_their_own_give_what_one_process_gives(models: Path, tasks: Path, tmp_path: Path) -> None:
    config = asked(models, tasks, "gold", "soft", "greedy", seeds=[0, 1])
    alone = Harness(config, tmp_path / "alone").run()
    told: list[tuple[int, int]] = []
    together = run_evaluation(config, tmp_path / "together", on_cell=lambda *n: told.append(n), workers=2)
    assert [(r.method, r.task, r.seed, r.prompt) for r in together] == [
        (r.method, r.task, r.seed, r.prompt) for r in alone
    ]
    for key in ("score", "loss", "kl", "perplexity"):  # the number of threads moves the last digits
        found, expected = ([getattr(r, key) or 0.0 for r in rows] for rows in (together, alone))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert told[-1] == (12, 12)


def test_a_run_keeps_the_curves_of_its_tunings_and_the_perplexity_of_gold_instructions(
    models: Path, tasks: Path, tmp_path: Path
) -> None:
    config = asked(models, tasks, "soft")
    Harness(config, tmp_path / "run").run()
    run = load_run(tmp_path / "run")
    tuner = Tuner(load_for_tuning(models / "subject"), config.tuning_of(0))
    tuned = list(tuner.tune(drawn_tasks(config.tasks, "test", 0)))
    assert list(run.training["step"]) == [0, 2, 4]
    means = [np.mean([dict(t.losses)[step] for t in tuned]) for step in (0, 2, 4)]
    assert list(run.training["validation loss, seed 0"]) == pytest.approx(means)
    assert means[0] == np.mean([t.initial_loss for t in tuned])
    points = run.record.reference_perplexity
    subject = Subject.from_pretrained(models / "subject")
    assert points.natural == pytest.approx(perplexities(subject, ["red cat"])[0]) and points.n_texts == 2


def test_a_task_that_stopped_tuning_keeps_its_last_loss_in_the_curve() -> None:
    losses = {0: {"a": [(0, 4.0), (5, 2.0), (10, 1.0)], "b": [(0, 2.0), (5, 1.0)]}}
    assert [line["validation loss, seed 0"] for line in tuning_curves(losses)] == [3.0, 1.5, 1.0]


def test_a_finished_run_brings_its_prompts_tasks_and_scores_to_a_transfer(
    models: Path, tasks: Path, tmp_path: Path, fragile: None
) -> None:
    config = asked(models, tasks, "none", "gold", "soft", {"name": "fragile"}, seeds=[0, 1])
    rows = by_cell(Harness(config, tmp_path / "run").run())
    found = read_evaluated_run(tmp_path / "run")
    of_seed = {seed: drawn_tasks(config.tasks, "test", seed) for seed in (0, 1)}
    assert found.tasks == of_seed
    assert {(p.method, p.task, p.seed) for p in found.prompts} == {
        (method, task, seed)
        for method in ("none", "gold", "fragile")
        for task in ("kinds", "places")
        for seed in (0, 1)
        if (method, task) != ("fragile", "kinds")  # it failed, so there is nothing to send
    }
    assert all(p.subject_score == rows[p.method, p.task, p.seed].score for p in found.prompts)
    assert {p.prompt for p in found.prompts if p.method == "gold"} == {"red cat"}
    soft = {(task, seed): row.score for (method, task, seed), row in rows.items() if method == "soft"}
    assert found.soft_scores == SoftScores(soft, same_examples=True)


@dataclass(frozen=True)
class Batched:
    """Works on all cases at once and yields when all are done, so one bad case brings down the batch."""

    name: ClassVar[str] = "batched"
    source: ClassVar[str] = "this test"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        if any(case.task.name == "places" for case in cases):
            raise RuntimeError("places do not fit")
        yield from [Outcome("red cat") for _ in cases]


def test_a_bad_case_fails_alone_though_its_batch_falls_with_it(
    models: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.METHODS, "batched", f"{__name__}:Batched")
    rows = by_cell(Harness(asked(models, tasks, "batched"), tmp_path / "run").run())
    assert rows["batched", "kinds", 0].prompt == "red cat"
    assert rows["batched", "places", 0].failure == "RuntimeError: places do not fit"


def test_failed_cells_are_kept_or_by_wish_made_again(
    models: Path, tasks: Path, tmp_path: Path, fragile: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asked(models, tasks, "fragile")
    Harness(config, tmp_path / "run").run()
    monkeypatch.setattr(Fragile, "run", lambda self, cases, bench: iter([Outcome("mended") for _ in cases]))
    kept = by_cell(Harness(config, tmp_path / "run").run())
    assert kept["fragile", "kinds", 0].failure == "RuntimeError: out of luck"
    again = by_cell(Harness(config, tmp_path / "run", retry_failed=True).run())
    assert (again["fragile", "kinds", 0].prompt, again["fragile", "places", 0].prompt) == ("mended", "red cat")


def test_the_share_of_tokens_that_the_subject_cannot_read_is_counted_and_said(
    models: Path, tasks: Path, tmp_path: Path
) -> None:
    lines = [{"instruction": "red cat"}]
    lines += [{"input": f"cat zebra{i}", "output": "red" if i % 2 else "green"} for i in range(40)]
    (tasks / "strange.jsonl").write_text("\n".join(map(json.dumps, lines)))
    said: list[str] = []
    config = asked(models, tasks / "strange.jsonl", "none")
    Harness(config, tmp_path / "run", log=said.append).run()
    [task] = drawn_tasks(config.tasks, "test", 0)
    n = len(task.test)
    assert load_run(tmp_path / "run").record.unknown_tokens == pytest.approx(n / (2 + 2 * n + 2))  # 2 + inputs + labels
    assert any("unknown to the subject" in line for line in said)


def test_an_encoder_gives_the_likeness_of_prompts_to_gold_instructions(
    models: Path, tasks: Path, tmp_path: Path
) -> None:
    config = asked(models, tasks, "gold", "greedy", "soft", encoder="reference")
    rows = by_cell(Harness(config, tmp_path / "run").run())
    encode = subject_encoder(Subject.from_pretrained(models / "subject"))
    text = rows["greedy", "kinds", 0].prompt
    one, gold = encode([text, "red cat"])
    expected = one @ gold / np.linalg.norm(one) / np.linalg.norm(gold)
    assert rows["greedy", "kinds", 0].sentence_cosine == pytest.approx(expected, abs=1e-4)
    assert rows["gold", "kinds", 0].sentence_cosine == pytest.approx(1)
    assert rows["soft", "kinds", 0].sentence_cosine is None
    with pytest.raises(UserError, match="encoder is to be the reference LM"):
        Harness(asked(models, tasks, "gold", encoder="reference", reference=None), tmp_path / "other").run()


def test_a_long_run_says_now_and_then_what_is_done_and_what_remains(
    models: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    Harness(asked(models, tasks, "gold"), tmp_path / "quick", log=said.append).run()
    assert not any("remain" in line for line in said), "a short run needs no such lines"
    monkeypatch.setattr(Pace, "EVERY_SECONDS", 0.0)
    Harness(asked(models, tasks, "gold"), tmp_path / "run", log=said.append).run()
    for part in ("soft prompts of test tasks: 1 of 2 are done; 1 remain", "cells of gold: 1 of 2 are done; 1 remain"):
        assert any(f"seed 0: {part}" in line for line in said)
    assert any("seed 0: tasks scored: 2 of 2" in line for line in said)


def test_the_tasks_of_a_run_are_drawn_once(
    models: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, int]] = []

    def noted(choice: Tasks, split: str, seed: int, dropped: object = None) -> list[Task]:
        drawn.append((split, seed))
        return drawn_tasks(choice, split, seed)

    monkeypatch.setattr("soft2hard.eval.cases.drawn_tasks", noted)
    Harness(asked(models, tasks, "none", "gold", seeds=[0, 1]), tmp_path / "run").run()
    assert sorted(drawn) == [("test", 0), ("test", 1), ("validation", 0), ("validation", 1)]


# --- resuming -----------------------------------------------------------------------------------


def test_a_killed_run_goes_on_with_the_missing_cells_alone(
    models: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asked(models, tasks, "gold", "greedy")
    whole = Harness(config, tmp_path / "whole").run()

    class Killed(BaseException):
        pass

    def kill_at_third_cell(done: int, total: int) -> None:
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        Harness(config, tmp_path / "run", on_cell=kill_at_third_cell).run()
    with (tmp_path / "run" / "cells" / "0" / "greedy.jsonl").open("a") as file:
        file.write('{"task": "pla')  # a line cut short
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(harness_module, "SoftPromptStore", _NoTuning(harness_module.SoftPromptStore))
    rows = Harness(config, tmp_path / "run", on_cell=lambda *done_of_total: made.append(done_of_total)).run()
    assert made == [(4, 4)]
    strip = lambda found: [(r.method, r.task, r.prompt, r.score) for r in found]  # noqa: E731
    assert strip(rows) == strip(whole)


class _NoTuning:
    """The store, refusing to tune."""

    def __init__(self, store: type):
        self.store = store

    def __call__(self, path: Path, *rest: object) -> object:
        assert path.exists(), "soft prompts are kept"
        return self.store(path, *rest)


def test_a_folder_of_other_settings_or_other_things_is_refused(models: Path, tasks: Path, tmp_path: Path) -> None:
    Harness(asked(models, tasks, "none"), tmp_path / "run").run()
    with pytest.raises(UserError, match=r"other settings \(methods\)"):
        Harness(asked(models, tasks, "gold"), tmp_path / "run").run()
    with pytest.raises(UserError, match=r"other settings \(loading.dtype\)"):
        Harness(asked(models, tasks, "none", loading={"dtype": "float16"}), tmp_path / "run").run()
    for damage, says in (({"settings": {}}, "of another command"), ("{", "damaged"), ([], "of another command")):
        begun = tmp_path / str(len(list(tmp_path.iterdir())))
        begun.mkdir()
        (begun / "run.json").write_text(damage if isinstance(damage, str) else json.dumps(damage))
        with pytest.raises(UserError, match=says):
            Harness(asked(models, tasks, "none"), begun).run()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        Harness(asked(models, tasks, "none"), tmp_path / "file").run()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="in use by something else"):
        Harness(asked(models, tasks, "none"), tmp_path / "mine").run()


def test_a_run_goes_on_where_its_subject_is_held_elsewhere(models: Path, tasks: Path, tmp_path: Path) -> None:
    begun = Harness(asked(models, tasks, "none"), tmp_path / "run").run()
    there = asked(models, tasks, "none", loading={"device": "cpu", "batch_tokens": 64})
    assert [row.prompt for row in Harness(there, tmp_path / "run").run()] == [row.prompt for row in begun]


def test_a_run_whose_tasks_or_models_have_changed_is_not_gone_on_with(
    models: Path, tasks: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(models, own)
    config = asked(own, tasks, "none", "greedy")
    Harness(config, tmp_path / "run").run()
    before = (tasks / "kinds.jsonl").read_text()
    (tasks / "kinds.jsonl").write_text(before + '\n{"input": "one more", "output": "red"}')
    with pytest.raises(UserError, match="changed since: test tasks of seed 0"):
        Harness(config, tmp_path / "run").run()
    (tasks / "kinds.jsonl").write_text(before)
    other = tiny_training.trained()
    other.model.reader.projection.weight.data += 1
    other.save_pretrained(tmp_path / "other")
    shutil.rmtree(own / "translator")
    shutil.copytree(tmp_path / "other", own / "translator")
    with pytest.raises(UserError, match="changed since: translator"):
        Harness(config, tmp_path / "run").run()


def test_scoring_once_more_keeps_the_time_and_the_commit_of_the_cells(
    models: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asked(models, tasks, "none", "gold")
    monkeypatch.setattr("soft2hard.storage.run_folders.commit", lambda: "old")
    Harness(config, tmp_path / "run").run()
    first = json.loads((tmp_path / "run" / "run.json").read_text())
    monkeypatch.setattr("soft2hard.storage.run_folders.commit", lambda: "new")
    Harness(config, tmp_path / "run").run()
    again = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (again["seconds"], again["commit"]) == (first["seconds"], "old")
    (tmp_path / "run" / "cells" / "0" / "gold.jsonl").unlink()
    Harness(config, tmp_path / "run").run()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["commit"] == "old, new"


# --- refusals -----------------------------------------------------------------------------------


def test_all_problems_of_a_configuration_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "tasks: {dod: lexical, m: 3}\nmethods: [gould, {name: few-shot, j: 2}, {name: few-shot, k: 0}]\nsubjekt: x\n"
    )
    with pytest.raises(UserError) as caught:
        read_config(path)
    for part in (
        "tasks.m: there is no such setting; there are dod, folder",
        "no method 'gould'",
        "few-shot: there is no setting 'j'",
        "k is 0",
        "subjekt",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: [", "is not YAML"),
        ("just words", "holds no settings"),
        ("tasks: {}\nmethods: [gold]", "give either dod or files"),
        ("tasks: {dod: lexical}\nmethods: []", "at least one method"),
        ("tasks: {dod: lexical}\nmethods: [gold, gold]", "two methods are labelled 'gold'"),
        ("tasks: {dod: lexical}\nmethods: gold", "methods: Input should be a list"),
        ("tasks: {dod: lexical}\nmethods: [gold]\ntuning: {stepz: 1}", "tuning: there is no setting 'stepz'"),
        ("tasks: {dod: lexical}\nmethods: [gold]\ntuning: {steps: 0}", "tuning: steps is 0"),
        ("tasks: {dod: lexical}\nmethods: [gold]\ntuning: {lr: much}", 'tuning: lr is "much", not a finite number'),
        ("tasks: {dod: lexical}\nmethods: [gold]\ntuning: {init: nonsense}", "tuning: init is 'nonsense', not auto"),
        ("tasks: {dod: lexical}\nmethods: [gold]\nseeds: [0, 1, 0]", "seeds: 0 is there twice"),
        ("tasks: {dod: instruction-induction}\nmethods: [gold]", "give the folder"),
        ("tasks: {dod: glue}\nmethods: [gold]", "tasks.dod: Input should be .lexical., .everyday., .few-shot"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("{name: few-shot, k: '8'}", 'k is "8", not a whole number'),
        ("{name: few-shot, k: 2.5}", "k is 2.5, not a whole number"),
        ("{name: few-shot, k: true}", "k is true, not a whole number"),
        ("{name: few-shot, with_instruction: 1}", "with_instruction is 1, not true or false"),
        ("{name: rlprompt, steps: null}", "steps is null, not a whole number"),
        ("{name: rlprompt, lr: true}", "lr is true, not a finite number"),
        ("{name: rlprompt, clip: .inf}", "clip is Infinity, not a finite number"),
        ("{name: pin, policy: 3}", "policy is 3, not a text"),
        ("{name: inspect, sources: 3}", "sources is 3, not a list"),
        ("{name: inspect, demonstrations: [a, 3]}", "demonstrations.*3, not a text"),
        ("{name: few-shot, k: x, with_instruction: x}", "k is .*; with_instruction is"),
    ],
)
def test_an_option_of_another_type_is_refused_with_the_type_it_must_have(
    method: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"tasks: {{dod: lexical}}\nmethods: [{method}]")
    with pytest.raises(UserError, match=said):
        read_config(path)


def test_numbers_that_yaml_takes_for_texts_and_lists_become_what_the_method_wants(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "tasks: {dod: lexical}\ntuning: {lr: 1e-1}\nmethods:\n- {name: rlprompt, lr: 1e-3, clip: 2, policy: null}\n"
        "- {name: inspect, sources: [0, 1], demonstrations: [a b], placeholder: word}\n"
    )
    config = read_config(path)
    policy, patching = (choice.build() for choice in config.methods)
    assert (policy.lr, policy.clip, policy.policy) == (1e-3, 2.0, None)
    assert (patching.sources, patching.demonstrations) == ((0, 1), ("a b",))
    assert config.tuning_of(3) == Tuning(lr=0.1, seed=3)


def test_a_configuration_is_read_again_from_the_record_of_its_run(models: Path, tasks: Path) -> None:
    config = asked(models, tasks, {"name": "few-shot", "k": 2, "label": "two"}, {"name": "inspect", "sources": [1]})
    recorded = json.loads(json.dumps(config.model_dump(mode="json")))
    assert parse_config(recorded, "the record") == config


@pytest.mark.parametrize(
    ("given", "reference", "generator"),
    [
        ({}, "embedded", "embedded"),
        ({"subject": str(embedded_path("subject"))}, "embedded", "embedded"),
        ({"subject": "meta-llama/Llama-3.1-8B"}, "gpt2-xl", "subject"),
        ({"subject": "smollm2"}, "subject", "subject"),
        ({"subject": "gpt2", "reference": "auto", "generator": "embedded"}, "gpt2-xl", "embedded"),
        ({"subject": "gpt2", "reference": "none", "generator": None}, None, None),
    ],
)
def test_reference_and_generator_follow_the_subject_and_are_recorded_by_name(
    given: dict[str, object], reference: str | None, generator: str | None
) -> None:
    config = parse_config({"tasks": {"dod": "lexical"}, "methods": ["gold"]} | given, "test")
    recorded = config.model_dump(mode="json")
    assert (recorded["reference"], recorded["generator"]) == (reference, generator)


def test_methods_whose_needs_are_not_met_are_refused_together_before_anything_runs(
    models: Path, tasks: Path, tmp_path: Path
) -> None:
    (tasks / "bare.jsonl").write_text("\n".join((tasks / "kinds.jsonl").read_text().splitlines()[1:]))
    config = asked(models, tasks, "gold", "greedy", "induction", translator=None, generator=None)
    with pytest.raises(UserError) as caught:
        Harness(config, tmp_path / "run").run()
    for part in ("gold needs an instruction, which 1 tasks lack, such as 'bare'", "greedy needs a translator"):
        assert part in str(caught.value)
    assert "induction needs a generator" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_model_that_a_method_cannot_work_with_is_refused_before_anything_runs(
    models: Path, tasks: Path, tmp_path: Path
) -> None:
    other = deepcopy(tiny_models.subject("gpt2"))  # others share the one that is kept
    other.model.resize_token_embeddings(len(other.tokenizer) + 7)
    pruned = tmp_path / "other"
    other.model.save_pretrained(pruned)
    other.tokenizer.add_tokens([f"word{i}" for i in range(7)])
    other.tokenizer.save_pretrained(pruned)
    methods = ["gold", {"name": "pez", "perplexity_weight": 0.1}, {"name": "rlprompt", "policy": "reference"}]
    with pytest.raises(UserError) as caught:
        Harness(asked(models, tasks, *methods, reference=str(pruned)), tmp_path / "run").run()
    # PEZ's gradient needs one vocabulary; a policy's texts cross to another.
    assert "pez: " in str(caught.value) and "rlprompt: " not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_reference_that_does_not_continue_texts_or_is_not_there_is_refused_before_anything_runs(
    models: Path, tasks: Path, tmp_path: Path
) -> None:
    t5 = tiny_models.subject("t5")
    t5.model.save_pretrained(tmp_path / "t5")
    t5.tokenizer.save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="reference .* is an encoder-decoder"):
        Harness(asked(models, tasks, "gold", reference=str(tmp_path / "t5")), tmp_path / "run").run()
    with pytest.raises(
        UserError, match="^reference: .*nowhere.* could not be read.* Name another as reference, or none"
    ):
        Harness(asked(models, tasks, "gold", reference=str(tmp_path / "nowhere")), tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_what_inspect_cannot_patch_is_refused_before_anything_runs(models: Path, tasks: Path, tmp_path: Path) -> None:
    one_pair = {"sources": [0], "targets": [0]}
    methods = [
        {"name": "inspect", **one_pair, "placeholder": "zebra"},
        {"name": "inspect-oracle", **one_pair, "sources": [7], "placeholder": "one"},
    ]
    with pytest.raises(UserError) as caught:
        Harness(asked(models, tasks, *methods), tmp_path / "run").run()
    assert "inspect: The placeholder 'zebra' is not one token" in str(caught.value)
    assert "inspect-oracle: inspect-oracle: there is no layer 7" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_tuning_from_labels_is_refused_where_tasks_have_none(models: Path, tasks: Path, tmp_path: Path) -> None:
    lines = [
        {"input": f"{a} {b}", "output": f"{b} {a}"} for a in tiny_models.WORDS[3:9] for b in tiny_models.WORDS[9:14]
    ]
    (tasks / "turned.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = asked(models, tasks, "none", tuning=TUNING | {"init": "labels"})
    with pytest.raises(UserError, match="cannot start from labels, which 1 tasks lack, as 'turned'"):
        Harness(config, tmp_path / "run").run()
