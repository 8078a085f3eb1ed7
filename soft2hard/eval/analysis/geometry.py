"""Where soft prompts lie: norms and variance, Frobenius distances, best permutations of positions, alignment, maps.

Arrays hold the prompts of one subject and one length in float64 (`inputs.stacked`). A prompt is a matrix of positions
and dimensions; all figures are in the units of the subject's embeddings, and variances are unbiased.
"""

import warnings
from importlib.util import find_spec
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist, squareform

from soft2hard.errors import UserError

Prompts = Float[np.ndarray, "n_prompts n_tokens d_model"]
Square = Float[np.ndarray, "n n"]
MapName = Literal["tsne", "umap", "pca"]
MAPS: tuple[MapName, ...] = ("tsne", "umap", "pca")
MIN_POINTS = 10
"""Fewer have no neighbourhoods to speak of."""
UMAP_PACKAGE = "umap"
MEASURES = {
    "frobenius": "Frobenius distance",
    "reordered": "Frobenius distance after the best permutation of positions",
    "alignment_dimensions": "Centred kernel alignment over dimensions",
    "alignment_positions": "Centred kernel alignment over positions",
    "share_moved": "Share of positions that the best permutation moves",
}

_PERPLEXITY, _NEIGHBOURS = 30, 15  # of t-SNE and of UMAP: their libraries' defaults
_TRUST_NEIGHBOURS = 5


def prompt_statistics(rows: Float[np.ndarray, "n_tokens d_model"]) -> dict[str, float | int]:
    """One soft prompt by itself; NaN stands where it has too few virtual tokens for a figure.

    `norm` is Frobenius, those of virtual tokens are Euclidean; `mean` and `variance` are of entries; `token_cosine` is
    the mean cosine of two virtual tokens, near 1 where all point one way, 0 for tokens without length.
    """
    norms = np.linalg.norm(rows, axis=1)
    units = _unit(rows)
    n_pairs = len(rows) * (len(rows) - 1) / 2
    return {
        "n_tokens": rows.shape[0],
        "d_model": rows.shape[1],
        "norm": float(np.linalg.norm(rows)),
        "mean_token_norm": float(norms.mean()),
        "token_norm_variance": _variance(norms),
        "smallest_token_norm": float(norms.min()),
        "largest_token_norm": float(norms.max()),
        "mean": float(rows.mean()),
        "variance": _variance(rows.ravel()),
        "token_cosine": float(np.triu(units @ units.T, 1).sum() / n_pairs) if n_pairs else np.nan,
    }


def task_geometry(prompts: Prompts) -> dict[str, float | int]:
    """The soft prompts of one task, tuned several times; NaN stands where there are too few for a figure.

    The study's mean norm and variance can be read of the whole matrix or of its parts, so both readings are here.
    `norm_variance` is of the Frobenius norms; `variance` is that of each entry over the prompts, summed over entries,
    which is half the mean squared distance between two of them; `distance_variation` is the standard deviation of the
    distances by their mean, 0 where the prompts are equidistant.
    """
    norms = np.linalg.norm(prompts, axis=(1, 2))
    apart = pdist(prompts.reshape(len(prompts), -1))
    mean_distance = float(apart.mean()) if len(apart) else np.nan
    return {
        "n_prompts": len(prompts),
        "mean_norm": float(norms.mean()),
        "mean_token_norm": float(np.linalg.norm(prompts, axis=2).mean()),
        "norm_variance": _variance(norms),
        "variance": float(prompts.var(axis=0, ddof=1).sum()) if len(prompts) > 1 else np.nan,
        "mean_distance": mean_distance,
        "distance_variation": np.sqrt(_variance(apart)) / mean_distance if mean_distance else np.nan,
    }


def _variance(values: Float[np.ndarray, " n"]) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else np.nan


def measures(prompts: Prompts) -> dict[str, Square]:
    """All of `MEASURES` that are defined, then the cosines of pairs as vectors (`cosine`) and by position
    (`token_cosine`)."""
    reordered, moved = reordered_distances(prompts)
    found = {
        "frobenius": distances(prompts),
        "reordered": reordered,
        "alignment_dimensions": alignment(prompts),
        "alignment_positions": alignment(prompts, "positions") if prompts.shape[1] > 1 else None,
        "share_moved": moved,
        "cosine": cosines(prompts),
        "token_cosine": token_cosines(prompts),
    }
    return {measure: matrix for measure, matrix in found.items() if matrix is not None}


def distances(prompts: Prompts) -> Square:
    """Frobenius distance of every pair; 0 for equal prompts.

    Differences are taken before they are squared: by the inner products, two prompts that lie close together would
    lose half their digits.
    """
    return squareform(pdist(prompts.reshape(len(prompts), -1)))


def cosines(prompts: Prompts) -> Square:
    """Cosine of every pair, each prompt one long vector: closeness whatever their lengths. NaN beside zeros alone."""
    return 1 - squareform(pdist(prompts.reshape(len(prompts), -1), "cosine"))


def token_cosines(prompts: Prompts) -> Square:
    """Mean, over positions, of the cosine of two prompts' virtual tokens there; 0 for a token without length."""
    tokens = _unit(prompts).reshape(len(prompts), -1)
    return tokens @ tokens.T / prompts.shape[1]


