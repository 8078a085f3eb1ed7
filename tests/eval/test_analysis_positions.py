"""Variants of soft prompts change what they say they change and nothing else."""

import numpy as np
import pytest
import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.comparable import stacked
from soft2hard.eval.analysis.geometry import reordered_distances
from soft2hard.eval.analysis.positions import (
    interpolated,
    mask_all_but_each,
    mask_each,
    masked,
    mean_embedding,
    permute_randomly,
    permuted,
    remove_each,
    removed,
)
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models


def prompt(n: int = 4, seed: int = 0, width: int = 16) -> SoftPrompt:
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return SoftPrompt(rows, "tiny", None, {"task": "t"})


FILLER = torch.full((16,), 0.5)


def test_masking_replaces_the_named_positions_alone() -> None:
    variant = masked(prompt(), [1, 3], FILLER)
    assert torch.equal(variant.soft_prompt.embeddings[[1, 3]], FILLER.expand(2, -1))
    assert torch.equal(variant.soft_prompt.embeddings[[0, 2]], prompt().embeddings[[0, 2]])
    assert variant.soft_prompt.provenance == {"task": "t", "changed": "masked 1 3"}
    assert variant.soft_prompt.subject == "tiny"


def test_each_position_is_masked_or_kept_or_removed_once() -> None:
    own = prompt().embeddings
    for i, (without, alone, shorter) in enumerate(
        zip(mask_each(prompt(), FILLER), mask_all_but_each(prompt(), FILLER), remove_each(prompt()), strict=True)
    ):
        same = (without.soft_prompt.embeddings == own).all(1).tolist()
        assert same == [j != i for j in range(4)]
        assert (alone.soft_prompt.embeddings == own).all(1).tolist() == [j == i for j in range(4)]
        assert torch.equal(shorter.soft_prompt.embeddings, own[[j for j in range(4) if j != i]])
        assert without.positions == shorter.positions == (i,)


def test_a_permuted_prompt_is_put_back_by_the_inverse_order_and_by_the_best_one() -> None:
    order = [2, 0, 3, 1]
    variant = permuted(prompt(), order)
    back = permuted(variant.soft_prompt, np.argsort(order).tolist())
    assert torch.equal(back.soft_prompt.embeddings, prompt().embeddings)
    assert reordered_distances(stacked([prompt(), variant.soft_prompt])).distances[0, 1] == 0


def test_random_orders_are_distinct_none_is_the_own_and_no_more_than_there_are() -> None:
    orders = [variant.positions for variant in permute_randomly(prompt(), 10)]
    assert len(set(orders)) == 10 and (0, 1, 2, 3) not in orders
    assert len(permute_randomly(prompt(3), 99)) == 5
    assert permute_randomly(prompt(1), 3) == ()
    assert orders == [variant.positions for variant in permute_randomly(prompt(), 10)]
    assert orders != [variant.positions for variant in permute_randomly(prompt(), 10, seed=1)]


def test_the_line_begins_and_ends_at_the_prompts_and_is_straight() -> None:
    first, second = prompt(), prompt(seed=1)
    points = interpolated(first, second, 5)
    assert [point.share for point in points] == [0, 0.25, 0.5, 0.75, 1]
    assert torch.equal(points[0].soft_prompt.embeddings, first.embeddings)
    assert torch.equal(points[-1].soft_prompt.embeddings, second.embeddings)
    for point in points:
        torch.testing.assert_close(
            point.soft_prompt.embeddings, torch.lerp(first.embeddings, second.embeddings, point.share)
        )


def test_the_line_from_a_prompt_to_itself_stays_there() -> None:
    for point in interpolated(prompt(), prompt(), 4):
        torch.testing.assert_close(point.soft_prompt.embeddings, prompt().embeddings)


def test_the_mean_embedding_is_that_of_the_vocabulary() -> None:
    subject = tiny_models.subject("gpt2")
    expected = subject.embed_ids(torch.arange(len(subject.embedding))).mean(0)
    torch.testing.assert_close(mean_embedding(subject), expected)


def test_variants_can_be_scored_beside_their_prompt() -> None:
    """A position replaced by what it was changes nothing in what the subject does; masking does."""
    subject = tiny_models.subject("llama")
    own = SoftPrompt(prompt(3, width=subject.d_model).embeddings)
    task = Task("t", "tiny", "", (), (), (), (Example("cat dog", "red"), Example("up", "down")))
    nothing = masked(own, [1], own.embeddings[1]).soft_prompt
    variants = [v.soft_prompt for v in (*mask_each(own, mean_embedding(subject)), *remove_each(own))]
    [[same, *changed]] = measure(subject, [Comparison(task, (nothing, *variants), own)])
    assert same.kl == pytest.approx(0, abs=1e-6)
    assert all(found.kl > 1e-3 for found in changed)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: masked(prompt(), [4], FILLER), "no position 4"),
        (lambda: removed(prompt(), [-1]), "no position -1"),
        (lambda: removed(prompt(2), [0, 1]), "All 2 positions"),
        (lambda: remove_each(prompt(1)), "All 1 positions"),
        (lambda: permuted(prompt(), [0, 1, 1, 2]), "0 1 1 2 is no order"),
        (lambda: interpolated(prompt(), prompt(3)), "from 4 to 3 tokens"),
        (lambda: interpolated(prompt(), prompt(width=8)), "16 wide and soft prompt 2 is 8 wide"),
        (lambda: interpolated(prompt(), prompt(), 1), "1 points"),
    ],
)
def test_what_cannot_be_changed_so_is_refused(call, problem) -> None:
    with pytest.raises(UserError, match=problem):
        call()
