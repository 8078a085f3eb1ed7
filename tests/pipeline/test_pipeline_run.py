"""soft2hard run, stage by stage, on tiny random models."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from transformers import T5Config

from soft2hard.data_gen.corpus.folder import saved_plan
from soft2hard.data_gen.corpus.maker import corpus_tasks
from soft2hard.data_gen.corpus.rows import content_hash, load_corpus
from soft2hard.eval.report import load_run
from soft2hard.eval.transfer.results import TransferResult
from soft2hard.pipeline import judging
from soft2hard.pipeline.recipe import read_recipe
from soft2hard.pipeline.stages import Job, Stage
from soft2hard.workers.cluster import Cluster
from tests import tiny_training
from tests.command_line import run
from tests.fault_server import FaultServer
from tests.pipeline_runs import STAGES, files_of, leave_results, settings, stub, write_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A recipe, the folder of its finished run, and what was said on the way."""
    folder = tmp_path_factory.mktemp("made")
    recipe = write_recipe(folder)
    result = run("run", recipe, "-o", folder / "run")
    assert result.exit_code == 0, result.output
    return recipe, folder / "run", result.output


def refused(*arguments: object) -> str:
    """What a command says that ends with exit code 2 and one line."""
    result = run("run", *arguments)
    assert result.exit_code == 2 and len(result.output.strip().splitlines()) == 1, result.output
    return result.output


def test_all_stages_run_in_order_to_the_report(made) -> None:
    _, folder, said = made
    ends = [said.index(f"{name}: done in") for name in STAGES]
    assert ends == sorted(ends)
    evaluated = load_run(folder / "evaluation")
    assert evaluated.methods == ("gold", "soft", "greedy") and len(evaluated.rows) == 6
    assert all(method in (folder / "report.html").read_text() for method in evaluated.methods)


def test_the_run_records_the_whole_recipe_versions_commit_and_seed(made) -> None:
    _, folder, _ = made
    found = json.loads((folder / "recipe.json").read_text())
    assert found["recipe"]["corpora"]["train"]["n_tasks"] == 4 and found["recipe"]["corpora"]["train"]["task_seed"] == 0
    assert {"soft2hard", "torch", "transformers", "python"} <= found["versions"].keys()
    assert "commit" in found and found["seed"] == 0
    for name in STAGES:
        record = json.loads((folder / "stages" / f"{name}.json").read_text())
        assert record["finished"] and record["versions"] == found["versions"]


def test_a_finished_run_is_not_made_again(made) -> None:
    recipe, folder, _ = made
    before = files_of(folder)
    said = run("run", recipe, "-o", folder).output
    assert all(f"{name}: done earlier" in said for name in STAGES)
    assert {p: s for p, s in files_of(folder).items() if p.name != "recipe.json"} == {
        p: s for p, s in before.items() if p.name != "recipe.json"
    }


CHANGES = {
    "corpora": ("n_tasks", lambda raw: raw["corpora"]["train"].update(n_tasks=6)),
    "translator": ("epochs", lambda raw: raw["translator"]["training"].update(epochs=2)),
    "evaluation": ("methods", lambda raw: raw["evaluation"].update(methods=["gold"])),
}


@pytest.mark.parametrize("stage", CHANGES)
def test_a_changed_recipe_is_refused_with_what_has_changed(made, tmp_path: Path, stage: str) -> None:
    _, folder, _ = made
    before = files_of(folder)
    name, change = CHANGES[stage]
    raw = settings(folder.parent / "subject")
    change(raw)
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(raw))
    said = refused(changed, "-o", folder)
    assert f"'{stage}'" in said and name in said and "--output" in said
    assert files_of(folder) == before


def test_what_belongs_to_stages_that_have_not_begun_may_be_changed(tmp_path: Path, monkeypatch) -> None:
    done: list[str] = []

    def noting(stage: Stage, job: Job) -> None:
        done.append(stage.name)
        leave_results(stage, job)

    stub(monkeypatch, "corpora", work=noting)
    recipe = write_recipe(tmp_path)
    assert run("run", recipe, "-o", tmp_path / "run", "--stage", "corpora").exit_code == 0
    recipe = write_recipe(tmp_path, translator={"training": {"epochs": 3, "batch_size": 4}})
    result = run("run", recipe, "-o", tmp_path / "run", "--stage", "corpora")
    assert result.exit_code == 0 and "done earlier" in result.output and done == ["corpora"]


