"""Do several soft prompts of one task translate to the same words?

Two translations agree where they have one `meaning`: the same task in the lexical DoD, the same text elsewhere, with
ROUGE-L and the cosine of sentence embeddings beside it. Intervals are 95 % bootstrap intervals over tasks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from soft2hard.errors import UserError
from soft2hard.eval.analysis.meaning import meaning
from soft2hard.eval.intervals import Interval, mean_interval
from soft2hard.eval.metrics.text import Encoder, exact_task, rouge


@dataclass(frozen=True)
class TaskStability:
    """The translations of one task's soft prompts."""

    task: str
    texts: tuple[str, ...]
    agreement: float
    """Share of pairs of translations that agree, 0 to 1."""
    majority: float
    """Share of translations that say what most of them say; at least 1 by their number, but 0 where none has words."""
    majority_text: str
    """The first translation that says it."""
    rougeL: float
    """Mean ROUGE-L F1 of pairs of translations, 0 to 1."""
    cosine: float | None
    """Mean cosine of their sentence embeddings, where there is an encoder; 0 for a text without words."""
    recovered: float | None
    """Share of translations that name the very task; None where its DoD has no grammar to tell."""
    majority_recovered: bool | None
    """Whether what most of them say is the very task."""


@dataclass(frozen=True)
class Stability:
    """How far the translations of one task's soft prompts agree, over tasks."""

    tasks: tuple[TaskStability, ...]
    agreement: Interval
    majority: Interval
    rougeL: Interval
    cosine: Interval | None
    recovered: Interval | None
    majority_recovered: Interval | None
    """Beside `recovered`: what a vote over several tunings gains."""
    between_agreement: float | None
    """Share of pairs of translations of different tasks that agree, pairs of tasks weighing the same: what agreement
    is worth. None for a single task."""
    n_single: int
    """Tasks left out because they have one translation only."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def stability(
    tasks: Sequence[str],
    texts: Sequence[str],
    *,
    instructions: Mapping[str, str] | None = None,
    encoder: Encoder | None = None,
    seed: int = 0,
) -> Stability:
    """Compare the translations of each task's soft prompts; `texts[i]` is of a soft prompt of `tasks[i]`.

    `instructions` are the tasks' own, by name, for what is recovered. Raises UserError where lengths differ, and where
    no task has two translations.
    """
    if len(tasks) != len(texts):
        raise UserError(f"There are {len(texts)} translations of {len(tasks)} soft prompts.", "Give one for each.")
    by_task: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        by_task.setdefault(task, []).append(i)
    repeated = {task: places for task, places in by_task.items() if len(places) > 1}
    if not repeated:
        raise UserError(
            "No task has two translations to compare.", "Tune some tasks several times, each from another seed."
        )
    vectors = None if encoder is None else _vectors(texts, encoder)
    found = [
        _of_task(task, [texts[i] for i in places], (instructions or {}).get(task, ""), _cosine(vectors, places))
        for task, places in repeated.items()
    ]
    return Stability(
        tasks=tuple(found),
        agreement=mean_interval([t.agreement for t in found], seed=seed),
        majority=mean_interval([t.majority for t in found], seed=seed),
        rougeL=mean_interval([t.rougeL for t in found], seed=seed),
        cosine=_known([t.cosine for t in found], seed),
        recovered=_known([t.recovered for t in found], seed),
        majority_recovered=_known([t.majority_recovered for t in found], seed),
        between_agreement=_between([[meaning(texts[i]) for i in places] for places in by_task.values()]),
        n_single=len(by_task) - len(repeated),
    )


def _of_task(task: str, texts: list[str], instruction: str, cosine: float | None) -> TaskStability:
    meanings = [meaning(text) for text in texts]
    counts = Counter(m for m in meanings if m is not None)
    pairs = len(texts) * (len(texts) - 1)
    majority_meaning, majority = counts.most_common(1)[0] if counts else (None, 0)
    majority_text = texts[meanings.index(majority_meaning)] if counts else ""
    exact = [exact_task(text, instruction) for text in texts]
    return TaskStability(
        task=task,
        texts=tuple(texts),
        agreement=sum(n * (n - 1) for n in counts.values()) / pairs,
        majority=majority / len(texts),
        majority_text=majority_text,
        rougeL=float(np.mean([rouge(a, [b]).rougeL for a, b in combinations(texts, 2)])),
        cosine=cosine,
        recovered=None if None in exact else sum(map(bool, exact)) / len(exact),
        majority_recovered=exact_task(majority_text, instruction),
    )


def _known(values: Sequence[float | bool | None], seed: int) -> Interval | None:
    """Mean of those that are known."""
    known = [value for value in values if value is not None]
    return mean_interval(known, seed=seed) if known else None


def _vectors(texts: Sequence[str], encoder: Encoder) -> np.ndarray:
    """A unit vector a text; zeros for one without words, which encoders do not read."""
    distinct = list(dict.fromkeys(text for text in texts if meaning(text) is not None))
    found = np.asarray(encoder(distinct), dtype=float) if distinct else np.zeros((0, 1))
    units = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    of_text = dict(zip(distinct, units, strict=True))
    return np.stack([of_text.get(text, np.zeros(units.shape[1])) for text in texts])


def _cosine(vectors: np.ndarray | None, places: Sequence[int]) -> float | None:
    if vectors is None:
        return None
    products = vectors[places] @ vectors[places].T
    return float(products[np.triu_indices(len(places), 1)].mean())


def _between(meanings: Sequence[Sequence[str | None]]) -> float | None:
    """Mean over pairs of tasks of the share of pairs of their translations that agree."""
    if len(meanings) < 2:
        return None
    shares = []
    counts = [Counter(m for m in of_task if m is not None) for of_task in meanings]
    for (a, own), (b, other) in combinations(zip(counts, meanings, strict=True), 2):
        shares.append(sum(n * b[m] for m, n in a.items()) / (len(own) * len(other)))
    return float(np.mean(shares))
