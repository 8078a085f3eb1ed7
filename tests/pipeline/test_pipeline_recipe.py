"""What a recipe may say, and what becomes of one that says something else."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.world import FINAL_EXAMPLES
from soft2hard.errors import UserError
from soft2hard.eval.config import read_config
from soft2hard.pipeline.recipe import read_recipe
from soft2hard.translator.settings import TranslatorTraining, read_card
from tests.paths import ROOT
from tests.pipeline_runs import settings

RECIPES = ROOT / "recipes"
SHIPPED = ("embedded", "embedded-gpu", "llama-3.1-8b", "qwen3-0.6b", "t5-base-lm-adapt", "tiny-ci")


def write(folder: Path, raw: object) -> Path:
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(raw) if not isinstance(raw, str) else raw, encoding="utf-8")
    return path


def refusal(folder: Path, raw: object) -> str:
    with pytest.raises(UserError) as caught:
        read_recipe(write(folder, raw))
    return str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_valid_and_drives_all_stages(name: str) -> None:
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    assert recipe.of_split("train") and recipe.of_split("validation") and recipe.transfer is not None
    translating = {"greedy", "translated"}
    assert translating <= {method.name for method in recipe.evaluation.methods}


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-0.6b", "t5-base-lm-adapt"])
def test_recipes_of_real_subjects_start_from_a_pretrained_encoder_decoder(name: str) -> None:
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    assert recipe.translator.base is not None and "t5" in recipe.translator.base
    assert recipe.translator.architecture == "encoder-decoder" and recipe.training.bf16
    assert {recipe.subject, recipe.translator.base} <= recipe.sizes.keys()


def test_the_embedded_recipe_is_that_of_the_checkpoints_that_come_along() -> None:
    recipe = read_recipe(RECIPES / "embedded.yaml")
    common = Tuning(n_tokens=8, init="learned", steps=60, batch_size=6, lr=1.2, eval_every=20, patience=3)
    assert recipe.corpus_tuning("common") == recipe.corpus_tuning("validation") == common
    assert recipe.corpus_tuning("long") == replace(common, steps=200, batch_size=8, eval_every=25, patience=4, seed=2)
    assert recipe.corpus_tuning("random") == replace(common, init="vocabulary", seed=1)
    sizes = {name: corpus.n_tasks for name, corpus in recipe.corpora.items()}
    assert sizes == {"common": 12_288, "long": 512, "random": 512, "validation": 384}
    assert {corpus.n_train for corpus in recipe.corpora.values()} == {FINAL_EXAMPLES}
    shipped = read_card(embedded_path("translator"))
    assert recipe.training == TranslatorTraining(**shipped.training["config"])
    design = ("architecture", "reads", "shown", "instruction_tokens")
    assert all(getattr(recipe.translator, name) == getattr(shipped, name) for name in design)
    cards = {name: (embedded_path(name) / "README.md").read_text() for name in ("subject", "api_model")}
    for name, card in cards.items():
        settings = json.loads(card.rpartition("```json")[2].removesuffix("```\n"))
        said = asdict(getattr(recipe.world, name))
        shared = said.keys() & settings.keys() - {"architecture"}
        assert len(shared) > 10 and {key: said[key] for key in shared} == {key: settings[key] for key in shared}
    wanted = read_config(RECIPES / "evaluate-embedded.yaml")
    assert recipe.evaluation.methods == wanted.methods and recipe.evaluation.tasks == wanted.tasks
    assert recipe.evaluation.tuning_of(1) == wanted.tuning_of(1)


TINY_MODEL = {"architecture": "llama", "width": 64, "layers": 1, "steps": 1}
MISSPELT = {
    "translater": ({"translater": {}}, "translator"),
    "n_task": ({"corpora": {"train": {"split": "train", "n_task": 4}}}, "n_tasks"),
    "step": ({"tuning": {"step": 3}}, "steps"),
    "epoch": ({"translator": {"training": {"epoch": 1}}}, "epochs"),
    "architeture": ({"translator": {"architeture": "causal-lora"}}, "architecture"),
    "method": ({"evaluation": {"tasks": {"dod": "lexical"}, "method": ["gold"]}}, "methods"),
    "max_cots": ({"transfer": {"models": [{"name": "m"}], "max_cots": 1}}, "max_cost"),
    "dtyp": ({"loading": {"dtyp": "bfloat16"}}, "dtype"),
}


@pytest.mark.parametrize("key", MISSPELT)
def test_an_unknown_key_is_refused_with_the_nearest_that_there_is(tmp_path: Path, key: str) -> None:
    change, nearest = MISSPELT[key]
    said = refusal(tmp_path, settings(tmp_path) | change)
    assert f"there is no setting '{key}'; the nearest is '{nearest}'" in said and "\n" not in said


WRONG = {
    "no validation corpus": (
        {"corpora": {"a": {"split": "train", "n_tasks": 1}}},
        "there is none of split 'validation'",
    ),
    "a test corpus": ({"corpora": {"a": {"split": "test", "n_tasks": 1}}}, "corpora.a.split"),
    "no such collection": ({"corpora": {"a": {"split": "train", "n_tasks": 1, "dod": "lexicall"}}}, "'lexical'"),
    "a collection without folder": (
        {"corpora": {"a": {"split": "train", "n_tasks": 1, "dod": "manifests"}}},
        "give the folder",
    ),
    "two lengths": (
        {"evaluation": {"tasks": {"dod": "lexical"}, "methods": ["gold"], "tuning": {"n_tokens": 5}}},
        "evaluation of 5",
    ),
    "an absent method": ({"transfer": {"models": [{"name": "m"}], "methods": ["greed"]}}, "the nearest is 'greedy'"),
    "nobody to ask": ({"transfer": {}}, "name at least one model"),
    "a bad value": ({"tuning": {"steps": 0}}, "steps is 0"),
    "a text for a number": ({"tuning": {"steps": "many"}}, "a whole number"),
    "a subject beside a world": (
        {"world": dict.fromkeys(("subject", "api_model"), TINY_MODEL)},
        "a recipe with a world has the subject 'embedded'",
    ),
    "a world without steps": (
        {"world": {"subject": TINY_MODEL | {"steps": 0}, "api_model": TINY_MODEL}},
        "world.subject.steps is 0",
    ),
    "a subject in the evaluation": (
        {"evaluation": {"subject": "embedded", "tasks": {"dod": "lexical"}, "methods": ["gold"]}},
        "no setting 'subject'",
    ),
    "an evaluation that is not there": ({"evaluation": "absent.yaml"}, "absent.yaml"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_recipe_that_cannot_be_run_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    change, said = WRONG[name]
    found = refusal(tmp_path, settings(tmp_path) | change)
    assert said in found and "\n" not in found and len(found) < 500


@pytest.mark.parametrize("raw", ["- a\n- b\n", "subject: [", ""])
def test_what_is_no_mapping_is_refused(tmp_path: Path, raw: str) -> None:
    assert str(tmp_path / "r.yaml") in refusal(tmp_path, raw)


def test_one_seed_serves_tuning_and_training_unless_they_name_their_own(tmp_path: Path) -> None:
    raw = settings(tmp_path) | {"seed": 7}
    recipe = read_recipe(write(tmp_path, raw))
    assert recipe.corpus_tuning("train").seed == recipe.training.seed == 7
    raw["corpora"]["train"]["tuning"] = {"seed": 8}
    raw["translator"]["training"]["seed"] = 9
    recipe = read_recipe(write(tmp_path, raw))
    assert (recipe.corpus_tuning("train").seed, recipe.training.seed) == (8, 9)


def test_the_recipes_tuning_serves_all_soft_prompts_unless_they_name_their_own(tmp_path: Path) -> None:
    raw = settings(tmp_path)
    raw["evaluation"]["tuning"] = {"steps": 9}
    recipe = read_recipe(write(tmp_path, raw))
    assert recipe.corpus_tuning("validation").steps == 2 and recipe.evaluation.tuning_of(0).steps == 9
    assert recipe.evaluation.tuning_of(0).n_tokens == 3 and recipe.evaluation.tuning_of(4).seed == 4


# --- variants, comparisons, certificates ----------------------------------------------------------


@pytest.mark.parametrize("size", [None, "medium", "small", "trial"])
def test_the_recipe_of_the_real_model_is_valid_in_all_sizes_and_keeps_test_tasks_apart(size: str | None) -> None:
    recipe = read_recipe(RECIPES / "smollm2.yaml", size)
    real = [corpus for corpus in recipe.corpora.values() if corpus.dod == "real-tasks"]
    assert real and recipe.evaluation.tasks.dod == "real-tasks"
    assert recipe.training.apart_from_real and recipe.certificate is not None
    rivals = {recipe.comparison(name).reads for name in recipe.comparisons}
    at_least = {"trial": set(), "small": {"examples"}}  # of a trial the translator itself is given examples
    assert rivals >= at_least.get(size, {"examples", "nothing"})
    n_prompts = sum(c.n_tasks for c in recipe.of_split("train").values())
    assert n_prompts >= {"trial": 66, "small": 500, "medium": 1000}.get(size, 1200)


def test_a_variant_changes_what_it_names_and_null_takes_a_setting_out(tmp_path: Path) -> None:
    raw = settings(tmp_path)
    raw["corpora"]["more"] = dict(raw["corpora"]["train"])
    raw["variants"] = {"small": {"corpora": {"train": {"n_tasks": 2}, "more": None}, "seed": 5}}
    path = write(tmp_path, raw)
    whole, small = read_recipe(path), read_recipe(path, "small")
    assert set(whole.corpora) - set(small.corpora) == {"more"}
    assert (small.corpora["train"].n_tasks, small.seed) == (2, 5)
    assert small.corpora["train"].shard_size == whole.corpora["train"].shard_size
    with pytest.raises(UserError, match="no size 'large'. Its sizes: small"):
        read_recipe(path, "large")


def test_a_comparison_is_the_translator_with_what_it_changes(tmp_path: Path) -> None:
    raw = settings(tmp_path)
    raw["translator"] = {"lora_rank": 4, "architecture": "causal-lora", "training": {"epochs": 3, "lr": 0.5}}
    raw["comparisons"] = {"examples": {"reads": "examples", "training": {"lr": 0.25}}}
    recipe = read_recipe(write(tmp_path, raw))
    found = recipe.comparison("examples")
    assert (found.reads, found.lora_rank, found.training) == ("examples", 4, {"epochs": 3, "lr": 0.25})
    assert recipe.translator.reads == "vectors"


def test_a_comparison_with_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    assert "'read'" in refusal(tmp_path, settings(tmp_path) | {"comparisons": {"a": {"read": "examples"}}})


def test_options_of_a_collection_are_checked_before_anything_runs(tmp_path: Path) -> None:
    raw = settings(tmp_path)
    raw["corpora"]["train"] = {"split": "train", "dod": "relations", "folder": str(tmp_path), "n_tasks": 1}
    raw["corpora"]["train"]["dod_options"] = {"max_word": 3}
    assert "no option 'max_word'" in refusal(tmp_path, raw)
