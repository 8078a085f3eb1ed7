"""Prompts being tuned side by side, with what Adam remembers of each."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.lm.subject import Subject


class SlotState:
    """Prompts and Adam moments of all slots, each counting its own steps.

    Adam with bias correction (Kingma and Ba 2015, algorithm 1). The learning rate is in units of the
    subject's embeddings, so that one setting serves subjects of any embedding scale.
    """

    BETAS, EPSILON = (0.9, 0.98), 1e-8

    def __init__(self, subject: Subject, *, n_tokens: int, lr: float, warmup: int, steps: int):
        """`lr`, `warmup` and `steps` are those of `Tuning`."""
        self.lr, self.warmup, self.steps = lr * embedding_scale(subject), warmup, steps
        shape = (0, n_tokens, subject.d_model)
        self.prompts, self.mean, self.square = (torch.zeros(shape, device=subject.device) for _ in range(3))
        self.count: Int[Tensor, slots] = torch.zeros(0, dtype=torch.long, device=subject.device)

    def add(self, prompt: Float[Tensor, "n d"]) -> None:
        new = prompt.float()[None].to(self.prompts.device)
        self.prompts = torch.cat([self.prompts, new])
        self.mean = torch.cat([self.mean, torch.zeros_like(new)])
        self.square = torch.cat([self.square, torch.zeros_like(new)])
        self.count = torch.cat([self.count, self.count.new_zeros(1)])

    def keep(self, indices: list[int]) -> None:
        self.prompts, self.mean, self.square, self.count = (
            x[indices] for x in (self.prompts, self.mean, self.square, self.count)
        )

    def update(self, gradient: Float[Tensor, "slots n d"]) -> None:
        first, second = self.BETAS
        step = self.count.float()
        schedule = torch.minimum((step + 1) / self.warmup, (self.steps - step) / self.steps).clamp(max=1)
        self.count = self.count + 1
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient.square()
        correct = [(1 - beta ** self.count.float())[:, None, None] for beta in self.BETAS]
        direction = self.mean / correct[0] / ((self.square / correct[1]).sqrt() + self.EPSILON)
        self.prompts = self.prompts - (self.lr * schedule)[:, None, None] * direction


def embedding_scale(subject: Subject) -> float:
    """Root mean square of the entries of the subject's input embeddings."""
    return subject.embedding.float().square().mean().sqrt().item()
