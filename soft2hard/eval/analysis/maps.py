"""Maps: soft prompts as points of the plane, near where they are alike.

Every map is made of a matrix of distances, so that it can be of any measure of them. All but the principal components
keep neighbours rather than distances: what is read off them is who is near whom, nothing else. `trustworthiness` says
how far even that holds.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
from jaxtyping import Float

from soft2hard.errors import UserError

MapName = Literal["tsne", "umap", "pca"]
MAPS: tuple[MapName, ...] = ("tsne", "umap", "pca")
PACKAGES: dict[MapName, tuple[str, str] | None] = {
    "tsne": ("sklearn", "scikit-learn"),
    "umap": ("umap", "umap-learn"),
    "pca": None,
}
"""What a map needs: the package to import, and its name for pip."""

MIN_POINTS = 10
"""Fewer have no neighbourhoods to speak of."""
_PERPLEXITY = 30  # of t-SNE, and the neighbours of UMAP: their libraries' defaults
_NEIGHBOURS = 15
_TRUST_NEIGHBOURS = 5


@dataclass(frozen=True)
class PlaneMap:
    """Places of points in the plane."""

    name: MapName
    places: Float[np.ndarray, "n 2"]
    about: str
    """How it was made, with its settings."""
    trustworthiness: float | None
    """Of the 5 nearest neighbours, 0 to 1; 1 where all neighbours in the plane are neighbours in truth (Venna and Kaski
    2001). None for fewer points than the measure takes, or without scikit-learn."""


def missing(name: MapName, n_points: int) -> str | None:
    """Why a map cannot be made of so many points here, in one line; None where it can."""
    package = PACKAGES[name]
    if n_points < 2:
        return f"{n_points} soft prompts make no map."
    if package is None:
        return None
    if n_points < MIN_POINTS:
        return (
            f"{name}: {n_points} soft prompts have no neighbourhoods to speak of; it is made of {MIN_POINTS} or more."
        )
    if find_spec(package[0]) is None:
        return f"{name}: {package[1]} is not installed (pip install 'soft2hard[maps]')."
    return None


def plane_map(name: MapName, distances: Float[np.ndarray, "n n"], seed: int = 0) -> PlaneMap:
    """Places of the points between which these distances lie; the same for the same seed.

    'pca': principal coordinates (Torgerson 1952), which of Euclidean distances are the first two principal components.
    'tsne' (van der Maaten & Hinton 2008) starts from them. 'umap': McInnes et al. 2018, arXiv 1802.03426.

    Raises UserError where `missing` gives a reason, and for a matrix of distances that is none.
    """
    _check(distances)
    n = len(distances)
    reason = missing(name, n)
    if reason:
        raise UserError(reason, "Take 'pca', which needs nothing.")
    coordinates = principal_coordinates(distances)
    if name == "pca":
        places, about = coordinates, "principal coordinates of the distances"
    elif name == "tsne":
        perplexity = min(_PERPLEXITY, (n - 1) / 3)
        places = _tsne(distances, coordinates, perplexity, seed)
        about = f"t-SNE, perplexity {perplexity:.3g}, started from the principal coordinates, seed {seed}"
    else:
        neighbours = min(_NEIGHBOURS, n - 1)
        places, about = _umap(distances, neighbours, seed), f"UMAP, {neighbours} neighbours, seed {seed}"
    return PlaneMap(name, places.astype(np.float64), about, _trustworthiness(distances, places))


def principal_coordinates(distances: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n 2"]:
    """The two principal coordinates of a matrix of distances, each with its largest entry positive.

    Eigenvectors of the doubly centred squared distances times the roots of their eigenvalues; zeros where an eigenvalue
    is not positive, as that of points on a line.
    """
    squared = np.square(distances)
    centred = -(squared - squared.mean(0) - squared.mean(1, keepdims=True) + squared.mean()) / 2
    values, vectors = np.linalg.eigh(centred)
    kept = values[::-1][:2]
    # What is left of nothing after centring is rounding.
    kept = np.where(kept > 1e-12 * max(values[-1], 0), kept, 0)
    places = vectors[:, ::-1][:, :2] * np.sqrt(kept)
    signs = np.sign(places[np.abs(places).argmax(0), np.arange(places.shape[1])])
    return places * np.where(signs == 0, 1, signs)


def _check(distances: Float[np.ndarray, "n n"]) -> None:
    if not np.isfinite(distances).all() or (distances < 0).any() or not np.allclose(distances, distances.T):
        raise UserError("These are no distances: some are missing, negative or not symmetric.", "Give distances.")


def _tsne(
    distances: Float[np.ndarray, "n n"], start: Float[np.ndarray, "n 2"], perplexity: float, seed: int
) -> Float[np.ndarray, "n 2"]:
    from sklearn.manifold import TSNE

    small = 1e-4 * start / max(float(start[:, 0].std()), 1e-12)  # its authors' scale of a start
    settings = {"perplexity": perplexity, "random_state": seed, "metric": "precomputed"}
    return TSNE(init=small.astype(np.float32), **settings).fit_transform(distances)


def _umap(distances: Float[np.ndarray, "n n"], neighbours: int, seed: int) -> Float[np.ndarray, "n 2"]:
    import warnings

    from umap import UMAP

    with warnings.catch_warnings():
        # It says that it cannot invert a precomputed metric, and that a seed forbids threads: both are known here.
        warnings.simplefilter("ignore")
        settings = {"metric": "precomputed", "random_state": seed, "n_jobs": 1}
        # The spectral start needs more points than there may be.
        return UMAP(
            n_neighbors=neighbours, init="random" if len(distances) < 20 else "spectral", **settings
        ).fit_transform(distances)


def _trustworthiness(distances: Float[np.ndarray, "n n"], places: Float[np.ndarray, "n 2"]) -> float | None:
    if find_spec("sklearn") is None or len(distances) <= 2 * _TRUST_NEIGHBOURS:
        return None
    from sklearn.manifold import trustworthiness

    return float(trustworthiness(distances, places, n_neighbors=_TRUST_NEIGHBOURS, metric="precomputed"))
