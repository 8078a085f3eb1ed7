"""Training pairs for the translator, and how they are batched."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

IGNORE = -100

MAX_INSTRUCTION_TOKENS = 64
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

    def text(self, index: int) -> str:
        """The instruction of a pair in this epoch."""
        return self._drawn_text(index, self._generator(index))

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

    def text(self, index: int) -> str:
        """The instruction of a pair."""
        return self.pairs[index][1]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        return self.pairs[index]


_BATCHES_SORTED = 50
"""Batches whose pairs, drawn at random, are sorted by length together: more would pad less, and mix less."""


class LengthGrouped(Sampler[int]):
    """An epoch's pairs, batch after batch: in each, instructions of like length, so that little is padded.

    Which pairs meet in a batch is drawn anew in every epoch, and so is the order of the batches; both depend on the
    seed and the epoch alone. `batch_size` counts the pairs of a step on all processes.
    """

    def __init__(self, pairs: CorpusPairs | ListPairs, encode: Callable[[str], list[int]], batch_size: int, seed: int):
        self.pairs, self.encode, self.batch_size, self.seed = pairs, encode, batch_size, seed
        self._length: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(Random(f"{self.seed}/{self.pairs.epoch}").getrandbits(62))
        lengths = [self._length_of(self.pairs.text(index)) for index in range(len(self.pairs))]
        together = max(1, min(_BATCHES_SORTED, len(lengths) // self.batch_size))
        indices = get_length_grouped_indices(lengths, self.batch_size, together, generator)
        batches = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        whole = len(indices) // self.batch_size  # a last one that is not full stays the last
        for number in [*torch.randperm(whole, generator=generator).tolist(), *range(whole, len(batches))]:
            yield from batches[number]

    def _length_of(self, text: str) -> int:
        if text not in self._length:
            self._length[text] = len(self.encode(text))
        return self._length[text]


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