@pytest.mark.parametrize("stopped", ["translator", "evaluation"])
def test_a_run_that_was_stopped_is_resumed_without_what_had_ended(tmp_path: Path, monkeypatch, stopped: str) -> None:
    recipe, calls = write_recipe(tmp_path), []

    def noting(stage: Stage, job: Job) -> None:
        calls.append(stage.name)
        if stage.name == stopped and calls.count(stopped) == 1:
            raise KeyboardInterrupt
        leave_results(stage, job)

    stub(monkeypatch, work=noting)
    assert run("run", recipe, "-o", tmp_path / "run").exit_code == 130
    assert run("run", recipe, "-o", tmp_path / "run").exit_code == 0
    at = STAGES.index(stopped)
    assert calls == [*STAGES[: at + 1], *STAGES[at:]]


@pytest.mark.parametrize(
    ("removed", "again"),
    [
        ("corpora/validation", ["corpora", "translator", "evaluation", "report"]),
        ("translator/translator", ["translator", "evaluation", "report"]),
        ("evaluation/results.parquet", ["evaluation", "report"]),
        ("evaluation/run.json", ["evaluation", "report"]),
        ("report.html", ["report"]),
    ],
)
def test_a_stage_whose_results_are_gone_is_made_anew_and_what_follows_it(
    tmp_path: Path, monkeypatch, removed: str, again: list[str]
) -> None:
    stub(monkeypatch)
    recipe = write_recipe(tmp_path)
    assert run("run", recipe, "-o", tmp_path / "run").exit_code == 0
    (tmp_path / "run" / removed).unlink()
    said = run("run", recipe, "-o", tmp_path / "run").output
    assert [name for name in STAGES if f"{name}: done in" in said] == again
    assert [name for name in STAGES if f"{name}: done earlier" in said] == [s for s in STAGES if s not in again]


def test_cells_without_their_record_are_refused_with_the_remedy_and_the_remedy_works(tmp_path: Path) -> None:
    recipe, evaluation = write_recipe(tmp_path), tmp_path / "run" / "evaluation"
    assert run("run", recipe, "-o", tmp_path / "run").exit_code == 0
    (evaluation / "run.json").unlink()
    result = run("run", recipe, "-o", tmp_path / "run")
    said = result.stderr.strip().splitlines()[-1]
    assert result.exit_code == 2 and "run.json is gone" in said and f"Remove the folder {evaluation}" in said
    shutil.rmtree(evaluation)
    assert run("run", recipe, "-o", tmp_path / "run").exit_code == 0
    assert (evaluation / "run.json").exists()


def test_a_stage_whose_input_is_gone_is_refused(tmp_path: Path, monkeypatch) -> None:
    stub(monkeypatch, "corpora")
    recipe = write_recipe(tmp_path)
    assert run("run", recipe, "-o", tmp_path / "run", "--stage", "corpora").exit_code == 0
    (tmp_path / "run" / "corpora" / "train").unlink()
    said = refused(recipe, "-o", tmp_path / "run", "--stage", "translator")
    assert "needs 'corpora'" in said and "corpora/train is no longer there" in said


def test_a_bug_before_anything_is_made_does_not_hold_the_folder_to_its_settings(tmp_path: Path, monkeypatch) -> None:
    def fail(stage: Stage, job: Job) -> None:
        job.layout.training.mkdir()
        (job.layout.training / "training.json").write_text("{}")
        raise ZeroDivisionError

    stub(monkeypatch, "corpora")
    stub(monkeypatch, "translator", work=fail)
    with pytest.raises(ZeroDivisionError):
        run("run", write_recipe(tmp_path), "-o", tmp_path / "run")
    assert not (tmp_path / "run" / "translator").exists()
    stub(monkeypatch, "translator")
    changed = write_recipe(tmp_path, translator={"training": {"epochs": 3, "batch_size": 4}})
    result = run("run", changed, "-o", tmp_path / "run", "--stage", "translator")
    assert result.exit_code == 0, result.output


