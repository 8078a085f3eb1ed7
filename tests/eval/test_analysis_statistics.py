"""Statistics of soft prompts are their definitions, and those that SciPy and NumPy give of three published prompts."""

import json
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.distance import cdist, cosine, euclidean

from soft2hard.errors import UserError
from soft2hard.eval.analysis.embedding_table import extract_by_table, read_embedding_table
from soft2hard.eval.analysis.extraction import extract
from soft2hard.eval.analysis.statistics import pair_statistics, prompt_statistics, statistics
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models
from tests.paths import SHARED

PUBLISHED = SHARED / "published_soft_prompts"
NAMES = ["mrpc", "rte", "sst2"]
needs_data = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published soft prompts are not on this machine")


def made(*matrices: np.ndarray, subject: str | None = None) -> list[SoftPrompt]:
    return [SoftPrompt(torch.tensor(matrix, dtype=torch.float32), subject=subject) for matrix in matrices]


RNG = np.random.default_rng(0)
MATRICES = [RNG.normal(0.5, 2.0, (3, 5)).astype(np.float32) for _ in range(4)]


def test_a_small_prompt_has_the_figures_that_are_worked_out_by_hand() -> None:
    [one] = prompt_statistics(made(np.array([[3.0, 4.0], [0.0, 10.0]])), ["hand"])
    assert (one.name, one.n_tokens, one.d_model) == ("hand", 2, 2)
    assert one.norm == pytest.approx(np.sqrt(125))
    assert (one.mean_token_norm, one.smallest_token_norm, one.largest_token_norm) == (7.5, 5.0, 10.0)
    assert one.token_norm_variance == 12.5  # norms 5 and 10
    assert one.mean == 4.25
    assert one.variance == pytest.approx(17.583333)  # (1.25^2 + 0.25^2 + 4.25^2 + 5.75^2) / 3
    assert one.token_cosine == pytest.approx(0.8)


def test_pairs_are_frobenius_and_cosine_of_scipy_and_the_best_of_all_orders() -> None:
    found = pair_statistics(made(*MATRICES), list("abcd"))
    assert [(p.first, p.second) for p in found] == list(combinations("abcd", 2))
    for pair, (x, y) in zip(found, combinations(np.float64(MATRICES), 2), strict=True):
        assert pair.distance == pytest.approx(euclidean(x.ravel(), y.ravel()))
        assert pair.cosine == pytest.approx(1 - cosine(x.ravel(), y.ravel()))
        assert pair.token_cosine == pytest.approx(np.mean([1 - cosine(a, b) for a, b in zip(x, y, strict=True)]))
        orders = [np.linalg.norm(x - y[list(order)]) for order in permutations(range(3))]
        assert pair.reordered_distance == pytest.approx(min(orders))
        assert 0 <= pair.alignment <= 1


def test_the_same_prompt_twice_is_at_distance_0_and_cosine_1_and_its_opposite_at_minus_1() -> None:
    same, opposite, _ = pair_statistics(made(MATRICES[0], MATRICES[0], -MATRICES[0]), list("abc"))
    assert (same.distance, same.reordered_distance) == (0, 0)
    assert same.cosine == pytest.approx(1) and same.token_cosine == pytest.approx(1)
    assert opposite.cosine == pytest.approx(-1) and opposite.token_cosine == pytest.approx(-1)
    assert opposite.distance == pytest.approx(2 * np.linalg.norm(MATRICES[0]))


def test_a_prompt_whose_positions_are_permuted_is_apart_until_it_is_reordered() -> None:
    [pair] = pair_statistics(made(MATRICES[0], MATRICES[0][[2, 0, 1]]), ["a", "b"])
    assert pair.distance > 1 and pair.reordered_distance == 0 and pair.alignment == pytest.approx(1)


def test_what_is_not_defined_is_none_and_a_vector_without_length_has_cosine_0() -> None:
    [one] = prompt_statistics(made(np.array([[2.0]])), ["one"])
    assert one.token_norm_variance is one.variance is one.token_cosine is None
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    [pair] = pair_statistics(made(zeros, ones), ["zeros", "ones"])
    assert (pair.cosine, pair.token_cosine, pair.alignment) == (0, 0, None)
    assert prompt_statistics(made(zeros), ["zeros"])[0].token_cosine == 0


def test_a_single_prompt_has_no_pairs_and_all_is_written_as_json() -> None:
    assert statistics(made(MATRICES[0]), ["a"]).pairs == ()
    written = json.loads(json.dumps(statistics(made(*MATRICES[:2]), ["a", "b"]).to_json()))
    assert [one["name"] for one in written["prompts"]] == ["a", "b"]
    assert written["pairs"][0]["distance"] == pytest.approx(np.linalg.norm(MATRICES[0] - MATRICES[1]), rel=1e-6)