def reordered_distances(prompts: Prompts) -> tuple[Square, Square]:
    """Frobenius distance of every pair under the best permutation of one prompt's positions, never larger than without
    one, and the share of positions that it moves.

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
    return found + found.T, moved + moved.T


def alignment(prompts: Prompts, examples: Literal["positions", "dimensions"] = "dimensions") -> Square:
    """Linear centred kernel alignment of every pair (Kornblith et al. 2019, section 3), 0 to 1; 1 means alike.

    With X and Y centred over examples, ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F). It does not change when a prompt is
    scaled or its features are rotated. Two readings:

    - 'dimensions': dimensions of the embedding are the examples, positions the features. The order of positions
      counts for nothing, and neither does any other rotation among them.
    - 'positions': positions are the examples, dimensions the features. The order of positions counts, a rotation of
      the embedding space does not. With fewer positions than dimensions even noise comes close to 1: read it beside
      `noise_like`.

    NaN where a prompt has the same value in all examples, as prompts of one token have over positions.
    """
    if examples == "positions":
        centred = prompts - prompts.mean(1, keepdims=True)
        grams = (centred @ centred.swapaxes(1, 2)).reshape(len(prompts), -1)
        similarity = grams @ grams.T
    else:
        centred = prompts - prompts.mean(2, keepdims=True)
        n, n_tokens, d_model = prompts.shape
        products = (one @ centred.reshape(-1, d_model).T for one in centred)
        similarity = np.stack([np.square(p).reshape(n_tokens, n, n_tokens).sum((0, 2)) for p in products])
    own = np.sqrt(np.diag(similarity))
    # What is left of equal values after centring is rounding, and its alignment would be chance.
    own = np.where(own > 1e-12 * np.square(prompts).sum((1, 2)), own, np.nan)
    return np.clip(similarity / np.outer(own, own), 0, 1)


def noise_like(prompts: Prompts, seed: int = 0) -> Prompts:
    """Pure noise of the same shape and Frobenius norms: what any figure here is where prompts share nothing."""
    noise = np.random.default_rng(seed).standard_normal(prompts.shape)
    norms = [np.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (prompts, noise)]
    return noise * (norms[0] / norms[1])


def _unit(vectors: Float[np.ndarray, "*rows d"]) -> Float[np.ndarray, "*rows d"]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def no_map(name: MapName, n_points: int) -> str | None:
    """The reason, in one line, why a map of so many points cannot be made here; None where it can."""
    if n_points < 2:
        return f"{n_points} soft prompts make no map."
    if name != "pca" and n_points < MIN_POINTS:
        return f"{name}: {n_points} soft prompts have no neighbourhoods to speak of; it needs {MIN_POINTS} or more."
    if name == "umap" and find_spec(UMAP_PACKAGE) is None:
        return "umap: umap-learn is not installed (pip install 'soft2hard[maps]')."
    return None


def plane_map(name: MapName, apart: Square, seed: int = 0) -> tuple[Float[np.ndarray, "n 2"], str, float | None]:
    """Places in the plane of points that lie this far apart, how the map was made, and how far it can be trusted.

    'pca': principal coordinates (Torgerson 1952), which of Euclidean distances are the first two principal components.
    'tsne' (van der Maaten & Hinton 2008) starts from them. 'umap': McInnes et al. 2018, arXiv 1802.03426. Both of these
    keep neighbours rather than distances. A map is the same for the same seed.

    Trustworthiness is of the 5 nearest neighbours, 0 to 1; 1 where all neighbours in the plane are neighbours in truth
    (Venna and Kaski 2001); None for 10 points or fewer. Raises UserError where `no_map` gives a reason.
    """
    from sklearn.decomposition import KernelPCA
    from sklearn.manifold import TSNE, trustworthiness

    n = len(apart)
    if reason := no_map(name, n):
        raise UserError(reason, "Take 'pca', which needs nothing.")
    places = KernelPCA(2, kernel="precomputed", eigen_solver="dense").fit_transform(-np.square(apart) / 2)
    about = "principal coordinates of the distances"
    given = {"metric": "precomputed", "random_state": seed}
    if name == "tsne":
        perplexity = min(_PERPLEXITY, (n - 1) / 3)
        start = 1e-4 * places / max(float(places[:, 0].std()), 1e-12)  # its authors' scale of a start
        places = TSNE(init=start.astype(np.float32), perplexity=perplexity, **given).fit_transform(apart)
        about = f"t-SNE, perplexity {perplexity:.3g}, started from the principal coordinates, seed {seed}"
    elif name == "umap":
        from umap import UMAP

        neighbours = min(_NEIGHBOURS, n - 1)
        about = f"UMAP, {neighbours} neighbours, seed {seed}"
        init = "random" if n < 20 else "spectral"  # the spectral start needs more points
        with warnings.catch_warnings():
            # It says that it cannot invert a precomputed metric, and that a seed forbids threads: both are known here.
            warnings.simplefilter("ignore")
            places = UMAP(n_neighbors=neighbours, init=init, n_jobs=1, **given).fit_transform(apart)
    trust = None
    if n > 2 * _TRUST_NEIGHBOURS:
        trust = float(trustworthiness(apart, places, n_neighbors=_TRUST_NEIGHBOURS, metric="precomputed"))
    return places.astype(np.float64), about, trust
