"""Soft prompts with positions masked, removed or permuted, and the straight line between two of them.

Variants are soft prompts themselves: translate them, or score them with `metrics.measurement.measure`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.eval.analysis.comparable import check_comparable
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt

Change = Literal["masked", "removed", "permuted"]


@dataclass(frozen=True)
class Variant:
    """A soft prompt with something changed about its positions."""

    change: Change
    positions: tuple[int, ...]
    """Which positions were masked or removed; or, permuted, which position of the original stands at each place."""
    soft_prompt: SoftPrompt


@dataclass(frozen=True)
class Point:
    """A soft prompt on the line between two."""

    share: float
    """How much of it is the second prompt, 0 to 1."""
    soft_prompt: SoftPrompt


def mean_embedding(subject: Subject) -> Float[Tensor, " d_model"]:
    """Mean over the subject's vocabulary: what stands for a token that says nothing."""
    return subject.embedding.float().mean(0).cpu()


def masked(prompt: SoftPrompt, positions: Sequence[int], filler: Float[Tensor, " d_model"]) -> Variant:
    """Replace positions by `filler`, such as `mean_embedding`. Raises UserError for positions that there are not."""
    _check_positions(prompt, positions)
    rows = prompt.embeddings.clone()
    rows[list(positions)] = filler.to(rows)
    return Variant("masked", tuple(positions), _changed(prompt, rows, f"masked {_listed(positions)}"))


def removed(prompt: SoftPrompt, positions: Sequence[int]) -> Variant:
    """Leave positions out; the others move up. Raises UserError for positions that there are not, and for all."""
    _check_positions(prompt, positions)
    kept = [i for i in range(prompt.n_tokens) if i not in set(positions)]
    if not kept:
        raise UserError(f"All {prompt.n_tokens} positions would be removed.", "Keep at least one, or mask them.")
    return Variant(
        "removed", tuple(positions), _changed(prompt, prompt.embeddings[kept], f"removed {_listed(positions)}")
    )


def permuted(prompt: SoftPrompt, order: Sequence[int]) -> Variant:
    """Put positions in another order: at place i stands position `order[i]`. Raises UserError for no permutation."""
    if sorted(order) != list(range(prompt.n_tokens)):
        raise UserError(
            f"{_listed(order)} is no order of the positions 0 to {prompt.n_tokens - 1}.", "Name every position once."
        )
    rows = prompt.embeddings[list(order)]
    return Variant("permuted", tuple(order), _changed(prompt, rows, f"permuted {_listed(order)}"))


def mask_each(prompt: SoftPrompt, filler: Float[Tensor, " d_model"]) -> tuple[Variant, ...]:
    """One variant a position, that position masked."""
    return tuple(masked(prompt, [i], filler) for i in range(prompt.n_tokens))


def mask_all_but_each(prompt: SoftPrompt, filler: Float[Tensor, " d_model"]) -> tuple[Variant, ...]:
    """One variant a position, all others masked: what the position says alone."""
    everything = range(prompt.n_tokens)
    return tuple(masked(prompt, [j for j in everything if j != i], filler) for i in everything)


def remove_each(prompt: SoftPrompt) -> tuple[Variant, ...]:
    """One variant a position, without it. Raises UserError for a prompt of one position."""
    return tuple(removed(prompt, [i]) for i in range(prompt.n_tokens))


def permute_randomly(prompt: SoftPrompt, n: int, seed: int = 0) -> tuple[Variant, ...]:
    """`n` variants in distinct random orders, none the prompt's own; all other orders where there are no more."""
    generator = torch.Generator().manual_seed(seed)
    own = tuple(range(prompt.n_tokens))
    found: dict[tuple[int, ...], None] = {}
    while len(found) < min(n, math.factorial(prompt.n_tokens) - 1):
        order = tuple(torch.randperm(prompt.n_tokens, generator=generator).tolist())
        if order != own:
            found[order] = None
    return tuple(permuted(prompt, order) for order in found)


def interpolated(first: SoftPrompt, second: SoftPrompt, n_points: int = 11) -> tuple[Point, ...]:
    """Points at equal distances on the straight line from the first prompt to the second, both ends included.

    Raises UserError for prompts of different subjects, widths or lengths, and for fewer than two points.
    """
    check_comparable([first, second])
    if first.n_tokens != second.n_tokens:
        raise UserError(
            f"There is no line from {first.n_tokens} to {second.n_tokens} tokens.", "Give prompts of one length."
        )
    if n_points < 2:
        raise UserError(f"A line of {n_points} points has no two ends.", "Ask for at least two.")
    shares = [i / (n_points - 1) for i in range(n_points)]
    # Weighted sums, not steps from one end, so that both ends are the prompts themselves to the last bit.
    rows = [first.embeddings * (1 - share) + second.embeddings * share for share in shares]
    return tuple(Point(s, _changed(first, r, f"{s:.3f} of the way")) for s, r in zip(shares, rows, strict=True))


def _changed(prompt: SoftPrompt, rows: Float[Tensor, "n d_model"], how: str) -> SoftPrompt:
    return SoftPrompt(rows, prompt.subject, prompt.fingerprint, {**prompt.provenance, "changed": how})


def _check_positions(prompt: SoftPrompt, positions: Sequence[int]) -> None:
    wrong = [i for i in positions if not 0 <= i < prompt.n_tokens]
    if wrong:
        raise UserError(
            f"The soft prompt has no position {wrong[0]}.", f"Name positions from 0 to {prompt.n_tokens - 1}."
        )


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
