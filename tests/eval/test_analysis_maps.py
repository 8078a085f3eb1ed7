"""Maps keep planted groups apart, are the same for the same seed, and say what they lack."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from soft2hard.errors import UserError
from soft2hard.eval.analysis import maps
from soft2hard.eval.analysis.maps import missing, plane_map, principal_coordinates

GROUPS = np.repeat(np.arange(4), 8)


def between(points: np.ndarray) -> np.ndarray:
    return squareform(pdist(points))


def planted(spread: float = 0.2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((4, 24))[GROUPS] + spread * rng.standard_normal((len(GROUPS), 24))


def test_principal_coordinates_of_euclidean_distances_are_the_principal_components() -> None:
    points = planted(1.0)
    expected = PCA(2).fit_transform(points)
    found = principal_coordinates(between(points))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(between(found), between(expected), atol=1e-8)


@pytest.mark.parametrize("name", ["tsne", "umap", "pca"])
def test_planted_groups_lie_apart_and_neighbours_can_be_trusted(name) -> None:
    if name == "umap":
        pytest.importorskip("umap")
    found = plane_map(name, between(planted()))
    assert silhouette_score(found.places, GROUPS) > 0.5
    assert found.trustworthiness > 0.85 and found.about


def test_of_pure_noise_a_map_cannot_be_trusted() -> None:
    noise = np.random.default_rng(0).standard_normal((60, 100))
    assert plane_map("pca", between(noise)).trustworthiness < 0.75


def test_a_map_is_the_same_for_the_same_seed() -> None:
    distances = between(planted(1.0))
    np.testing.assert_array_equal(plane_map("tsne", distances, 3).places, plane_map("tsne", distances, 3).places)


@pytest.mark.parametrize("name", ["tsne", "pca"])
def test_identical_prompts_lie_in_one_place_or_at_least_are_mapped(name) -> None:
    places = plane_map(name, np.zeros((12, 12))).places
    assert np.isfinite(places).all()
    if name == "pca":
        assert (places == 0).all()


def test_two_points_make_a_line() -> None:
    np.testing.assert_allclose(principal_coordinates(between(np.array([[0.0], [2.0]]))), [[1, 0], [-1, 0]], atol=1e-12)


def test_what_a_map_lacks_is_said_and_the_map_refused(monkeypatch) -> None:
    assert missing("pca", 2) is None and "1 soft prompts" in missing("pca", 1)
    assert "9 soft prompts" in missing("tsne", 9) and missing("tsne", 10) is None
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    assert "umap-learn is not installed" in missing("umap", 50)
    with pytest.raises(UserError, match="scikit-learn is not installed"):
        plane_map("tsne", between(planted()))
    assert plane_map("pca", between(planted())).trustworthiness is None


@pytest.mark.parametrize("wrong", [np.nan, -1.0, 7.0])
def test_what_is_no_distance_is_refused(wrong) -> None:
    distances = between(planted())
    distances[0, 1] = wrong
    with pytest.raises(UserError, match="no distances"):
        plane_map("pca", distances)
