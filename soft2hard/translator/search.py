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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from soft2hard.compute import metering
from soft2hard.data_gen.tasks import Example
from soft2hard.lm.likeness import rouge_l_pairs
from soft2hard.translator.candidates import tidy
from soft2hard.translator.settings import Evidence, ProposerName
from soft2hard.translator.verification import Candidate, Comparison, Probes, Verifier, explained_share

_AT_ONCE = 16  # texts, between two looks at the budget
_GUIDED = 6  # texts whose swaps are guided by gradients
_GUIDE_PROBES = 8
_START, _ALIKE = 2, 4  # texts whose first words are the same, at most, around which is searched
_SCORED = 2  # texts whose log-probability is worked out, for each that is run
_DISTRUST = 4  # see `weight_by`
_MOST_GAIN = 20.0  # nats that a swap is believed to gain: what gradients promise is seldom kept

Swaps = Float[Tensor, "_n_ids vocab"]
"""How good each single substitution of a text seems; minus infinity for none."""


@runtime_checkable
class Density(Protocol):
    """log p(text) of a translator's `Mixture` or of a prior (`proposers.prior`), and texts near others under it."""

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
    heats: tuple[tuple[int, int], ...] = ((8, 16),)
    """Inputs after which texts run together are cut down, and to how many; who is left is run on all."""
    free: bool = False
    """Whether tokens are also put in and left out, swaps follow gradients, and the search goes on until none of the
    best changes, not only until the very best does not."""


