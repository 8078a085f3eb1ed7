"""The embedded checkpoints made from nothing by a recipe, and put into a folder like the package's."""

import json
import re
from functools import partial
from pathlib import Path

import pytest

from soft2hard.checkpoints.install import install, main
from soft2hard.data_gen.corpus.rows import load_corpus
from soft2hard.data_gen.dods.lexical import FAMILIES, UNSEEN_FAMILIES, parse
from soft2hard.data_gen.tuning import START_FILE, Tuning
from soft2hard.data_gen.world.training import LMTrainer, make_world
from soft2hard.data_gen.world.vocabulary import train_sentencepiece
from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.pipeline.conductor import Pipeline
from soft2hard.pipeline.recipe import read_recipe
from soft2hard.pipeline.stages import Job, Layout
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import propose
from soft2hard.translator.model import Translator
from tests.paths import ROOT

CORPORA = ("common", "long", "random", "validation")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of the tiny recipe up to the evaluation, what it said, and the folder it was installed in."""
    folder, said = tmp_path_factory.mktemp("tiny"), []
    job = Job(read_recipe(ROOT / "recipes" / "embedded-tiny.yaml"), Layout(folder / "run"), said.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "soft2hard.data_gen.world.vocabulary.train_sentencepiece", partial(train_sentencepiece, n_lines=1500)
        )
        Pipeline(job).run(["world", "corpora", "translator"])
    install(job.layout.folder, folder / "out", Tuning(steps=2, eval_every=2, init="learned"))
    return job, said, folder / "out"


def test_the_models_that_a_recipe_trains_load_and_write(made):
    _, said, out = made
    assert any("subject: step 4" in line and "accuracy" in line for line in said)
    subject, api_model = (Subject.from_pretrained(out / name, device="cpu") for name in ("subject", "api_model"))
    assert subject.model.config.model_type != api_model.model.config.model_type
    for model in (subject, api_model):
        assert len(model.generate([Query("Reverse the list.", "cat dog")], 3)) == 1
    assert SoftPrompt.from_pretrained(out / "subject" / START_FILE).fingerprint == subject.fingerprint


def test_twenty_soft_prompts_of_test_tasks_are_tuned_and_the_translator_reads_them(made):
    _, _, out = made
    subject = Subject.from_pretrained(out / "subject", device="cpu")
    about = json.loads((out / "soft_prompts" / "tasks.json").read_text())
    assert len(about) == 20
    prompts = [SoftPrompt.from_pretrained(out / "soft_prompts" / record["file"]) for record in about]
    for record, prompt in zip(about, prompts, strict=True):
        subject.check(prompt)
        assert parse(record["instruction"]).split == "test" and record["examples"]
    translator = Translator.from_pretrained(out / "translator", subject=subject)
    assert translator.card.fingerprint == subject.fingerprint and translator.card.subject == "embedded"
    assert len(propose(translator, prompts[:2], n_candidates=2)) == 2


def test_corpora_and_translator_see_no_test_task_and_no_family_that_is_kept_from_them(made):
    job, _, _ = made
    shown = [load_corpus(job.layout.corpora / name) for name in CORPORA]
    splits = [{parse(text).split for text in corpus["instruction"]} for corpus in shown]
    assert splits == [{"train"}, {"train"}, {"train"}, {"validation"}]
    assert not {family for corpus in shown for family in corpus["family"]} & set(UNSEEN_FAMILIES)


def test_a_world_that_is_made_again_trains_nothing_twice(made, monkeypatch):
    job, said, _ = made
    steps: list[int] = []
    monkeypatch.setattr("soft2hard.data_gen.world.training.CARD_TASKS", 1)
    monkeypatch.setattr(LMTrainer, "_train_step", lambda self: steps.append(self.step) or 0.0)
    before = Subject.from_pretrained(job.layout.world / "subject", device="cpu").fingerprint
    make_world(job.recipe.world, job.layout.world, said.append)
    assert steps == [] and Subject.from_pretrained(job.layout.world / "subject", device="cpu").fingerprint == before
    Pipeline(job).run(["world", "corpora"])
    assert said[-2:] == ["world: done earlier", "corpora: done earlier"]


def test_every_checkpoint_has_a_card_and_those_of_models_their_accuracies(made):
    _, _, out = made
    for name in ("subject", "api_model", "translator"):
        card = (out / name / "README.md").read_text()
        assert card.startswith("---") and "{{" not in card and card.endswith("```\n")
    table = re.findall(r"^\| (\w+) \| (\d\.\d{3}) \| (\d\.\d{3}) \|$", (out / "subject/README.md").read_text(), re.M)
    assert [family for family, *_ in table] == list(FAMILIES)


def test_a_run_that_has_made_nothing_is_not_installed(tmp_path: Path):
    with pytest.raises(UserError, match="world/subject is not there.*recipes/embedded.yaml"):
        main(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
