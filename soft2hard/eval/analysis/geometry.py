"""Where soft prompts lie: norms and variance, Frobenius distances, best permutations of positions, alignment.

Arrays hold the prompts of one subject and one length in float64 (`comparable.stacked`). A prompt is a matrix of
positions and dimensions; all figures are in the units of the subject's embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist, squareform

from soft2hard.errors import UserError

ExamplesAxis = Literal["positions", "dimensions"]

_ENTRIES_AT_ONCE = 2**25  # of the products of positions: 256 MB


@dataclass(frozen=True)
class TaskGeometry:
    """The soft prompts of one task, tuned several times.

    The figures of the study are its mean norm and variance. Both can be read of the whole matrix or of its parts, so
    both readings are here. None stands where there are too few prompts for a figure.
    """

    task: str
    n_prompts: int
    mean_norm: float
    """Mean Frobenius norm of the prompts."""
    mean_token_norm: float
    """Mean Euclidean norm of their virtual tokens."""
    norm_variance: float | None
    """Variance of the Frobenius norms over the prompts (unbiased)."""
    variance: float | None
    """Variance of each entry over the prompts (unbiased), summed over entries: half the mean squared distance between
    two of them."""
    mean_distance: float | None
    """Mean Frobenius distance between two of them."""
    distance_variation: float | None
    """Standard deviation (unbiased) of these distances by their mean: 0 where the prompts are equidistant."""


@dataclass(frozen=True)
class Reordered:
    """Distances between soft prompts after the positions of one have been put in the best order."""

    distances: Float[np.ndarray, "n_prompts n_prompts"]
    """Frobenius distances; none is larger than without reordering."""
    share_moved: Float[np.ndarray, "n_prompts n_prompts"]
    """Share of positions that stand elsewhere in the best order."""


def task_geometry(
    prompts: Float[np.ndarray, "n_prompts n_tokens d_model"], tasks: Sequence[str]
) -> tuple[TaskGeometry, ...]:
    """Norm and variance of each task's soft prompts; `tasks[i]` is the task of prompt i, and tasks keep their order."""
    _check_tasks(prompts, tasks)
    names = np.array(tasks)
    return tuple(_of_task(name, prompts[names == name]) for name in dict.fromkeys(tasks))


def _of_task(name: str, prompts: Float[np.ndarray, "n n_tokens d_model"]) -> TaskGeometry:
    norms = np.linalg.norm(prompts, axis=(1, 2))
    distances = pdist(prompts.reshape(len(prompts), -1))
    mean_distance = float(distances.mean()) if len(distances) else None
    spread = float(distances.std(ddof=1)) if len(distances) > 1 else None
    return TaskGeometry(
        task=name,
        n_prompts=len(prompts),
        mean_norm=float(norms.mean()),
        mean_token_norm=float(np.linalg.norm(prompts, axis=2).mean()),
        norm_variance=float(norms.var(ddof=1)) if len(prompts) > 1 else None,
        variance=float(prompts.var(axis=0, ddof=1).sum()) if len(prompts) > 1 else None,
        mean_distance=mean_distance,
        distance_variation=spread / mean_distance if spread is not None and mean_distance else None,
    )


def distances(
    prompts: Float[np.ndarray, "n_prompts n_tokens d_model"],
) -> Float[np.ndarray, "n_prompts n_prompts"]:
    """Frobenius distance of every pair; 0 for equal prompts.

    Differences are taken before they are squared: by the inner products, two prompts that lie close together would
    lose half their digits.
    """
    return squareform(pdist(prompts.reshape(len(prompts), -1)))


def cosines(prompts: Float[np.ndarray, "n_prompts n_tokens d_model"]) -> Float[np.ndarray, "n_prompts n_prompts"]:
    """Cosine of every pair, each prompt one long vector: closeness whatever their lengths. NaN beside zeros alone."""
    return 1 - squareform(pdist(prompts.reshape(len(prompts), -1), "cosine"))


