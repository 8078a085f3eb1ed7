"""The differentials are what they are defined as, and libraries agree."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, mse_loss

from soft2hard.eval.metrics.measurement import OutputDifferential, distance_differential, output_differential

GENERATOR = torch.Generator().manual_seed(0)
SOFT, LOGITS = torch.randn(7, 11, generator=GENERATOR), torch.randn(3, 7, 11, generator=GENERATOR)


def test_distances_are_those_of_a_worked_example() -> None:
    first, second = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [6.0, 8.0]])
    squared, cosine = distance_differential(first, second)
    assert squared.tolist() == pytest.approx([5.0, 25.0])
    assert cosine.tolist() == pytest.approx([0.0, 1.0])


def test_the_distance_of_a_position_is_the_square_of_torchs() -> None:
    a, b = SOFT, LOGITS[0]
    assert torch.allclose(distance_differential(a, b)[0], torch.pairwise_distance(a, b, eps=0.0) ** 2, rtol=1e-5)


def test_prompts_of_different_lengths_have_no_distance() -> None:
    assert distance_differential(SOFT, SOFT[:-1]) is None


def test_half_precision_is_compared_in_full() -> None:
    squared, _ = distance_differential(SOFT.bfloat16(), (SOFT + 1).bfloat16())
    assert squared.dtype == torch.float32
    assert squared.mean().item() == pytest.approx(SOFT.shape[1], rel=0.05)


def against(soft: Tensor, *others: Tensor) -> OutputDifferential:
    """Of prompts by their logits, the soft prompt's own left out."""
    logits = torch.stack([soft, *others])
    found = output_differential(logits, logits.log_softmax(-1), logits.argmax(-1))
    return OutputDifferential(*(part[1:] for part in found))


def test_the_divergence_is_torchs_kl_from_the_soft_prompt_to_the_prompt() -> None:
    found = against(SOFT, *LOGITS)
    for prompt, logits in enumerate(LOGITS):
        p, q = SOFT.log_softmax(-1), logits.log_softmax(-1)
        assert torch.allclose(found.kl[prompt], kl_div(q, p, reduction="none", log_target=True).sum(-1), atol=1e-5)
        reverse = kl_div(p, q, reduction="none", log_target=True).sum(-1)
        assert not torch.allclose(found.kl[prompt], reverse, atol=1e-2)


def test_the_logit_difference_is_torchs_mean_squared_error() -> None:
    found = against(SOFT, *LOGITS)
    assert found.squared.shape == (3, 7)
    for prompt, logits in enumerate(LOGITS):
        assert float(found.squared[prompt].mean()) == pytest.approx(float(mse_loss(logits, SOFT)), rel=1e-5)


def test_the_same_logits_do_not_differ_and_shifted_ones_differ_in_logits_alone() -> None:
    same, shifted = against(SOFT, SOFT), against(SOFT, SOFT + 2)
    assert (float(same.squared.sum()), float(same.kl.sum()), bool(same.same_top.all())) == (0.0, 0.0, True)
    assert torch.allclose(shifted.squared, torch.full((1, 7), 4.0), rtol=1e-5)
    assert float(shifted.kl.abs().max()) < 1e-5


def test_tops_are_compared_position_by_position() -> None:
    soft = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    assert against(soft, soft[:, [1, 0]]).same_top.tolist() == [[False] * 3]
    assert against(soft, soft[[0, 0, 0]]).same_top.tolist() == [[True, False, True]]
