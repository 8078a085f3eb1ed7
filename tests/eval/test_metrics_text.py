"""Text metrics agree with their libraries and definitions."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from rouge_score import rouge_scorer

from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.errors import UserError
from soft2hard.eval.metrics.scrutability import subject_encoder
from soft2hard.eval.metrics.text import (
    class_rate,
    exact_task,
    overlap,
    rouge,
)
from soft2hard.lm.sentences import embedding_cosines, sentence_encoder
from tests import tiny_models

TEXTS = ["Sort the listed words by name.", "Answer yes for a bird.", "Pick the last word", "and and and"]
REFERENCES = [
    "Sort the list of words by their names.",
    "Say yes for birds and no otherwise.",
    "Pick the last word",
    "go",
]


def test_rouge_of_a_worked_example_counts_stems() -> None:
    found = rouge("Sorting the listed words", ["sort the words"])  # stems: sort the list word / sort the word
    assert found.rouge1 == pytest.approx(2 * 3 / (4 + 3))
    assert found.rouge2 == pytest.approx(2 * 1 / (3 + 2))  # 'sort the' alone
    assert found.rougeL == pytest.approx(2 * 3 / (4 + 3))


def test_rouge_is_the_librarys_f1_with_stemming() -> None:
    judge = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for text, reference in zip(TEXTS, REFERENCES, strict=True):
        expected = judge.score(target=reference, prediction=text)
        found = rouge(text, [reference])
        for name, score in expected.items():
            assert getattr(found, name) == score.fmeasure


def test_of_several_references_rouge_takes_the_best_and_order_does_not_matter() -> None:
    best = rouge(TEXTS[0], [REFERENCES[0]])
    assert rouge(TEXTS[0], REFERENCES) == rouge(TEXTS[0], REFERENCES[::-1]) == best


def test_overlap_is_sacrebleus() -> None:
    for text, reference in zip(TEXTS, REFERENCES, strict=True):
        found = overlap(text, [reference])
        assert found.bleu == sacrebleu.BLEU(effective_order=True).sentence_score(text, [reference]).score
        assert found.chrf == sacrebleu.CHRF().sentence_score(text, [reference]).score


def test_bleu_is_the_geometric_mean_of_precisions_by_the_brevity_penalty() -> None:
    text, reference = "pick the last word of it", "pick the last word of all words"
    precisions = [5 / 6, 4 / 5, 3 / 4, 2 / 3]
    expected = math.exp(1 - 7 / 6) * math.prod(precisions) ** 0.25
    assert overlap(text, [reference]).bleu == pytest.approx(100 * expected)


def test_the_same_text_overlaps_wholly_and_another_not_at_all() -> None:
    same, other = overlap(TEXTS[2], [TEXTS[2]]), overlap("zzz", ["qqq"])
    assert (same.bleu, same.chrf) == pytest.approx((100, 100))
    assert (other.bleu, other.chrf) == (0, 0)
    assert rouge("", ["word"]).rouge1 == rouge("zzz", ["qqq"]).rougeL == 0


@pytest.mark.parametrize(
    ("text", "labels", "rate"),
    [
        ("Answer YES for a bird, no otherwise.", ("yes", "no"), 1.0),
        ("Do not say anything, yesterday.", ("yes", "no"), 0.0),
        ("Is it world, sports or business?", ("world", "sports", "business", "sci tech"), 0.75),
        ("about sci\n tech.", ("world", "sci tech"), 0.5),
        ("tech sci", ("sci tech",), 0.0),
        ("the sign is :) here", (":)", "("), 0.5),
        ("", ("yes",), 0.0),
    ],
)
def test_the_class_rate_is_the_share_of_labels_that_stand_in_the_text(
    text: str, labels: tuple[str, ...], rate: float
) -> None:
    assert class_rate(text, labels) == rate


def test_a_task_without_labels_has_no_class_rate() -> None:
    with pytest.raises(UserError, match="no"):
        class_rate("yes", ())


def test_a_paraphrase_is_the_very_task_and_another_task_is_not() -> None:
    first, second = LexicalDoD().tasks("test", 2)
    assert all(exact_task(text, first.instruction) for text in (first.instruction, *first.paraphrases))
    assert exact_task(second.instruction, first.instruction) is False
    assert exact_task("gibberish", first.instruction) is False
    assert exact_task(first.instruction, "Translate the text into French, please.") is None


def test_a_subject_embeds_a_text_as_its_last_hidden_state_in_any_batch() -> None:
    subject = tiny_models.subject("llama")
    texts = ["cat dog", "one two three four", "up"]
    found = subject_encoder(subject)(texts)
    for text, vector in zip(texts, found, strict=True):
        ids = torch.tensor([subject.tokenizer(text)["input_ids"]])  # with BOS
        expected = subject.model.base_model(input_ids=ids).last_hidden_state[0, -1]
        assert vector == pytest.approx(expected.detach().numpy(), abs=1e-4)
    assert subject_encoder(subject, batch_tokens=1)(texts) == pytest.approx(found, abs=1e-4)
    with pytest.raises(UserError, match="1 texts are empty"):
        subject_encoder(subject)(["cat", ""])


def test_cosines_are_those_of_the_vectors_pair_by_pair() -> None:
    vectors = {"a": [1.0, 0.0], "b": [1.0, 1.0], "c": [-2.0, 0.0]}
    found = embedding_cosines(["a", "a", "a"], ["a", "b", "c"], lambda texts: np.array([vectors[t] for t in texts]))
    assert found == pytest.approx([1, 0.5**0.5, -1])


def test_sentence_embeddings_ask_for_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"pip install 'soft2hard\[embeddings\]'"):
        sentence_encoder()


def test_any_saved_sentence_transformer_embeds_texts_as_it_pools_them(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is an optional extra")
    modules = importlib.import_module("sentence_transformers.models")
    subject = tiny_models.subject("gpt2")
    subject.model.base_model.save_pretrained(tmp_path / "model")
    subject.tokenizer.save_pretrained(tmp_path / "model")
    transformer = modules.Transformer(str(tmp_path / "model"))
    pooling = modules.Pooling(subject.d_model, pooling_mode="mean")
    library.SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(tmp_path / "saved"))
    encoder = sentence_encoder(str(tmp_path / "saved"))
    for text, vector in zip(["cat dog bird", "up"], encoder(["cat dog bird", "up"]), strict=True):
        ids = torch.tensor([subject.tokenizer(text)["input_ids"]])
        expected = subject.model.base_model(input_ids=ids).last_hidden_state[0].mean(0)
        assert vector == pytest.approx(expected.detach().numpy(), abs=1e-4)
    with pytest.raises(UserError, match="cannot be loaded"):
        sentence_encoder(str(tmp_path / "absent"))
