"""Text style transfer: rewards and scores of rewritings, after RLPrompt (arXiv 2205.12548, section 3.2, and its code).

A rewriting has a content score (is it about the same?), a style (is it the wanted one?) and is fluent or not. All are
shares from 0 to 1 here; the published code gives rewards from 0 to 100, and so does `sum_rewards`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from soft2hard.lm.sentences import Encoder, embedding_cosines

FLUENT_SHARE = 0.95
"""Of natural sentences, which are called fluent."""


@dataclass(frozen=True)
class StyleScores:
    """Scores of a task's rewritings, each a mean over its sentences, 0 to 1."""

    content: float
    """Cosine of the rewriting's embedding with its source's, at least 0."""
    style: float
    """Share that the judge finds in the wanted style."""
    fluency: float | None
    """Share that the reference LM finds no less likely, a token, than all but 5 % of the data's own sentences; None
    without a reference LM."""
    joint: float | None
    """Mean of content * style * fluency, sentence by sentence, with style and fluency 1 or 0."""


def content_scores(texts: Sequence[str], sources: Sequence[str], encoder: Encoder) -> Float[np.ndarray, " n"]:
    """Cosine of each text with its source, no less than 0; 0 for an empty text."""
    places = [i for i, text in enumerate(texts) if text]
    found = np.zeros(len(texts))
    if places:
        cosines = embedding_cosines([texts[i] for i in places], [sources[i] for i in places], encoder)
        found[places] = np.clip(cosines, 0.0, None)
    return found


def sum_rewards(content: Float[np.ndarray, "*n"], style: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """(content + probability of the wanted style) / 2, from 0 to 100."""
    return 100 * (content + style) / 2


def bootstrapped_maxima(
    rewards: Float[np.ndarray, "*prompts samples"], bootstraps: int
) -> Float[np.ndarray, "*prompts bootstraps"]:
    """The best of each of `bootstraps` equal parts of a prompt's samples; the mean of these is its reward."""
    return rewards.reshape(*rewards.shape[:-1], bootstraps, -1).max(axis=-1)


def source_z_scores(
    maxima: Float[np.ndarray, "prompts bootstraps"], sources: Int[np.ndarray, " prompts"]
) -> Float[np.ndarray, " prompts"]:
    """Each prompt's mean maximum, less the mean of all maxima on its source sentence, over their standard deviation.

    The standard deviation is that of the numbers themselves, and 1e-4 is added to it, as in the published code.
    """
    found = np.zeros(len(maxima))
    for source in np.unique(sources):
        own = maxima[sources == source]
        found[sources == source] = (own.mean(axis=1) - own.mean()) / (own.std() + 1e-4)
    return found


def fluency_limit(natural: Sequence[float | None]) -> float:
    """The log-perplexity up to which a rewriting counts as fluent: that of all but 5 % of natural sentences, nats a
    token. Infinite where none has any."""
    known = [value for value in natural if value is not None]
    return float(np.quantile(known, FLUENT_SHARE)) if known else float("inf")


def style_scores(
    content: Float[np.ndarray, " n"], in_style: Bool[np.ndarray, " n"], fluent: Bool[np.ndarray, " n"] | None
) -> StyleScores:
    """The scores of a task from those of its rewritings."""
    joint = None if fluent is None else float((content * in_style * fluent).mean())
    fluency = None if fluent is None else float(fluent.mean())
    return StyleScores(float(content.mean()), float(in_style.mean()), fluency, joint)
