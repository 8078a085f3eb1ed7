"""Training pairs for the translator, and how they are batched."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from soft2hard.translator.settings import Design

IGNORE = -100

MAX_INSTRUCTION_TOKENS = Design.instruction_tokens
"""Longest instruction that a translator learns and writes, in tokens, unless it is made for others; the rest is cut."""


class CorpusPairs(Dataset):
    """Soft prompt and instruction pairs of a corpus.

    Each epoch draws anew: the reference instruction or, with probability `paraphrase_share`, one of its
    paraphrases; and Gaussian noise on the soft prompt, of up to `noise` times the standard deviation of
    its entries. What is drawn depends on the seed, the epoch and the row alone, so a training that resumes
    sees what it would have seen.
    """

    def __init__(self, corpus: datasets.Dataset, *, paraphrase_share: float = 0.0, noise: float = 0.0, seed: int = 0):
        self.embeddings = torch.from_numpy(np.stack(corpus.with_format("numpy")["embeddings"]).astype(np.float32))
        self.instructions: list[str] = list(corpus["instruction"])
        self.paraphrases: list[list[str]] = list(corpus["paraphrases"])
        self.tasks: list[str] = list(corpus["task"])
        self.paraphrase_share, self.noise, self.seed = paraphrase_share, noise, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        rng = self._generator(index)
        text = self._drawn_text(index, rng)
        soft_prompt = self.embeddings[index]
        if self.noise:
            generator = torch.Generator().manual_seed(rng.getrandbits(62))
            size = self.noise * rng.random() * soft_prompt.std()
            soft_prompt = soft_prompt + size * torch.randn(soft_prompt.shape, generator=generator)
        return soft_prompt, text

    def _generator(self, index: int) -> Random:
        return Random(f"{self.seed}/{self.epoch}/{index}")

    def _drawn_text(self, index: int, rng: Random) -> str:
        if self.paraphrases[index] and rng.random() < self.paraphrase_share:
            return rng.choice(self.paraphrases[index])
        return self.instructions[index]


class ListPairs(Dataset):
    """Pairs held in memory."""

    def __init__(self, pairs: Sequence[tuple[Tensor, str]]):
        self.pairs = pairs
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        return self.pairs[index]


@dataclass
class PairCollator:
    """Pads soft prompts and tokenised instructions to the longest of the batch."""

    tokenizer: PreTrainedTokenizerBase
    eos_id: int
    max_words: int = MAX_INSTRUCTION_TOKENS
    """Longest instruction kept, in tokens; the rest is cut."""

    def encode(self, text: str) -> list[int]:
        """Token ids of an instruction with EOS."""
        return [*self.tokenizer.encode(text, add_special_tokens=False)[: self.max_words], self.eos_id]

    def __call__(self, pairs: list[tuple[Tensor, str]]) -> dict[str, Tensor]:
        soft_prompts = torch.nn.utils.rnn.pad_sequence([p for p, _ in pairs], batch_first=True)
        lengths = torch.tensor([len(p) for p, _ in pairs])
        labels = [torch.tensor(self.encode(text)) for _, text in pairs]
        return {
            "soft_prompts": soft_prompts,
            "attention_mask": (torch.arange(soft_prompts.shape[1])[None] < lengths[:, None]).long(),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE),
        }
