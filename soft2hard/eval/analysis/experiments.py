"""Sections that are experiments: do tunings of one task translate to the same, and which positions carry the meaning?

Intervals are 95 % bootstrap intervals over tasks; several soft prompts of one task are averaged first.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.dods.lexical import parse
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.correlations import other_tasks_mean, task_means
from soft2hard.eval.analysis.findings import ON_THE_WAY, Section, Tables, columns_of, known_mean
from soft2hard.eval.analysis.geometry import Square
from soft2hard.eval.analysis.inputs import Material
from soft2hard.eval.intervals import Interval, by_task
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.eval.metrics.scrutability import subject_encoder
from soft2hard.eval.metrics.text import exact_task
from soft2hard.lm.likeness import rouge_l_pairs
from soft2hard.lm.sentences import Encoder
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import propose
from soft2hard.translator.model import Translator

Translate = Callable[[Sequence[SoftPrompt]], list[str]]
"""One text a soft prompt, all in shared batches; empty where there is none."""
Change = Literal["mean", "zeros", "removed", "alone", "permuted"]
"""'mean' and 'zeros': the position is replaced by the mean of the subject's embeddings, or by zeros. 'removed': it is
left out. 'alone': all others are replaced by the mean. 'permuted': all positions in a random order."""


def greedy_translation(translator: Translator) -> Translate:
    """The translator's first proposals: unverified, so that no search hides the changes of a soft prompt."""
    return lambda prompts: [texts[0] if texts else "" for texts in propose(translator, list(prompts), 1)]


def meaning(text: str) -> str | None:
    """A key that texts of one meaning share: the task of a text of the lexical DoD whatever its phrasing, else the
    text itself, but for case and white space. None for a text without words, which says nothing."""
    task = parse(text)
    words = " ".join(text.split()).casefold()
    return f"task {task.key}" if task else f"text {words}" if words else None


def says_the_same(first: str, second: str) -> bool:
    """True if two texts have one `meaning`; a text without words says the same as none."""
    own = meaning(first)
    return own is not None and own == meaning(second)


# --- translations of several tunings -------------------------------------------------------------------


def stability_section(material: Material) -> tuple[Section, Tables]:
    """Greedy translations of every prompt with a task, compared within tasks (`stability`).

    Figures and `tasks` are of the main prompts; `groups` has the same figures for every group of tunings, and `texts`
    the translation of every prompt.
    """
    translator = material.need_translator("stability")
    numbers = [i for i, row in enumerate(material.prompts) if row.task is not None and row.group != ON_THE_WAY]
    texts = dict(zip(numbers, greedy_translation(translator)(material.of(numbers)), strict=True))
    subject = material.subject
    # The subject's own hidden states at the last token, where it can read a text alone.
    encoder = None if subject is None or not subject.continues_text else subject_encoder(subject, unread=True)
    of_tasks = {task.name: task for task in material.tasks}

    def of_prompts(numbers: Iterable[int]) -> tuple[dict[str, Interval | int | None], pd.DataFrame]:
        own = [i for i in numbers if i in texts]
        return stability(material.names(own), [texts[i] for i in own], of_tasks, encoder, material.seed)

    figures, tasks = of_prompts(material.main)
    rows = []
    for group in (group.name for group in material.groups if group.n_tunings > 1):
        found, compared = of_prompts(material.of_group(group))
        columns = (columns_of(name, figure) for name, figure in found.items() if not isinstance(figure, int))
        rows.append({"group": group, "n_tasks": len(compared)} | {k: v for some in columns for k, v in some.items()})
    own = [(material.prompts[i].name, material.prompts[i].group, text) for i, text in texts.items()]
    tables = {"tasks": tasks, "texts": pd.DataFrame(own, columns=["prompt", "group", "text"])}
    return Section(figures=figures), tables | ({"groups": pd.DataFrame(rows)} if rows else {})