def test_where_the_subject_runs_may_change_and_how_it_is_rounded_may_not(tmp_path: Path, monkeypatch) -> None:
    stub(monkeypatch)
    folder = tmp_path / "run"
    assert (
        run("run", write_recipe(tmp_path, loading={"dtype": "float32", "device": "cpu"}), "-o", folder).exit_code == 0
    )
    elsewhere = run("run", write_recipe(tmp_path, loading={"dtype": "float32", "batch_tokens": 64}), "-o", folder)
    assert elsewhere.exit_code == 0 and elsewhere.output.count("done earlier") == 4
    assert "loading.dtype" in refused(write_recipe(tmp_path, loading={"dtype": "bfloat16"}), "-o", folder)


def test_corpora_record_how_the_subject_was_rounded(made, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path, loading={"dtype": "float32", "device": "cpu"}))
    tasks, tuning = corpus_tasks(recipe.corpora["train"]), recipe.corpus_tuning("train")
    plan = tasks.plan(tuning, tiny_training.llama_subject(), recipe.held)
    assert (plan.dtype, plan.quantization) == ("float32", "none")
    assert saved_plan(made[1] / "corpora" / "train")["dtype"] == "auto"


def test_corpora_and_evaluation_go_to_the_workers_of_a_cluster(made, tmp_path: Path, monkeypatch) -> None:
    """In place of Ray a pool that works in this process."""
    monkeypatch.setattr("soft2hard.data_gen.corpus.cluster.Pool", PoolHere)
    monkeypatch.setattr("soft2hard.eval.fan_out.Pool", PoolHere)
    PoolHere.clusters.clear()
    recipe, alone, _ = made
    result = run("run", recipe, "-o", tmp_path / "run", "--cluster", "auto", "--cluster-workers", 3)
    assert result.exit_code == 0, result.output
    assert PoolHere.clusters == [Cluster("auto", 3)] * 3, "two corpora and an evaluation"
    for name in ("train", "validation"):
        found, expected = (load_corpus(folder / "corpora" / name) for folder in (tmp_path / "run", alone))
        assert content_hash(found) == content_hash(expected)
    rows = [load_run(folder / "evaluation").rows for folder in (tmp_path / "run", alone)]
    assert [(row.task, row.method) for row in rows[0]] == [(row.task, row.method) for row in rows[1]]


class PoolHere:
    """What of `Pool` a fan-out uses, without Ray."""

    clusters: ClassVar[list[Cluster]] = []

    def __init__(self, cluster: Cluster, make_work: Callable, *_: object):
        self.clusters.append(cluster)
        self.make_work = make_work

    def __enter__(self) -> "PoolHere":
        self.work = self.make_work()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, shards: Iterable) -> Iterator[tuple]:
        return ((shard, self.work(shard)) for shard in shards)


def test_processes_and_a_cluster_exclude_each_other(tmp_path: Path) -> None:
    said = refused(write_recipe(tmp_path), "--workers", 2, "--cluster", "local")
    assert "--workers and --cluster exclude each other" in said


def test_a_transfer_is_added_to_a_finished_run_and_the_report_made_anew(made, tmp_path: Path) -> None:
    folder, recipe = tmp_path / "run", tmp_path / "with-transfer.yaml"
    shutil.copytree(made[1], folder)
    with FaultServer() as server:
        asked = {"models": [{"name": "m", "base_url": server.url}], "methods": ["gold"], "n_examples": 2}
        recipe.write_text(yaml.safe_dump(settings(made[0].parent / "subject") | {"transfer": asked}))
        said = run("run", recipe, "-o", folder).output
        assert "evaluation: done earlier" in said and "transfer: done" in said and "report: done in" in said
    result = TransferResult.load(folder / "transfer" / "transfer.json")
    assert [row.method for row in result.rows] == ["gold"] and len(result.answers) == 4
    assert len(server.seen) == 4
    assert "API" in (folder / "report.md").read_text()


def test_without_the_servers_packages_the_rest_is_made_and_the_transfer_said_to_be_missing(
    tmp_path: Path, monkeypatch
) -> None:
    stub(monkeypatch)
    monkeypatch.setattr(judging, "can_serve", lambda: False)
    recipe = write_recipe(tmp_path, transfer={"serve": "embedded", "methods": ["gold"]})
    result = run("run", recipe, "-o", tmp_path / "run")
    assert result.exit_code == 0 and "report: done in" in result.output
    assert "transfer: not done" in result.output and "soft2hard[serving]" in result.output
    assert json.loads((tmp_path / "run" / "stages" / "transfer.json").read_text())["finished"] is None


