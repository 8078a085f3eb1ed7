"""Retrieval: similarities are SPoT's definitions; planted prompts are found."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from soft2hard.errors import UserError
from soft2hard.eval.analysis.retrieval import Match, nearest, similarities, steps_to_reach, weighted_average
from soft2hard.prompts.soft_prompt import SoftPrompt

WIDTH = 40


def prompt(n: int = 5, seed: int = 0, width: int = WIDTH) -> SoftPrompt:
    return SoftPrompt(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + 0.2)


QUERIES = [prompt(3, 1), prompt(7, 2)]
STORED = [prompt(4, 3), prompt(2, 4), prompt(9, 5)]


def test_averaged_tokens_are_compared_by_their_cosine() -> None:
    means = [np.stack([p.embeddings.mean(0).numpy() for p in prompts]) for prompts in (QUERIES, STORED)]
    np.testing.assert_allclose(similarities(QUERIES, STORED, "average"), cosine_similarity(*means), atol=1e-6)


def test_per_token_similarity_is_the_mean_of_all_cosines_of_tokens() -> None:
    expected = [[cosine_similarity(q.embeddings, s.embeddings).mean() for s in STORED] for q in QUERIES]
    np.testing.assert_allclose(similarities(QUERIES, STORED, "per_token"), expected, atol=1e-6)


@pytest.mark.parametrize("similarity", ["average", "per_token"])
def test_a_prompt_that_was_stored_is_found_through_noise_and_in_any_order(similarity) -> None:
    stored = [prompt(5, seed) for seed in range(20)]
    early = SoftPrompt(stored[13].embeddings[[4, 2, 0, 1, 3]] + 0.3 * prompt(5, 99).embeddings)
    found = nearest(early, stored, 3, similarity)
    assert found[0].index == 13 and len(found) == 3
    assert [m.similarity for m in found] == sorted((m.similarity for m in found), reverse=True)


def test_averaged_tokens_find_the_very_prompt_at_similarity_1() -> None:
    (match,) = nearest(STORED[1], STORED, 1, "average")
    assert (match.index, match.similarity) == (1, pytest.approx(1))


@pytest.mark.parametrize("similarity", ["average", "per_token"])
def test_pure_noise_is_like_nothing(similarity) -> None:
    noise = [SoftPrompt(prompt(5, seed, 2000).embeddings - 0.2) for seed in range(12)]
    assert similarities(noise[:4], noise[4:], similarity).abs().max() < 0.12  # five standard errors of 2000 entries


def test_a_vector_without_length_is_like_nothing() -> None:
    zero = SoftPrompt(torch.zeros(2, WIDTH))
    for similarity in ("average", "per_token"):
        assert similarities([zero], STORED, similarity).tolist() == [[0.0] * 3]


def test_all_are_given_where_fewer_are_stored_and_equals_keep_their_order() -> None:
    assert [m.index for m in nearest(QUERIES[0], [STORED[0]] * 3, 9)] == [0, 1, 2]


def test_a_weighted_average_weighs_by_similarity() -> None:
    stored = [prompt(3, seed) for seed in range(3)]
    found = weighted_average([Match(2, 0.6), Match(0, 0.2), Match(1, -0.5)], stored)
    torch.testing.assert_close(found.embeddings, 0.75 * stored[2].embeddings + 0.25 * stored[0].embeddings)


def test_steps_to_a_loss_are_those_of_the_first_look_at_it() -> None:
    losses = [(0, 2.0), (25, 1.0), (50, 0.4), (75, 0.6), (100, 0.4)]
    assert [steps_to_reach(losses, target) for target in (3.0, 1.0, 0.5, 0.1)] == [0, 25, 50, None]


def test_what_cannot_be_retrieved_is_refused() -> None:
    with pytest.raises(UserError, match="40 wide and soft prompt 2 is 41 wide"):
        nearest(prompt(), [prompt(width=WIDTH + 1)])
    with pytest.raises(UserError, match="0 nearest"):
        nearest(prompt(), STORED, 0)
    with pytest.raises(UserError, match="find 0 by"):
        nearest(prompt(), [])
    with pytest.raises(UserError, match="2 and 4 tokens"):
        weighted_average([Match(0, 0.5), Match(1, 0.5)], STORED)
    with pytest.raises(UserError, match="at all"):
        weighted_average([Match(0, -0.5)], STORED)
