"""Do several soft prompts of one task translate to the same words?

Two translations agree where they have one `meaning`: the same task in the lexical DoD, the same text elsewhere, with
ROUGE-L and the cosine of sentence embeddings beside it. All three are also measured between translations of different
tasks, and of different tasks of one family: what agreement within a task is worth. Intervals are 95 % bootstrap
intervals over tasks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from soft2hard.errors import UserError
from soft2hard.eval.analysis.meaning import meaning
from soft2hard.eval.analysis.task_pairs import other_tasks_mean, task_means
from soft2hard.eval.intervals import Interval, mean_interval
from soft2hard.eval.metrics.text import Encoder, exact_task, rouge_l_pairs


@dataclass(frozen=True)
class TaskStability:
    """The translations of one task's soft prompts."""

    task: str
    texts: tuple[str, ...]
    agreement: float
    """Share of pairs of translations that agree, 0 to 1."""
    majority: float
    """Share of translations that say the commonest thing; at least 1 by their number, but 0 where none has words."""
    majority_text: str
    """The first translation that says what most say; empty where several things are said equally often."""
    rougeL: float
    """Mean ROUGE-L F1 of pairs of translations, 0 to 1."""
    cosine: float | None
    """Mean cosine of their sentence embeddings, where there is an encoder that can read two of them; 0 for a text
    without words."""
    recovered: float | None
    """Share of translations that name the very task; None where its DoD has no grammar to tell."""
    majority_recovered: bool | None
    """Whether what most of them say is the very task; no vote, not recovered."""


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
    between_agreement: Interval | None
    """As `agreement`, of translations of different tasks, pairs of tasks weighing the same; None for a single task."""
    between_rougeL: Interval | None
    between_cosine: Interval | None
    family_agreement: Interval | None
    """Of different tasks of one family; None where no two tasks are known to share one."""
    family_rougeL: Interval | None
    family_cosine: Interval | None
    n_single: int
    """Tasks left out because they have one translation only."""
    n_tied: int
    """Tasks without a majority: several things are said equally often."""
    n_unread: int
    """Translations that count for no cosine, because the encoder cannot read them: too long, say."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def stability(
    tasks: Sequence[str],
    texts: Sequence[str],
    *,
    instructions: Mapping[str, str] | None = None,
    families: Mapping[str, str] | None = None,
    encoder: Encoder | None = None,
    seed: int = 0,
) -> Stability:
    """Compare the translations of each task's soft prompts; `texts[i]` is of a soft prompt of `tasks[i]`.

    `instructions` are the tasks' own, by name, for what is recovered; so are `families`, empty where not known. A row
    of NaN from the `encoder` stands for a text that it cannot read. Raises UserError where lengths differ, and where
    no task has two translations.
    """
    if len(tasks) != len(texts):
        raise UserError(f"There are {len(texts)} translations of {len(tasks)} soft prompts.", "Give one for each.")
    counts = Counter(tasks)
    if not any(n > 1 for n in counts.values()):
        raise UserError(
            "No task has two translations to compare.", "Tune some tasks several times, each from another seed."
        )
    meanings = [meaning(text) for text in texts]
    pairs = {"agreement": _agreement(meanings), "rougeL": rouge_l_pairs(texts)}
    if encoder is not None:
        pairs["cosine"] = _cosines(texts, meanings, encoder)
    means = {name: _task_means(matrix, tasks) for name, matrix in pairs.items()}
    found = [
        _of_task(
            task,
            [text for text, other in zip(texts, tasks, strict=True) if other == task],
            (instructions or {}).get(task, ""),
            {name: float(of_tasks[i, i]) for name, of_tasks in means.items()},
        )
        for i, (task, n) in enumerate(counts.items())
        if n > 1
    ]
    kin = np.array([(families or {}).get(task, "") for task in counts])
    alike = (kin[:, None] == kin[None]) & (kin != "")
    across = {f"between_{name}": _others(of_tasks, None, seed) for name, of_tasks in means.items()}
    across |= {f"family_{name}": _others(of_tasks, alike, seed) for name, of_tasks in means.items()}
    return Stability(
        tasks=tuple(found),
        agreement=mean_interval([t.agreement for t in found], seed=seed),
        majority=mean_interval([t.majority for t in found], seed=seed),
        rougeL=mean_interval([t.rougeL for t in found], seed=seed),
        cosine=_known([t.cosine for t in found], seed),
        recovered=_known([t.recovered for t in found], seed),
        majority_recovered=_known([t.majority_recovered for t in found], seed),
        **{"between_cosine": None, "family_cosine": None} | across,
        n_single=len(counts) - len(found),
        n_tied=sum(t.majority > 0 and not t.majority_text for t in found),
        n_unread=int(np.isnan(np.diag(pairs["cosine"])).sum()) if encoder else 0,
    )


def _of_task(task: str, texts: list[str], instruction: str, means: Mapping[str, float]) -> TaskStability:
    meanings = [meaning(text) for text in texts]
    counts = Counter(m for m in meanings if m is not None).most_common(2)
    voted = bool(counts) and (len(counts) == 1 or counts[0][1] > counts[1][1])
    majority_text = texts[meanings.index(counts[0][0])] if voted else ""
    exact = [exact_task(text, instruction) for text in texts]
    cosine = means.get("cosine")
    return TaskStability(
        task=task,
        texts=tuple(texts),
        agreement=means["agreement"],
        majority=counts[0][1] / len(texts) if counts else 0.0,
        majority_text=majority_text,
        rougeL=means["rougeL"],
        cosine=None if cosine is None or np.isnan(cosine) else cosine,
        recovered=None if None in exact else sum(map(bool, exact)) / len(exact),
        majority_recovered=exact_task(majority_text, instruction),
    )


def _known(values: Sequence[float | bool | None], seed: int) -> Interval | None:
    """Mean of those that are known."""
    known = [value for value in values if value is not None]
    return mean_interval(known, seed=seed) if known else None


def _agreement(meanings: Sequence[str | None]) -> Float[np.ndarray, "n n"]:
    """1 where two translations say the same."""
    said = np.array([meaning or "" for meaning in meanings], dtype=object)
    return ((said[:, None] == said[None]) & (said != "")).astype(float)


def _cosines(texts: Sequence[str], meanings: Sequence[str | None], encoder: Encoder) -> Float[np.ndarray, "n n"]:
    """Of every pair; 0 for a text without words, which encoders do not read, and NaN for one that this one cannot."""
    distinct = list(dict.fromkeys(text for text, said in zip(texts, meanings, strict=True) if said is not None))
    found = np.asarray(encoder(distinct), dtype=float) if distinct else np.zeros((0, 1))
    units = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    of_text = dict(zip(distinct, units, strict=True))
    rows = np.stack([of_text.get(text, np.zeros(units.shape[1])) for text in texts])
    unread = np.isnan(rows).any(1)
    return np.where(unread[:, None] | unread[None], np.nan, np.nan_to_num(rows) @ np.nan_to_num(rows).T)


def _task_means(matrix: Float[np.ndarray, "n n"], tasks: Sequence[str]) -> Float[np.ndarray, "n_tasks n_tasks"]:
    """Mean for each pair of tasks over the pairs of their translations that have a figure; NaN where none has."""
    defined = np.isfinite(matrix)
    sums, counts = (task_means(part, tasks)[1] for part in (np.where(defined, matrix, 0.0), defined.astype(float)))
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _others(means: Float[np.ndarray, "n n"], counted: np.ndarray | None, seed: int) -> Interval | None:
    """Mean over tasks of their means with others, those that have a figure."""
    defined = np.isfinite(means)
    return other_tasks_mean(means, defined if counted is None else defined & counted, seed=seed)
