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
    """The bounds that perplexities of prompts are read between: exp of the mean, over texts, of log-perplexity."""

    natural: float
    """Texts as people write them."""
    shuffled: float
    """The same texts with their words in random order."""
    n_texts: int
    """Texts that both have a perplexity; the others are left out."""


@torch.no_grad()
def log_perplexities(reference: Subject, texts: Sequence[str], batch_tokens: int = BATCH_TOKENS) -> list[float | None]:
    """Mean negative log-likelihood a token of each text under a causal language model, nats.

    The mean is over the text's own tokens. Where the reference begins its sequences with BOS, the first token is
    predicted from it and counts; elsewhere (GPT-2) the first token is only read. A template with `bos=True` puts
    BOS before the texts of a reference whose tokenizer has one and does not add it. No EOS is read or scored.

    None where no token is left to score (an empty text; one token without BOS) or a text is longer than the
    context. Raises UserError for an encoder-decoder reference.
    """
    found: list[float | None] = [None] * len(texts)
    for batch in run_texts(reference, texts, batch_tokens):
        own = _log_probs(reference, batch.hidden[:, :-1], batch.ids[:, 1:])
        scored = batch.mask[:, 1:]
        values = -(own * scored).sum(1) / scored.sum(1)  # NaN where there is nothing to score
        for index, value in zip(batch.indices, values.tolist(), strict=True):
            found[index] = None if math.isnan(value) else value
    return found


def perplexities(reference: Subject, texts: Sequence[str], batch_tokens: int = BATCH_TOKENS) -> list[float | None]:
    """Perplexity of each text: exp of what `log_perplexities` gives, and None where that is None."""
    return [None if v is None else math.exp(v) for v in log_perplexities(reference, texts, batch_tokens)]


def _log_probs(
    reference: Subject, hidden: Float[Tensor, "batch length d_out"], targets: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """Log-probability of each target, in parts of rows that bound the memory for logits."""
    step = max(1, _LOGITS_AT_ONCE // (len(reference.embedding) * max(1, hidden.shape[1])))
    return torch.cat(
        [
            reference.head(rows).float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
            for rows, ids in zip(hidden.split(step), targets.split(step), strict=True)
        ]
    )


def shuffled_words(text: str, seed: int = 0) -> str:
    """The words of a text, split at white space, in random order."""
    words = text.split()
    Random(f"{seed}/{text}").shuffle(words)
    return " ".join(words)


def reference_points(reference: Subject, texts: Sequence[str], seed: int = 0) -> ReferencePoints:
    """Perplexity of natural texts, such as the gold instructions of the tasks at hand, and of their shuffled words.

    Raises UserError where not one text has a perplexity, and as `perplexities` does.
    """
    both = log_perplexities(reference, [*texts, *(shuffled_words(text, seed) for text in texts)])
    pairs = zip(both[: len(texts)], both[len(texts) :], strict=True)
    logs = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not logs:
        raise UserError(
            f"'{reference.name}' gives none of the {len(texts)} reference texts a perplexity.",
            "Give texts of two tokens or more that fit its context.",
        )
    natural, shuffled = (math.exp(sum(values) / len(logs)) for values in zip(*logs, strict=True))
    return ReferencePoints(natural, shuffled, len(logs))
