"""A causal language model on bare texts: their perplexity, which tells how natural a prompt is (scrutability, arXiv
2504.02144, section 4), and their vectors.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.eval.run_records import ReferencePerplexity
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.sentences import Encoder
from soft2hard.lm.subject import BATCH_TOKENS, Subject


def _hidden_states(
    model: Subject, texts: Sequence[str], batch_tokens: int
) -> Iterator[tuple[int, list[int], Float[Tensor, "n d_out"]]]:
    """Bare texts, no template around them, under a causal language model: each text's number, the tokens that are
    predicted, and the hidden states before each of these and after the last.

    BOS stands before each text where `model` begins its sequences with it (as its tokenizer does it, or as its template
    says), and nothing else; without BOS the first token is only read. Texts without a token, and texts longer than the
    context, are left out.

    Raises UserError for a model of another kind.
    """
    if not model.continues_text:
        raise UserError(
            f"'{model.name}' is {model.family}, so it gives a text no probability.",
            "Take a causal language model, such as GPT-2, as the reference.",
        )
    begin, limit = model.leading_embeddings, model.context_length
    n_only_read = 0 if len(begin) else 1
    examples = {
        i: EncodedExample(list(ids[:n_only_read]), [*ids[n_only_read:], model.eos_ids[0]])  # EOS lets all be read
        for i, ids in enumerate(model.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else [])
        if ids and (limit is None or len(begin) + len(ids) <= limit)
    }
    numbers, each = list(examples), [[example] for example in examples.values()]
    for place, hidden in model.scorer.hidden_states([begin] * len(each), each, batch_tokens):
        yield numbers[place], each[place][0].output[:-1], hidden


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
    for i, ids, hidden in _hidden_states(reference, texts, batch_tokens):
        if ids:
            log_probs, _ = reference.scorer.score(hidden[:-1], torch.tensor(ids, device=hidden.device))
            found[i] = -float(log_probs.mean())
    return found


def perplexities(reference: Subject, texts: Sequence[str], batch_tokens: int = BATCH_TOKENS) -> list[float | None]:
    """Perplexity of each text: exp of what `log_perplexities` gives, and None where that is None."""
    return [None if v is None else math.exp(v) for v in log_perplexities(reference, texts, batch_tokens)]


def subject_encoder(model: Subject, batch_tokens: int = BATCH_TOKENS, unread: bool = False) -> Encoder:
    """A causal language model as a function of texts: its last hidden state at a text's last token.

    Texts are read without a template. UserError is raised for one that is empty or too long, or with `unread` it is
    all NaN.
    """

    def encode(texts: Sequence[str]) -> Float[np.ndarray, "n_texts width"]:
        found = {i: hidden[-1].float().cpu() for i, _, hidden in _hidden_states(model, texts, batch_tokens)}
        missing = [text for i, text in enumerate(texts) if i not in found]
        if missing and not unread:
            raise UserError(
                f"{len(missing)} texts are empty or too long for '{model.name}', such as '{missing[0][:60]}'.",
                "Leave them out, and count them as failures.",
            )
        nothing = torch.full_like(next(iter(found.values()), torch.zeros(1)), torch.nan)
        return torch.stack([found.get(i, nothing) for i in range(len(texts))]).numpy()

    return encode


def shuffled_words(text: str, seed: int = 0) -> str:
    """The words of a text, split at white space, in random order."""
    words = text.split()
    Random(f"{seed}/{text}").shuffle(words)
    return " ".join(words)


def mauve(
    ours: Float[np.ndarray, "n_ours width"], natural: Float[np.ndarray, "n_natural width"], n_draws: int = 5
) -> float | None:
    """How alike two sets of texts are as distributions (MAUVE, Pillutla et al. 2021, arXiv 2102.01454), 0 to 1.

    It is the area under the curve of the two divergences from their mixtures, over clusters of the texts' embeddings.
    The figure depends on how many texts there are, so always `MAUVE_OF` of either set are drawn, without replacement,
    and put into a tenth as many clusters, with scale 5, as published; the mean over `n_draws` draws.

    None where a set has less than `MAUVE_OF` texts. Raises UserError where the package is missing.
    """
    if min(len(ours), len(natural)) < MAUVE_OF:
        return None
    if not has_mauve():
        raise UserError("MAUVE needs a package of its own.", "Run pip install 'soft2hard[mauve]'.")
    from mauve.compute_mauve import compute_mauve

    def drawn(seed: int) -> float:
        rng = np.random.default_rng(seed)
        both = (found[rng.choice(len(found), MAUVE_OF, replace=False)] for found in (ours, natural))
        features = dict(zip(("p_features", "q_features"), both, strict=True))
        return float(compute_mauve(**features, num_buckets=MAUVE_OF // 10, seed=seed, verbose=False).mauve)

    with silent_stderr():  # its clustering warns of few texts each time
        return fmean(map(drawn, range(n_draws)))


MAUVE_OF = 100
"""Texts of either set that are compared."""


def has_mauve() -> bool:
    """Whether the package is there and can be loaded."""
    try:
        import mauve.compute_mauve  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Keeps what is written to this process's standard error, by libraries in C too, from being seen."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def reference_points(
    reference: Subject, texts: Sequence[str], seed: int = 0, inputs: Sequence[str] = ()
) -> ReferencePerplexity:
    """Perplexity of natural texts, such as the gold instructions of the tasks at hand, and of their shuffled words; and
    that of the tasks' `inputs`.

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
    of_inputs = [value for value in log_perplexities(reference, inputs) if value is not None]
    return ReferencePerplexity(natural, shuffled, len(logs), math.exp(fmean(of_inputs)) if of_inputs else None)
