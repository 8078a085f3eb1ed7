"""Nearest tokens are scikit-learn's; what stayed of a start is marked; tokens can be read."""

from random import Random

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning.slots import initial_prompt
from soft2hard.errors import UserError
from soft2hard.eval.analysis.extraction import extract, start_ids
from soft2hard.eval.analysis.legible import legible, scripts, token_texts
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models

TASK = Task("t", "f", "", (), (), (), (), labels=("cat", "dog bird"))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_tokens_are_those_of_scikit_learn() -> None:
    subject = tiny_models.subject("llama")
    prompts = [SoftPrompt(noise(n, subject.d_model, seed=n)) for n in (4, 1, 6)]
    search = NearestNeighbors(n_neighbors=3, metric="cosine").fit(subject.embedding.numpy())
    for prompt, found in zip(prompts, extract(subject, prompts), strict=True):
        distances, ids = search.kneighbors(prompt.embeddings.numpy())
        assert [[n.id for n in p.nearest] for p in found.positions] == ids.tolist()
        cosines = torch.tensor([[n.cosine for n in p.nearest] for p in found.positions])
        torch.testing.assert_close(cosines, 1 - torch.from_numpy(distances).float(), atol=1e-5, rtol=0)
        assert found.share_stayed is None and all(p.stayed is None for p in found.positions)


@pytest.mark.parametrize("init", ["text:cat dog red one", "text:cat", "labels"])
def test_a_prompt_at_its_start_has_stayed_and_one_moved_elsewhere_has_not(init: str) -> None:
    subject = tiny_models.subject("gpt2")
    start = initial_prompt(subject, TASK, init, 3, Random(0))
    ids = start_ids(subject, init, 3, TASK)
    moved = start.clone()
    moved[1] = subject.embed_text("fish")[0]
    own, other = extract(subject, [SoftPrompt(start + 0.01), SoftPrompt(moved)], starts=[ids, ids])
    assert own.share_stayed == 1
    assert [position.start.cosine for position in own.positions] == pytest.approx([1] * 3, abs=1e-2)
    assert [position.stayed for position in other.positions] == [True, False, True]
    assert other.positions[1].nearest[0].text == "fish"
    assert other.positions[1].start.text == subject.tokenizer.decode([ids[1]])


def test_starts_that_are_not_text_are_not_known() -> None:
    subject = tiny_models.subject("gpt2")
    for init in ("vocabulary", "learned", "auto", "text:", "/some/prompt.safetensors"):
        assert start_ids(subject, init, 3, TASK) is None
    assert start_ids(subject, "labels", 3) is None


def test_a_table_is_plain_data() -> None:
    subject = tiny_models.subject("llama")
    prompt = SoftPrompt(subject.embed_text("cat red").clone())
    ids = start_ids(subject, "text:cat dog", 2)
    (found,) = extract(subject, [prompt], 1, starts=[ids])
    first, second = found.as_json()
    assert first["nearest"][0] | {"cosine": 1} == {"id": ids[0], "text": "cat", "scripts": ("Latin",), "cosine": 1}
    assert (first["stayed"], second["stayed"], second["start"]["text"]) == (True, False, "dog")


def test_instructions_are_read_back_from_the_embedded_subject() -> None:
    subject = Subject.from_pretrained(embedded_path("subject"))
    text = "Say whether the word is a fruit."
    (found,) = extract(subject, [SoftPrompt(subject.embed_text(text).float())])
    ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [position.nearest[0].id for position in found.positions] == ids


def test_what_cannot_be_extracted_is_refused() -> None:
    subject = tiny_models.subject("llama")
    prompt = SoftPrompt(noise(2, subject.d_model))
    for call, problem in (
        (lambda: extract(subject, [SoftPrompt(noise(2, 3))]), "3 wide"),
        (lambda: extract(subject, [prompt], 999), "only 24 tokens"),
        (lambda: extract(subject, [prompt], starts=[]), "0 starts"),
        (lambda: extract(subject, [prompt], starts=[[1]]), "started from 1"),
        (lambda: extract(subject, [prompt], starts=[[1, 999]]), "does not have"),
    ):
        with pytest.raises(UserError, match=problem):
            call()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "␣the"),
        ("a\n\t", "a\\n\\t"),
        ("\u200b", "<U+200B>"),
        ("\u202eabc", "<U+202E>abc"),
        ("\u00a0", "<U+00A0>"),
        ("\u0301", "\u25cc\u0301"),
        ("\ufeff", "<U+FEFF>"),
        ("\x07", "<U+0007>"),
        ("مرحبا", "مرحبا"),
        ("नमस्ते", "नमस्ते"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_written_down(text: str, shown: str) -> None:
    assert legible(text) == shown
    assert legible(text).isprintable()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cat 1!", ("Latin",)),
        ("кот", ("Cyrillic",)),
        ("猫", ("Cjk",)),
        ("ねこネコ", ("Hiragana", "Katakana")),
        ("नमस्ते", ("Devanagari",)),
        ("a猫", ("Latin", "Cjk")),
        (" 42?", ()),
    ],
)
def test_scripts_are_named_in_order(text: str, found: tuple[str, ...]) -> None:
    assert scripts(text) == found


def byte_level(*pieces: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(BPE({piece: i for i, piece in enumerate(["</s>", *pieces])}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def test_byte_level_tokens_keep_their_space_and_parts_of_characters_are_bytes() -> None:
    tokenizer = byte_level("Ġcat", "cat", "Ċ", "çĮ«", "çĮ", "«")
    assert token_texts(tokenizer, [1, 2, 3, 4, 5, 6]) == [" cat", "cat", "\n", "猫", "<E7 8C>", "<AB>"]


def test_sentencepiece_tokens_keep_the_space_that_decoding_drops() -> None:
    tokenizer = Tokenizer(WordLevel({"</s>": 0, "▁cat": 1, "cat": 2, "▁": 3}, unk_token="</s>"))
    tokenizer.decoder = decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    assert [legible(text) for text in token_texts(words, [1, 2, 3])] == ["␣cat", "cat", "▁"]


def test_unused_rows_and_special_tokens_have_names() -> None:
    assert token_texts(byte_level("a"), [0, 1, 9, -1]) == ["</s>", "a", "<9>", "<-1>"]
