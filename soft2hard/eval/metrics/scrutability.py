"""Scrutability (arXiv 2504.02144, section 4): how natural a prompt is, by its perplexity under a reference LM."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.eval.metrics.forward import run_texts
from soft2hard.lm.subject import BATCH_TOKENS, Subject

_LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class ReferencePoints:
    """Between which perplexities of prompts are read: each the exponential of the mean, over texts, of its log."""

    natural: float
    """Texts as people write them."""
    shuffled: float
    """The same texts with their words in random order."""
    n_texts: int
    """Texts that both have a perplexity; the others are left out."""


@torch.no_grad()
def perplexities(reference: Subject, texts: Sequence[str], batch_tokens: int = BATCH_TOKENS) -> list[float | None]:
    """Perplexity of each text under a causal language model: exp of its mean negative log-likelihood a token.

    The mean is over the text's own tokens. Where the reference begins its sequences with BOS, the first token is
    predicted from it and counts; elsewhere (GPT-2) the first token is only read. A template with `bos=True` puts
    BOS before the texts of a reference whose tokenizer has one and does not add it. No EOS is read or scored.

    None where no token is left to score (an empty text; one token without BOS) or a text is longer than the
    context. Raises UserError for an encoder-decoder reference.
    """
    found: list[float | None] = [None] * len(texts)
    for batch in run_texts(reference, texts, batch_tokens):
        scored = batch.mask[:, 1:]
        losses = _losses(reference, batch.hidden[:, :-1][scored], batch.ids[:, 1:][scored])
        for index, of_text in zip(batch.indices, losses.split(scored.sum(1).tolist()), strict=True):
            found[index] = math.exp(float(of_text.mean())) if len(of_text) else None
    return found


def _losses(
    reference: Subject, hidden: Float[Tensor, "n_rows d_out"], targets: Int[Tensor, " n_rows"]
) -> Float[Tensor, " n_rows"]:
    """Negative log-probability of each row's target, nats, in float64 on the CPU."""
    step = max(1, _LOGITS_AT_ONCE // len(reference.embedding))
    losses = [
        torch.nn.functional.cross_entropy(reference.head(rows).float(), ids, reduction="none")
        for rows, ids in zip(hidden.split(step), targets.split(step), strict=True)
    ]
    return torch.cat(losses).double().cpu() if losses else torch.empty(0, dtype=torch.float64)


def shuffled_words(text: str, seed: int = 0) -> str:
    """The words of a text, split at white space, in random order."""
    words = text.split()
    Random(f"{seed}/{text}").shuffle(words)
    return " ".join(words)


def reference_points(reference: Subject, texts: Sequence[str], seed: int = 0) -> ReferencePoints:
    """Perplexity of natural texts, such as the gold instructions of the tasks at hand, and of their shuffled words.

    Raises UserError where not one text has a perplexity, and as `perplexities` does.
    """
    both = perplexities(reference, [*texts, *(shuffled_words(text, seed) for text in texts)])
    pairs = zip(both[: len(texts)], both[len(texts) :], strict=True)
    logs = [(math.log(a), math.log(b)) for a, b in pairs if a is not None and b is not None]
    if not logs:
        raise UserError(
            f"'{reference.name}' gives none of the {len(texts)} reference texts a perplexity.",
            "Give texts of two tokens or more that fit its context.",
        )
    natural, shuffled = (math.exp(sum(values) / len(logs)) for values in zip(*logs, strict=True))
    return ReferencePoints(natural, shuffled, len(logs))
