"""Policies for many tasks: one frozen language model, and a small network for each task before its output layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from soft2hard.eval.methods.discrete_vocabulary import Vocabulary, check_decoder_only, check_same_vocabulary
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.subject import Subject

_GAIN, _BIAS = 1e-4, -1e-4  # initial weights: Xavier with this gain; initial biases (arXiv 2205.12548, code)

Choice = Callable[[Float[Tensor, "tasks batch vocab"]], Int[Tensor, "tasks batch"]]
"""Picks a token for each prompt from its Q-values."""


class PolicyLM:
    """A frozen decoder-only LM that reads prompts token by token, with a key-value cache.

    It first reads `start`, by default its BOS token, or where it has none its EOS token ("<|endoftext|>" in arXiv
    2205.12548). Raises UserError for an encoder-decoder model or another vocabulary than the subject's.
    """

    def __init__(self, vocabulary: Vocabulary, policy: Subject, start: str | None):
        check_decoder_only(policy, "policy LM")
        check_same_vocabulary(vocabulary.subject, policy, "policy LM")
        self.model = FrozenModel(policy.model)
        tokenizer = policy.tokenizer
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.start = [begin] if start is None else list(tokenizer(start, add_special_tokens=False)["input_ids"])
        self.writable = torch.zeros(self.model.vocab_size, dtype=torch.bool, device=self.model.device)
        self.writable[vocabulary.writable] = True
        self.d_out = self.begin(1).shape[-1]

    @torch.no_grad()
    def begin(self, n: int) -> Float[Tensor, "n d_out"]:
        """Hidden states before the first tokens of `n` prompts."""
        self._cache, self._n_read = None, 0
        ids = torch.tensor(self.start, device=self.model.device).expand(n, -1)
        return self._read(ids)

    @torch.no_grad()
    def read(self, ids: Int[Tensor, "n"]) -> Float[Tensor, "n d_out"]:
        """Hidden states after one more token of each prompt."""
        return self._read(ids[:, None])

    def _read(self, ids: Int[Tensor, "n new"]) -> Float[Tensor, "n d_out"]:
        position = torch.arange(self._n_read, self._n_read + ids.shape[1], device=ids.device).expand(len(ids), -1)
        self._n_read += ids.shape[1]
        mask = torch.ones(len(ids), self._n_read, dtype=torch.bool, device=ids.device)
        hidden, self._cache = self.model.decode(self.model.embed(ids), mask, position, self._cache, use_cache=True)
        return hidden[:, -1].float()

    def logits(self, hidden: Float[Tensor, "*rows d_out"]) -> Float[Tensor, "*rows vocab"]:
        """The LM's output layer; minus infinity for tokens that cannot be written."""
        logits = self.model.head(hidden.to(self.model.dtype)).float()
        return logits.masked_fill(~self.writable, -torch.inf)


class TaskNetworks:
    """For each task a network with one hidden layer, trained by Adam, and its slowly following target.

    Parameters are stacked, and no statistic is shared: a task's network is what it would be alone.
    """

    def __init__(self, generators: Sequence[Generator], d: int, hidden: int, lr: float, clip: float):
        shapes = [(d, hidden), (hidden, d)]
        bounds = [_GAIN * sqrt(6 / sum(shape)) for shape in shapes]
        device = generators[0].device
        weights = [
            torch.stack([(2 * torch.rand(shape, generator=g, device=device) - 1) * bound for g in generators])
            for shape, bound in zip(shapes, bounds, strict=True)
        ]
        biases = [torch.full((len(generators), 1, shape[1]), _BIAS, device=device) for shape in shapes]
        self.parameters = [p.requires_grad_() for p in (weights[0], biases[0], weights[1], biases[1])]
        self.target = [p.detach().clone() for p in self.parameters]
        self.clip = clip
        self._adam = torch.optim.Adam(self.parameters, lr=lr)

    def __call__(self, states: Float[Tensor, "tasks n d"], of_target: bool = False) -> Float[Tensor, "tasks n d"]:
        w1, b1, w2, b2 = self.target if of_target else self.parameters
        return torch.relu(states @ w1 + b1) @ w2 + b2

    def step(self, losses: Float[Tensor, "tasks"]) -> None:
        """One step of Adam on each task's loss, its gradient's norm clipped."""
        gradients = torch.autograd.grad(losses.sum(), self.parameters)
        norm = sum(g.flatten(1).square().sum(1) for g in gradients).sqrt()
        scale = (self.clip / (norm + 1e-6)).clamp(max=1)[:, None, None]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient * scale
        self._adam.step()

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """Move the targets towards the networks by Polyak averaging."""
        for target, parameter in zip(self.target, self.parameters, strict=True):
            target.lerp_(parameter, rate)


