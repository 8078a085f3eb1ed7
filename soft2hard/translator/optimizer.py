"""Muon for matrices and AdamW for the rest, as one optimizer that the Trainer can hold."""

from collections.abc import Callable

import torch
from torch import nn

from soft2hard.compute.muon import Muon


class MuonWithAdamW(torch.optim.Optimizer):
    """Hidden matrices by Muon (Jordan et al. 2024), embeddings, heads and vectors by AdamW.

    Muon's updates are scaled to the size of Adam's (`match_rms_adamw`, Liu et al. 2025, arXiv 2502.16982), so
    one learning rate and one schedule serve both.
    """

    def __init__(self, model: nn.Module, lr: float, embedding_names: tuple[str, ...], weight_decay: float = 0.01):
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_matrix = parameter.ndim == 2 and not any(part in name for part in embedding_names)
                (matrices if is_matrix else others).append(parameter)
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0))
        super().__init__([group for part in self.parts for group in part.param_groups], {"lr": lr})
        self._share_groups()

    def _share_groups(self) -> None:
        """Let the schedule, which writes into this optimizer's groups, reach the parts."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups = [group]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [part.param_groups[0] for part in self.parts]
