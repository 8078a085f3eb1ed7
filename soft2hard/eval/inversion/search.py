"""PEZ and PIN over the text side of a CLIP: gradients of the similarity with targets, or the similarity as reward.

A target is one image or several, as directions (unit vectors); a prompt's similarity with it is the mean cosine, as
the CLIP reads the prompt's text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from soft2hard.errors import UserError
from soft2hard.eval.inversion.settings import PezInversion, PinInversion
from soft2hard.eval.methods.discrete import Vocabulary, Writing
from soft2hard.eval.methods.policy_training import Elites, PolicyTrainer, Rewarded
from soft2hard.eval.methods.q_learning import Policies, PolicyLM, Rollout, TaskNetworks, TsallisEntropy, z_scores
from soft2hard.lm.clip import Clip
from soft2hard.lm.subject import Subject

Target = Float[Tensor, "_n_images d"]
Tick = Callable[[int, int], None]
"""Hears how many steps are done, and how many there are."""


@dataclass
class Inversion:
    """The best prompt for one target."""

    target: Target
    prompt: str = ""
    similarity: float = float("-inf")
    curve: list[dict[str, float | str]] = field(default_factory=list)
    """By step: the `best` similarity so far, and of the prompts of the step the best (`now`, of a descent) or the mean
    (`mean`, of a policy)."""

    def offer(self, texts: Sequence[str], similarities: Float[Tensor, "n"]) -> None:
        """Take note of the best of these texts; of equal ones the first stays."""
        best = int(similarities.argmax())
        if similarities[best] > self.similarity:
            self.prompt, self.similarity = texts[best], float(similarities[best])


def similarity(directions: Float[Tensor, "*n d"], target: Target) -> Float[Tensor, "*n"]:
    """Mean cosine with the images of a target."""
    return (directions @ target.T).mean(dim=-1)


def invert(
    clip: Clip, targets: Sequence[Target], options: PezInversion | PinInversion, seed: int = 0, tick: Tick | None = None
) -> list[Inversion]:
    """A prompt for each target; targets share batches, and change nothing for each other beyond rounding.

    Raises UserError for prompts longer than the CLIP reads, and for a policy LM that cannot write for it.
    """
    if options.n_tokens > clip.room:
        raise UserError(
            f"A prompt of {options.n_tokens} tokens is asked for; '{clip.name}' reads {clip.room}.",
            "Ask for a shorter one.",
        )
    jobs = [Inversion(target.to(clip.device)) for target in targets]
    search = _by_gradient if isinstance(options, PezInversion) else _by_reward
    search(clip, jobs, options, seed, tick or (lambda done, of: None))
    return jobs


def _score(clip: Clip, jobs: Sequence[Inversion], texts: Sequence[Sequence[str]]) -> list[Float[Tensor, "n"]]:
    """Similarities of each job's texts, which are offered to it; every text is read once.

    A text that the CLIP does not read to its end has -1, the least there is: what it says there would not count.
    """
    each = list(dict.fromkeys(text for of_job in texts for text in of_job))
    read = dict(zip(each, zip(clip.texts(each), clip.fits(each), strict=True), strict=True))
    found = []
    for job, of_job in zip(jobs, texts, strict=True):
        directions, fits = (torch.stack(part) for part in zip(*(read[text] for text in of_job), strict=True))
        found.append(torch.where(fits, similarity(directions, job.target), -1.0))
        job.offer(of_job, found[-1])
    return found


# --- PEZ --------------------------------------------------------------------------------------


def _by_gradient(clip: Clip, jobs: Sequence[Inversion], options: PezInversion, seed: int, tick: Tick) -> None:
    """The gradient is taken at the nearest tokens and applied to the continuous copies (arXiv 2302.03668,
    algorithm 1); the copies' last projection is looked at too."""
    vocabulary, n = Vocabulary(clip), options.restarts
    rngs = [Random(f"{seed}/{number}/{i}") for i in range(len(jobs)) for number in range(n)]
    ids = torch.tensor([vocabulary.random(options.n_tokens, rng) for rng in rngs], device=clip.device)
    copies = clip.embedding[ids].float().clone().requires_grad_()
    optimizer = torch.optim.AdamW([copies], lr=options.lr, weight_decay=options.weight_decay)
    best = torch.full((len(rngs),), -torch.inf, device=clip.device)
    for step in range(options.steps + 1):
        ids = vocabulary.nearest(copies.detach())
        points = clip.embedding[ids].float().requires_grad_()
        reached = clip.prompts(ids, points).unflatten(0, (len(jobs), n))
        found = torch.cat([similarity(rows, job.target) for rows, job in zip(reached, jobs, strict=True)])
        _look(clip, vocabulary, jobs, ids, found.detach() > best)
        best = torch.maximum(best, found.detach())
        if step % options.eval_every == 0 or step == options.steps:
            for job, now in zip(jobs, found.detach().view(len(jobs), n).amax(dim=1).tolist(), strict=True):
                job.curve.append({"step": step, "best": job.similarity, "now": now})
        tick(step, options.steps)
        if step < options.steps:
            (copies.grad,) = torch.autograd.grad(-found.sum(), points)
            optimizer.step()


def _look(
    clip: Clip, vocabulary: Vocabulary, jobs: Sequence[Inversion], ids: Int[Tensor, "rows n"], better: Tensor
) -> None:
    """Score the texts of prompts whose tokens are the best of their descent so far."""
    n = len(ids) // len(jobs)
    rows: dict[int, list[str]] = {}
    for row in better.nonzero()[:, 0].tolist():
        rows.setdefault(row // n, []).append(vocabulary.text(ids[row].tolist()))
    if rows:
        _score(clip, [jobs[i] for i in rows], list(rows.values()))


# --- PIN --------------------------------------------------------------------------------------


def _by_reward(clip: Clip, jobs: Sequence[Inversion], options: PinInversion, seed: int, tick: Tick) -> None:
    """A policy for each target, trained as the method pin trains them."""
    policy = Subject.from_pretrained(options.policy)
    writing = Writing(policy, clip.tokenizer)
    lm = PolicyLM(policy, writing.tokens, options.start)
    device = lm.model.device
    seeds = [Random(f"{seed}/{i}") for i in range(len(jobs))]
    generators = [Generator(device=device).manual_seed(rng.getrandbits(63)) for rng in seeds]
    networks = TaskNetworks(generators, lm.d_out, options.hidden, options.lr, options.clip)
    policies = Policies(lm, networks, options.n_allowed(lm.model.vocab_size))
    elites = Elites(seeds, writing.tokens.tolist())
    trainer = PolicyTrainer(policies, TsallisEntropy(), options, generators, elites)

    def rewarded(rollout: Rollout) -> Rewarded:
        rewards = torch.stack(_score(clip, jobs, _texts(writing, rollout.actions))).to(device)
        return rewards, z_scores(rewards)

    for step in range(1, options.steps + 1):
        rewards = trainer.step(step, rewarded)
        if step % options.eval_every == 0 or step == options.steps:
            _score(clip, jobs, _texts(writing, trainer.greedy().actions))
            for job, now in zip(jobs, rewards.mean(dim=-1).tolist(), strict=True):
                job.curve.append({"step": step, "best": job.similarity, "mean": now})
        tick(step, options.steps)


def _texts(writing: Writing, actions: Int[Tensor, "jobs batch n"]) -> list[list[str]]:
    return [[writing.text(ids) for ids in of_job] for of_job in actions.tolist()]
