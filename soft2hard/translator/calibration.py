"""How far a subject's reactions to texts are to be believed, chosen on validation tasks.

A text's posterior is p(text | soft prompt) exp(-w D), where D is the summed KL(soft || text) on probe inputs. On a
subject that follows texts, w = 1 is right (`search`). On one that hardly does, D is noise of many nats, and outweighs
what the translator knows. So w is chosen as temperatures are (Guo et al. 2017, arXiv 1706.04599): it maximises the
mean log-probability that the posterior over a task's candidates gives to the instructions that people or the task's
grammar have for it. The same is tried with demonstrations, written by the soft prompt, beside every candidate alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import datasets
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from soft2hard.data_gen.corpus.rows import soft_prompt_of
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import Reading, propose
from soft2hard.translator.model import Translator
from soft2hard.translator.search import Budget, Search
from soft2hard.translator.settings import Evidence
from soft2hard.translator.verification import Probes, Verifier

WEIGHTS = (0.0, *(10 ** (-step / 4) for step in range(12, -1, -1)))
"""Tried: none, then four to a factor of ten, from 0.001 to 1."""
SHOTS = (0, 4)
_N_CANDIDATES, _N_PHRASINGS = 24, 4
_LEAST_GAIN = 0.05  # nats a task that demonstrations must gain: they make every text four times as long to run


@dataclass(frozen=True)
class _Scored:
    """A task's candidates."""

    log_probs: Float[Tensor, " n"]
    """log p(text | soft prompt)."""
    divergences: Float[Tensor, " n"]
    """Summed KL(soft || text), nats."""
    is_gold: Bool[Tensor, " n"]
    explained_by_gold: float | None
    """Share explained by the reference instruction."""


def calibrate(translator: Translator, subject: Subject, validation: datasets.Dataset, n_tasks: int) -> Evidence:
    """What to make of the subject's reactions, on the first `n_tasks` tasks of a validation corpus that have examples.

    `Evidence()` where there are none. A weight that is as good as a smaller one wins.
    """
    best = validation.select([i for i, row in enumerate(validation["is_best"]) if row and validation["inputs"][i]])
    rows = list(best.select(range(min(n_tasks, len(best)))).with_format("numpy"))
    if not rows:
        return Evidence()
    prompts = [soft_prompt_of(row, subject.fingerprint, subject.template) for row in rows]
    found: dict[int, tuple[float, Evidence]] = {}
    verifier = Verifier(subject)
    probes = verifier.probe(prompts, [list(map(str, row["inputs"])) for row in rows])
    proposed = propose(translator, prompts, _N_CANDIDATES)
    for shots in SHOTS:
        scored = list(_scored(translator, verifier, prompts, probes, proposed, _golds(rows), shots))
        likelihoods = {weight: fmean(map(lambda one, w=weight: _of_gold(one, w), scored)) for weight in WEIGHTS}
        weight = max(WEIGHTS, key=lambda w: (round(likelihoods[w], 6), w))
        explained = [one.explained_by_gold for one in scored if one.explained_by_gold is not None]
        evidence = Evidence(weight, shots, fmean(explained) if explained else None, len(rows))
        found[shots] = likelihoods[weight], evidence
    (plain, without), (shown, with_shots) = found[0], found[SHOTS[1]]
    if shown < plain + _LEAST_GAIN:
        return without
    # What a text alone explains is what the verdict speaks of.
    return Evidence(with_shots.weight, with_shots.shots, without.explained_by_gold, len(rows))


def _golds(rows: Sequence[dict]) -> list[list[str]]:
    return [[str(row["instruction"]), *map(str, row["paraphrases"][: _N_PHRASINGS - 1])] for row in rows]


def _scored(
    translator: Translator,
    verifier: Verifier,
    prompts: Sequence[SoftPrompt],
    probes: Sequence[Probes],
    proposed: Sequence[Sequence[str]],
    golds: Sequence[Sequence[str]],
    shots: int,
) -> Iterator[_Scored]:
    for prompt, of_prompt, texts, gold in zip(prompts, probes, proposed, golds, strict=True):
        search = Search([Reading(translator, prompt)], verifier, of_prompt, Budget(), Evidence(shots=shots))
        ranked = search.run_all(list(dict.fromkeys([*gold, *texts])))
        if not any(candidate.text in gold for candidate in ranked):
            continue
        yield _Scored(
            torch.tensor([candidate.log_prob for candidate in ranked]),
            torch.tensor([candidate.divergence * candidate.n_positions for candidate in ranked]),
            torch.tensor([candidate.text in gold for candidate in ranked]),
            next((candidate.explained for candidate in ranked if candidate.text == gold[0]), None),
        )


def _of_gold(scored: _Scored, weight: float) -> float:
    """log of the posterior's share that the references have among all candidates."""
    log_posterior = scored.log_probs - weight * scored.divergences
    return float(log_posterior[scored.is_gold].logsumexp(0) - log_posterior.logsumexp(0))
