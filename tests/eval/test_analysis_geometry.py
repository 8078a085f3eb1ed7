"""Figures of geometry are their definitions, SciPy's and scikit-learn's, and what planted cases must give."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from sklearn.metrics import pairwise_distances

from soft2hard.errors import UserError
from soft2hard.eval.analysis import geometry
from soft2hard.eval.analysis.comparable import check_comparable, stacked
from soft2hard.eval.analysis.geometry import (
    alignment,
    cosines,
    distances,
    noise_like,
    reordered_distances,
    task_geometry,
)
from soft2hard.prompts.soft_prompt import SoftPrompt

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
    reordered = reordered_distances(prompts)
    assert not reordered.distances.any() and not reordered.share_moved.any()
    np.testing.assert_allclose(alignment(np.stack([PROMPTS[0]] * 3)), 1)


def test_cosines_are_those_of_the_prompts_as_vectors_whatever_their_lengths() -> None:
    found = cosines(PROMPTS)
    rows = PROMPTS.reshape(N, -1)
    expected = rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(cosines(PROMPTS * np.arange(1, N + 1)[:, None, None]), found, atol=1e-12)
    assert np.isnan(cosines(np.stack([PROMPTS[0], np.zeros_like(PROMPTS[0])]))[0, 1])


def test_the_best_order_is_the_best_of_all_orders() -> None:
    found = reordered_distances(PROMPTS)
    for i, a in enumerate(PROMPTS):
        for j, b in enumerate(PROMPTS):
            best = min(permutations(range(TOKENS)), key=lambda order: np.linalg.norm(a - b[list(order)]))
            assert found.share_moved[i, j] == np.mean(np.array(best) != np.arange(TOKENS))
            assert found.distances[i, j] == pytest.approx(np.linalg.norm(a - b[list(best)]), abs=1e-12)
    assert (found.distances <= distances(PROMPTS) + 1e-12).all()


def test_permuted_prompts_are_the_same_once_reordered() -> None:
    order = np.array([2, 0, 3, 1])
    prompts = np.stack([PROMPTS[0], PROMPTS[0][order]])
    found = reordered_distances(prompts)
    assert distances(prompts)[0, 1] > 1 and found.distances[0, 1] == 0
    assert found.share_moved[0, 1] == found.share_moved[1, 0] == 1
    half = reordered_distances(np.stack([PROMPTS[0], PROMPTS[0][[1, 0, 2, 3]]]))
    assert half.share_moved[0, 1] == 0.5 and half.distances[0, 1] == 0
    assert alignment(prompts, "dimensions")[0, 1] == pytest.approx(1)
    assert alignment(prompts, "positions")[0, 1] < 0.99


@pytest.mark.parametrize("examples", ["positions", "dimensions"])
def test_alignment_is_its_definition_by_gram_matrices(examples: geometry.ExamplesAxis) -> None:
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
    with pytest.raises(UserError, match="one token"):
        alignment(PROMPTS[:, :1], "positions")


def test_products_in_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = alignment(PROMPTS)
    monkeypatch.setattr(geometry, "_ENTRIES_AT_ONCE", 1)
    np.testing.assert_allclose(alignment(PROMPTS), whole)


def test_norms_and_variances_of_a_task_are_their_definitions() -> None:
    first, second, single = task_geometry(PROMPTS, ["b", "a", "b", "b", "a", "c"])
    own = PROMPTS[[0, 2, 3]]
    norms = [np.sqrt((p**2).sum()) for p in own]
    pairs = np.array([np.linalg.norm(own[i] - own[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert (first.task, first.n_prompts, second.task, second.n_prompts) == ("b", 3, "a", 2)
    assert first.mean_norm == pytest.approx(np.mean(norms))
    assert first.mean_token_norm == pytest.approx(np.mean([np.sqrt((row**2).sum()) for p in own for row in p]))
    assert first.norm_variance == pytest.approx(np.var(norms, ddof=1))
    assert first.variance == pytest.approx(sum(np.var(own.reshape(3, -1), axis=0, ddof=1)))
    assert first.variance == pytest.approx(np.mean(pairs**2) / 2)
    assert first.mean_distance == pytest.approx(pairs.mean())
    assert first.distance_variation == pytest.approx(pairs.std(ddof=1) / pairs.mean())
    assert second.mean_distance is not None and second.distance_variation is None
    assert single.norm_variance is single.variance is single.mean_distance is None


def test_equidistant_prompts_have_no_variation_of_distances_and_noise_little() -> None:
    corners = np.eye(4).reshape(4, 2, 2)
    (planted,) = task_geometry(corners, ["t"] * 4)
    assert planted.distance_variation == pytest.approx(0, abs=1e-12)
    assert planted.mean_distance == pytest.approx(np.sqrt(2))
    (noise,) = task_geometry(RNG.normal(size=(8, 10, 200)), ["t"] * 8)
    assert 0 < noise.distance_variation < 0.05
    (same,) = task_geometry(np.stack([PROMPTS[0]] * 3), ["t"] * 3)
    assert (same.variance, same.norm_variance, same.mean_distance) == pytest.approx((0, 0, 0), abs=1e-20)
    assert same.distance_variation is None


def test_noise_has_the_norms_of_the_prompts_and_nothing_else_of_them() -> None:
    noise = noise_like(PROMPTS)
    np.testing.assert_allclose(np.linalg.norm(noise, axis=(1, 2)), np.linalg.norm(PROMPTS, axis=(1, 2)))
    assert abs(np.corrcoef(noise.ravel(), PROMPTS.ravel())[0, 1]) < 0.25  # 4 / sqrt(216)
    np.testing.assert_array_equal(noise, noise_like(PROMPTS))


def test_names_of_tasks_must_be_as_many_as_prompts() -> None:
    with pytest.raises(UserError, match="6 soft prompts and 1 name"):
        task_geometry(PROMPTS, ["t"])


def prompt(n: int = 2, width: int = 3, **facts: str) -> SoftPrompt:
    return SoftPrompt(torch.ones(n, width), **facts)


def test_prompts_of_one_subject_are_stacked_in_order() -> None:
    prompts = [SoftPrompt(torch.from_numpy(p).float()) for p in PROMPTS]
    np.testing.assert_allclose(stacked(prompts), PROMPTS, rtol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "problem", "still"),
    [
        ([prompt()], "1 soft prompts where 2", "single"),
        ([prompt(), prompt(width=4)], "3 wide and soft prompt 2 is 4 wide", "nearest tokens"),
        ([prompt(), prompt(n=5)], "2 tokens and soft prompt 2 has 5", "transfer matrix"),
        (
            [prompt(fingerprint="a", subject="x"), prompt(), prompt(fingerprint="b", subject="y")],
            "prompts 1 and 3 belong to different subjects: x and y",
            "nearest tokens",
        ),
        ([prompt(subject="hub/opt"), prompt(subject="hub/gpt2")], "hub/opt and hub/gpt2", "nearest tokens"),
    ],
)
def test_prompts_that_cannot_be_compared_are_refused_with_what_can_still_be_had(prompts, problem, still) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        stacked(prompts)
    assert still in refused.value.remedy


def test_one_subject_by_two_names_is_one_subject() -> None:
    check_comparable([prompt(subject="hub/opt"), prompt(subject="/models/OPT"), prompt()])
    check_comparable([prompt(subject="a", fingerprint="f"), prompt(subject="b", fingerprint="f")])
