"""How far a subject's reactions to texts are to be believed, chosen on validation tasks.

A text's posterior is p(text | soft prompt) exp(-w D), where D is the summed KL(soft || text) on probe inputs. On a
subject that follows texts, w = 1 is right (`translator.search`). On one that hardly does, D is noise of many nats, and
outweighs what the translator knows. So w is the weight under which the texts that come out best say most of what the
tasks' own instructions say, in words and, with a sentence encoder, in meaning. With it is chosen, of a translator that
reads both, how much of p(text | soft prompt) the vectors alone have to say, how much its follower
(`translator.follower`), and whether what likely texts have in common counts. The same is tried with demonstrations,
written by the soft prompt, beside every candidate.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev

import datasets
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.corpus.rows import soft_prompt_of
from soft2hard.eval.metrics.text import rouge
from soft2hard.lm.likeness import rouge_l_pairs
from soft2hard.lm.sentences import Encoder, embedding_cosines
from soft2hard.lm.subject import Subject
from soft2hard.translator.candidates import Mixture, mixed, proposed_under
from soft2hard.translator.demonstrations import views_of
from soft2hard.translator.model import Translator
from soft2hard.translator.processes import n_processes
from soft2hard.translator.search import Budget, Search
from soft2hard.translator.settings import Evidence, read_card, write_card
from soft2hard.translator.verification import SHORT_OUTPUT, Candidate, Probes, Verifier

WEIGHTS = (0.0, *(10 ** (-step / 4) for step in range(12, -1, -1)))
"""Tried: none, then four to a factor of ten, from 0.001 to 1."""
ALONE = (0.5, 0.1, 0.01)
"""Tried, the one that is kept in doubt first: of a kind of task that a translator never met, what the soft prompt does
makes it too sure of one that it knows, and validation tasks may all be of kinds that it has met."""
N_TASKS = 32
_SHOTS = 4  # a third of the inputs at most, see `search.set_apart`
_ABOUT = 0.015  # of likeness, within which weights are as good as each other
_LEAST_GAIN = 0.01
"""Of likeness: of follower and consensus; and of demonstrations, which make every text several times as long to run."""
_N_CANDIDATES, _N_PROBES = 24, 12
CONSENSUS = (10.0, 20.0)
"""Nats, tried beside none."""
FOLLOWER = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
"""Weights of what the follower says, tried beside none."""


@dataclass(frozen=True)
class Tried:
    """The candidates of one task as they were run."""

    log_probs: Float[Tensor, "n_readings n"]
    """log p(text | soft prompt) under each reading."""
    divergences: Float[Tensor, " n"]
    """Summed KL(soft || text), nats."""
    likeness: Float[Tensor, " n"]
    """With the nearest of the task's own instructions: ROUGE-L, or the mean of it and the cosine of embeddings."""
    explained_by_gold: float | None = None
    """Share of what the soft prompt does that the reference instruction explains."""

    shared: Float[Tensor, "n n"] | None = None
    """ROUGE-L of every pair of candidates; None: nothing is known of it."""
    followed: Float[Tensor, " n"] | None = None
    """The follower's log p(outputs | text, inputs); None where none was taught."""

    def best_by(self, evidence: Evidence) -> float:
        """The likeness of the candidate that comes out best."""
        posterior = mixed(self.log_probs, evidence.alone) - evidence.weight * self.divergences
        if evidence.follower and self.followed is not None:
            posterior = posterior + evidence.follower * self.followed
        if evidence.consensus and self.shared is not None:
            posterior = posterior + evidence.consensus * (self.shared @ posterior.softmax(0))
        return float(self.likeness[posterior.argmax()])


def calibrate(
    translator: Translator,
    subject: Subject,
    validation: datasets.Dataset,
    n_tasks: int = N_TASKS,
    encoder: Encoder | None = None,
) -> Evidence:
    """What to make of the subject's reactions, on the first `n_tasks` tasks of a validation corpus that have examples.
    With an `encoder`, a text is as good as the mean of ROUGE-L and the cosine of embeddings says; else as ROUGE-L says.

    `Evidence()` where there are none, or no candidate fits the subject's context.
    """
    columns = zip(validation["is_best"], validation["inputs"], strict=True)
    usable = [i for i, (is_best, inputs) in enumerate(columns) if is_best and inputs][:n_tasks]
    if not usable:
        return Evidence()
    rows = list(validation.select(usable).with_format("numpy"))
    prompts = [soft_prompt_of(row, subject.fingerprint, subject.template) for row in rows]
    inputs = [list(map(str, row["inputs"][:_N_PROBES])) for row in rows]
    views = views_of(translator, subject, prompts, inputs, 0)
    verifier, proposed = Verifier(subject, SHORT_OUTPUT), proposed_under(translator, views, _N_CANDIDATES)
    probes = verifier.probe(prompts, inputs)
    readings = [Mixture(translator, of_one) for of_one in views]
    phrasings = [_phrasings(row) for row in rows]
    said = [_Said.of(*one, encoder) for one in zip(readings, proposed, phrasings, strict=True)]
    plain, shown = (list(_tried(verifier, said, probes, [own[0] for own in phrasings], shots)) for shots in (0, _SHOTS))
    if not plain:
        return Evidence()
    explained = [one.explained_by_gold for one in plain if one.explained_by_gold is not None]
    best, reached = best_evidence(plain)
    found = replace(best, explained_by_gold=median(explained) if explained else None, n_tasks=len(rows))
    if len(shown) < len(plain):  # beside demonstrations, no text fits the subject's context for some task
        return found
    best, reached_shown = best_evidence(shown)
    if reached_shown < reached + _LEAST_GAIN:
        return found
    return replace(best, explained_by_gold=found.explained_by_gold, n_tasks=found.n_tasks, shots=_SHOTS)


