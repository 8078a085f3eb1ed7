"""`translate` takes what the user has: one soft prompt or several, with or without translator and subject."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch

import soft2hard
from soft2hard import SoftPrompt, Subject, TranslateConfig, Translation, Translator, UserError, translate
from soft2hard.checkpoints import embedded_path
from soft2hard.eval.report.verdict_text import verdict_text
from soft2hard.prompts.template import Template
from soft2hard.translator import translate as translate_module
from soft2hard.translator.candidates import Reading, propose
from soft2hard.translator.probing import invented_inputs
from soft2hard.translator.proposers.prior import InstructionPrior
from soft2hard.translator.translate import Helpers, unnamed
from soft2hard.translator.verification import Comparison, Probes, Verifier, surest
from tests import tiny_training
from tests.markov import inventing_subject

QUICK = TranslateConfig(n_candidates=4, n_probes=4, n_checks=4, refine_rounds=0)
INPUTS = ["cat", "dog", "red", "up", "fish", "small", "left", "green"]


class Saying:
    """A describer that always says the same."""

    def __init__(self, text: str):
        self.text = text

    def sample(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        return [[self.text] * n for _ in texts]


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


def test_an_assumed_template_is_warned_of_and_one_that_is_known_or_asked_for_is_not(embedded: SoftPrompt) -> None:
    quick, unsaid = replace(QUICK, n_candidates=1), replace(embedded, template=None, place="after")
    with pytest.warns(translate_module.AssumedTemplate, match="does not say what text stood"):
        found = translate(unsaid, config=quick, inputs=INPUTS)
    assert found.template_is_assumed and "if the text around its inputs is the assumed one" in verdict_text(found)
    with warnings.catch_warnings():
        warnings.simplefilter("error", translate_module.AssumedTemplate)
        known = translate(embedded, config=quick, inputs=INPUTS)
        asked = translate(
            unsaid, subject=Subject.from_pretrained("embedded", template="plain"), config=quick, inputs=INPUTS
        )
    assert not known.template_is_assumed and not asked.template_is_assumed
    assert "assumed" not in verdict_text(known) + verdict_text(asked)


def test_for_an_embedded_soft_prompt_nothing_else_is_needed(embedded: SoftPrompt) -> None:
    found = soft2hard.translate(embedded, config=QUICK)
    subject = Subject.from_pretrained("embedded")
    explicit = translate(embedded, Translator.from_pretrained("embedded"), subject, QUICK)
    assert found == explicit == translate(embedded, subject=subject, config=QUICK)
    assert found.verdict != "unverified"


def test_where_no_translator_fits_a_text_is_described_and_searched_for(own: SoftPrompt) -> None:
    config = replace(QUICK, n_samples=16, search_rounds=1, n_descriptions=3)
    helpers = Helpers(Saying("cat dog"))
    found = translate(own, None, tiny_training.llama_subject(), config, inputs=INPUTS, helpers=helpers)
    assert set(found.by_proposer) <= {"describe", "search"} and "describe" in found.by_proposer
    described = found.by_proposer["describe"]
    assert (described.text, described.agreement) == ("cat dog", 1.0)
    assert found.candidates[0].rank <= described.rank
    assert (found.text, found.agreement) == (found.candidates[0].text, found.judgement.n_alike / 4)
    with pytest.raises(UserError, match="llama-0"):  # which is neither a folder nor a name that is known here
        translate(own)
    with pytest.raises(UserError, match="does not say which subject"):
        translate(SoftPrompt(own.embeddings, template=Template()))


def test_a_translator_that_is_not_asked_for_is_left_out(own: SoftPrompt) -> None:
    config = replace(QUICK, propose=("describe",), n_descriptions=2)
    models = (tiny_training.llama_subject(), config)
    with_one, without = (
        translate(own, translator, *models, inputs=INPUTS, helpers=Helpers(Saying("up")))
        for translator in (tiny_training.trained(), None)
    )
    assert with_one == without and list(with_one.by_proposer) == ["describe"]


def test_all_proposers_that_are_named_propose(own: SoftPrompt) -> None:
    config = replace(
        QUICK, propose=("translator", "describe", "search"), n_samples=8, search_rounds=1, n_descriptions=2
    )
    models = (tiny_training.trained(), tiny_training.llama_subject(), config)
    found = translate(own, *models, inputs=INPUTS, helpers=Helpers(Saying("up red")))
    assert set(found.by_proposer) == {"translator", "describe", "search"}
    assert found.greedy == propose(tiny_training.trained(), [own], 1)[0][0]
    assert found.by_proposer[found.proposer].text == found.text == found.candidates[0].text
    for candidate in found.candidates:
        assert found.by_proposer[candidate.proposer].rank <= candidate.rank
    # p(text) is the mean of what translator and prior say.
    readings = Reading(tiny_training.trained(), own), InstructionPrior(tiny_training.llama_subject())
    for candidate in found.candidates:
        logs = torch.tensor([of.log_probs([candidate.text])[0] for of in readings])
        assert candidate.log_prob == pytest.approx(float(logs.logsumexp(0)) - log(2), abs=1e-3)


def test_what_a_translation_says_of_its_judgement_is_in_its_json(own: SoftPrompt) -> None:
    models = (tiny_training.trained(), tiny_training.llama_subject(), QUICK)
    found = translate(own, *models, inputs=INPUTS)
    said = json.loads(json.dumps(found.to_json()))
    assert (said["verdict"], said["agreement"], said["divergence"]) == (
        found.judgement.verdict, found.judgement.n_alike / found.judgement.n_inputs, found.judgement.divergence
    )  # fmt: skip
    assert said["judgement"]["text"] == said["text"] == found.text and said["judgement"]["n_inputs"] == 4
    unverified = Translation("a", "b", "b")
    assert (unverified.verdict, unverified.agreement, unverified.divergence) == ("unverified", None, None)


def test_without_inputs_the_subject_invents_them_and_the_surest_are_used() -> None:
    subject = inventing_subject()
    prompt = SoftPrompt(subject.embed_text("bird bird").clone(), template=subject.template)
    config = TranslateConfig(propose=("describe", "search"), n_probes=4, n_checks=4, n_samples=8, search_rounds=0)
    used: list[list[str]] = []
    compared: set[str] = set()
    probe, compare = Verifier.probe, Verifier.compare

    def noted(self: Verifier, prompts: Sequence[SoftPrompt], inputs: Sequence[Sequence[str]]) -> list[Probes]:
        used.extend(map(list, inputs))
        return probe(self, prompts, inputs)

    def seen(self: Verifier, prompts: Sequence[str | None], probes: Probes) -> list[Comparison | None]:
        compared.update(probes.inputs)
        return compare(self, prompts, probes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Verifier, "probe", noted)
        patch.setattr(Verifier, "compare", seen)
        found = translate(prompt, None, subject, config, helpers=Helpers(Saying("bird")))
    assert (found.probe_source, found.n_probes, found.n_checks) == (
        "invented by the subject, the surest of the soft prompt's",
        4,
        4,
    )
    [invented] = used
    prior = InstructionPrior(subject)
    assert invented == invented_inputs(subject, [[prompt, *prior.sample(16, 0)]], 24)[0]
    assert len(invented) > 8
    [probes] = Verifier(subject).probe([prompt], [invented])
    assert compared == {invented[i] for i in surest(probes, 8)}


def test_how_inputs_are_invented_depends_on_no_other_soft_prompt(own: SoftPrompt) -> None:
    subject = inventing_subject()
    prompts = [
        SoftPrompt(subject.embed_text(text).clone(), template=subject.template) for text in ("bird", "up", "red")
    ]
    config = TranslateConfig(propose=("describe",), n_probes=4, n_checks=4)
    together = translate(prompts, None, subject, config, helpers=Helpers(Saying("bird")))
    alone = [translate(prompt, None, subject, config, helpers=Helpers(Saying("bird"))) for prompt in prompts]
    assert [replace(one, soft_prompt="") for one in together] == [replace(one, soft_prompt="") for one in alone]


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


def test_a_translation_is_called_by_the_source_of_its_soft_prompt(own: SoftPrompt) -> None:
    sourced = SoftPrompt(torch.clone(own.embeddings), provenance={"source": "mine.pt"}, template=Template())
    translator, config = tiny_training.trained(), replace(QUICK, verify=False)
    assert [t.soft_prompt for t in translate([own, sourced], translator, config=config)] == ["soft prompt 1", "mine.pt"]


@pytest.mark.parametrize("inputs", [INPUTS, None])
def test_as_many_at_a_time_as_the_memory_has_room_for_changes_nothing(
    inputs: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = inventing_subject()
    prompts = [SoftPrompt(subject.embed_text(t).clone(), template=subject.template) for t in ("bird", "up", "red cat")]
    config = replace(QUICK, propose=("describe", "search"), n_samples=8, search_rounds=1, n_descriptions=3)
    done: list[None] = []

    def translated() -> list[Translation]:
        helpers = Helpers(Saying("bird"))
        return translate(
            prompts, None, subject, config, inputs=inputs, helpers=helpers, progress=lambda: done.append(None)
        )

    together = translated()
    monkeypatch.setattr(translate_module, "_NUMBERS_AT_ONCE", 1)
    for one, alone in zip(together, translated(), strict=True):
        assert (one.text, one.verdict, one.probe_source) == (alone.text, alone.verdict, alone.probe_source)
        assert [c.text for c in one.candidates] == [c.text for c in alone.candidates]
    assert len(done) == 6


@pytest.mark.parametrize(
    ("text", "outputs", "expected"),
    [
        ("Say whether the word is a bird or a metal.", "bird metal sport sport sport bird metal", ("sport",)),
        ("Sort birds, Metals and sports.", "bird metal sport sport sport bird metal", ()),
        ("Give the kind of the word.", "bird metal sport sport sport bird metal", ()),  # it names none: it need not
        ("Say bird.", "a b c d e f g bird", ()),  # no classification
        ("Say up, not upper.", "up up upper upper down down", ("down",)),
        ("Say it is up.", " UP up Down down", ("down",)),
    ],
)
def test_outputs_that_a_text_leaves_out_are_those_of_a_classification_of_which_it_names_others(
    text: str, outputs: str, expected: tuple[str, ...]
) -> None:
    assert unnamed(text, outputs.split(" ")[outputs.startswith(" ") :]) == expected
