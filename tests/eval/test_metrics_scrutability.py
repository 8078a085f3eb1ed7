"""Perplexities are the reference model's own, in any batch, and reference points tell order from disorder."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from soft2hard.checkpoints import embedded_path
from soft2hard.errors import UserError
from soft2hard.eval.metrics.scrutability import mauve, perplexities, reference_points, shuffled_words, subject_encoder
from soft2hard.lm.subject import Subject
from soft2hard.prompts.template import Template
from tests import tiny_models
from tests.oracles import held_out_tasks

TEXTS = ["cat dog bird", "one two three four big small up down", "red green", "up left right left", "fish blue cat"]
BOS_ID = 1


def by_the_models_own_loss(reference: Subject, text: str, begin: list[int]) -> float:
    """exp of the loss that transformers itself computes, over all tokens but the first it reads."""
    ids = torch.tensor([begin + reference.tokenizer(text, add_special_tokens=False)["input_ids"]])
    return math.exp(float(reference.model(input_ids=ids, labels=ids).loss))


@pytest.mark.parametrize(
    ("architecture", "begin"), [("llama", [BOS_ID]), ("opt", [BOS_ID]), ("gpt2", []), ("bloom", [])]
)
def test_perplexity_is_exp_of_the_models_own_loss_after_bos_if_it_has_one(architecture: str, begin: list[int]) -> None:
    reference = tiny_models.subject(architecture)
    expected = [by_the_models_own_loss(reference, text, begin) for text in TEXTS]
    assert perplexities(reference, TEXTS) == pytest.approx(expected, rel=1e-4)


def test_a_template_can_put_bos_where_the_tokenizer_does_not() -> None:
    plain = tiny_models.subject("gpt2")
    reference = Subject(plain.model, plain.tokenizer, name="bos", template=Template(bos=True))
    expected = [by_the_models_own_loss(reference, text, [BOS_ID]) for text in TEXTS]
    assert perplexities(reference, TEXTS) == pytest.approx(expected, rel=1e-4)
    assert perplexities(reference, TEXTS) != pytest.approx(perplexities(plain, TEXTS), rel=0.01)


def test_a_batch_changes_nothing() -> None:
    reference = tiny_models.subject("llama")
    alone = [perplexities(reference, [text])[0] for text in TEXTS]
    assert perplexities(reference, TEXTS) == pytest.approx(alone, rel=1e-4)
    assert perplexities(reference, TEXTS, batch_tokens=12) == pytest.approx(alone, rel=1e-4)


def test_only_texts_with_a_token_to_predict_have_a_perplexity() -> None:
    with_bos, without = tiny_models.subject("llama"), tiny_models.subject("gpt2")
    texts = [
        "",
        "cat",
        "cat dog",
        " ".join(["cat"] * tiny_models.CONTEXT),
        " ".join(["cat"] * (tiny_models.CONTEXT + 1)),
    ]
    assert [p is not None for p in perplexities(with_bos, texts)] == [False, True, True, False, False]
    assert [p is not None for p in perplexities(without, texts)] == [False, False, True, True, False]
    assert perplexities(with_bos, []) == []


def test_an_encoder_decoder_is_no_reference() -> None:
    with pytest.raises(UserError, match="causal language model"):
        perplexities(tiny_models.subject("t5"), TEXTS)


def test_shuffling_keeps_the_words_and_the_seed_decides_their_order() -> None:
    text = "one two three four big small up down left right"
    shuffled = [shuffled_words(text, seed) for seed in range(5)]
    assert all(Counter(s.split()) == Counter(text.split()) for s in shuffled)
    assert len({text, *shuffled}) == 6
    assert shuffled_words(text, 3) == shuffled[3]


def test_reference_points_are_geometric_means_over_texts_that_have_both() -> None:
    reference = tiny_models.subject("gpt2")
    found = reference_points(reference, [*TEXTS, "cat", ""], seed=1)
    for value, texts in ((found.natural, TEXTS), (found.shuffled, [shuffled_words(text, 1) for text in TEXTS])):
        product = math.prod(perplexities(reference, texts))
        assert value == pytest.approx(product ** (1 / len(TEXTS)), rel=1e-4)
    assert found.n_texts == len(TEXTS)
    with pytest.raises(UserError, match="none of the 2"):
        reference_points(reference, ["", "cat"])


def test_the_embedded_reference_finds_instructions_far_more_natural_than_their_words_shuffled() -> None:
    reference = Subject.from_pretrained(embedded_path("api_model"))
    found = reference_points(reference, [task.instruction for task in held_out_tasks(30)])
    assert found.n_texts == 30
    assert found.shuffled > 10 * found.natural


def phrasings(n: int) -> list[str]:
    return list(dict.fromkeys(text for task in held_out_tasks(n) for text in task.phrasings))


def test_mauve_is_high_for_the_other_half_of_natural_texts_and_low_for_their_shuffled_words() -> None:
    reference = Subject.from_pretrained(embedded_path("api_model"))
    natural, encode = phrasings(60), subject_encoder(reference)
    one, other = encode(natural[::2]), encode(natural[1::2])
    shuffled = encode([shuffled_words(text) for text in natural[::2]])
    assert mauve(one, other) > 0.8 > 0.3 > mauve(shuffled, other)


def test_mauve_is_the_area_under_the_divergence_curve_of_the_published_definition() -> None:
    """Ten clusters so far apart that the histograms are known, which the definition makes a curve of."""
    p, q = np.array([19, 1] * 5) / 100, np.array([10] * 10) / 100
    centres = 100.0 * np.eye(10)
    ours, theirs = (np.repeat(centres, (100 * share).round().astype(int), axis=0) for share in (p, q))
    noise = np.random.default_rng(0).normal(size=(2, 100, 10)) * 1e-3
    weights = np.linspace(1e-6, 1 - 1e-6, 25)  # as the library discretises lambda
    mixed = [w * p + (1 - w) * q for w in weights]
    x = [0.0, *(math.exp(-5 * entropy(q, r)) for r in mixed), 1.0]
    y = [1.0, *(math.exp(-5 * entropy(p, r)) for r in mixed), 0.0]
    order = np.argsort(x)
    area = np.trapezoid(np.array(y)[order], np.array(x)[order])
    assert 0.3 < area < 0.9
    assert mauve(ours + noise[0], theirs + noise[1]) == pytest.approx(area, abs=0.02)


def test_fewer_than_a_hundred_texts_have_no_mauve() -> None:
    vectors = np.random.default_rng(0).normal(size=(120, 3))
    assert mauve(vectors[:99], vectors) is None
    assert mauve(vectors, vectors[:99]) is None


def test_mauve_warns_nobody_of_few_texts(capfd: pytest.CaptureFixture) -> None:
    vectors = np.random.default_rng(0).normal(size=(120, 3))
    assert 0 < mauve(vectors, vectors[::-1].copy()) <= 1
    assert capfd.readouterr().err == ""
