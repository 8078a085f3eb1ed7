"""What a recipe is said to take before it is run."""

import re
import socket
from pathlib import Path

import pytest

from soft2hard.data_gen.tuning import Tuning
from soft2hard.lm.settings import Loading
from soft2hard.lm.subject import Subject
from soft2hard.pipeline.plan import Speed, tuning_speed
from soft2hard.pipeline.recipe import read_recipe
from tests import tiny_training
from tests.command_line import run
from tests.oracles import held_out_tasks
from tests.paths import ROOT
from tests.pipeline_runs import settings, write_recipe

RECIPES = ROOT / "recipes"
STAGES = ("corpora", "translator", "evaluation", "transfer", "report")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a plan asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-0.6b", "t5-base-lm-adapt"])
def test_recipes_of_models_that_are_not_here_are_counted_and_their_time_is_unknown(
    no_network, tmp_path: Path, name: str
) -> None:
    result = run("run", RECIPES / f"{name}.yaml", "--plan", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    for stage in STAGES:
        assert f"\n{stage}: " in result.output
    assert "in an unknown time: the subject or its tasks are not here" in result.output
    assert "measured:" not in result.output
    assert f"missing: {recipe.subject}, the subject" in result.output
    assert f"missing: {recipe.translator.base}, the translator.base" in result.output
    assert ("gated" in result.output) == (name == "llama-3.1-8b")
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_models_that_are_here_is_measured_and_says_so(no_network, tmp_path: Path) -> None:
    result = run("run", RECIPES / "tiny-ci.yaml", "--plan", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert result.output.count("measured: 5 tuning steps of 24 soft prompts at once") == 1
    assert len(re.findall(r"tunes +\d+ soft prompts, at most [\d.e-]+ minutes", result.output)) == 2
    assert "unknown time" not in result.output and "missing:" not in result.output
    assert not (tmp_path / "run").exists()


def test_a_plan_of_a_world_fetches_nothing_and_knows_the_width_of_what_is_yet_to_be_made(
    no_network, tmp_path: Path
) -> None:
    made = ("--stage", "world", "--stage", "corpora")
    output = run("run", RECIPES / "embedded.yaml", "--plan", "-o", tmp_path / "run", *made).output
    assert "world: a subject in 2,700 steps, an API-side model in 2,500" in output and "missing:" not in output
    n_vectors = 8 * (12288 * 3 + 512 * 5 + 512 * 3 + 384)
    assert f"about {n_vectors * 192 * 4 / 1e6:.0f} MB of soft prompts" in output
    assert "in an unknown time" in output and "measured:" not in output


def test_a_plan_counts_tasks_soft_prompts_pairs_cells_and_requests(tmp_path: Path) -> None:
    corpora = settings(tmp_path)["corpora"]
    corpora["train"]["snapshot_steps"] = [1]
    asked = {"models": [{"name": "m"}], "methods": ["gold"], "n_examples": 2, "repeats": 3}
    said = run("run", write_recipe(tmp_path, corpora=corpora, transfer=asked), "--plan").output
    assert "corpora: train: 4 train tasks, validation: 2 validation tasks" in said
    assert "translator: 8 pairs, at most 1 epochs" in said
    assert "evaluation: 2 tasks, 1 seeds, 3 methods" in said
    assert "transfer: 12 requests at most" in said  # a method, two tasks with two examples each, three times
    assert "tunes   6 soft prompts" in said and "tunes   2 soft prompts" in said
    # 10 prompts and snapshots of 3 virtual tokens, 16 wide, in float32.
    assert "about 1.92 kB of soft prompts" in said


def test_a_plan_of_one_stage_is_about_that_stage(tmp_path: Path) -> None:
    output = run("run", write_recipe(tmp_path), "--plan", "--stage", "report").output
    assert "1 stage, in" in output and "\nreport: " in output and "corpora:" not in output


@pytest.mark.parametrize("subject", ["models/a/b", "/data/llama"])
def test_the_path_of_a_model_that_is_not_there_is_planned_as_missing(no_network, tmp_path: Path, subject: str) -> None:
    result = run("run", write_recipe(tmp_path, subject=subject), "--plan")
    assert result.exit_code == 0 and f"missing: {subject}, the subject" in result.output


def test_a_collection_of_the_hub_is_not_read_by_a_plan(no_network, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    evaluation = settings(tmp_path)["evaluation"] | {"tasks": {"dod": "super-glue", "n": 2, "n_validation": 0}}
    result = run("run", write_recipe(tmp_path, evaluation=evaluation), "--plan", "--stage", "evaluation")
    assert result.exit_code == 0 and "2 tasks, 1 seeds" in result.output


def test_a_base_of_the_wrong_kind_is_refused_by_the_plan_too(no_network, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    recipe = write_recipe(tmp_path, translator={"base": str(tmp_path / "subject")})
    result = run("run", recipe, "--plan")
    assert result.exit_code == 2 and "is no encoder-decoder" in result.output


def test_the_time_is_that_of_all_steps_and_of_a_look_every_so_many() -> None:
    tuning = Tuning(steps=10, batch_size=4, eval_every=5)
    speed = Speed(seconds=1.0, n_validation=6.0, how="given")
    # 10 steps of 4 examples there and back, and 3 looks at 6 examples, which go one way only.
    assert speed.seconds_for(tuning, 2) == 2 * (10 * 4 + 3 * 6 / 2)


def test_a_plan_loads_the_subject_once_and_as_the_recipe_holds_it(tmp_path: Path, monkeypatch) -> None:
    loaded = []
    read = Subject.from_pretrained.__func__

    def noting(cls: type, path: str, loading: Loading = Loading()) -> Subject:
        loaded.append(loading)
        return read(cls, path, loading=loading)

    monkeypatch.setattr(Subject, "from_pretrained", classmethod(noting))
    recipe = write_recipe(tmp_path, loading={"dtype": "float32", "attention": "eager"})
    assert "measured:" in run("run", recipe, "--plan").output
    assert loaded == [Loading(dtype="float32", attention="eager")]


def test_a_measurement_is_short_whatever_the_recipe_asks_for() -> None:
    subject, tasks = tiny_training.llama_subject(), held_out_tasks(3)
    tuning = Tuning(n_tokens=3, init="vocabulary", steps=900, batch_size=2, slots=0)
    said = [tuning_speed(subject, tuning, tasks, seconds).how for seconds in (0.0, 60.0)]
    assert [one.partition(" on ")[0] for one in said] == [
        f"measured: {n} tuning steps of 3 soft prompts at once" for n in (2, 5)
    ]
