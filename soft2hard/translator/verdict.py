"""What is claimed of a text: on how many inputs at least it acts like the soft prompt, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import numpy as np
from scipy.stats import beta

from soft2hard.lm.sentences import Encoder, embedding_cosines
from soft2hard.translator.verification import Comparison, Probes, Verifier, explained_share

Verdict = Literal["faithful", "doubtful", "failed", "unverified"]
RestsOn = Literal["exact", "words", "meaning"]
"""What makes two outputs alike: the same text; nearly all words; a like meaning."""

CONFIDENCE = 0.95
FAITHFUL_FROM, DOUBTFUL_FROM = 0.8, 0.5
WORDS_ALIKE, MEANING_ALIKE = 0.9, 0.8
"""Share of words in common, and cosine of sentence embeddings, from which two open answers are alike."""
SHORT_ANSWER = 8
"""Tokens, end included, up to which the middle one of a soft prompt's outputs is no open answer."""
_MOST_FURTHER = 10_000
_MOST_PARTINGS = 5


@dataclass(frozen=True)
class Parting:
    """An input on which text and soft prompt differ."""

    input: str
    soft: str
    """Output under the soft prompt."""
    text: str
    """Output under the text."""
    divergence: float
    """Summed KL(soft || text) over the output's positions, nats."""


@dataclass(frozen=True)
class Judgement:
    """How a text acts on inputs beside the soft prompt."""

    text: str
    verdict: Verdict
    rests_on: RestsOn
    n_inputs: int
    n_alike: int
    """Inputs on which the outputs under both are alike."""
    at_least: float | None
    """Share of all such inputs on which they are, at least, with 95 % confidence (one-sided Clopper-Pearson); None
    where the inputs also chose the text, which would flatter it."""
    further: int | None
    """Further inputs that would settle whether the text is faithful, were they to go as these did; 0 where it is
    settled, None where no number of them would, or more than 10,000."""
    divergence: float
    """Mean KL(soft || text) over output positions, nats."""
    explained: float | None
    """See `verification.explained_share`."""
    n_silent: int = 0
    """Inputs on which the soft prompt writes nothing that is seen: a text that does so, too, proves nothing."""
    n_outputs: int | None = None
    """Different outputs of the soft prompt on these inputs: where there is but one, it may have learned nothing."""
    partings: tuple[Parting, ...] = ()
    """Inputs on which the outputs are not alike, those that differ most first; five at most."""

    @property
    def agreement(self) -> float:
        """Share of these inputs on which the outputs are alike."""
        return self.n_alike / self.n_inputs


def lower_bound(n_alike: int, n: int) -> float:
    """The one-sided lower bound of Clopper and Pearson (1934), at 95 %, of a share seen `n_alike` times in `n`."""
    return float(beta.ppf(1 - CONFIDENCE, n_alike, n - n_alike + 1)) if n_alike else 0.0


def upper_bound(n_alike: int, n: int) -> float:
    """The one-sided upper bound likewise."""
    return 1 - lower_bound(n - n_alike, n)


def verdict_of(n_alike: int, n: int, proves_nothing: bool = False) -> Verdict:
    """'faithful' where the bound is at least 80 % of inputs, 'doubtful' from 50 % of those seen, else 'failed'.

    Inputs that chose the text, and those on which there is nothing to see, prove nothing: it is not faithful for them.
    """
    if not proves_nothing and lower_bound(n_alike, n) >= FAITHFUL_FROM:
        return "faithful"
    return "doubtful" if n_alike >= DOUBTFUL_FROM * n else "failed"


def further_inputs(n_alike: int, n: int) -> int | None:
    """See `Judgement.further`."""
    more = np.arange(_MOST_FURTHER + 1)
    alike, total = n_alike + np.round(n_alike / n * more), n + more
    lower = np.where(alike > 0, beta.ppf(1 - CONFIDENCE, alike, total - alike + 1), 0.0)
    upper = np.where(alike < total, beta.ppf(CONFIDENCE, alike + 1, total - alike), 1.0)
    settled = (lower >= FAITHFUL_FROM) | (upper < FAITHFUL_FROM)
    return int(settled.argmax()) if settled.any() else None


def rests_on(output_lengths: Sequence[int], has_encoder: bool) -> RestsOn:
    """Short answers must be the same; open ones alike in meaning where there is an encoder, else in their words."""
    if not output_lengths or float(np.median(output_lengths)) <= SHORT_ANSWER:
        return "exact"
    return "meaning" if has_encoder else "words"


def alike(
    found: Comparison, kind: RestsOn, outputs: tuple[Sequence[str], Sequence[str]], encoder: Encoder | None
) -> list[bool]:
    """For each input, whether the outputs (of the soft prompt, of the text) are alike."""
    if kind == "exact":  # or in other tokens, such as a word with the space before it and one without
        same = zip(found.alike.tolist(), *outputs, strict=True)
        return [of_tokens or (a == b != "") for of_tokens, a, b in same]
    if kind == "words":  # of what is written freely: behind the soft prompt's own words, most of the next are likely
        return [_words_in_common(a, b) >= WORDS_ALIKE for a, b in zip(*outputs, strict=True)]
    cosines = embedding_cosines(*outputs, encoder)
    return [a == b or cosine >= MEANING_ALIKE for a, b, cosine in zip(*outputs, cosines, strict=True)]


def _words_in_common(one: str, other: str) -> float:
    """Twice the words of a longest common subsequence over those of both, 0 to 1."""
    return SequenceMatcher(None, one.split(), other.split(), autojunk=False).ratio()


class Judge:
    """Judges texts for one soft prompt: on further inputs, or where there are none, on those that chose the text."""

    def __init__(self, verifier: Verifier, probes: Probes, checks: Probes | None, encoder: Encoder | None):
        self.verifier, self.encoder = verifier, encoder
        self.inputs, self.chose = checks or probes, checks is None

    def __call__(self, text: str) -> Judgement | None:
        """None for a text that does not fit the subject's context beside these inputs."""
        probes = self.inputs
        found, without = self.verifier.compare([text, None], probes)
        if found is None:
            return None
        kind = rests_on([len(ids) for ids in probes.ids], self.encoder is not None)
        written = self.verifier.outputs(text, probes)
        same = alike(found, kind, (probes.outputs, written), self.encoder)
        n, total = sum(same), len(same)
        divergence = found.mean_divergence
        silent, n_outputs = sum(not output.strip() for output in probes.outputs), len(set(probes.outputs))
        return Judgement(
            text=text,
            verdict=verdict_of(n, total, self.chose or 2 * silent > total),
            rests_on=kind,
            n_inputs=total,
            n_alike=n,
            at_least=None if self.chose else lower_bound(n, total),
            further=None if self.chose else further_inputs(n, total),
            divergence=divergence,
            explained=explained_share(divergence, without and without.mean_divergence),
            n_silent=silent,
            n_outputs=n_outputs,
            partings=self._partings(found, same, written),
        )

    def _partings(self, found: Comparison, same: Sequence[bool], written: Sequence[str]) -> tuple[Parting, ...]:
        probes, divergences = self.inputs, found.divergence.tolist()
        order = sorted(range(len(same)), key=lambda i: (same[i], -divergences[i]))[:_MOST_PARTINGS]
        return tuple(
            Parting(probes.inputs[i], probes.outputs[i], written[i], divergences[i]) for i in order if not same[i]
        )
