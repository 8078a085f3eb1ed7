"""Texts in the order of their posterior, and a search for better ones.

A text's score is the logarithm of its posterior, up to a constant: log p(text) before anything was run, by a translator
that has read the soft prompt, a prior of instructions, or both; and the evidence, how the subject acts under text and
soft prompt on the probe inputs. Were the outputs under the soft prompt draws from its distributions, their expected
log-likelihood under a text would be minus the summed KL(soft || text), up to the entropy of the soft prompt's own
distributions, which is the same for all texts. No label is seen: the soft prompt is the teacher.

On behaviour alone, many unfluent or needlessly special texts do the soft prompt's work on some inputs; on the prior
alone, nothing is verified.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import is_
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from soft2hard.compute import metering
from soft2hard.translator.candidates import tidy
from soft2hard.translator.settings import ProposerName
from soft2hard.translator.verification import Candidate, Probes, Verifier, explained_share

_HEATS = ((4, 64), (8, 16))  # inputs of a heat, and texts that it leaves over
_AT_ONCE = 256  # texts, between two looks at the budget
_GUIDED = 6  # texts whose swaps are guided by gradients
_GUIDE_PROBES = 8
_START, _ALIKE = 2, 4  # texts whose first words are the same, at most, around which is searched
_MOST_GAIN = 20.0  # nats that a swap is believed to gain: what gradients promise is seldom kept

Swaps = Float[Tensor, "n_ids vocab"]
"""How good each single substitution of a text seems; minus infinity for none."""


@runtime_checkable
class Density(Protocol):
    """log p(text) of a translator's `Reading` or of a prior (`proposers.prior`), and texts near others under it."""

    tokenizer: PreTrainedTokenizerBase
    eos_id: int

    def log_probs(self, texts: Sequence[str]) -> list[float]: ...

    def sequence_log_probs(self, rows: Sequence[Sequence[int]]) -> list[float]: ...

    def next_log_probs(self, rows: Sequence[Sequence[int]]) -> list[Swaps]: ...

    def complete(self, prefixes: Sequence[Sequence[int]]) -> list[list[int]]: ...


@dataclass(frozen=True)
class Effort:
    """How far is searched."""

    rounds: int
    n_best: int = 2
    """Texts around which is searched."""
    n_texts: int = 48
    """Further texts of a round."""
    n_branches: int = 32
    """Single substitutions of each of the best."""
    free: bool = False
    """Whether tokens are also put in and left out, swaps follow gradients, and the search goes on until none of the
    best changes, not only until the very best does not."""


class Budget:
    """Seconds for all soft prompts, and sequences for each."""

    def __init__(self, max_seconds: float | None = None, max_calls: int | None = None):
        self.until = None if max_seconds is None else time.monotonic() + max_seconds
        self.max_calls = max_calls
        self._heard: metering.Heard | None = None

    @contextmanager
    def of_one(self) -> Iterator[None]:
        """Within, sequences are counted towards one soft prompt."""
        with metering.listening() as self._heard:
            yield
        self._heard = None

    @property
    def is_spent(self) -> bool:
        if self.until is not None and time.monotonic() >= self.until:
            return True
        return self.max_calls is not None and self._heard is not None and self._heard.total.sequences >= self.max_calls