def test_a_stage_that_there_is_not_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert "the nearest is 'evaluation'" in refused(recipe, "-o", tmp_path / "run", "--stage", "evaluate")
    assert "has no stage 'transfer'" in refused(recipe, "-o", tmp_path / "run", "--stage", "transfer")
    assert not (tmp_path / "run").exists()


def test_a_stage_without_its_input_is_refused(tmp_path: Path) -> None:
    said = refused(write_recipe(tmp_path), "-o", tmp_path / "run", "--stage", "translator")
    assert "needs 'corpora'" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subject": "no-such/model"}, "subject: "),
        ({"translator": {"base": "/no/such/base"}}, "translator.base: "),
        ({"translator": {"training": {"deepspeed": "zero9"}}}, "'zero9' is no DeepSpeed configuration"),
        ({"translator": {"base": "CAUSAL"}}, "is no encoder-decoder"),
        ({"translator": {"base": "CAUSAL", "architecture": "encoder-decoder"}}, "is no encoder-decoder"),
        ({"translator": {"base": "SEQ2SEQ", "architecture": "causal-lora"}}, "is an encoder-decoder"),
        ({"evaluation": {"encoder": "no-such/encoder"}}, "sentence"),
        ({"evaluation": {"encoder": "reference"}}, "the encoder is to be the reference LM, but there is none"),
        (
            {"transfer": {"models": [{"name": "m", "key_env": "NO_SUCH_KEY"}], "methods": ["gold"]}},
            "NO_SUCH_KEY is not set",
        ),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_is_made(tmp_path: Path, monkeypatch, changes, said: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_recipe(tmp_path)  # and the subject beside it
    T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2).save_pretrained(tmp_path / "t5")
    folders = {"CAUSAL": str(tmp_path / "subject"), "SEQ2SEQ": str(tmp_path / "t5")}
    if "translator" in changes and changes["translator"].get("base") in folders:
        changes = {"translator": changes["translator"] | {"base": folders[changes["translator"]["base"]]}}
    if "evaluation" in changes:
        changes = {"evaluation": settings(tmp_path)["evaluation"] | changes["evaluation"]}
    assert said in refused(write_recipe(tmp_path, **changes), "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_folder_of_tasks_is_said_before_anything_is_made(tmp_path: Path) -> None:
    corpora = settings(tmp_path / "subject")["corpora"]
    corpora["train"] |= {"dod": "super-natural-instructions", "folder": str(tmp_path / "absent")}
    said = refused(write_recipe(tmp_path, corpora=corpora), "-o", tmp_path / "run")
    assert str(tmp_path / "absent") in said and "corpora.train" in said
    assert not (tmp_path / "run").exists()


def test_a_run_that_could_make_nothing_may_be_tried_again_with_another_recipe(tmp_path: Path) -> None:
    corpora = settings(tmp_path / "subject")["corpora"]
    induction = {"dod": "instruction-induction", "folder": str(tmp_path)}  # it has test tasks alone
    said = refused_after_beginning(
        write_recipe(tmp_path, corpora=corpora | {"more": corpora["train"] | induction}), tmp_path
    )
    assert str(tmp_path) in said and not (tmp_path / "run" / "corpora").exists()
    result = run("run", write_recipe(tmp_path), "-o", tmp_path / "run", "--stage", "corpora")
    assert result.exit_code == 0, result.output


def refused_after_beginning(recipe: Path, folder: Path) -> str:
    result = run("run", recipe, "-o", folder / "run")
    assert result.exit_code == 2, result.output
    return result.output.splitlines()[-1]


def test_a_method_that_lacks_something_is_said_before_anything_is_made(tmp_path: Path) -> None:
    evaluation = settings(tmp_path)["evaluation"] | {"methods": ["gold", "greedy", "induction"]}
    assert "induction" in refused(write_recipe(tmp_path, evaluation=evaluation), "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "in use by something else" in refused(write_recipe(tmp_path), "-o", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "absent.yaml" in refused(tmp_path / "absent.yaml")
