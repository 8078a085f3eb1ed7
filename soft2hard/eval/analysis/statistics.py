"""What can be said of soft prompts by their numbers alone: norms, variance, and how far apart they lie.

No subject is needed, so these figures can be had of anybody's soft prompts. All are in the units of the subject's
embeddings; variances are unbiased.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from soft2hard.errors import UserError
from soft2hard.eval.analysis.comparable import stacked
from soft2hard.eval.analysis.geometry import alignment, distances, reordered_distances
from soft2hard.prompts.soft_prompt import SoftPrompt


@dataclass(frozen=True)
class PromptStatistics:
    """One soft prompt. None stands where it has too few virtual tokens for a figure."""

    name: str
    n_tokens: int
    d_model: int
    norm: float
    """Frobenius norm."""
    mean_token_norm: float
    """Mean Euclidean norm of its virtual tokens."""
    token_norm_variance: float | None
    """Variance of these norms over its virtual tokens."""
    smallest_token_norm: float
    largest_token_norm: float
    mean: float
    """Mean of its entries."""
    variance: float | None
    """Variance of its entries; None for a soft prompt of a single entry."""
    token_cosine: float | None
    """Mean cosine of two of its virtual tokens: near 1 where they all point one way. Tokens without length count as
    having cosine 0 with all others."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class PairStatistics:
    """Two soft prompts of one subject and one length."""

    first: str
    second: str
    distance: float
    """Frobenius norm of their difference."""
    reordered_distance: float
    """The same after the best permutation of the positions of one: never larger."""
    cosine: float
    """Of the two matrices as vectors: their inner product by their Frobenius norms; 0 for one without length."""
    token_cosine: float
    """Mean, over positions, of the cosine of the two virtual tokens that stand there; 0 where one has no length."""
    alignment: float | None
    """Linear centred kernel alignment over dimensions (`geometry.alignment`); None where it is not defined."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Statistics:
    """Soft prompts of one comparison, and every pair of them."""

    prompts: tuple[PromptStatistics, ...]
    """In the order given."""
    pairs: tuple[PairStatistics, ...]
    """Each pair once, in the order of the prompts; empty for a single prompt."""

    def to_json(self) -> dict[str, Any]:
        """`prompts` and `pairs`, a record each."""
        return {"prompts": [one.to_json() for one in self.prompts], "pairs": [one.to_json() for one in self.pairs]}


def statistics(prompts: Sequence[SoftPrompt], names: Sequence[str]) -> Statistics:
    """All figures of all soft prompts and all pairs of them.

    Raises UserError as `pair_statistics` does where there are two soft prompts or more.
    """
    pairs = pair_statistics(prompts, names) if len(prompts) > 1 else ()
    return Statistics(prompt_statistics(prompts, names), pairs)


def prompt_statistics(prompts: Sequence[SoftPrompt], names: Sequence[str]) -> tuple[PromptStatistics, ...]:
    """Each soft prompt by itself, of whatever subject, width and length.

    Raises UserError where there is not one name a soft prompt.
    """
    _check_names(prompts, names)
    return tuple(
        _of_prompt(name, prompt.embeddings.numpy().astype(np.float64))
        for name, prompt in zip(names, prompts, strict=True)
    )


def pair_statistics(prompts: Sequence[SoftPrompt], names: Sequence[str]) -> tuple[PairStatistics, ...]:
    """Every pair, once.

    Raises UserError where there is not one name a soft prompt, for fewer than two, and for soft prompts that have no
    place in one comparison (`comparable.stacked`).
    """
    _check_names(prompts, names)
    matrices = stacked(prompts)
    cosines, token_cosines = pairwise_cosines(matrices)
    apart, reordered, aligned = distances(matrices), reordered_distances(matrices).distances, alignment(matrices)
    return tuple(
        PairStatistics(
            first=names[i],
            second=names[j],
            distance=float(apart[i, j]),
            reordered_distance=float(reordered[i, j]),
            cosine=float(cosines[i, j]),
            token_cosine=float(token_cosines[i, j]),
            alignment=None if np.isnan(aligned[i, j]) else float(aligned[i, j]),
        )
        for i, j in combinations(range(len(matrices)), 2)
    )


def pairwise_cosines(
    prompts: Float[np.ndarray, "n_prompts n_tokens d_model"],
) -> tuple[Float[np.ndarray, "n_prompts n_prompts"], Float[np.ndarray, "n_prompts n_prompts"]]:
    """Cosine of every pair of soft prompts as vectors, and the mean of that of their virtual tokens at one position.

    A vector without length has cosine 0 with all, itself too.
    """
    whole = _unit(prompts.reshape(len(prompts), -1))
    tokens = _unit(prompts).reshape(len(prompts), -1)
    return whole @ whole.T, tokens @ tokens.T / prompts.shape[1]


def _of_prompt(name: str, rows: Float[np.ndarray, "n_tokens d_model"]) -> PromptStatistics:
    norms = np.linalg.norm(rows, axis=1)
    units = _unit(rows)
    n_pairs = len(rows) * (len(rows) - 1) / 2
    return PromptStatistics(
        name=name,
        n_tokens=rows.shape[0],
        d_model=rows.shape[1],
        norm=float(np.linalg.norm(rows)),
        mean_token_norm=float(norms.mean()),
        token_norm_variance=float(norms.var(ddof=1)) if len(rows) > 1 else None,
        smallest_token_norm=float(norms.min()),
        largest_token_norm=float(norms.max()),
        mean=float(rows.mean()),
        variance=float(rows.var(ddof=1)) if rows.size > 1 else None,
        token_cosine=float(np.triu(units @ units.T, 1).sum() / n_pairs) if n_pairs else None,
    )


def _unit(vectors: Float[np.ndarray, "*rows d"]) -> Float[np.ndarray, "*rows d"]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def _check_names(prompts: Sequence[SoftPrompt], names: Sequence[str]) -> None:
    if len(prompts) != len(names):
        raise UserError(f"There are {len(prompts)} soft prompts and {len(names)} names.", "Give one name each.")
