"""Texts searched for under the subject's own prior: no translator, no labels."""

import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import Reading, propose
from soft2hard.translator.prior import SHOWN, InstructionPrior
from soft2hard.translator.settings import TranslateConfig
from soft2hard.translator.translate import translate
from tests import tiny_models, tiny_tokenizers, tiny_training

QUICK = TranslateConfig(n_probes=8, n_checks=16)
WORDS = ["lion", "apple", "walk", "chair", "wolf", "sing", "Paris", "cherry", "iron", "green", "run", "seven"] * 2


@pytest.fixture(scope="module")
def embedded() -> Subject:
    return Subject.from_pretrained("embedded")


def soft(subject: Subject, text: str) -> SoftPrompt:
    return SoftPrompt(subject.embed_text(text).clone(), template=subject.template, fingerprint=subject.fingerprint)


@pytest.mark.parametrize("text", ["Is the word an animal? Answer yes or no.", "Give the past tense of the word."])
def test_a_soft_prompt_that_is_a_sentence_comes_back_as_one_that_acts_the_same(embedded: Subject, text: str) -> None:
    prompt = soft(embedded, text)
    found = translate(prompt, InstructionPrior(embedded), embedded, QUICK)
    assert found.proposer == "search" and found.verdict == "faithful"
    queries = [[Query(of, word) for word in dict.fromkeys(WORDS)] for of in (prompt, found.text)]
    soft_says, text_says = map(embedded.generate, queries)
    assert sum(map(str.__eq__, soft_says, text_says)) >= 0.75 * len(soft_says)


def test_noise_is_never_faithful(embedded: Subject) -> None:
    scale = float(embedded.embedding.std())
    config = TranslateConfig(n_probes=8, n_checks=16, n_samples=128, search_rounds=3)
    for seed in range(3):
        vectors = torch.randn(8, embedded.d_model, generator=torch.Generator().manual_seed(seed)) * scale
        found = translate(SoftPrompt(vectors, template=embedded.template), InstructionPrior(embedded), embedded, config)
        assert found.verdict in ("doubtful", "failed", "unverified")


def test_the_same_seed_finds_the_same_text(embedded: Subject) -> None:
    prompt = soft(embedded, "Count the fruits.")
    config = TranslateConfig(n_probes=4, n_checks=4, n_samples=32, search_rounds=2)
    first, second = (translate(prompt, InstructionPrior(embedded), embedded, config) for _ in range(2))
    assert first == second


def test_what_is_proposed_begins_as_instructions_do_and_ends_with_its_sentence(embedded: Subject) -> None:
    texts = propose(InstructionPrior(embedded), [soft(embedded, "Count the fruits.")], 32)[0]
    assert len(texts) > 16
    assert all(text.split()[0][0].isupper() for text in texts)
    assert sum(text[-1] in ".?!" for text in texts) > 0.6 * len(texts)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_log_probabilities_are_the_subjects_own_behind_what_it_is_shown(architecture: str) -> None:
    tokenizer = tiny_tokenizers.tokenizer("gpt2", [*SHOWN, "a b"])
    model = tiny_models.model(architecture, vocab_size=len(tokenizer), max_position_embeddings=512)
    subject = Subject(model, tokenizer, name="tiny")
    prior = InstructionPrior(subject)
    reading = Reading(prior, soft(subject, "a b"))
    text = "Write the last word."
    [found] = reading.log_probs([text])
    shown = tokenizer.encode("".join(f"{line}\n" for line in SHOWN), add_special_tokens=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    with torch.no_grad():
        log_p = model(torch.tensor([[*subject.leading_ids, *shown, *ids]])).logits[0].log_softmax(-1)
    before = len(subject.leading_ids) + len(shown) - 1
    expected = sum(float(log_p[before + i, token]) for i, token in enumerate(ids))
    expected += float(log_p[-1, prior.model.subject.endings.ids].logsumexp(-1))
    assert found == pytest.approx(expected, abs=1e-3)


def test_an_encoder_decoder_without_a_translator_is_refused() -> None:
    subject = tiny_models.subject("t5")
    with pytest.raises(UserError, match="No translator fits.*soft2hard train"):
        translate(SoftPrompt(torch.zeros(2, subject.d_model), template=subject.template), subject=subject)


def test_a_search_needs_verification_and_a_subject() -> None:
    subject = tiny_training.llama_subject()
    prompt = soft(subject, "cat")
    with pytest.raises(UserError, match="without verification"):
        translate(prompt, subject=subject, config=TranslateConfig(verify=False))
    with pytest.raises(UserError, match="does not say which subject"):
        translate(prompt)
