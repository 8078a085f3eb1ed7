"""Choosing the words for a soft prompt: what the translator finds likely and the subject bears out.

A candidate's score is the logarithm of its posterior, up to a constant: the prior is the translator's
p(text | soft prompt), the evidence what the subject does under both on the probe inputs. Were the outputs under the
soft prompt draws from its distributions, their expected log-likelihood under a text would be minus the summed
KL(soft || text), up to the entropy of the soft prompt's own distributions, which is the same for all texts.

On behaviour alone, many unfluent or needlessly special texts do the soft prompt's work on some inputs; on the prior
alone, nothing is verified.
"""

from collections.abc import Sequence
from dataclasses import replace

from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.model import Translator
from soft2hard.translator.reading import Reading
from soft2hard.translator.refinement import neighbours
from soft2hard.translator.verification import Candidate, Probes, Verifier

_REFINED = 2  # candidates around which is searched
_HEAT_PROBES, _FINALISTS = 8, 16  # all candidates run a heat on some probe inputs, the best of them on all


def choose(
    translator: Translator,
    verifier: Verifier,
    soft_prompt: SoftPrompt,
    texts: Sequence[str],
    probes: Probes,
    rounds: int,
) -> list[Candidate]:
    """The best candidates tried, best first; `rounds` of local search around the best, fewer when nothing improves."""
    reading = Reading(translator, soft_prompt)
    ranked = _scored(reading, verifier, texts, probes)
    for _ in range(rounds):
        best = ranked[:_REFINED]
        seen = {candidate.text for candidate in ranked}
        near = [text for text in neighbours(reading, [c.text for c in best]) if text not in seen]
        ranked = sorted([*ranked, *_scored(reading, verifier, near, probes)], key=lambda c: c.rank)
        if not ranked or ranked[0] is best[0]:
            break
    return ranked


def _scored(reading: Reading, verifier: Verifier, texts: Sequence[str], probes: Probes) -> list[Candidate]:
    """The best of those that fit the subject's context, best first."""
    log_probs = dict(zip(texts, reading.log_probs(texts), strict=True))
    if len(texts) > _FINALISTS and len(probes.inputs) > 2 * _HEAT_PROBES:
        heat = _ranked(verifier.verify(texts, verifier.first(probes, _HEAT_PROBES)), log_probs, len(probes.log_probs))
        texts = [candidate.text for candidate in heat[:_FINALISTS]]
    return _ranked(verifier.verify(texts, probes), log_probs, len(probes.log_probs))


def _ranked(candidates: Sequence[Candidate], log_probs: dict[str, float], n_positions: int) -> list[Candidate]:
    """Best first, taking the mean divergence seen as that of all `n_positions`."""
    scored = [replace(c, log_prob=log_probs[c.text], n_positions=n_positions) for c in candidates]
    return sorted(scored, key=lambda c: c.rank)
