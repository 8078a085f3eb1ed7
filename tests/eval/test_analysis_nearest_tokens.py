"""Nearest tokens are scikit-learn's; what stayed of a start is marked; tokens can be read."""

from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning.slots import initial_prompt
from soft2hard.errors import UserError
from soft2hard.eval.analysis.findings import PromptRow
from soft2hard.eval.analysis.inputs import Material
from soft2hard.eval.analysis.nearest_tokens import (
    extraction_section,
    legible,
    nearest_tokens,
    read_embedding_table,
    scripts,
    start_ids,
    token_texts,
)
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models
from tests.paths import SHARED

PUBLISHED = SHARED / "published_soft_prompts"
TASK = Task("t", "f", "", (), (), (), (), labels=("cat", "dog bird"))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def first_tokens(found: pd.DataFrame, name: str = "id") -> list:
    return found[found["rank"] == 1][name].tolist()


def test_the_nearest_tokens_are_those_of_scikit_learn() -> None:
    subject = tiny_models.subject("llama")
    prompts = [SoftPrompt(noise(n, subject.d_model, seed=n)) for n in (4, 1, 6)]
    search = NearestNeighbors(n_neighbors=3, metric="cosine").fit(subject.embedding.numpy())
    found = nearest_tokens(subject, prompts, 3, [None] * 3)
    for number, prompt in enumerate(prompts):
        own = found[found["number"] == number]
        distances, ids = search.kneighbors(prompt.embeddings.numpy())
        assert own["id"].tolist() == ids.ravel().tolist()
        np.testing.assert_allclose(own["cosine"], 1 - distances.ravel(), atol=1e-5)
    assert found["stayed"].isna().all()


@pytest.mark.parametrize("init", ["text:cat dog red one", "text:cat", "labels"])
def test_a_prompt_at_its_start_has_stayed_and_one_moved_elsewhere_has_not(init: str) -> None:
    subject = tiny_models.subject("gpt2")
    start = initial_prompt(subject, TASK, init, 3, Random(0))
    ids = start_ids(subject, init, 3, TASK)
    moved = start.clone()
    moved[1] = subject.embed_text("fish")[0]
    found = nearest_tokens(subject, [SoftPrompt(start + 0.01), SoftPrompt(moved)], 3, [ids, ids])
    assert first_tokens(found, "stayed") == [True, True, True, True, False, True]
    assert first_tokens(found, "start_cosine")[:3] == pytest.approx([1] * 3, abs=1e-2)
    assert first_tokens(found, "token")[4] == "fish"
    assert first_tokens(found, "start")[4] == subject.tokenizer.decode([ids[1]])


def test_starts_that_are_not_text_are_not_known() -> None:
    subject = tiny_models.subject("gpt2")
    for init in ("vocabulary", "learned", "auto", "text:", "/some/prompt.safetensors"):
        assert start_ids(subject, init, 3, TASK) is None
    assert start_ids(subject, "labels", 3) is None


def test_the_section_says_which_share_of_each_group_stayed() -> None:
    subject = tiny_models.subject("gpt2")
    start = subject.embed_text("cat red").detach()
    away = torch.stack([start[0], subject.embed_text("fish")[0].detach()])
    rows = [
        PromptRow(name=name, task="t", group=group, tuning=0, n_tokens=2, d_model=subject.d_model, init=init)
        for name, group, init in (("t #0", "main", "vocabulary"), ("t #0", "words", "text:cat red"))
    ]
    given = Material(tuple(rows), (SoftPrompt(start), SoftPrompt(away)), subject=subject)
    section, tables = extraction_section(given)
    assert section.figures == {"k": 3, "table": subject.name} and len(tables["tokens"]) == 2 * 2 * 3
    unknown, words = tables["starts"].to_dict("records")
    assert np.isnan(unknown["share_stayed"]) and unknown["nearest_cosine"] == pytest.approx(1)
    assert (words["group"], words["init"], words["share_stayed"]) == ("words", "text:cat red", 0.5)
    assert tables["tokens"]["scripts"][0] == "Latin" and tables["tokens"]["id"].dtype.kind == "i"