def calibrate_saved(
    folder: Path,
    load_subject: Callable[[], Subject],
    validation: datasets.Dataset,
    n_tasks: int = N_TASKS,
    encoder: Encoder | None = None,
) -> Evidence | None:
    """Calibrate the translator in a folder, and write what was chosen into its card.

    None, and nothing is done, where that was done before, for a translator that reads nothing, and where a training
    runs in several processes.
    """
    if not n_tasks or n_processes() > 1:
        return None  # of several processes, one may still be writing
    card = read_card(folder)
    if card.evidence.n_tasks or card.reads == "nothing":
        return None
    subject = load_subject()
    found = calibrate(Translator.from_pretrained(folder, subject=subject), subject, validation, n_tasks, encoder)
    write_card(folder, replace(card, evidence=found))
    return found


def best_evidence(tried: Sequence[Tried]) -> tuple[Evidence, float]:
    """How texts are to be weighed so that the best ones are like their tasks' instructions, and their mean likeness.

    Subject and vectors are weighed first, without the follower and beside each of `FOLLOWER`; it has to gain enough,
    and more than chance would. Then consensus is tried, which has to as well.
    """
    weighed = [_without_consensus(tried, follower) for follower in (0.0, *FOLLOWER)]
    smooth = _smoothed([likeness for _, likeness in weighed])
    best, likeness = weighed[smooth.index(max(smooth))]
    if not _gains(tried, best, weighed[0][0]):
        best, likeness = weighed[0]
    agreed = [replace(best, consensus=nats) for nats in CONSENSUS]
    most = max(agreed, key=lambda one: _likeness(tried, one))
    return (most, _likeness(tried, most)) if _gains(tried, most, best) else (best, likeness)


def _gains(tried: Sequence[Tried], new: Evidence, old: Evidence) -> bool:
    """Whether one way to weigh is better than another by enough, and by more than the standard error of it."""
    gains = [one.best_by(new) - one.best_by(old) for one in tried]
    error = stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return fmean(gains) >= max(_LEAST_GAIN, error)


def _without_consensus(tried: Sequence[Tried], follower: float) -> tuple[Evidence, float]:
    """Beside a weight of the follower. Of all pairs of `ALONE` and `WEIGHTS` that are about as good as the best, that
    with the first of `ALONE`, and of these the one with the largest weight. Each weight counts with its neighbours,
    since a few tasks make single weights look good by chance.
    """
    beside = Evidence(follower=follower)
    smooth = {
        alone: _smoothed([_likeness(tried, replace(beside, weight=w, alone=alone)) for w in WEIGHTS]) for alone in ALONE
    }
    enough = max(map(max, smooth.values())) - _ABOUT
    alone = next(alone for alone in ALONE if max(smooth[alone]) >= enough)
    weight = WEIGHTS[max(i for i, value in enumerate(smooth[alone]) if value >= enough)]
    best = replace(beside, weight=weight, alone=alone)
    return best, _likeness(tried, best)


def _likeness(tried: Sequence[Tried], evidence: Evidence) -> float:
    return fmean(one.best_by(evidence) for one in tried)


def _smoothed(values: Sequence[float]) -> list[float]:
    return [fmean(values[max(0, i - 1) : i + 2]) for i in range(len(values))]


def _phrasings(row: dict) -> list[str]:
    return [str(row["instruction"]), *map(str, row["paraphrases"])]


def _like(texts: Sequence[str], phrasings: Sequence[str], encoder: Encoder | None) -> list[float]:
    """How like the nearest of a task's instructions each text is, see `calibrate`."""
    in_words = [rouge(text, phrasings).rougeL for text in texts]
    if encoder is None or not texts:
        return in_words
    every = [(text, own) for text in texts for own in phrasings]
    cosines = np.array(embedding_cosines(*map(list, zip(*every, strict=True)), encoder)).reshape(len(texts), -1).max(1)
    return [(words + cosine) / 2 for words, cosine in zip(in_words, cosines.tolist(), strict=True)]


@dataclass(frozen=True)
class _Said:
    """One task's candidates before the subject has run any, which demonstrations change nothing of."""

    texts: Sequence[str]
    log_probs: Float[Tensor, "n_readings n"]
    likeness: Float[Tensor, " n"]
    shared: Float[Tensor, "n n"]
    followed: Float[Tensor, " n"] | None

    @classmethod
    def of(cls, reading: Mixture, texts: Sequence[str], phrasings: Sequence[str], encoder: Encoder | None) -> "_Said":
        return cls(
            texts,
            reading.log_probs_by_reading(texts),
            torch.tensor(_like(texts, phrasings, encoder)),
            torch.from_numpy(rouge_l_pairs(texts)),
            reading.followed(texts) if reading.follower else None,
        )


def _tried(
    verifier: Verifier, said: Sequence[_Said], probes: Sequence[Probes], references: Sequence[str], shots: int
) -> Iterator[Tried]:
    """Each task's candidates as they were run; its reference instruction is run beside them, but is none itself."""
    for one, of_prompt, own in zip(said, probes, references, strict=True):
        search = Search([], verifier, of_prompt, Budget(), Evidence(shots=shots))
        found = {c.text: c for c in search.run_all(list(dict.fromkeys([*one.texts, own])))}
        kept = [i for i, text in enumerate(one.texts) if text in found]
        if kept:
            run: list[Candidate] = [found[one.texts[i]] for i in kept]
            yield Tried(
                one.log_probs[:, kept],
                torch.tensor([c.divergence * c.n_positions for c in run]),
                one.likeness[kept],
                found[own].explained if own in found else None,
                one.shared[kept][:, kept],
                None if one.followed is None else one.followed[kept],
            )