def free(rounds: int, n_texts: int) -> Effort:
    """The search without a translator, which knows less at first and so tries more."""
    heats = ((4, max(2 * n_texts // 9, 1)), (12, max(n_texts // 18, 1)))
    return Effort(rounds, n_best=max(n_texts // 12, 1), n_texts=n_texts, n_branches=12, heats=heats, free=True)


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
    def is_limited(self) -> bool:
        return self.until is not None or self.max_calls is not None

    @property
    def is_spent(self) -> bool:
        if self.until is not None and time.monotonic() >= self.until:
            return True
        return self.max_calls is not None and self._heard is not None and self._heard.total.sequences >= self.max_calls


class Search:
    """The texts tried for one soft prompt. The last of `densities` is that which further texts are found under."""

    def __init__(
        self,
        densities: Sequence[Density],
        verifier: Verifier,
        probes: Probes,
        budget: Budget,
        evidence: Evidence = Evidence(),
        followed: Callable[[Sequence[str]], Float[Tensor, " n_texts"]] | None = None,
    ):
        """`followed`: a follower's log p(outputs | text, inputs) of texts, in nats, where one was taught."""
        self.densities, self.verifier, self.budget = densities, verifier, budget
        self.is_weighed, self.weight = evidence.weight is not None, 1.0 if evidence.weight is None else evidence.weight
        self.consensus = evidence.consensus
        self.followed = (followed, evidence.follower) if followed and evidence.follower else None
        self.shown, self.probes = set_apart(probes, evidence.shots, verifier)
        without = verifier.compare([self._beside_shown("") or None], self.probes)[0]
        if without is None and self.shown:  # no room for them: better without than nothing to choose by
            self.shown, self.probes = [], probes
            without = verifier.compare([None], probes)[0]
        self.without = None if without is None else without.mean_divergence
        """Mean KL(soft || no text), nats a position, beside the same demonstrations."""
        self._tried: set[str] = set()

    def best(self, proposals: Mapping[ProposerName, Sequence[str]], effort: Effort) -> list[Candidate]:
        """The best texts tried, best first; rounds of search around them, fewer when nothing improves."""
        ranked: list[Candidate] = []
        for proposer, texts in proposals.items():
            ranked = self._sorted([*ranked, *self._scored(texts, proposer, effort)])
        for _ in range(effort.rounds):
            if self.budget.is_spent or not ranked:
                break
            best = _unlike(ranked, effort)
            near = self._near([candidate.text for candidate in best], effort)
            found = self._scored(near, "search" if effort.free else best[0].proposer, effort)
            ranked = self._sorted([*ranked, *found])
            now = _unlike(ranked, effort) if effort.free else ranked[:1]
            if not near or all(one.text == before.text for one, before in zip(now, best, strict=False)):
                break
        return ranked

    def run_all(self, texts: Sequence[str]) -> list[Candidate]:
        """All of these texts that fit the subject's context, run on all inputs, best first."""
        return self._run(texts, "translator", ())

    def _scored(self, texts: Sequence[str], proposer: ProposerName, effort: Effort) -> list[Candidate]:
        """The best of texts that were not tried and fit the subject's context, best first."""
        words = self.verifier.subject.template.words  # a text that holds them would be an example, not a prompt
        new = [t for t in dict.fromkeys(texts) if t.strip() and t not in self._tried and not any(w in t for w in words)]
        found: list[Candidate] = []
        step = _AT_ONCE if self.budget.is_limited else max(len(new), 1)
        for start in range(0, len(new), step):
            if self.budget.is_spent and (found or self._tried):
                break
            some = new[start : start + step]
            self._tried.update(some)
            found += self._run(some, proposer, effort.heats)
        return found

    def _run(self, texts: Sequence[str], proposer: ProposerName, heats: Sequence[tuple[int, int]]) -> list[Candidate]:
        """Those of these texts that are left after the heats, with what running them on all inputs shows, best first.

        Who is left after a heat is run on further inputs alone: nothing is run twice.
        """
        before = dict(zip(texts, zip(self._log_probs(texts), self._followed(texts), strict=True), strict=True))
        n_inputs, n_done = len(self.probes.inputs), 0
        seen: dict[str, list[Comparison]] = {text: [] for text in texts}
        left = list(texts)
        for n, n_left in (*(heat for heat in heats if 2 * heat[0] < n_inputs), (n_inputs, len(texts))):
            if len(left) <= n_left and n < n_inputs:
                continue
            part = self.verifier.some(self.probes, range(n_done, n))
            run = self.verifier.compare([self._beside_shown(text) for text in left], part)
            for text, found in zip(left, run, strict=True):
                seen[text] = [*seen[text], found] if found is not None else []
            ranked = self._sorted([self._candidate(t, seen[t], before[t], proposer) for t in left if seen[t]])
            left, n_done = [candidate.text for candidate in ranked[:n_left]], n
        return ranked

    def _candidate(
        self, text: str, seen: Sequence[Comparison], before: tuple[float, float], proposer: ProposerName
    ) -> Candidate:
        """The mean divergence seen stands for that of all positions. `before`: its log-probability, and what the
        follower adds."""
        n_seen = sum(found.n_positions for found in seen)
        divergence = sum(found.divergence.sum().item() for found in seen) / n_seen
        agreement = torch.cat([found.alike for found in seen]).float().mean().item()
        explained = explained_share(divergence, self.without)
        n = len(self.probes.log_probs)
        log_prob, followed = before
        return Candidate(text, agreement, divergence, n, log_prob, explained, proposer, self.weight, followed=followed)

    def _sorted(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Best first, by a weight that these tell where none was chosen."""
        if not self.is_weighed and candidates:
            self.weight = weight_by(candidates)
            candidates = [replace(candidate, weight=self.weight) for candidate in candidates]
        if self.consensus and candidates:
            candidates = with_consensus(candidates, self.consensus)
        return sorted(candidates, key=lambda c: c.rank)

    def _beside_shown(self, text: str) -> str:
        template = self.verifier.subject.template
        return template.few_shot_text(self.shown, text or None) if self.shown else text

    def _log_probs(self, texts: Sequence[str]) -> list[float]:
        """log p(text), of several densities in equal parts."""
        if not self.densities or not texts:
            return [0.0] * len(texts)
        found = torch.tensor([density.log_probs(texts) for density in self.densities], dtype=torch.float64)
        return (found.logsumexp(0) - torch.tensor(float(len(found))).log()).tolist()

    def _followed(self, texts: Sequence[str]) -> list[float]:
        """What the follower adds to the posterior of texts, whoever proposed them; nats."""
        if self.followed is None or not texts:
            return [0.0] * len(texts)
        of_texts, weight = self.followed
        return (weight * of_texts(texts)).tolist()

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
        gains = [self.weight * g if len(g) == len(row) else None for g, row in zip(gains, guided, strict=True)]
        found = near(density, rows, effort, [*gains, *[None] * (len(rows) - len(gains))])
        return [text for text in found if text not in self._tried]


def weight_by(candidates: Sequence[Candidate]) -> float:
    """The weight of the evidence on a subject for which none was chosen: the share that the best text explains of what
    the soft prompt does, to the fourth power.

    A subject that follows texts is brought nearly all the way by the right one. Where even the best text explains
    little, differences between texts are of other things than their meaning. The power is that under which SmolLM2,
    whose texts explain 0.4 to 0.5 of its soft prompts, comes to about the weight that calibration chose for it
    (docs/experiments.md). 1 where nothing is known of the shares.
    """
    shares = [candidate.explained for candidate in candidates if candidate.explained is not None]
    return min(max(*shares, 0.0), 1.0) ** _DISTRUST if shares else 1.0


def with_consensus(candidates: Sequence[Candidate], nats: float) -> list[Candidate]:
    """The candidates, each credited with `nats` times its mean ROUGE-L with all of them, weighed by their posterior.

    So the text of the least Bayes risk comes first where `nats` is large (Kumar & Byrne 2004, "Minimum Bayes-Risk
    Decoding"), the likeliest where it is small. Where no single text is likely, what likely ones have in common is.
    """
    plain = [replace(candidate, consensus=0.0) for candidate in candidates]
    posterior = torch.tensor([-candidate.rank for candidate in plain], dtype=torch.float64).softmax(0)
    expected = torch.from_numpy(rouge_l_pairs([candidate.text for candidate in plain])) @ posterior
    return [replace(one, consensus=nats * e) for one, e in zip(plain, expected.tolist(), strict=True)]


def set_apart(probes: Probes, n: int, verifier: Verifier) -> tuple[list[Example], Probes]:
    """Up to `n` inputs that the soft prompt answers with something, as demonstrations, and the other inputs.

    Most inputs stay: none are taken where a third of them would not suffice.
    """
    answered = [i for i, output in enumerate(probes.outputs) if output]
    taken = answered[:n] if len(answered) >= n and 3 * n <= len(probes.inputs) else []
    if not taken:
        return [], probes
    shown = [Example(probes.inputs[i], probes.outputs[i]) for i in taken]
    return shown, verifier.some(probes, [i for i in range(len(probes.inputs)) if i not in taken])


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
    near = _Near(density, effort)
    for number, (row, log_probs) in enumerate(zip(rows, density.next_log_probs(rows), strict=True)):
        near.add(row, log_probs, changes[number] if number < len(changes) else None)
    return near.texts(set(map(tuple, rows)))


class _Near:
    """Texts near others, as token ids, with how promising they look before they are scored."""

    def __init__(self, density: Density, effort: Effort):
        self.density, self.effort = density, effort
        self.prefixes: dict[tuple[int, ...], None] = {}
        self.rows: dict[tuple[int, ...], tuple[float, float]] = {}
        """Of each text a guess at its log-probability, less than that of the text it came from, and its gain."""

    def add(self, row: list[int], log_probs: Swaps, change: Swaps | None) -> None:
        old = log_probs[torch.arange(len(row)), torch.tensor(row, device=log_probs.device)]
        whole, n = float(old.clamp(min=-_MOST_GAIN).sum()), self.effort.n_branches
        relative = log_probs - old[:, None]
        gain = torch.zeros_like(log_probs)
        if change is not None:
            # Tables of one family may be padded to different sizes.
            width = min(change.shape[1], log_probs.shape[1])
            gain = torch.zeros_like(log_probs)
            gain[:, :width] = -change[:, :width].clamp(-_MOST_GAIN, _MOST_GAIN).to(log_probs)
        likely = likeliest(log_probs, row, n)
        self.prefixes |= {(*row[:at], token): None for at, token in likely[: n // 2 if self.effort.free else n]}
        for at, token in likely:
            self._put(row, at, token, whole + float(relative[at, token]), float(gain[at, token]))
        if change is not None:
            for at, token in likeliest(log_probs + gain, row, n):
                self._put(row, at, token, whole + float(relative[at, token]), float(gain[at, token]))
        if self.effort.free and len(row) > 1:
            for at in range(len(row)):
                self.rows.setdefault((*row[:at], *row[at + 1 :]), (whole - float(old[at]), 0.0))

    def _put(self, row: list[int], at: int, token: int, guess: float, gain: float) -> None:
        self.rows.setdefault((*row[:at], token, *row[at + 1 :]), (guess, gain))
        if self.effort.free:
            self.rows.setdefault((*row[:at], token, *row[at:]), (guess, 0.0))

    def texts(self, known: set[tuple[int, ...]]) -> list[str]:
        density, n = self.density, self.effort.n_texts
        completed = [tuple(row) for row in density.complete([list(prefix) for prefix in self.prefixes])]
        ahead = sorted(self.rows, key=lambda row: -sum(self.rows[row]))[: _SCORED * n]
        found = [row for row in dict.fromkeys([*ahead, *completed]) if row and row not in known]
        scores = density.sequence_log_probs([[*row, density.eos_id] for row in found])
        order = sorted(range(len(found)), key=lambda i: -scores[i] - self.rows.get(found[i], (0.0, 0.0))[1])
        written = density.tokenizer.batch_decode([found[i] for i in order], skip_special_tokens=True)
        return [text for text in dict.fromkeys(map(tidy, written)) if text][:n]


def likeliest(scores: Swaps, row: Sequence[int], n: int) -> list[tuple[int, int]]:
    """The `n` best single substitutions as (position, token)."""
    scores = scores.clone()
    scores[torch.arange(len(row)), torch.tensor(row, device=scores.device)] = -torch.inf
    best = scores.flatten().topk(min(n, int(scores.isfinite().sum()))).indices.tolist()
    return [divmod(index, scores.shape[1]) for index in best]
