"""Tokenizers of the world's language models, made from the lexical world itself.

The subject reads whole words; the API-side model has a SentencePiece vocabulary, so that nothing but
text can pass from one to the other.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from soft2hard.data_gen.dods.lexical import FAMILIES, draw_task
from soft2hard.data_gen.dods.lexical.words import CATEGORIES, COUNTS, LABELS, ORDINALS, PLURALS, RELATIONS

Encoder = Callable[[str], list[int]]
"""A tokenizer as training rows use it: the same ids without special tokens, many times as fast."""
WORD_PATTERN = r"Input:|Output:|[A-Za-z]+|[^\sA-Za-z]"
PAD, EOS, UNK = "<pad>", "</s>", "<unk>"


def tokenizer_of(pieces: int | None, folder: Path) -> tuple[PreTrainedTokenizerFast, Encoder]:
    """The tokenizer of whole words, or of so many pieces, which is trained in `folder` unless it lies there already."""
    if pieces is None:
        tokenizer = word_tokenizer()
        return tokenizer, word_encoder(tokenizer)
    tokenizer = sentencepiece_tokenizer(folder / "tokenizer", pieces)
    return tokenizer, piece_encoder(tokenizer)


def world_words() -> list[str]:
    """Every word and punctuation mark that instructions, inputs or outputs can hold, sorted."""
    words: set[str] = {"Input:", "Output:", "none", "yes", "no", *COUNTS, *LABELS, *ORDINALS, *PLURALS.values()}
    words |= {*CATEGORIES, *(word for members in CATEGORIES.values() for word in members)}
    for relation in RELATIONS.values():
        words |= {*relation.pairs, *relation.pairs.values(), *relation.noun.split()}
    for variants in FAMILIES.values():
        for phrasing in (p for variant in variants for p in variant.phrasings):
            words |= set(re.findall(WORD_PATTERN, re.sub(r"\{\w+:\w+\}", " , ", phrasing)))
    return sorted(words | {"and", "or", "a", "an", "A", "An"})


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the lexical world; line breaks read as spaces."""
    vocabulary = {word: i for i, word in enumerate([PAD, EOS, UNK, *world_words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("\n", " "), normalizers.Strip()])
    by_word = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), by_word])
    # The clean-up joins full stops, commas and question marks to the word before, but not colons.
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=True), decoders.Replace(" :", ":")])
    return _fast(tokenizer)


def world_text(n_lines: int, seed: int = 0) -> Iterator[str]:
    """Lines of the world's text from training tasks: an instruction with a few examples."""
    rng = Random(f"world-text/{seed}")
    names = tuple(FAMILIES)
    while n_lines:
        task = draw_task(rng.choice(names), rng)
        if task.split != "train":
            continue
        n_lines -= 1
        examples = (task.example(rng) for _ in range(4))
        body = "".join(f"\nInput: {e.input}\nOutput: {e.output}" for e in examples)
        yield task.instruction(rng.randrange(len(task.variant.phrasings)), rng) + body


def train_sentencepiece(folder: Path, vocab_size: int, n_lines: int = 20_000) -> Path:
    """Train a SentencePiece unigram model on the world's text; returns the path of its `.model` file."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in world_text(n_lines) for line in text.split("\n")),
        model_prefix=str(folder / "sentencepiece"),
        vocab_size=vocab_size,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        character_coverage=1.0,
        user_defined_symbols=["▁Input:", "▁Output:"],
        minloglevel=2,
        num_threads=1,
    )
    return folder / "sentencepiece.model"


def sentencepiece_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """The API-side model's tokenizer, trained in `folder` unless it is there already; line breaks read as spaces."""
    import sentencepiece

    path = folder / "sentencepiece.model"
    if not path.exists():
        train_sentencepiece(folder, vocab_size)
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=model.unk_id()))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _fast(tokenizer)


def word_encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    """The word tokenizer as a dictionary look-up: the same ids, many times as fast."""
    vocabulary, pattern = tokenizer.get_vocab(), re.compile(WORD_PATTERN)
    return lambda text: [vocabulary[word] for word in pattern.findall(text)]


def piece_encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    """A SentencePiece tokenizer word by word, each word's pieces remembered: pieces never cross a space."""

    @cache
    def of_word(word: str) -> list[int]:
        return tokenizer.encode(word, add_special_tokens=False)

    return lambda text: [piece for word in text.split() for piece in of_word(word)]


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNK, padding_side="left"
    )