class Search:
    """The texts tried for one soft prompt. The last of `densities` is that which further texts are found under."""

    def __init__(self, densities: Sequence[Density], verifier: Verifier, probes: Probes, budget: Budget):
        self.densities, self.verifier, self.probes, self.budget = densities, verifier, probes, budget
        without = verifier.compare([None], probes)[0]
        self.without = None if without is None else without.mean_divergence
        """Mean KL(soft || no prompt), nats a position."""
        self._tried: set[str] = set()

    def best(self, proposals: Mapping[ProposerName, Sequence[str]], effort: Effort) -> list[Candidate]:
        """The best texts tried, best first; rounds of search around them, fewer when nothing improves."""
        ranked: list[Candidate] = []
        for proposer, texts in proposals.items():
            ranked = _sorted([*ranked, *self._scored(texts, proposer)])
        for _ in range(effort.rounds):
            if self.budget.is_spent or not ranked:
                break
            best = _unlike(ranked, effort)
            near = self._near([candidate.text for candidate in best], effort)
            ranked = _sorted([*ranked, *self._scored(near, "search" if effort.free else best[0].proposer)])
            if not near or all(map(is_, _unlike(ranked, effort) if effort.free else ranked[:1], best)):
                break
        return ranked

    def _scored(self, texts: Sequence[str], proposer: ProposerName) -> list[Candidate]:
        """The best of texts that were not tried and fit the subject's context, best first."""
        words = self.verifier.subject.template.words  # a text that holds them would be an example, not a prompt
        new = [t for t in dict.fromkeys(texts) if t not in self._tried and not any(word in t for word in words)]
        found: list[Candidate] = []
        for start in range(0, len(new), _AT_ONCE):
            if self.budget.is_spent and (found or self._tried):
                break
            some = new[start : start + _AT_ONCE]
            self._tried.update(some)
            found += self._run(some, proposer)
        return found

    def _run(self, texts: Sequence[str], proposer: ProposerName) -> list[Candidate]:
        log_probs = dict(zip(texts, self._log_probs(texts), strict=True))

        def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
            # The mean divergence seen stands for that of all positions.
            n = len(self.probes.log_probs)
            known = [replace(c, log_prob=log_probs[c.text], n_positions=n, proposer=proposer) for c in candidates]
            return _sorted([replace(c, explained=explained_share(c.divergence, self.without)) for c in known])

        for n_probes, n_kept in _HEATS:
            if len(texts) > n_kept and len(self.probes.inputs) > 2 * n_probes:
                heat = ranked(self.verifier.verify(texts, self.verifier.first(self.probes, n_probes)))
                texts = [candidate.text for candidate in heat[:n_kept]]
        return ranked(self.verifier.verify(texts, self.probes))

    def _log_probs(self, texts: Sequence[str]) -> list[float]:
        """log p(text), of several densities in equal parts."""
        if not self.densities or not texts:
            return [0.0] * len(texts)
        found = torch.tensor([density.log_probs(texts) for density in self.densities], dtype=torch.float64)
        return (found.logsumexp(0) - torch.tensor(float(len(found))).log()).tolist()

    def _near(self, texts: Sequence[str], effort: Effort) -> list[str]:
        if not self.densities:
            return []
        density = self.densities[-1]
        rows = [density.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        rows = [row for row in rows if row]
        if not effort.free:
            return [text for text in near(density, rows, effort) if text not in self._tried]
        guided = rows[:_GUIDED]
        written = density.tokenizer.batch_decode(guided)
        gains = self.verifier.swaps(written, self.verifier.first(self.probes, _GUIDE_PROBES))
        gains = [gain if len(gain) == len(row) else None for gain, row in zip(gains, guided, strict=True)]
        found = near(density, rows, effort, [*gains, *[None] * (len(rows) - len(gains))])
        return [text for text in found if text not in self._tried]


def _unlike(ranked: Sequence[Candidate], effort: Effort) -> list[Candidate]:
    """The best to search around; of a free search, few that begin alike, so that one idea does not crowd out others."""
    if not effort.free:
        return list(ranked[: effort.n_best])
    seen: Counter[str] = Counter()
    best = []
    for candidate in ranked:
        start = " ".join(candidate.text.split()[:_START])
        seen[start] += 1
        if seen[start] <= _ALIKE:
            best.append(candidate)
    return best[: effort.n_best]


def _sorted(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda c: c.rank)


def near(
    density: Density, rows: Sequence[list[int]], effort: Effort, changes: Sequence[Swaps | None] = ()
) -> list[str]:
    """Up to `effort.n_texts` new texts near those of `rows` (token ids), the most promising first.

    A text is often right but for one word (a label, a category). For each the likeliest single substitutions are made,
    once with the old rest and once with the rest written again, since some words ask for others ("a vehicle", but "an
    animal"). A free search (`Effort.free`) also puts these tokens in and leaves each token out, and where `changes`
    says how the divergence would change (`Verifier.swaps`), makes as many substitutions that promise most by that.
    Texts are as promising as they are likely, plus what a swap is believed to gain.
    """
    prefixes, gains = [], {}
    for number, (row, log_probs) in enumerate(zip(rows, density.next_log_probs(rows), strict=True)):
        change = changes[number] if number < len(changes) else None
        branches = [(position, token, 0.0) for position, token in likeliest(log_probs, row, effort.n_branches)]
        if change is not None:
            gain = (-change[:, : log_probs.shape[1]]).clamp(-_MOST_GAIN, _MOST_GAIN).to(log_probs)
            promising = likeliest(log_probs + gain, row, effort.n_branches)
            branches += [(position, token, float(gain[position, token])) for position, token in promising]
        for position, token, gain in branches:
            prefixes.append([*row[:position], token])
            gains.setdefault((*prefixes[-1], *row[position + 1 :]), gain)
            if effort.free:
                gains.setdefault((*prefixes[-1], *row[position:]), 0.0)
        if effort.free:
            gains |= {(*row[:i], *row[i + 1 :]): 0.0 for i in range(len(row)) if len(row) > 1} | gains
    completed = density.complete([list(prefix) for prefix in dict.fromkeys(map(tuple, prefixes))])
    gains = {tuple(row): 0.0 for row in completed if row} | gains
    found = [row for row in gains if list(row) not in rows]
    scores = density.sequence_log_probs([[*row, density.eos_id] for row in found])
    order = sorted(range(len(found)), key=lambda i: -scores[i] - gains[found[i]])
    written = density.tokenizer.batch_decode([found[i] for i in order], skip_special_tokens=True)
    return [text for text in dict.fromkeys(map(tidy, written)) if text][: effort.n_texts]


def likeliest(scores: Swaps, row: Sequence[int], n: int) -> list[tuple[int, int]]:
    """The `n` best single substitutions as (position, token)."""
    scores = scores.clone()
    scores[torch.arange(len(row)), torch.tensor(row, device=scores.device)] = -torch.inf
    best = scores.flatten().topk(min(n, int(scores.isfinite().sum()))).indices.tolist()
    return [divmod(index, scores.shape[1]) for index in best]
