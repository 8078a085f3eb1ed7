"""Free training pairs: the subject's own embeddings of an instruction's words, made to look like a soft prompt.

A soft prompt says its task in a bag of vectors of which some lie near words and none is in order. So the
words' embeddings are shuffled, some are dropped and some repeated until there are as many as the soft
prompt has virtual tokens, each is scaled at random, and noise is added.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.tuning.slots import embedding_scale
from soft2hard.lm.subject import Subject


@dataclass(frozen=True)
class Noising:
    """How far imitation soft prompts are from clean embeddings."""

    n_tokens: tuple[int, int] = (8, 16)
    """Fewest and most vectors."""
    scale: tuple[float, float] = (0.5, 3.0)
    """Range of the factor on each vector."""
    noise: float = 0.7
    """Most standard deviations of noise, in units of the subject's embedding scale."""


def imitation_soft_prompt(
    embeddings: Float[Tensor, "n_words d"], rng: Random, scale: float, noising: Noising = Noising()
) -> Float[Tensor, "n d"]:
    """A noised stand-in for a soft prompt that says what these word embeddings say.

    `scale` is the root mean square of the subject's embeddings. All words are kept where there is room.
    """
    n = rng.randint(*noising.n_tokens)
    order = rng.sample(range(len(embeddings)), len(embeddings))
    chosen = (order + rng.choices(order, k=max(0, n - len(order))))[:n]
    rng.shuffle(chosen)
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    factor = torch.empty(n, 1).uniform_(*noising.scale, generator=generator)
    noise = torch.randn(n, embeddings.shape[1], generator=generator) * scale * noising.noise * rng.random()
    return embeddings[chosen].float() * factor + noise


def imitation_pairs(
    subject: Subject, instructions: list[str], rng: Random, noising: Noising = Noising()
) -> Iterator[tuple[Tensor, str]]:
    """Endless pairs of imitation soft prompt and instruction."""
    scale = embedding_scale(subject)
    embedded = [subject.embed_text(text).float().cpu() for text in instructions]
    while True:
        i = rng.randrange(len(instructions))
        yield imitation_soft_prompt(embedded[i], rng, scale, noising), instructions[i]
