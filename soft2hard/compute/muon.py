"""Muon whose matrices are made orthogonal together, in a precision that the machine has instructions for."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.compute.precision import has_fast_bf16

_ENTRIES_AT_ONCE = 2**26  # of stacked matrices: 256 MB in float32


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024) with another inside; options, state and updates are its own.

    PyTorch's takes one matrix after another, and always in bfloat16, which a CPU without instructions for it emulates:
    there a step took fifty times as long (docs/experiments.md). Here matrices of one shape are iterated on as a batch,
    in bfloat16 where that is fast and in float32 elsewhere. Scales of updates: Liu et al. 2025, arXiv 2502.16982.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _alike(p for p in group["params"] if p.grad is not None):
                self._step(parameters, group)
        return loss

    def _step(self, parameters: Sequence[Tensor], group: dict) -> None:
        updates = []
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
            state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
            momentum = state["momentum_buffer"]
            updates.append(gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum)
        found = orthogonalised(torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"])
        size = _size(parameters[0], group["adjust_lr_fn"])
        for parameter, update in zip(parameters, found, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-float(group["lr"]) * size)


def orthogonalised(
    matrices: Float[Tensor, "n rows columns"], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "n rows columns"]:
    """Each matrix with its singular values brought near 1 by a quintic Newton-Schulz iteration (Jordan et al. 2024)."""
    a, b, c = coefficients
    is_tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.to(torch.bfloat16 if has_fast_bf16(matrices.device) else torch.float32)
    found = found.mT if is_tall else found
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=eps)  # so that no singular value is above 1
    for _ in range(steps):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.mT if is_tall else found


def _alike(parameters: Iterator[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices of one shape, device and precision, as many as may be stacked."""
    groups: dict[tuple, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        groups[parameter.shape, parameter.device, parameter.dtype].append(parameter)
    for own in groups.values():
        n = max(1, _ENTRIES_AT_ONCE // own[0].numel())
        yield from (own[i : i + n] for i in range(0, len(own), n))


def _size(parameter: Tensor, adjusted_by: str | None) -> float:
    """The factor of a matrix's learning rate."""
    rows, columns = parameter.shape
    return 0.2 * max(rows, columns) ** 0.5 if adjusted_by == "match_rms_adamw" else max(1, rows / columns) ** 0.5