def stability(
    tasks: Sequence[str],
    texts: Sequence[str],
    known: Mapping[str, Task] = MappingProxyType({}),
    encoder: Encoder | None = None,
    seed: int = 0,
) -> tuple[dict[str, Interval | int | None], pd.DataFrame]:
    """Compare the translations of each task's soft prompts; `texts[i]` is of a soft prompt of `tasks[i]`, whose
    instruction and family are `known` or not.

    Figures, means over tasks, and the same of each task with two translations or more in a table:

    - `agreement`: share of pairs of translations with one `meaning`; `majority`: share that say the commonest thing
      (`majority_text`, empty where several things are said equally often: `n_tied` tasks);
    - `rougeL`: mean ROUGE-L F1 of pairs; `cosine`: mean cosine of their sentence embeddings, 0 for a text without
      words, without those that the `encoder` cannot read (a row of NaN; `n_unread` translations);
    - `recovered`: share of translations that name the very task, None where its instruction has no grammar to tell;
      `majority_recovered`: 1 where the majority names it, what a vote over several tunings gains;
    - `between_...` and `family_...`: agreement, ROUGE-L and cosine of translations of different tasks, and of different
      tasks of one family, pairs of tasks weighing the same: how much agreement within a task is worth.

    `n_single` tasks have one translation only. Raises UserError where no task has two translations.
    """
    counts = Counter(tasks)
    if max(counts.values(), default=0) < 2:
        raise UserError("No task has two translations.", "Tune some tasks several times, each from another seed.")
    meanings = [meaning(text) for text in texts]
    said = np.array([one or "" for one in meanings], dtype=object)
    pairs = {"agreement": ((said[:, None] == said[None]) & (said != "")).astype(float), "rougeL": rouge_l_pairs(texts)}
    if encoder is not None:
        pairs["cosine"] = _cosines(texts, meanings, encoder)
    means = {name: _defined_means(matrix, tasks) for name, matrix in pairs.items()}
    rows = []
    for i, task in enumerate(counts):
        own = [text for text, other in zip(texts, tasks, strict=True) if other == task]
        within = {name: float(of_tasks[i, i]) for name, of_tasks in means.items()}
        if len(own) > 1:
            instruction = known[task].instruction if task in known else ""
            rows.append({"task": task} | within | _vote(own, instruction) | {"texts": own})
    kin = np.array([known[task].family if task in known else "" for task in counts])
    alike = (kin[:, None] == kin[None]) & (kin != "")
    columns = ("agreement", "majority", "rougeL", "cosine", "recovered", "majority_recovered")
    figures = {name: known_mean([row.get(name) for row in rows], seed) for name in columns}
    for prefix, counted in (("between", True), ("family", alike)):
        for name in ("agreement", "rougeL", "cosine"):
            of_tasks = means.get(name)
            mean = None if of_tasks is None else other_tasks_mean(of_tasks, np.isfinite(of_tasks) & counted, seed=seed)
            figures[f"{prefix}_{name}"] = mean
    return figures | {
        "n_single": len(counts) - len(rows),
        "n_tied": sum(row["majority"] > 0 and not row["majority_text"] for row in rows),
        "n_unread": int(np.isnan(np.diag(pairs["cosine"])).sum()) if encoder else 0,
    }, pd.DataFrame(rows)


def _vote(texts: list[str], instruction: str) -> dict[str, Any]:
    meanings = [meaning(text) for text in texts]
    counts = Counter(m for m in meanings if m is not None).most_common(2)
    voted = bool(counts) and (len(counts) == 1 or counts[0][1] > counts[1][1])
    majority_text = texts[meanings.index(counts[0][0])] if voted else ""
    exact = [exact_task(text, instruction) for text in texts]
    vote = exact_task(majority_text, instruction)
    return {
        "majority": counts[0][1] / len(texts) if counts else 0.0,
        "majority_text": majority_text,
        "recovered": None if None in exact else sum(map(bool, exact)) / len(exact),
        "majority_recovered": None if vote is None else float(vote),
    }


def _cosines(texts: Sequence[str], meanings: Sequence[str | None], encoder: Encoder) -> Square:
    """Of every pair; 0 for a text without words, which encoders do not read, and NaN for one that this one cannot."""
    distinct = list(dict.fromkeys(text for text, said in zip(texts, meanings, strict=True) if said is not None))
    found = np.asarray(encoder(distinct), dtype=float) if distinct else np.zeros((0, 1))
    units = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    of_text = dict(zip(distinct, units, strict=True))
    rows = np.stack([of_text.get(text, np.zeros(units.shape[1])) for text in texts])
    unread = np.isnan(rows).any(1)
    return np.where(unread[:, None] | unread[None], np.nan, np.nan_to_num(rows) @ np.nan_to_num(rows).T)


def _defined_means(matrix: Square, tasks: Sequence[str]) -> Float[np.ndarray, "n_tasks n_tasks"]:
    """Mean for each pair of tasks over the pairs of their translations that have a figure; NaN where none has."""
    defined = np.isfinite(matrix)
    sums, counts = (task_means(part, tasks)[1] for part in (np.where(defined, matrix, 0.0), defined.astype(float)))
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


# --- positions changed ---------------------------------------------------------------------------------


def positions_section(material: Material) -> tuple[Section, Tables]:
    """Positions of one prompt of some tasks masked, left out and permuted (`position_effects`)."""
    subject = material.need_subject("positions")
    # The first of each task.
    first = {material.prompts[i].task: i for i in reversed(material.need_tasks("positions", material.experimental))}
    numbers = sorted(first.values())[: material.sizes.experiment_tasks]
    return position_effects(
        subject,
        [material.task_by_name[name] for name in material.names(numbers)],
        material.of(numbers),
        None if material.translator is None else greedy_translation(material.translator),
        n_orders=material.sizes.orders,
        seed=material.seed,
    )