@dataclass(frozen=True)
class Rollout:
    """Prompts of every task, with what the policy LM saw before each of their tokens."""

    states: Float[Tensor, "tasks batch length d_out"]
    actions: Int[Tensor, "tasks batch length"]
    allowed: Bool[Tensor, "tasks batch length vocab"]
    """Which tokens might have stood there."""


@dataclass(frozen=True)
class Policies:
    """What turns the policy LM's states into Q-values of each task."""

    lm: PolicyLM
    networks: TaskNetworks
    ignorable_below: int | None
    """How many tokens the policy LM's logits leave at each position; None: all that can be written."""

    def allowed(self, states: Float[Tensor, "*rows d_out"]) -> Bool[Tensor, "*rows vocab"]:
        """The tokens that are not ignorable: those not below the k-th largest logit of the frozen policy LM."""
        if self.ignorable_below is None:
            return self.lm.writable.expand(*states.shape[:-1], -1)
        logits = self.lm.logits(states)
        least = logits.topk(min(self.ignorable_below, int(self.lm.writable.sum())), dim=-1).values[..., -1:]
        return logits >= least

    def q_values(self, rollout: Rollout, of_target: bool = False) -> Float[Tensor, "tasks batch length vocab"]:
        """Q-values in each state of a rollout; gradients flow to the networks."""
        q = self._q(rollout.states.flatten(1, 2), of_target).unflatten(1, rollout.actions.shape[1:])
        return q.masked_fill(~rollout.allowed, -torch.inf)

    @torch.no_grad()
    def roll_out(self, n_tasks: int, batch: int, length: int, choose: Choice) -> Rollout:
        """`batch` prompts of `length` tokens for every task, in one batch of the policy LM."""
        states, actions, allowed = [], [], []
        hidden = self.lm.begin(n_tasks * batch)
        for position in range(length):
            states.append(hidden.unflatten(0, (n_tasks, batch)))
            allowed.append(self.allowed(states[-1]))
            q = self._q(states[-1], False).masked_fill(~allowed[-1], -torch.inf)
            actions.append(choose(q))
            if position + 1 < length:
                hidden = self.lm.read(actions[-1].flatten())
        return Rollout(torch.stack(states, 2), torch.stack(actions, 2), torch.stack(allowed, 2))

    def _q(self, states: Float[Tensor, "tasks n d_out"], of_target: bool) -> Float[Tensor, "tasks n vocab"]:
        return self.lm.logits(self.networks(states, of_target))


def sample(
    probabilities: Float[Tensor, "tasks batch vocab"], generators: Sequence[Generator]
) -> Int[Tensor, "tasks b"]:
    """A token for each prompt, each task's drawn by its own generator."""
    upto = probabilities.double().cumsum(dim=-1)
    shape = probabilities.shape[1:2]
    drawn = torch.stack([torch.rand(shape, generator=g, device=g.device, dtype=torch.float64) for g in generators])
    # The first token whose cumulated probability exceeds the number drawn, so never one of probability zero.
    return torch.searchsorted(upto, (drawn * upto[..., -1])[..., None], right=True)[..., 0]


def greedy(q: Float[Tensor, "tasks batch vocab"]) -> Int[Tensor, "tasks batch"]:
    """The token with the highest Q-value."""
    return q.argmax(dim=-1)