def test_prompts_that_cannot_be_compared_still_have_figures_of_their_own() -> None:
    other = made(*MATRICES[:1]) + made(np.ones((3, 6)))
    assert [one.d_model for one in prompt_statistics(other, ["a", "b"])] == [5, 6]
    with pytest.raises(UserError, match="5 wide and soft prompt 2 is 6 wide"):
        statistics(other, ["a", "b"])
    with pytest.raises(UserError, match="different subjects: one and two"):
        pair_statistics(made(MATRICES[0], subject="one") + made(MATRICES[1], subject="two"), ["a", "b"])
    with pytest.raises(UserError, match="3 tokens and soft prompt 2 has 2"):
        pair_statistics(made(MATRICES[0], MATRICES[1][:2]), ["a", "b"])
    with pytest.raises(UserError, match="There are 1 soft prompts where 2"):
        pair_statistics(made(MATRICES[0]), ["a"])
    with pytest.raises(UserError, match="2 soft prompts and 1 names"):
        statistics(made(*MATRICES[:2]), ["a"])


@needs_data
def test_the_published_t5_prompts_have_the_figures_that_numpy_and_scipy_give_of_their_files() -> None:
    arrays = [np.load(PUBLISHED / f"{name}.npy").astype(np.float64) for name in NAMES]
    found = statistics([SoftPrompt.load(PUBLISHED / f"{name}.npy") for name in NAMES], NAMES)
    for one, array in zip(found.prompts, arrays, strict=True):
        norms = np.sqrt((array**2).sum(1))
        assert (one.n_tokens, one.d_model) == (100, 768)
        assert one.norm == pytest.approx(np.sqrt((array**2).sum()))
        assert one.mean_token_norm == pytest.approx(norms.mean())
        assert one.token_norm_variance == pytest.approx(((norms - norms.mean()) ** 2).sum() / 99)
        assert (one.smallest_token_norm, one.largest_token_norm) == pytest.approx((norms.min(), norms.max()))
        assert one.mean == pytest.approx(array.mean(), rel=1e-5)
        products = np.corrcoef(np.c_[array, -array])  # rows of mean 0, so that their correlation is their cosine
        assert one.token_cosine == pytest.approx((products.sum() - 100) / 9900)
    for pair, (x, y) in zip(found.pairs, combinations(arrays, 2), strict=True):
        assert pair.distance == pytest.approx(euclidean(x.ravel(), y.ravel()))
        assert pair.cosine == pytest.approx(1 - cosine(x.ravel(), y.ravel()))
        assert pair.reordered_distance <= pair.distance


# --- nearest rows of a table without its subject ----------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "t5", "bart"])
def test_a_table_read_from_a_models_weights_gives_what_the_subject_gives(architecture: str, tmp_path: Path) -> None:
    subject = tiny_models.subject(architecture)
    subject.model.save_pretrained(tmp_path)
    table = read_embedding_table(tmp_path / "model.safetensors")
    assert torch.equal(table, subject.model.get_input_embeddings().weight)
    prompts = made(*[RNG.normal(size=(n, subject.d_model)) for n in (2, 4)])
    for ours, theirs in zip(extract_by_table(table, prompts), extract(subject, prompts), strict=True):
        for one, other in zip(ours.positions, theirs.positions, strict=True):
            assert [n.id for n in one.nearest] == [n.id for n in other.nearest]
            assert [n.cosine for n in one.nearest] == pytest.approx([n.cosine for n in other.nearest], abs=1e-5)


def test_a_table_alone_in_a_file_is_read_and_others_are_refused_in_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", MATRICES[0])
    table = read_embedding_table(tmp_path / "table.npy")
    np.testing.assert_array_equal(table, MATRICES[0])
    save_file({"a": torch.ones(3, 4), "b": torch.ones(3, 4)}, tmp_path / "two.safetensors")
    with pytest.raises(UserError, match="no table of input embeddings among its 2 tensors"):
        read_embedding_table(tmp_path / "two.safetensors")
    with pytest.raises(UserError, match="No such file"):
        read_embedding_table(tmp_path / "none.npy")
    with pytest.raises(UserError, match="Soft prompt 2 is 6 wide and the table of embeddings 5"):
        extract_by_table(table, made(np.ones((1, 5)), np.ones((1, 6))))
    with pytest.raises(UserError, match="no 4 nearest of 3 tokens"):
        extract_by_table(table, made(np.ones((1, 5))), 4)
    assert extract_by_table(table, []) == []


@needs_data
def test_the_nearest_rows_of_any_768_wide_table_to_the_published_prompts_are_scipys(tmp_path: Path) -> None:
    table = RNG.normal(size=(5000, 768)).astype(np.float32)
    arrays = [np.load(PUBLISHED / f"{name}.npy") for name in NAMES]
    table[[17, 42, 4000]] = 3 * arrays[0][0], arrays[1][50], 0.1 * arrays[2][99]
    save_file({"decoder.block.0.w": torch.ones(2, 2), "shared.weight": torch.tensor(table)}, tmp_path / "t.safetensors")
    prompts = [SoftPrompt.load(PUBLISHED / f"{name}.npy") for name in NAMES]
    found = extract_by_table(read_embedding_table(tmp_path / "t.safetensors"), prompts)
    for one, array in zip(found, arrays, strict=True):
        expected = cdist(array, table, "cosine").argsort(1)[:, :3]
        assert [[n.id for n in p.nearest] for p in one.positions] == expected.tolist()
    planted = [found[0].positions[0], found[1].positions[50], found[2].positions[99]]
    assert [p.nearest[0].text for p in planted] == ["<17>", "<42>", "<4000>"]
    assert [p.nearest[0].cosine for p in planted] == pytest.approx([1] * 3, abs=1e-5)
