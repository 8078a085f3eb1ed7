"""Batches keep to their token budget and padding is marked as such."""

from random import Random

import pytest
import torch

from soft2hard.lm.batching import MOST_PADDING, batches_by_length, pad, positions


def test_every_sequence_is_in_exactly_one_batch() -> None:
    batches = batches_by_length([3, 9, 1, 4, 4, 7, 2], batch_tokens=10)
    assert sorted(index for batch in batches for index in batch) == list(range(7))


def test_padded_batches_keep_to_the_token_budget() -> None:
    lengths = [5, 1, 8, 3, 3, 2, 7, 6, 1, 1]
    for batch in batches_by_length(lengths, batch_tokens=16):
        assert len(batch) * max(lengths[index] for index in batch) <= 16


def test_sequences_of_equal_length_fill_the_budget() -> None:
    assert [len(batch) for batch in batches_by_length([4] * 7, batch_tokens=12)] == [3, 3, 1]


def test_a_sequence_longer_than_the_budget_is_alone() -> None:
    assert batches_by_length([2, 50, 2], batch_tokens=10) == [[1], [0, 2]]


def test_no_sequences_make_no_batches() -> None:
    assert batches_by_length([], batch_tokens=10) == []


@pytest.mark.parametrize("batch_tokens", [None, 16384, 2000])
def test_little_of_large_batches_is_padding(batch_tokens: int | None) -> None:
    rng = Random(0)
    lengths = [round(rng.lognormvariate(3, 0.7)) + 1 for _ in range(2000)]
    batches = batches_by_length(lengths, batch_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(2000))
    places = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert 1 - sum(lengths) / places <= MOST_PADDING < 0.1


def test_small_batches_are_not_torn_apart_for_their_padding() -> None:
    assert batches_by_length([60, 1, 1]) == [[0, 1, 2]]
    assert len(batches_by_length([600, 1, 1])) == 2


def test_tokens_that_a_sequence_will_grow_by_count_for_the_budget_and_not_as_padding() -> None:
    assert batches_by_length([4] * 6, batch_tokens=24) == [[0, 1, 2, 3, 4, 5]]
    assert [len(batch) for batch in batches_by_length([4] * 6, batch_tokens=24, n_new=4)] == [3, 3]


def test_padding_lies_on_the_side_asked_for_and_is_masked() -> None:
    left, left_mask = pad([[5, 6, 7], [8]], "left", torch.device("cpu"))
    right, right_mask = pad([[5, 6, 7], [8]], "right", torch.device("cpu"))
    assert left[left_mask].tolist() == right[right_mask].tolist() == [5, 6, 7, 8]
    assert left_mask.tolist() == [[True, True, True], [False, False, True]]
    assert right_mask.tolist() == [[True, True, True], [True, False, False]]


def test_positions_count_real_tokens_whatever_the_side_of_the_padding() -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert positions(mask)[mask].tolist() == [0, 1, 0, 1, 2]
