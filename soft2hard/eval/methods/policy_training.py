"""One training step of policies that write prompts, for tasks and for images alike, and what a step looks at.

Published policies learn from what they sample themselves. On a small model with few steps they settle before they have
seen the tokens that matter: sparsemax gives most tokens no probability at all, and nothing brings these back. So some
prompts of a step may be drawn elsewhere: at random to begin with, and later near the best prompts so far. The losses
are path consistencies, which hold for any prompt, whoever wrote it (arXiv 2106.07704).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from soft2hard.eval.methods.options import PolicyTraining
from soft2hard.eval.methods.q_learning import Entropy, Policies, Rollout, sample

_ELITES = 8
"""Prompts of a task near which others are drawn."""

Rewarded = tuple[Float[Tensor, "tasks batch"], Float[Tensor, "tasks batch"]]
"""Rewards, and z-scores of these."""


class Elites:
    """The best prompts of each task so far, as tokens, by their rewards."""

    def __init__(self, rngs: Sequence[Random], writable: Sequence[int]):
        self.rngs, self.writable = rngs, writable
        self.best: list[dict[tuple[int, ...], float]] = [{} for _ in rngs]

    def note(self, actions: Int[Tensor, "tasks batch length"], rewards: Float[Tensor, "tasks batch"]) -> None:
        """Keep the best of these and of those before."""
        for i, (prompts, own) in enumerate(zip(actions.tolist(), rewards.tolist(), strict=True)):
            known = self.best[i] | dict(zip(map(tuple, prompts), own, strict=True))
            self.best[i] = dict(sorted(known.items(), key=lambda one: -one[1])[:_ELITES])

    def random(self, n: int, length: int) -> Int[Tensor, "tasks n length"]:
        """Prompts of writable tokens, drawn independently."""
        return torch.tensor([[rng.choices(self.writable, k=length) for _ in range(n)] for rng in self.rngs])

    def near(self, n: int) -> Int[Tensor, "tasks n length"]:
        """Prompts that are one of the best but for a token, which is drawn at random."""
        found = []
        for rng, best in zip(self.rngs, self.best, strict=True):
            prompts = [list(rng.choice(list(best))) for _ in range(n)]
            for prompt in prompts:
                prompt[rng.randrange(len(prompt))] = rng.choice(self.writable)
            found.append(prompts)
        return torch.tensor(found)


@dataclass(eq=False)
class PolicyTrainer:
    """Trains policies side by side; none of them sees another's prompts."""

    policies: Policies
    entropy: Entropy
    options: PolicyTraining
    generators: Sequence[Generator]
    elites: Elites

    @property
    def _n(self) -> int:
        return len(self.generators)

    def step(self, number: int, rewarded: Callable[[Rollout], Rewarded]) -> Float[Tensor, "tasks batch"]:
        """Step `number`, from 1: sample prompts, have them rewarded, and learn. Their rewards."""
        how, networks = self.options, self.policies.networks
        networks.follow(how.polyak)
        choose = lambda q: sample(self.entropy.policy(q), self.generators)  # noqa: E731
        rollout = self.policies.roll_out(self._n, how.batch, how.n_tokens, choose, self._given(number))
        rewards, standardised = rewarded(rollout)
        if how.mutate:
            self.elites.note(rollout.actions, rewards)
        self.policies.learn(rollout, how.reward_scale * standardised + how.reward_shift, self.entropy, how.reverse)
        return rewards

    def greedy(self) -> Rollout:
        """The prompt of the highest Q-values of every task."""
        return self.policies.roll_out(self._n, 1, self.options.n_tokens, lambda q: q.argmax(dim=-1))

    def _given(self, number: int) -> Int[Tensor, "tasks n length"] | None:
        """Prompts of this step that no policy writes."""
        how = self.options
        if number <= how.warm_up * how.steps:
            return self.elites.random(how.batch, how.n_tokens)
        n = round(how.mutate * how.batch)
        return self.elites.near(n) if n and number > 1 else None
