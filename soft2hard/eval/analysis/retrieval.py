"""Finding stored soft prompts like an early one, to start from (SPoT, Vu et al. 2021, arXiv 2110.07904)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from soft2hard.errors import UserError
from soft2hard.eval.analysis.comparable import check_comparable
from soft2hard.prompts.soft_prompt import SoftPrompt

Similarity = Literal["average", "per_token"]


@dataclass(frozen=True)
class Match:
    """A stored soft prompt that was found."""

    index: int
    """Which of the stored ones."""
    similarity: float
    """-1 to 1."""


def similarities(
    queries: Sequence[SoftPrompt], stored: Sequence[SoftPrompt], similarity: Similarity = "per_token"
) -> Float[Tensor, "n_queries n_stored"]:
    """Similarity of soft prompts of any lengths, taken as embeddings of their tasks (SPoT, section 3.2).

    'average': cosine of the averaged tokens. 'per_token': mean cosine of every token of one with every token of the
    other, which SPoT found to retrieve better. A vector without length has cosine 0 with all. Float64 inside.

    Raises UserError for prompts of different widths or subjects, and where there are none.
    """
    if not queries or not stored:
        raise UserError(
            f"There are {len(queries)} soft prompts to find {len(stored)} by.", "Give at least one of both."
        )
    check_comparable([*queries, *stored])
    ours, theirs = (torch.stack([_task_embedding(p, similarity) for p in prompts]) for prompts in (queries, stored))
    return (ours @ theirs.T).clamp(-1, 1).float()


def _task_embedding(prompt: SoftPrompt, similarity: Similarity) -> Float[Tensor, " d_model"]:
    """A vector whose inner products are the similarities."""
    rows = prompt.embeddings.double()
    if similarity == "average":
        return normalize(rows.mean(0), dim=0)
    # The mean over all pairs of tokens of their cosines is the product of the means of the unit vectors.
    return normalize(rows, dim=1).mean(0)


def nearest(
    query: SoftPrompt, stored: Sequence[SoftPrompt], k: int = 3, similarity: Similarity = "per_token"
) -> tuple[Match, ...]:
    """The `k` stored soft prompts most like the query, best first, or all where there are fewer; the first of equals.

    Raises UserError as `similarities` does, and for `k` below 1.
    """
    if k < 1:
        raise UserError(f"Cannot find the {k} nearest soft prompts.", "Ask for at least one.")
    (row,) = similarities([query], stored, similarity)
    return matches_of(row, k)


def matches_of(row: Float[Tensor, " n_stored"], k: int) -> tuple[Match, ...]:
    """The `k` best of one query's `similarities`, best first; the first of equals."""
    order = row.sort(descending=True, stable=True).indices[:k].tolist()
    return tuple(Match(i, float(row[i])) for i in order)


def weighted_average(matches: Sequence[Match], stored: Sequence[SoftPrompt]) -> SoftPrompt:
    """A start made of several stored prompts, weighted by their similarities (SPoT, section 3.3).

    Raises UserError where prompts differ in length, and where no similarity is above 0; those below 0 weigh nothing.
    """
    chosen = [(stored[match.index], max(0.0, match.similarity)) for match in matches]
    total = sum(weight for _, weight in chosen)
    if total <= 0:
        raise UserError("No stored soft prompt is like this one at all.", "Start from the vocabulary.")
    lengths = {prompt.n_tokens for prompt, _ in chosen}
    if len(lengths) > 1:
        raise UserError(
            f"The soft prompts found have {' and '.join(map(str, sorted(lengths)))} tokens, so they have no average.",
            "Average prompts of one length, or start from the nearest alone.",
        )
    mean = sum(prompt.embeddings.double() * (weight / total) for prompt, weight in chosen)
    first = chosen[0][0]
    return SoftPrompt(mean.float(), first.subject, first.fingerprint, {"init": "weighted average of retrieved prompts"})


def steps_to_reach(losses: Sequence[tuple[int, float]], target: float) -> int | None:
    """The first step of a tuning curve (`Tuned.losses`) at which the loss is at most `target`; None where it never is.

    Curves are looked at every few steps only, so this is the first look, not the first step, that is good enough.
    """
    return next((step for step, loss in sorted(losses) if loss <= target), None)
