"""Figures of geometry are their definitions, SciPy's and scikit-learn's, and what planted cases must give."""

from itertools import permutations

import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.distance import cosine, euclidean, pdist, squareform
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances, silhouette_score

from soft2hard.errors import UserError
from soft2hard.eval.analysis import geometry
from soft2hard.eval.analysis.geometry import (
    alignment,
    cosines,
    distances,
    no_map,
    noise_like,
    plane_map,
    prompt_statistics,
    reordered_distances,
    task_geometry,
    token_cosines,
)
from soft2hard.eval.analysis.inputs import stacked
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests.paths import SHARED

PUBLISHED = SHARED / "published_soft_prompts"

N, TOKENS, WIDTH = 6, 4, 9
RNG = np.random.default_rng(2)
PROMPTS = RNG.normal(0.3, 2.0, (N, TOKENS, WIDTH))


def cka_by_its_gram_matrices(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = X X^T, L = Y Y^T (Kornblith et al. 2019, equations 2 and 3)."""
    centring = np.eye(len(x)) - 1 / len(x)
    k, m = x @ x.T, y @ y.T

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.trace(a @ centring @ b @ centring)) / (len(x) - 1) ** 2

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_distances_are_frobenius_norms_of_differences_and_those_of_scikit_learn() -> None:
    found = distances(PROMPTS)
    expected = [[np.linalg.norm(a - b, "fro") for b in PROMPTS] for a in PROMPTS]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found, pairwise_distances(PROMPTS.reshape(N, -1)), atol=1e-7)


def test_identical_prompts_are_at_distance_0_in_the_order_they_have_and_fully_aligned() -> None:
    prompts = np.stack([PROMPTS[0]] * 3) + 1e4
    assert not distances(prompts).any()
    apart, moved = reordered_distances(prompts)
    assert not apart.any() and not moved.any()
    np.testing.assert_allclose(alignment(np.stack([PROMPTS[0]] * 3)), 1)


def test_cosines_are_those_of_the_prompts_as_vectors_whatever_their_lengths() -> None:
    found = cosines(PROMPTS)
    rows = PROMPTS.reshape(N, -1)
    expected = rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(cosines(PROMPTS * np.arange(1, N + 1)[:, None, None]), found, atol=1e-12)
    assert np.isnan(cosines(np.stack([PROMPTS[0], np.zeros_like(PROMPTS[0])]))[0, 1])


def test_the_best_order_is_the_best_of_all_orders() -> None:
    found, moved = reordered_distances(PROMPTS)
    for i, a in enumerate(PROMPTS):
        for j, b in enumerate(PROMPTS):
            best = min(permutations(range(TOKENS)), key=lambda order: np.linalg.norm(a - b[list(order)]))
            assert moved[i, j] == np.mean(np.array(best) != np.arange(TOKENS))
            assert found[i, j] == pytest.approx(np.linalg.norm(a - b[list(best)]), abs=1e-12)
    assert (found <= distances(PROMPTS) + 1e-12).all()


def test_permuted_prompts_are_the_same_once_reordered() -> None:
    order = np.array([2, 0, 3, 1])
    prompts = np.stack([PROMPTS[0], PROMPTS[0][order]])
    found, moved = reordered_distances(prompts)
    assert distances(prompts)[0, 1] > 1 and found[0, 1] == 0
    assert moved[0, 1] == moved[1, 0] == 1
    half, moved = reordered_distances(np.stack([PROMPTS[0], PROMPTS[0][[1, 0, 2, 3]]]))
    assert moved[0, 1] == 0.5 and half[0, 1] == 0
    assert alignment(prompts, "dimensions")[0, 1] == pytest.approx(1)
    assert alignment(prompts, "positions")[0, 1] < 0.99


@pytest.mark.parametrize("examples", ["positions", "dimensions"])
def test_alignment_is_its_definition_by_gram_matrices(examples: str) -> None:
    found = alignment(PROMPTS, examples)
    rows = PROMPTS if examples == "positions" else PROMPTS.swapaxes(1, 2)
    expected = [[cka_by_its_gram_matrices(x, y) for y in rows] for x in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(np.diag(found), 1)


def test_alignment_of_single_features_is_the_squared_correlation() -> None:
    prompts = PROMPTS[:, :1]
    np.testing.assert_allclose(alignment(prompts), np.corrcoef(prompts[:, 0]) ** 2, rtol=1e-9)


def test_alignment_ignores_scale_and_rotation_of_features() -> None:
    rotation = np.linalg.qr(RNG.normal(size=(WIDTH, WIDTH)))[0]
    turned = np.stack([PROMPTS[0], 3 * PROMPTS[0] @ rotation])
    assert alignment(turned, "positions")[0, 1] == pytest.approx(1)
    assert procrustes(turned[0], turned[1])[2] == pytest.approx(0, abs=1e-12)  # the same shape, by SciPy
    mixing = np.linalg.qr(RNG.normal(size=(TOKENS, TOKENS)))[0]
    mixed = np.stack([PROMPTS[0], 0.1 * mixing @ PROMPTS[0]])
    assert alignment(mixed, "dimensions")[0, 1] == pytest.approx(1)


def test_pure_noise_is_hardly_aligned_over_dimensions_and_much_over_few_positions() -> None:
    noise = RNG.normal(size=(10, 5, 400))
    off = ~np.eye(10, dtype=bool)
    assert alignment(noise, "dimensions")[off].max() < 0.05
    assert alignment(noise, "positions")[off].min() > 0.9


def test_a_prompt_without_variation_has_no_alignment() -> None:
    found = alignment(np.stack([PROMPTS[0], np.full((TOKENS, WIDTH), 0.1)]))
    assert np.isfinite(found).tolist() == [[True, False], [False, False]]
    assert np.isnan(alignment(PROMPTS[:, :1], "positions")).all()


def test_norms_and_variances_of_a_task_are_their_definitions() -> None:
    own = PROMPTS[[0, 2, 3]]
    found, two, single = (task_geometry(prompts) for prompts in (own, PROMPTS[:2], PROMPTS[:1]))
    norms = [np.sqrt((p**2).sum()) for p in own]
    pairs = np.array([np.linalg.norm(own[i] - own[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert found["n_prompts"] == 3
    assert found["mean_norm"] == pytest.approx(np.mean(norms))
    assert found["mean_token_norm"] == pytest.approx(np.mean([np.sqrt((row**2).sum()) for p in own for row in p]))
    assert found["norm_variance"] == pytest.approx(np.var(norms, ddof=1))
    assert found["variance"] == pytest.approx(sum(np.var(own.reshape(3, -1), axis=0, ddof=1)))
    assert found["variance"] == pytest.approx(np.mean(pairs**2) / 2)
    assert found["mean_distance"] == pytest.approx(pairs.mean())
    assert found["distance_variation"] == pytest.approx(pairs.std(ddof=1) / pairs.mean())
    assert np.isfinite(two["mean_distance"]) and np.isnan(two["distance_variation"])
    assert np.isnan([single[name] for name in ("norm_variance", "variance", "mean_distance")]).all()


def test_equidistant_prompts_have_no_variation_of_distances_and_noise_little() -> None:
    planted = task_geometry(np.eye(4).reshape(4, 2, 2))
    assert planted["distance_variation"] == pytest.approx(0, abs=1e-12)
    assert planted["mean_distance"] == pytest.approx(np.sqrt(2))
    assert 0 < task_geometry(RNG.normal(size=(8, 10, 200)))["distance_variation"] < 0.05
    same = task_geometry(np.stack([PROMPTS[0]] * 3))
    figures = [same[name] for name in ("variance", "norm_variance", "mean_distance")]
    assert figures == pytest.approx([0, 0, 0], abs=1e-20) and np.isnan(same["distance_variation"])


def test_noise_has_the_norms_of_the_prompts_and_nothing_else_of_them() -> None:
    noise = noise_like(PROMPTS)
    np.testing.assert_allclose(np.linalg.norm(noise, axis=(1, 2)), np.linalg.norm(PROMPTS, axis=(1, 2)))
    assert abs(np.corrcoef(noise.ravel(), PROMPTS.ravel())[0, 1]) < 0.25  # 4 / sqrt(216)
    np.testing.assert_array_equal(noise, noise_like(PROMPTS))


# --- one soft prompt, and pairs ------------------------------------------------------------------------


def test_a_small_prompt_has_the_figures_that_are_worked_out_by_hand() -> None:
    one = prompt_statistics(np.array([[3.0, 4.0], [0.0, 10.0]]))
    assert (one["n_tokens"], one["d_model"]) == (2, 2)
    assert one["norm"] == pytest.approx(np.sqrt(125))
    assert (one["mean_token_norm"], one["smallest_token_norm"], one["largest_token_norm"]) == (7.5, 5.0, 10.0)
    assert one["token_norm_variance"] == 12.5  # norms 5 and 10
    assert one["mean"] == 4.25
    assert one["variance"] == pytest.approx(17.583333)  # (1.25^2 + 0.25^2 + 4.25^2 + 5.75^2) / 3
    assert one["token_cosine"] == pytest.approx(0.8)


def test_what_is_not_defined_is_missing_and_a_virtual_token_without_length_has_cosine_0() -> None:
    one = prompt_statistics(np.array([[2.0]]))
    assert np.isnan([one[name] for name in ("token_norm_variance", "variance", "token_cosine")]).all()
    assert prompt_statistics(np.zeros((2, 3)))["token_cosine"] == 0
    zeros_and_ones = np.stack([np.zeros((2, 3)), np.ones((2, 3))])
    assert token_cosines(zeros_and_ones)[0, 1] == 0 and np.isnan(alignment(zeros_and_ones)[0, 1])


def test_cosines_of_virtual_tokens_are_means_over_positions() -> None:
    found = token_cosines(PROMPTS)
    for i, j in ((0, 1), (2, 5)):
        pairs = zip(PROMPTS[i], PROMPTS[j], strict=True)
        assert found[i, j] == pytest.approx(np.mean([1 - cosine(a, b) for a, b in pairs]))
    assert token_cosines(np.stack([PROMPTS[0], -PROMPTS[0]]))[0, 1] == pytest.approx(-1)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published soft prompts are not on this machine")
def test_the_published_t5_prompts_have_the_figures_that_numpy_and_scipy_give_of_their_files() -> None:
    arrays = [np.load(PUBLISHED / f"{name}.npy").astype(np.float64) for name in ("mrpc", "rte", "sst2")]
    read = [SoftPrompt.from_pretrained(PUBLISHED / f"{name}.npy") for name in ("mrpc", "rte", "sst2")]
    for prompt, array in zip(read, arrays, strict=True):
        one, norms = prompt_statistics(prompt.embeddings.numpy().astype(np.float64)), np.sqrt((array**2).sum(1))
        assert (one["n_tokens"], one["d_model"]) == (100, 768)
        assert one["norm"] == pytest.approx(np.sqrt((array**2).sum()))
        assert one["mean_token_norm"] == pytest.approx(norms.mean())
        assert one["token_norm_variance"] == pytest.approx(((norms - norms.mean()) ** 2).sum() / 99)
        assert (one["smallest_token_norm"], one["largest_token_norm"]) == pytest.approx((norms.min(), norms.max()))
        assert one["mean"] == pytest.approx(array.mean(), rel=1e-5)
        products = np.corrcoef(np.c_[array, -array])  # rows of mean 0, so that their correlation is their cosine
        assert one["token_cosine"] == pytest.approx((products.sum() - 100) / 9900)
    prompts = stacked(read)
    apart, close, reordered = distances(prompts), cosines(prompts), reordered_distances(prompts)[0]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        x, y = arrays[i].ravel(), arrays[j].ravel()
        assert (apart[i, j], close[i, j]) == pytest.approx((euclidean(x, y), 1 - cosine(x, y)))
        assert reordered[i, j] <= apart[i, j]


# --- maps ----------------------------------------------------------------------------------------------

GROUPS = np.repeat(np.arange(4), 8)


def pca(apart: np.ndarray) -> np.ndarray:
    return plane_map("pca", apart)[0]


def between(points: np.ndarray) -> np.ndarray:
    return squareform(pdist(points))


def planted(spread: float = 0.2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((4, 24))[GROUPS] + spread * rng.standard_normal((len(GROUPS), 24))


def test_principal_coordinates_of_euclidean_distances_are_the_principal_components() -> None:
    points = planted(1.0)
    expected = PCA(2).fit_transform(points)
    found = pca(between(points))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(between(found), between(expected), atol=1e-8)


@pytest.mark.parametrize("name", ["tsne", "umap", "pca"])
def test_planted_groups_lie_apart_and_neighbours_can_be_trusted(name) -> None:
    if name == "umap":
        pytest.importorskip("umap")
    places, about, trust = plane_map(name, between(planted()))
    assert silhouette_score(places, GROUPS) > 0.5
    assert trust > 0.85 and about


def test_of_pure_noise_a_map_cannot_be_trusted() -> None:
    noise = np.random.default_rng(0).standard_normal((60, 100))
    assert plane_map("pca", between(noise))[2] < 0.75


def test_a_map_is_the_same_for_the_same_seed() -> None:
    apart = between(planted(1.0))
    np.testing.assert_array_equal(plane_map("tsne", apart, 3)[0], plane_map("tsne", apart, 3)[0])


@pytest.mark.parametrize("name", ["tsne", "pca"])
def test_identical_prompts_lie_in_one_place_or_at_least_are_mapped(name) -> None:
    places = plane_map(name, np.zeros((12, 12)))[0]
    assert np.isfinite(places).all()
    if name == "pca":
        assert (places == 0).all()


def test_two_points_make_a_line() -> None:
    np.testing.assert_allclose(pca(between(np.array([[0.0], [2.0]]))), [[1, 0], [-1, 0]], atol=1e-12)


def test_what_a_map_lacks_is_said_and_the_map_refused(monkeypatch) -> None:
    assert no_map("pca", 2) is None and "1 soft prompts" in no_map("pca", 1)
    assert "9 soft prompts" in no_map("tsne", 9) and no_map("tsne", 10) is None
    monkeypatch.setattr(geometry, "UMAP_PACKAGE", "umap_is_not_here")
    assert "umap-learn is not installed" in no_map("umap", 50)
    with pytest.raises(UserError, match="umap-learn is not installed"):
        plane_map("umap", between(planted()))