def test_instructions_are_read_back_from_the_embedded_subject() -> None:
    subject = Subject.from_pretrained(embedded_path("subject"))
    text = "Say whether the word is a fruit."
    found = nearest_tokens(subject, [SoftPrompt(subject.embed_text(text).float())], 3, [None])
    assert first_tokens(found) == subject.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_cannot_be_extracted_is_refused() -> None:
    subject = tiny_models.subject("llama")
    with pytest.raises(UserError, match="3 wide"):
        nearest_tokens(subject, [SoftPrompt(noise(2, 3))], 3, [None])
    with pytest.raises(UserError, match="no 999 nearest of 24 tokens"):
        nearest_tokens(subject, [SoftPrompt(noise(2, subject.d_model))], 999, [None])


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


# --- nearest rows of a table without its subject ----------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "t5", "bart"])
def test_a_table_read_from_a_models_weights_gives_what_the_subject_gives(architecture: str, tmp_path: Path) -> None:
    subject = tiny_models.subject(architecture)
    subject.model.save_pretrained(tmp_path)
    table = read_embedding_table(tmp_path / "model.safetensors")
    assert torch.equal(table.embedding, subject.model.get_input_embeddings().weight)
    prompts = [SoftPrompt(noise(n, subject.d_model, seed=n)) for n in (2, 4)]
    ours, theirs = (nearest_tokens(source, prompts, 3, [None] * 2) for source in (table, subject))
    assert ours["id"].tolist() == theirs["id"].tolist()
    np.testing.assert_allclose(ours["cosine"], theirs["cosine"], atol=1e-5)


def test_a_table_alone_in_a_file_is_read_and_others_are_refused_in_one_line(tmp_path: Path) -> None:
    rows = noise(3, 5)
    np.save(tmp_path / "table.npy", rows)
    table = read_embedding_table(tmp_path / "table.npy")
    np.testing.assert_array_equal(table.embedding, rows)
    save_file({"a": torch.ones(3, 4), "b": torch.ones(3, 4)}, tmp_path / "two.safetensors")
    with pytest.raises(UserError, match="no table of input embeddings among its 2 tensors"):
        read_embedding_table(tmp_path / "two.safetensors")
    with pytest.raises(UserError, match="No such file"):
        read_embedding_table(tmp_path / "none.npy")
    with pytest.raises(UserError, match="soft prompt is 6 wide and the table of embeddings 5"):
        nearest_tokens(table, [SoftPrompt(noise(1, 5)), SoftPrompt(noise(1, 6))], 1, [None] * 2)
    with pytest.raises(UserError, match="no 4 nearest of 3 tokens"):
        nearest_tokens(table, [SoftPrompt(noise(1, 5))], 4, [None])


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published soft prompts are not on this machine")
def test_the_nearest_rows_of_any_768_wide_table_to_the_published_prompts_are_scipys(tmp_path: Path) -> None:
    names = ("mrpc", "rte", "sst2")
    table = np.random.default_rng(0).normal(size=(5000, 768)).astype(np.float32)
    arrays = [np.load(PUBLISHED / f"{name}.npy") for name in names]
    table[[17, 42, 4000]] = 3 * arrays[0][0], arrays[1][50], 0.1 * arrays[2][99]
    save_file({"decoder.block.0.w": torch.ones(2, 2), "shared.weight": torch.tensor(table)}, tmp_path / "t.safetensors")
    prompts = [SoftPrompt.from_pretrained(PUBLISHED / f"{name}.npy") for name in names]
    found = nearest_tokens(read_embedding_table(tmp_path / "t.safetensors"), prompts, 3, [None] * 3)
    for number, array in enumerate(arrays):
        expected = cdist(array, table, "cosine").argsort(1)[:, :3]
        assert found[found["number"] == number]["id"].tolist() == expected.ravel().tolist()
    planted = [found[(found["number"] == i) & (found["position"] == p)].iloc[0] for i, p in enumerate((0, 50, 99))]
    assert [one["token"] for one in planted] == ["<17>", "<42>", "<4000>"]
    assert [one["cosine"] for one in planted] == pytest.approx([1] * 3, abs=1e-5)
