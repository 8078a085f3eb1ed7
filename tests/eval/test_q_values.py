"""Learned Q-values against true ones, on a problem small enough for backward induction (PIN, arXiv 2407.14733)."""

from itertools import product

import numpy as np
import pytest
import torch

from soft2hard.eval.methods.q_learning import Entropy, ShannonEntropy, TsallisEntropy, path_consistency_loss

N_TOKENS, LENGTH = 4, 3
PROMPTS = np.array(list(product(range(N_TOKENS), repeat=LENGTH)))
STATES = [PROMPTS[:, :t] @ N_TOKENS ** np.arange(t)[::-1] for t in range(LENGTH)]
"""The number of the state before each position: what has been written so far."""


def true_value(q: np.ndarray, entropy: Entropy) -> float:
    """The most that a policy gets of expected Q-value and entropy, found without the code under test.

    With Tsallis entropy, half of 1 - sum of p^2, the best policy is q - tau on some number of the best tokens: all
    numbers are tried.
    """
    if isinstance(entropy, ShannonEntropy):
        return float(np.log(np.exp(q).sum()))
    best, ordered = -np.inf, np.sort(q)[::-1]
    for size in range(1, len(q) + 1):
        p = ordered[:size] - (ordered[:size].sum() - 1) / size
        if (p >= 0).all():
            best = max(best, float(p @ ordered[:size] + (1 - p @ p) / 2))
    return best


def true_q_values(rewards: np.ndarray, entropy: Entropy) -> list[np.ndarray]:
    """By position, (states, tokens): the reward after the last token, before it the value of what follows."""
    found = [rewards.reshape(-1, N_TOKENS)]
    while len(found) < LENGTH:
        found.insert(0, np.array([true_value(q, entropy) for q in found[0]]).reshape(-1, N_TOKENS))
    return found


def learned(rewards: np.ndarray, entropy: Entropy, reverse: float, steps: int = 800) -> list[np.ndarray]:
    """Tables of Q-values trained on all prompts by the methods' losses; the target is the table of the step before."""
    tables = [torch.zeros(N_TOKENS**t, N_TOKENS, requires_grad=True) for t in range(LENGTH)]
    targets = [table.detach().clone() for table in tables]
    actions, shaped = torch.tensor(PROMPTS), torch.tensor(rewards, dtype=torch.float32)
    adam = torch.optim.Adam(tables, lr=0.05)
    for step in range(steps):
        q, target = (torch.stack([x[s] for x, s in zip(t, STATES, strict=True)], 1) for t in (tables, targets))
        adam.zero_grad()
        path_consistency_loss(q, target, actions, shaped, entropy, reverse).mean().backward()
        adam.step()
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        with torch.no_grad():
            for old, new in zip(targets, tables, strict=True):
                old.copy_(new)
    return [table.detach().numpy() for table in tables]


def error(found: list[np.ndarray], true: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(found, true, strict=True))


@pytest.mark.parametrize("entropy", [TsallisEntropy(), ShannonEntropy(N_TOKENS)])
@pytest.mark.parametrize("seed", [0, 1])
def test_learned_q_values_are_those_of_backward_induction(entropy: Entropy, seed: int):
    rewards = 1.5 * np.random.default_rng(seed).standard_normal(N_TOKENS**LENGTH)
    true = true_q_values(rewards, entropy)
    assert error([np.zeros_like(q) for q in true], true) > 2  # where they start
    found = learned(rewards, entropy, reverse=0.5)
    assert error(found, true) < 0.02
    if isinstance(entropy, TsallisEntropy):  # the sparse policy's support is that of the true values, clear cases
        for q, expected in zip(found, true, strict=True):
            policy, best = (entropy.policy(torch.tensor(x, dtype=torch.float32)) for x in (q, expected))
            assert ((policy > 0.05) <= (best > 0)).all() and ((best > 0.05) <= (policy > 0)).all()


@pytest.mark.parametrize("entropy", [TsallisEntropy(), ShannonEntropy(N_TOKENS)])
def test_without_reversed_losses_nothing_moves_the_level_of_a_states_q_values(entropy: Entropy):
    """Why `reverse` is 0.5 here and not 0, as the published code has it: advantages alone do not fix Q-values."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(5, LENGTH, N_TOKENS, generator=generator).requires_grad_()
    target, rewards = torch.randn(5, LENGTH, N_TOKENS, generator=generator), torch.randn(5, generator=generator)
    actions = torch.randint(N_TOKENS, (5, LENGTH), generator=generator)

    def level(reverse: float) -> torch.Tensor:
        loss = path_consistency_loss(q, target, actions, rewards, entropy, reverse).sum()
        return torch.autograd.grad(loss, q)[0].sum(-1).abs()

    assert level(0.0).max() < 1e-5
    assert level(0.5).min() > 1e-3


def test_without_reversed_losses_q_values_stay_away_from_the_true_ones():
    rewards = 1.5 * np.random.default_rng(0).standard_normal(N_TOKENS**LENGTH)
    true = true_q_values(rewards, TsallisEntropy())
    assert error(learned(rewards, TsallisEntropy(), reverse=0.0), true) > 2