def position_effects(
    subject: Subject,
    tasks: Sequence[Task],
    prompts: Sequence[SoftPrompt],
    translate: Translate | None = None,
    *,
    n_orders: int = 5,
    seed: int = 0,
) -> tuple[Section, Tables]:
    """Change every position of every soft prompt; `prompts[i]` was tuned for `tasks[i]`, and tasks may repeat.

    All variants of all soft prompts are measured, and translated, in shared batches. `variants`: each `Change` with its
    `score` by the task's metric, 0 to 1, the score it lost, its translation and if that changed its `meaning`.
    `effects`: means over tasks, for each change over all positions (or orders), then for each position. Figures: the
    `score` of the soft prompts as they are, and `n_left_out`, those without room in the subject's context.

    `n_orders` random orders are tried of each. Soft prompts of one position are neither permuted nor left without it.
    Raises UserError where none fits the subject's context, and as `measure` does.
    """
    changed = [list(_variants(prompt, mean_embedding(subject), n_orders, seed)) for prompt in prompts]
    rows = [[prompt, *(variant for _, _, variant in own)] for prompt, own in zip(prompts, changed, strict=True)]
    measured = measure(subject, [Comparison(t, tuple(row)) for t, row in zip(tasks, rows, strict=True)])
    written = iter(translate([prompt for row in rows for prompt in row]) if translate else ())
    texts = [[next(written, None) for _ in row] for row in rows]
    kept = [i for i, row in enumerate(measured) if row[0] is not None]
    if not kept:
        raise UserError("No soft prompt fits the subject's context with its task.", "Use shorter examples.")
    found = pd.DataFrame(
        {
            "task": tasks[i].name,
            "prompt": i,
            "change": change,
            "position": position,
            "score": measured[i][k].score,  # a variant is never longer than its soft prompt, so it fits as well
            "score_lost": measured[i][0].score - measured[i][k].score,
            "text": texts[i][k],
            "meaning_changed": float(not says_the_same(texts[i][0], texts[i][k])) if translate else np.nan,
        }
        for i in kept
        for k, (change, position, _) in enumerate(changed[i], 1)
    )
    effects = []
    for change, of_change in found.groupby("change", sort=False):
        effects.append(_effect(change, None, of_change, seed))
        effects += [_effect(change, int(p), of_p, seed) for p, of_p in of_change.groupby("position")]
    own = by_task((tasks[i].name, measured[i][0].score) for i in kept)
    figures = {"score": known_mean(list(own.values()), seed), "n_left_out": len(prompts) - len(kept)}
    found["position"], effects = found["position"].astype("Int64"), pd.DataFrame(effects)
    return Section(figures=figures), {"effects": effects.astype({"position": "Int64"}), "variants": found}


def _effect(change: Change, position: int | None, results: pd.DataFrame, seed: int) -> dict[str, Any]:
    of_tasks = results.groupby("task", sort=False)
    row: dict[str, Any] = {"change": change, "position": position}
    for figure in ("score_lost", "meaning_changed"):
        row |= columns_of(figure, known_mean(of_tasks[figure].mean(), seed))
    return row | {"n_tasks": of_tasks.ngroups}


def mean_embedding(subject: Subject) -> Float[Tensor, " d_model"]:
    """Mean over the subject's vocabulary: it stands for a token that says nothing."""
    return subject.embedding.float().mean(0).cpu()


def _variants(
    prompt: SoftPrompt, filler: Float[Tensor, " d_model"], n_orders: int, seed: int
) -> Iterator[tuple[Change, int | None, SoftPrompt]]:
    """Every `Change` of every position, with the position; None for an order of all."""
    rows, n = prompt.embeddings, prompt.n_tokens
    here = torch.eye(n, dtype=torch.bool)[:, :, None]
    made: dict[Change, list[Tensor]] = {
        "mean": [torch.where(one, filler.to(rows), rows) for one in here],
        "zeros": [rows.masked_fill(one, 0) for one in here],
        "removed": [rows[~one[:, 0]] for one in here] if n > 1 else [],
        "alone": [torch.where(one, rows, filler.to(rows)) for one in here] if n > 1 else [],
        "permuted": [rows[list(order)] for order in random_orders(n, n_orders, seed)],
    }
    for change, variants in made.items():
        for i, variant in enumerate(variants):
            position = None if change == "permuted" else i
            yield change, position, replace(prompt, embeddings=variant)


def random_orders(n: int, n_orders: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Distinct random orders of `n` positions, none the one they have; all other orders where there are no more."""
    generator = torch.Generator().manual_seed(seed)
    own = tuple(range(n))
    found: dict[tuple[int, ...], None] = {}
    while len(found) < min(n_orders, math.factorial(n) - 1):
        order = tuple(torch.randperm(n, generator=generator).tolist())
        if order != own:
            found[order] = None
    return list(found)
