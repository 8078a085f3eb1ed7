"""Entropy-regularised Q-learning on token sequences, for many tasks at once.

One frozen language model, and a small network for each task before its output layer, give Q-values; from these come
values, policies and path-consistency losses.

Logits are Q-values in units of the temperature. With Shannon entropy (RLPrompt, arXiv 2205.12548; Guo et al., arXiv
2106.07704) the value of a state is the log-sum-exp of its Q-values and the policy their softmax. With Tsallis entropy
of index q = 2 (PIN, arXiv 2407.14733) it is the 'spmax' and the policy the sparsemax (Martins and Astudillo 2016,
arXiv 1602.02068, equations 3 and 14). Actions that are not allowed have the Q-value minus infinity.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from soft2hard.lm.batching import positions
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.generation import CausalDecoding
from soft2hard.lm.subject import Subject

_GAIN, _BIAS = 1e-4, -1e-4  # initial weights: Xavier with this gain; initial biases (arXiv 2205.12548, code)

Choice = Callable[[Float[Tensor, "tasks batch vocab"]], Int[Tensor, "tasks batch"]]
"""Picks a token for each prompt from its Q-values."""


@dataclass(frozen=True)
class ShannonEntropy:
    """Softmax policy, of which only the `top_k` likeliest tokens are sampled (all of them in the value)."""

    top_k: int

    def value(self, q: Float[Tensor, "*state vocab"]) -> Float[Tensor, "*state"]:
        return q.logsumexp(dim=-1)

    def policy(self, q: Float[Tensor, "*state vocab"]) -> Float[Tensor, "*state vocab"]:
        best = q.topk(min(self.top_k, q.shape[-1]), dim=-1)
        return torch.zeros_like(q).scatter(-1, best.indices, best.values.softmax(dim=-1))


@dataclass(frozen=True)
class TsallisEntropy:
    """Index 2: the policy is exactly zero for tokens whose Q-value is too far below the best."""

    def value(self, q: Float[Tensor, "*state vocab"]) -> Float[Tensor, "*state"]:
        threshold = self._threshold(q)
        squares = torch.where(q > threshold, q, threshold).square() - threshold.square()
        return (squares.sum(dim=-1) + 1) / 2

    def policy(self, q: Float[Tensor, "*state vocab"]) -> Float[Tensor, "*state vocab"]:
        return (q - self._threshold(q)).clamp(min=0)

    def _threshold(self, q: Float[Tensor, "*state vocab"]) -> Float[Tensor, "*state 1"]:
        """The number tau with sum(max(0, q - tau)) = 1."""
        ordered = q.sort(dim=-1, descending=True).values
        total = ordered.cumsum(dim=-1)
        rank = torch.arange(1, q.shape[-1] + 1, device=q.device)
        size = (1 + rank * ordered > total).sum(dim=-1, keepdim=True)
        return (total.gather(-1, size - 1) - 1) / size


Entropy = ShannonEntropy | TsallisEntropy
"""The regulariser of Q-learning: the value and the policy that it makes of Q-values."""


def path_consistency_loss(
    q: Float[Tensor, "*batch length vocab"],
    target: Float[Tensor, "*batch length vocab"],
    actions: Int[Tensor, "*batch length"],
    rewards: Float[Tensor, "*batch"],
    entropy: Entropy,
    reverse: float,
) -> Float[Tensor, "*batch"]:
    """Single-step and multi-step path consistency, half each, summed over the positions of a prompt.

    With advantage A_t = Q_t(a_t) - V_t, target network marked by a dash, and a reward r at the end alone (arXiv
    2106.07704, equations 7 and 10):

        single-step  (A_t - (V'_{t+1} - V'_t))^2, with r for V' after the last token,
        multi-step   (A_t + ... + A_T - (r - V'_t))^2.

    `reverse` is the weight of the same with the roles of network and target exchanged, 1 - `reverse` that of these.
    """

    value, value_dash = entropy.value(q), entropy.value(target)

    def one_way(own: Tensor, value: Tensor, other: Tensor) -> Tensor:
        advantage = own.gather(-1, actions[..., None])[..., 0] - value
        after = torch.cat([other[..., 1:], rewards[..., None]], dim=-1)
        to_come = advantage.flip(-1).cumsum(dim=-1).flip(-1)
        single = (advantage - (after - other)).square()
        multi = (to_come - (rewards[..., None] - other)).square()
        return ((single + multi) / 2).sum(dim=-1)

    forth = one_way(q, value, value_dash)
    return (1 - reverse) * forth + reverse * one_way(target, value_dash, value) if reverse else forth


def z_scores(rewards: Float[Tensor, "tasks batch"]) -> Float[Tensor, "tasks batch"]:
    """Each task's rewards less their mean, over their standard deviation (arXiv 2205.12548, section 2.3).

    The standard deviation is that of the batch itself, and 1e-4 is added to it, as in the published code.
    """
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    return centred / (rewards.std(dim=-1, keepdim=True, correction=0) + 1e-4)


class PolicyLM:
    """A frozen decoder-only LM that reads prompts token by token, with a key-value cache.

    It first reads `start`, by default its BOS token, or where it has none its EOS token ("<|endoftext|>" in arXiv
    2205.12548). It writes the tokens `writable` alone.
    """

    def __init__(self, policy: Subject, writable: Int[Tensor, " n_writable"], start: str | None):
        self.model = FrozenModel(policy.model)
        tokenizer = policy.tokenizer
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.start = [begin] if start is None else list(tokenizer(start, add_special_tokens=False)["input_ids"])
        self.writable = torch.zeros(self.model.vocab_size, dtype=torch.bool, device=self.model.device)
        self.writable[writable] = True
        self.d_out = self.begin(1).shape[-1]

    @torch.no_grad()
    def begin(self, n: int) -> Float[Tensor, "n d_out"]:
        """Hidden states before the first tokens of `n` prompts."""
        ids = torch.tensor(self.start, device=self.model.device).expand(n, -1)
        mask = torch.ones_like(ids, dtype=torch.bool)
        self._decoding = CausalDecoding(self.model, self.model.embed(ids), mask, positions(mask))
        return self._decoding.start().float()

    @torch.no_grad()
    def read(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n d_out"]:
        """Hidden states after one more token of each prompt."""
        return self._decoding.step(ids).float()

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
    """Prompts of every task, with the policy LM's states before each of their tokens."""

    states: Float[Tensor, "tasks batch length d_out"]
    actions: Int[Tensor, "tasks batch length"]
    allowed: Bool[Tensor, "tasks batch length vocab"]
    """True for the tokens that might have stood there."""


@dataclass(frozen=True)
class Policies:
    """The policy LM's states as Q-values of each task."""

    lm: PolicyLM
    networks: TaskNetworks
    ignorable_below: int | None
    """Number of tokens that the policy LM's logits leave at each position; None: all that can be written."""

    def allowed(self, states: Float[Tensor, "*rows d_out"]) -> Bool[Tensor, "*rows vocab"]:
        """The tokens that are not ignorable: those not below the k-th largest logit of the frozen policy LM."""
        if self.ignorable_below is None:
            return self.lm.writable.expand(*states.shape[:-1], -1)
        logits = self.lm.logits(states)
        least = logits.topk(min(self.ignorable_below, int(self.lm.writable.sum())), dim=-1).values[..., -1:]
        return logits >= least

    def q_values(self, rollout: Rollout, of_target: bool = False) -> Float[Tensor, "tasks batch length vocab"]:
        """Q-values in each state of a rollout; gradients flow to the networks."""
        q = self.lm.logits(self.networks(rollout.states.flatten(1, 2), of_target))
        return q.unflatten(1, rollout.actions.shape[1:]).masked_fill(~rollout.allowed, -torch.inf)

    def learn(self, rollout: Rollout, rewards: Float[Tensor, "tasks batch"], entropy: Entropy, reverse: float) -> None:
        """One step of Q-learning on a rollout, whose rewards are in units of the temperature."""
        with torch.no_grad():
            target = self.q_values(rollout, of_target=True)
        losses = path_consistency_loss(self.q_values(rollout), target, rollout.actions, rewards, entropy, reverse)
        self.networks.step(losses.mean(dim=-1))

    @torch.no_grad()
    def roll_out(
        self,
        n_tasks: int,
        batch: int,
        length: int,
        choose: Choice,
        given: Int[Tensor, "tasks n length"] | None = None,
    ) -> Rollout:
        """`batch` prompts of `length` tokens for every task, in one batch of the policy LM.

        The first `n` of them are those `given`, whose tokens then count as ones that might have stood there.
        """
        n, given = (0, None) if given is None else (given.shape[1], given.to(self.lm.model.device))
        states, actions, allowed = [], [], []
        hidden = self.lm.begin(n_tasks * batch)
        for position in range(length):
            states.append(hidden.unflatten(0, (n_tasks, batch)))
            allowed.append(self.allowed(states[-1]))
            q = self.lm.logits(self.networks(states[-1]))
            actions.append(choose(q.masked_fill(~allowed[-1], -torch.inf)))
            if given is not None:
                actions[-1][:, :n] = given[..., position]
                allowed[-1] = allowed[-1].scatter(-1, actions[-1][..., None], True)
            if position + 1 < length:
                hidden = self.lm.read(actions[-1].flatten())
        return Rollout(torch.stack(states, 2), torch.stack(actions, 2), torch.stack(allowed, 2))


def sample(
    probabilities: Float[Tensor, "tasks batch vocab"], generators: Sequence[Generator]
) -> Int[Tensor, "tasks b"]:
    """A token for each prompt, each task's drawn by its own generator."""
    upto, n = probabilities.double().cumsum(dim=-1), probabilities.shape[1]
    drawn = torch.stack([torch.rand(n, generator=g, device=g.device, dtype=torch.float64) for g in generators])
    # The first token whose cumulated probability exceeds the number drawn, so never one of probability zero.
    return torch.searchsorted(upto, (drawn * upto[..., -1])[..., None], right=True)[..., 0]