def reordered_distances(prompts: Float[np.ndarray, "n_prompts n_tokens d_model"]) -> Reordered:
    """Frobenius distance of every pair under the best permutation of one prompt's positions.

    The squared distance is that of the norms less twice the inner products of positions that stand beside each other,
    so the best order is the assignment with the largest sum of inner products (Kuhn 1955, by SciPy).
    """
    n, n_tokens, d_model = prompts.shape
    found, moved = np.zeros((2, n, n))
    for i in range(n - 1):
        others = prompts[i + 1 :]
        # One product for all that follow; SciPy solves assignments one by one.
        products = (others.reshape(-1, d_model) @ prompts[i].T).reshape(len(others), n_tokens, n_tokens)
        orders = np.array([linear_sum_assignment(product.T, maximize=True)[1] for product in products])
        reordered = np.take_along_axis(others, orders[:, :, None], axis=1)
        found[i, i + 1 :] = np.linalg.norm(reordered - prompts[i], axis=(1, 2))
        moved[i, i + 1 :] = (orders != np.arange(n_tokens)).mean(-1)
    return Reordered(found + found.T, moved + moved.T)


def alignment(
    prompts: Float[np.ndarray, "n_prompts n_tokens d_model"], examples: ExamplesAxis = "dimensions"
) -> Float[np.ndarray, "n_prompts n_prompts"]:
    """Linear centred kernel alignment of every pair (Kornblith et al. 2019, section 3), 0 to 1; 1 means alike.

    With X and Y centred over examples, ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F). It does not change when a prompt is
    scaled or its features are rotated. Two readings:

    - 'dimensions': dimensions of the embedding are the examples, positions the features. The order of positions
      counts for nothing, and neither does any other rotation among them.
    - 'positions': positions are the examples, dimensions the features. The order of positions counts, a rotation of
      the embedding space does not. With fewer positions than dimensions even noise comes close to 1: read it beside
      `noise_like`.

    NaN where a prompt has the same value in all examples. Raises UserError for prompts of one token over positions.
    """
    n, n_tokens, d_model = prompts.shape
    if examples == "positions" and n_tokens < 2:
        raise UserError("Soft prompts of one token have no alignment over positions.", "Align them over dimensions.")
    if examples == "positions":
        centred = prompts - prompts.mean(1, keepdims=True)
        grams = (centred @ centred.swapaxes(1, 2)).reshape(n, -1)
        similarity = grams @ grams.T
    else:
        similarity = _squared_products(prompts - prompts.mean(2, keepdims=True))
    own = np.sqrt(np.diag(similarity))
    # What is left of equal values after centring is rounding, and its alignment would be chance.
    own = np.where(own > 1e-12 * np.square(prompts).sum((1, 2)), own, np.nan)
    return np.clip(similarity / np.outer(own, own), 0, 1)


def _squared_products(
    prompts: Float[np.ndarray, "n_prompts n_tokens d_model"],
) -> Float[np.ndarray, "n_prompts n_prompts"]:
    """Squared Frobenius norm of A B^T for every pair of prompts A and B."""
    n, n_tokens, d_model = prompts.shape
    rows = prompts.reshape(-1, d_model)
    step = max(1, _ENTRIES_AT_ONCE // (n * n_tokens**2))
    parts = [
        np.square(prompts[at : at + step].reshape(-1, d_model) @ rows.T).reshape(-1, n_tokens, n, n_tokens).sum((1, 3))
        for at in range(0, n, step)
    ]
    return np.concatenate(parts)


def noise_like(
    prompts: Float[np.ndarray, "n_prompts n_tokens d_model"], seed: int = 0
) -> Float[np.ndarray, "n_prompts n_tokens d_model"]:
    """Pure noise of the same shape and Frobenius norms: what any figure here is where prompts share nothing."""
    noise = np.random.default_rng(seed).standard_normal(prompts.shape)
    norms = [np.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (prompts, noise)]
    return noise * (norms[0] / norms[1])


def _check_tasks(prompts: Float[np.ndarray, "n_prompts n_tokens d_model"], tasks: Sequence[str]) -> None:
    if len(prompts) != len(tasks):
        raise UserError(
            f"There are {len(prompts)} soft prompts and {len(tasks)} names of tasks.", "Give one name a soft prompt."
        )
