"""`translate` takes what the user has: one soft prompt or several, with or without translator and subject."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import soft2hard
from soft2hard import SoftPrompt, Subject, TranslateConfig, Translation, Translator, UserError, translate
from soft2hard.checkpoints import embedded_path
from soft2hard.prompts.template import Template
from tests import tiny_training

QUICK = TranslateConfig(n_candidates=4, n_probes=4, n_checks=4, refine_rounds=0)
INPUTS = ["cat", "dog", "red", "up", "fish", "small", "left", "green"]


@pytest.fixture(scope="module")
def embedded() -> SoftPrompt:
    return SoftPrompt.from_pretrained(embedded_path("soft_prompts") / "03-relation.safetensors")


@pytest.fixture(scope="module")
def own() -> SoftPrompt:
    """One of the tiny subject's."""
    subject = tiny_training.llama_subject()
    return SoftPrompt(subject.embed_text("cat dog").clone(), subject.name, subject.fingerprint, template=Template())


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Translator, str]:
    """A translator that knows its subject by a name, and the folder that holds the subject."""
    tiny_training.save_models(tmp_path)
    translator, folder = Translator.from_pretrained(tmp_path / "translator"), str(tmp_path / "subject")
    translator.card = replace(translator.card, subject=folder)
    return translator, folder


def test_one_soft_prompt_gives_one_translation_and_a_list_gives_a_list(own: SoftPrompt) -> None:
    models = (tiny_training.trained(), tiny_training.llama_subject(), QUICK)
    one = translate(own, *models, inputs=INPUTS)
    assert isinstance(one, Translation) and one.verdict != "unverified"
    assert translate([own], *models, inputs=INPUTS) == [one]
    assert translate([], *models) == []


def test_for_an_embedded_soft_prompt_nothing_else_is_needed(embedded: SoftPrompt) -> None:
    found = soft2hard.translate(embedded, config=QUICK)
    subject = Subject.from_pretrained("embedded")
    explicit = translate(embedded, Translator.from_pretrained("embedded"), subject, QUICK)
    assert found == explicit == translate(embedded, subject=subject, config=QUICK)
    assert found.verdict != "unverified"


def test_where_no_translator_fits_a_text_is_searched_for(own: SoftPrompt) -> None:
    config = replace(QUICK, n_samples=16, search_rounds=1)
    found = translate(own, subject=tiny_training.llama_subject(), config=config, inputs=INPUTS)
    assert found.proposer == "search" and found.text and found.verdict != "unverified"
    with pytest.raises(UserError, match="llama-0"):  # which is neither a folder nor a name that is known here
        translate(own)
    with pytest.raises(UserError, match="does not say which subject"):
        translate(SoftPrompt(own.embeddings, template=Template()))


def test_the_subject_is_found_by_the_name_that_the_translator_or_the_soft_prompt_has_for_it(
    saved: tuple[Translator, str], own: SoftPrompt
) -> None:
    translator, folder = saved
    expected = translate(own, translator, Subject.from_pretrained(folder), QUICK, inputs=INPUTS)
    assert translate(own, translator, config=QUICK, inputs=INPUTS) == expected
    translator.card = replace(translator.card, subject=f"{folder}/moved")
    assert translate(replace(own, subject=folder), translator, config=QUICK, inputs=INPUTS) == expected
    with pytest.raises(UserError, match="moved' that the translator was trained for was not found.*verify=False"):
        translate(replace(own, subject=None), translator, config=QUICK)


def test_a_subject_of_that_name_with_other_weights_is_not_taken(saved: tuple[Translator, str], own: SoftPrompt) -> None:
    translator, folder = saved
    tiny_training.llama_subject(seed=1).model.save_pretrained(folder)
    with pytest.raises(UserError, match="was not found"):
        translate(replace(own, subject=folder), translator, config=QUICK)


def test_without_verification_no_subject_is_loaded(own: SoftPrompt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Subject, "from_pretrained")
    found = translate(own, tiny_training.trained(), config=replace(QUICK, verify=False))
    assert (found.verdict, found.agreement, found.text) == ("unverified", None, found.greedy)


def test_a_translation_is_called_by_its_name_or_by_its_source(own: SoftPrompt) -> None:
    sourced = SoftPrompt(torch.clone(own.embeddings), provenance={"source": "mine.pt"}, template=Template())
    translator, config = tiny_training.trained(), replace(QUICK, verify=False)
    assert [t.soft_prompt for t in translate([own, sourced], translator, config=config)] == ["soft prompt 1", "mine.pt"]
    assert translate(own, translator, config=config, names=["a"]).soft_prompt == "a"
