"""From a training run to a saved Hugging Face model, for both embedded language models."""

import re
from functools import cache
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from soft2hard.data_gen.world.lm_training import LMTrainer, LMTraining, build_model
from soft2hard.data_gen.world.rows import Encoder, RowBuilder
from soft2hard.data_gen.world.vocabulary import WORD_PATTERN, sentencepiece_tokenizer, word_tokenizer
from soft2hard.storage.files import atomic_folder


def word_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The word tokenizer as a dictionary look-up: the same ids, many times as fast."""
    vocabulary, pattern = tokenizer.get_vocab(), re.compile(WORD_PATTERN)
    return lambda text: [vocabulary[word] for word in pattern.findall(text)]


def piece_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """A SentencePiece tokenizer word by word, each word's pieces remembered: pieces never cross a space."""

    @cache
    def of_word(word: str) -> list[int]:
        return tokenizer.encode(word, add_special_tokens=False)

    return lambda text: [piece for word in text.split() for piece in of_word(word)]


def subject_trainer(config: LMTraining, folder: Path) -> tuple[LMTrainer, PreTrainedTokenizerBase]:
    """The trainer of the subject, at the last checkpoint in the folder if there is one."""
    tokenizer = word_tokenizer()
    return _trainer(config, tokenizer, word_encoder(tokenizer), folder), tokenizer


def api_trainer(config: LMTraining, vocab_size: int, folder: Path) -> tuple[LMTrainer, PreTrainedTokenizerBase]:
    """The trainer of the API-side model."""
    tokenizer = sentencepiece_tokenizer(folder / "tokenizer", vocab_size)
    return _trainer(config, tokenizer, piece_encoder(tokenizer), folder), tokenizer


def _trainer(config: LMTraining, tokenizer: PreTrainedTokenizerBase, encode: Encoder, folder: Path) -> LMTrainer:
    torch.manual_seed(config.seed)
    model = build_model(config.architecture, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    builder = RowBuilder(encode, tokenizer.eos_token_id, tokenizer.pad_token_id, config.row_length)
    trainer = LMTrainer(config, model, builder, folder)
    trainer.resume()
    return trainer


def save_language_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, card: str, folder: Path) -> None:
    """Weights in bfloat16 safetensors, tokenizer and model card, whole or not at all."""
    model.config._attn_implementation = "sdpa"
    with atomic_folder(folder, overwrite=True) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(card)
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors makes private files, which a wheel would carry on
