"""Muon's updates are PyTorch's, whatever is batched and in whatever precision."""

import pytest
import torch
from torch import nn

from soft2hard.compute import muon
from soft2hard.compute.muon import Muon, orthogonalised

SHAPES = [(6, 4), (6, 4), (4, 6), (5, 5), (6, 4)]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def stepped(kind: type[torch.optim.Muon], n: int = 4, **options: object) -> list[torch.Tensor]:
    """What steps on a fixed sequence of gradients make of the matrices; the last of them never has a gradient."""
    parameters = matrices()
    optimizer = kind(parameters, lr=0.1, **options)
    for step in range(n):
        for i, parameter in enumerate(parameters[:-1]):
            generator = torch.Generator().manual_seed(10 * step + i)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("fast", [True, False], ids=["bfloat16", "float32"])
@pytest.mark.parametrize(
    "options", [{}, {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.02}, {"nesterov": False}]
)
def test_updates_are_those_of_pytorch(options: dict, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_fast_bf16", lambda device: fast)
    moved = 0.0
    for ours, theirs, start in zip(
        stepped(Muon, **options), stepped(torch.optim.Muon, **options), matrices(), strict=True
    ):
        # PyTorch iterates in bfloat16, which has three digits.
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)
        moved = max(moved, float((ours - start.detach()).abs().max()))
    assert moved > 0.1
    assert torch.equal(stepped(Muon, **options)[-1], matrices()[-1].detach())


def test_singular_values_come_near_one_and_singular_vectors_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_fast_bf16", lambda device: False)
    batch = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(1))
    found = orthogonalised(batch, COEFFICIENTS, 5, 1e-7)
    for before, after in zip(batch, found, strict=True):
        u, _, vh = torch.linalg.svd(before, full_matrices=False)
        inside = u.T @ after @ vh.T
        assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.3)).all()
        torch.testing.assert_close(inside, inside.diagonal().diag(), atol=1e-3, rtol=0)


def test_a_matrix_does_not_depend_on_those_that_it_is_batched_with(monkeypatch: pytest.MonkeyPatch) -> None:
    together = stepped(Muon)
    monkeypatch.setattr(muon, "_ENTRIES_AT_ONCE", 1)
    for one, other in zip(together, stepped(Muon), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3 if muon.has_fast_bf16() else 1e-5, rtol=0)


def test_a_state_goes_from_one_to_the_other() -> None:
    """Checkpoints of trainings that were begun with PyTorch's are gone on with."""
    parameters, others = matrices(), matrices()
    theirs, ours = torch.optim.Muon(parameters, lr=0.1), Muon(others, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    theirs.step()
    ours.load_state_dict(theirs.state_dict())
    for parameter, other in zip(parameters, others, strict=True):
        assert torch.equal(ours.state[other]["momentum_buffer"], theirs.state[parameter]["momentum_buffer"])
