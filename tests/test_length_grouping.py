"""Batches of the translator's training: every pair once an epoch, instructions of like length together."""

from random import Random

import pytest
import torch

from soft2hard.translator.data import LengthGrouped, ListPairs

BATCH = 16


def pairs(n: int = 1000, seed: int = 0) -> ListPairs:
    """Instructions of one to forty words."""
    rng = Random(seed)
    return ListPairs([(torch.zeros(2, 4), " ".join("w" * rng.randint(1, 40))) for _ in range(n)])


def batches(order: list[int]) -> list[list[int]]:
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def padding(of: ListPairs, order: list[int]) -> float:
    sizes = [[len(of.text(i).split()) for i in batch] for batch in batches(order)]
    return 1 - sum(map(sum, sizes)) / sum(len(batch) * max(batch) for batch in sizes)


@pytest.mark.parametrize("n", [3, 16, 100, 1000])
def test_every_pair_comes_once_an_epoch(n: int) -> None:
    assert sorted(LengthGrouped(pairs(n), str.split, BATCH, seed=0)) == list(range(n))


def test_little_is_padding_where_most_of_a_random_order_would_be() -> None:
    of = pairs()
    assert padding(of, list(range(len(of)))) > 0.4
    assert padding(of, list(LengthGrouped(of, str.split, BATCH, seed=0))) < 0.1


def test_the_order_hangs_on_seed_and_epoch_alone() -> None:
    of, orders = pairs(), []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        of.epoch = epoch
        orders.append(list(LengthGrouped(of, str.split, BATCH, seed)))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


def test_batches_do_not_come_by_length() -> None:
    of = pairs()
    longest = [max(len(of.text(i).split()) for i in b) for b in batches(list(LengthGrouped(of, str.split, BATCH, 0)))]
    rising = sum(a < b for a, b in zip(longest, longest[1:], strict=False))
    assert 0.3 < rising / len(longest) < 0.7
