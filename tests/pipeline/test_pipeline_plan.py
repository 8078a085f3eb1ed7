"""What a recipe is said to take before it is run."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from soft2hard.compute.metering import listening
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.lm.loading import Loading
from soft2hard.lm.subject import Subject
from soft2hard.pipeline import planner, probe
from soft2hard.pipeline.layout import Layout
from soft2hard.pipeline.recipe import read_recipe
from soft2hard.pipeline.workload import (
    ASSUMED,
    Lengths,
    architecture_of,
    corpora_work,
    evaluation_work,
    lengths_of,
    n_pairs,
    translator_work,
    tuning_passes,
)
from tests import tiny_training
from tests.command_line import run
from tests.oracles import held_out_tasks
from tests.paths import ROOT
from tests.pipeline_runs import settings, write_recipe

RECIPES = ROOT / "recipes"
STAGES = ("corpora", "translator", "evaluation", "transfer", "report")
LENGTHS = Lengths(example=10.0, instruction=5.0, n_validation=4.0, n_test=8.0, basis="given")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a plan asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-0.6b", "t5-base-lm-adapt"])
def test_recipes_of_models_that_are_not_here_are_estimated_and_say_so(no_network, tmp_path: Path, name: str) -> None:
    result = run("run", RECIPES / f"{name}.yaml", "--plan", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    for stage in STAGES:
        assert f"\n{stage}: " in result.output
    assert "estimated from" in result.output and "measured:" not in result.output
    assert f"missing: {recipe.subject}, the subject" in result.output
    assert f"missing: {recipe.translator.base}, the translator.base" in result.output
    assert ("gated" in result.output) == (name == "llama-3.1-8b")
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_models_that_are_here_is_measured_and_says_so(no_network, tmp_path: Path) -> None:
    result = run("run", RECIPES / "tiny-ci.yaml", "--plan", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    for kind in ("tuning: measured", "training: measured", "running: measured"):
        assert kind in result.output
    assert "estimated" not in result.output and "missing:" not in result.output
    assert not (tmp_path / "run").exists()


def test_a_plan_of_one_stage_is_about_that_stage(tmp_path: Path) -> None:
    output = run("run", write_recipe(tmp_path), "--plan", "--stage", "report").output
    assert "1 stage, in" in output and "\nreport: " in output and "corpora:" not in output


def test_without_a_published_size_the_time_is_unknown(tmp_path: Path) -> None:
    output = run("run", write_recipe(tmp_path, subject="no-such/model"), "--plan").output
    assert "unknown time" in output and "'sizes'" in output and "estimated from" not in output


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


def test_of_a_translator_of_adapters_no_more_is_saved_than_they_are(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path, translator={"architecture": "causal-lora", "lora_rank": 1}))
    found = planner.Planner(recipe, Layout(tmp_path / "run"))
    learned = sum(p.numel() for p in found._untrained.model.parameters() if p.requires_grad)
    assert found._saved_parameters == learned + 1  # the subject's scale
    assert found._saved_parameters < found._parameters("translator") / 2
    size = {"no-such/model": {"parameters": 8e9, "width": 4096}}
    changes = {"subject": "no-such/model", "sizes": size, "translator": {"lora_rank": 64}}
    unseen = planner.Planner(read_recipe(write_recipe(tmp_path, **changes)), Layout(tmp_path / "run"))
    assert unseen._saved_parameters == 8e9 * 2 * 64 / 4096


def test_an_estimate_is_two_operations_a_parameter_and_token_at_the_stated_share_of_the_measured_speed() -> None:
    rate = probe.estimated(parameters=8e9, flops=1e12)
    assert rate.seconds == pytest.approx(2 * 8e9 / (probe.SHARE_OF_PEAK * 1e12))


def test_the_passes_of_a_soft_prompt_are_those_that_tuning_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_training.llama_subject()
    monkeypatch.setattr(subject.scorer, "shares_prefixes", False)
    [task] = held_out_tasks(1)
    tuning = Tuning(n_tokens=3, init="vocabulary", steps=4, batch_size=2, eval_every=2, patience=9, good_enough=0.0)
    lengths = lengths_of([task], lambda text: float(len(subject.tokenizer.encode(text, add_special_tokens=False))), "")
    with listening() as heard:
        list(Tuner(subject, tuning).tune([task]))
    # Only forwards are heard: half of each step, and all of each of the three looks.
    steps = tuning.steps * tuning.batch_size * (tuning.n_tokens + lengths.example)
    expected = tuning_passes(tuning, lengths) - steps
    assert heard.total.tokens == pytest.approx(expected, rel=0.15)


def test_work_adds_up_over_corpora_pairs_epochs_and_cells(tmp_path: Path) -> None:
    raw = {"corpora": settings(tmp_path)["corpora"]}
    raw["corpora"]["train"]["snapshot_steps"] = [1]
    raw["translator"] = settings(tmp_path)["translator"] | {"architecture": "encoder-decoder"}
    recipe = read_recipe(write_recipe(tmp_path, **raw))
    lengths = dict.fromkeys(recipe.corpora, LENGTHS)
    # 2 steps of 2 examples of 10 tokens after 3 virtual ones, there and back, and 2 looks at 4 validation examples.
    of_prompt = 2 * 2 * 2 * 13 + 2 * 4 * 13
    assert corpora_work(recipe, lengths).tuning == 6 * of_prompt
    # 4 tasks with a snapshot each, 3 passes of 3 virtual tokens and 5 written ones through half of the model; 2 looks.
    assert n_pairs(recipe, "train") == 8
    half = translator_work(recipe, lengths, "encoder-decoder").training
    assert half == pytest.approx((8 * 3 + 2) * (3 + 5) / 2)
    # Under adapters the whole model reads and writes, and no backward pass goes to its weights.
    assert translator_work(recipe, lengths, "causal-lora").training == pytest.approx((8 * 2 + 2) * (3 + 5))
    evaluation = evaluation_work(recipe.evaluation, 2, LENGTHS)
    assert evaluation.tuning == 2 * of_prompt and evaluation.running == 2 * 3 * 8 * 13 and not evaluation.uncounted


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"base": "t5-small"}, "encoder-decoder"),
        ({}, "causal-lora"),
        ({"architecture": "encoder-decoder"}, "encoder-decoder"),
        ({"architecture": "causal-lora", "base": "llama"}, "causal-lora"),
    ],
)
def test_the_work_of_a_translator_is_that_of_the_architecture_it_will_have(
    tmp_path: Path, settings: dict[str, str], expected: str
) -> None:
    assert architecture_of(read_recipe(write_recipe(tmp_path, translator=settings))) == expected


def test_a_plan_loads_the_subject_once_and_as_the_recipe_holds_it(tmp_path: Path, monkeypatch) -> None:
    loaded = []
    read = Subject.from_pretrained.__func__

    def noting(cls: type, path: str, loading: Loading = Loading()) -> Subject:
        loaded.append(loading)
        return read(cls, path, loading=loading)

    monkeypatch.setattr(Subject, "from_pretrained", classmethod(noting))
    recipe = read_recipe(write_recipe(tmp_path, loading={"dtype": "float32", "attention": "eager"}))
    found = planner.Planner(recipe, Layout(tmp_path / "run"))
    assert found._subject is not None and found._untrained is not None
    assert loaded == [Loading(dtype="float32", attention="eager")]


def test_a_measurement_is_short_whatever_the_recipe_asks_for() -> None:
    subject, tasks = tiny_training.llama_subject(), held_out_tasks(3)
    tuning = Tuning(n_tokens=3, init="vocabulary", steps=900, batch_size=2, slots=0)
    assert probe.measured_slots(tuning) == 64 and probe.measured_slots(replace(tuning, slots=8)) == 8
    steps: list[str] = [probe.tuning_rate(subject, tuning, tasks, LENGTHS, most_seconds=s).how for s in (0.0, 60.0)]
    assert steps == [f"measured: {n} tuning steps of 3 soft prompts at once" for n in (2, 5)]


def test_more_of_anything_takes_longer(tmp_path: Path) -> None:
    few = read_recipe(write_recipe(tmp_path))
    corpora = settings(tmp_path / "subject")["corpora"]
    corpora["train"]["n_tasks"] *= 10
    many = read_recipe(write_recipe(tmp_path, corpora=corpora))
    lengths = dict.fromkeys(few.corpora, ASSUMED)
    assert corpora_work(many, lengths).tuning > 5 * corpora_work(few, lengths).tuning


def test_disk_is_counted_from_what_is_saved(tmp_path: Path) -> None:
    from soft2hard.pipeline.layout import Layout
    from soft2hard.pipeline.stages import stages_of

    recipe, layout = read_recipe(write_recipe(tmp_path)), Layout(tmp_path / "run")
    plans = planner.Planner(recipe, layout)
    corpora = plans.plan(stages_of(recipe, layout)[0])
    assert corpora.n_bytes == 6 * 3 * 16 * 4  # soft prompts, virtual tokens, width, bytes of a float
