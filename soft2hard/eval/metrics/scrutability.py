"""A causal language model on bare texts: their perplexity, which tells how natural a prompt is (scrutability, arXiv
2504.02144, section 4), and their vectors.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.errors import UserError
from soft2hard.eval.metrics.text import Encoder
from soft2hard.lm.batching import batches_by_length, pad, positions
from soft2hard.lm.subject import BATCH_TOKENS, Subject

_LOGITS_AT_ONCE = 2**24


class _Batch(NamedTuple):
    """Texts that were run together, by number: BOS if the model has one, then the text, padded on the right."""

    indices: list[int]
    ids: Int[Tensor, "batch length"]
    mask: Bool[Tensor, "batch length"]
    hidden: Float[Tensor, "batch length d_out"]


@torch.no_grad()
def _run(model: Subject, texts: Sequence[str], batch_tokens: int) -> Iterator[_Batch]:
    """Run bare texts, no template around them, through a causal language model, in batches.

    BOS stands before each where `model` begins its sequences with it (as its tokenizer does it, or as its template
    says), and nothing else. `batch_tokens` counts texts without it. Texts without a token to read, and texts longer
    than the context, come in no batch.

    Raises UserError for an encoder-decoder model.
    """
    if model.is_encoder_decoder:
        raise UserError(
            f"'{model.name}' reads and writes apart, so it gives a text no probability.",
            "Take a causal language model, such as GPT-2, as the reference.",
        )
    begin = [model.tokenizer.bos_token_id] if len(model.prompt_embeddings(None)) else []
    rows = [list(ids) for ids in model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []
    limit = model.context_length
    usable = [i for i, row in enumerate(rows) if row and (limit is None or len(begin + row) <= limit)]
    for batch in batches_by_length([len(rows[i]) for i in usable], batch_tokens):
        indices = [usable[i] for i in batch]
        ids, mask = pad([begin + rows[i] for i in indices], "right", model.device)
        metering.count(len(indices), sum(len(begin + rows[i]) for i in indices))
        yield _Batch(indices, ids, mask, model.backbone(model.embed_ids(ids), mask, positions(mask)))


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
    for batch in _run(reference, texts, batch_tokens):
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


def subject_encoder(model: Subject, batch_tokens: int = BATCH_TOKENS, unread: bool = False) -> Encoder:
    """A causal language model as a function of texts: its last hidden state at a text's last token.

    Texts are read without a template. UserError is raised for one that is empty or too long, or with `unread` it is
    all NaN.
    """

    def encode(texts: Sequence[str]) -> Float[np.ndarray, "n_texts width"]:
        found: dict[int, torch.Tensor] = {}
        for batch in _run(model, texts, batch_tokens):
            last = batch.mask.sum(1) - 1
            rows = batch.hidden[torch.arange(len(last), device=last.device), last].float().cpu()
            found |= dict(zip(batch.indices, rows, strict=True))
        missing = [text for i, text in enumerate(texts) if i not in found]
        if missing and not unread:
            raise UserError(
                f"{len(missing)} texts are empty or too long for '{model.name}', such as '{missing[0][:60]}'.",
                "Leave them out, and count them as failures.",
            )
        nothing = torch.full_like(next(iter(found.values()), torch.zeros(1)), torch.nan)
        return torch.stack([found.get(i, nothing) for i in range(len(texts))]).numpy()

    return encode


@dataclass(frozen=True)
class ReferencePoints:
    """The bounds that perplexities of prompts are read between: exp of the mean, over texts, of log-perplexity."""

    natural: float
    """Texts as people write them."""
    shuffled: float
    """The same texts with their words in random order."""
    n_texts: int
    """Texts that both have a perplexity; the others are left out."""


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
