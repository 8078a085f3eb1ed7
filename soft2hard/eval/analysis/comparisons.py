"""Sections that compare soft prompts by their numbers alone: statistics, distances, maps and difficulty.

Each function takes the material, and the tables of 'distances' where it builds on them, and gives the section (its
seconds are filled in by the caller) with its tables. Each raises UserError where something is missing.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.spatial.distance import squareform

from soft2hard.errors import UserError
from soft2hard.eval.analysis.correlations import (
    correlation_row,
    rank_correlation,
    task_means,
    variation_between,
    within_between,
)
from soft2hard.eval.analysis.findings import ON_THE_WAY, Section, Tables, columns_of, known_mean
from soft2hard.eval.analysis.geometry import (
    MAPS,
    MEASURES,
    Prompts,
    Square,
    distances,
    measures,
    no_map,
    noise_like,
    plane_map,
    prompt_statistics,
    reordered_distances,
    task_geometry,
)
from soft2hard.eval.analysis.inputs import Material, stacked

_FIGURES = (
    *((x, y) for x in ("error", "validation_loss", "steps") for y in ("mean_distance", "reordered_distance")),
    ("error", "distance_by_norm"),
    ("error", "noise_distance"),
    ("gap", "mean_distance"),
    ("error", "mean_norm"),
    ("mean_norm", "mean_distance"),
    ("error", "mean_distance", "mean_norm"),
    ("error", "mean_distance", "steps"),
    ("error", "mean_distance", "mean_norm", "steps"),
    ("steps", "mean_distance", "error"),
)
"""Figures of tasks that are correlated: the first with the second, given the others."""


def statistics_section(material: Material) -> tuple[Section, Tables]:
    """`prompts`: every soft prompt by itself (`prompt_statistics`). `tasks`: the soft prompts of each task in each
    group (`task_geometry`), with their scores: mean, median, maximum and unbiased deviation, that of the task without a
    prompt (`baseline`), and the mean's `change` against it. `groups`: means over tasks of
    the norm, the distance within a task, as it is and after the best permutation of positions, and the score."""
    notes, tasks = [], []
    compared = ((row.group, row.task or "") for row in material.prompts if row.group != ON_THE_WAY)
    for group, task in dict.fromkeys(compared):
        own = [i for i, row in enumerate(material.prompts) if (row.group, row.task or "") == (group, task)]
        try:
            prompts = stacked(material.of(own), 1)  # those of different tasks may differ in length
        except UserError as error:
            notes.append(f"Task '{task}': {error.problem}")
            continue
        scores = pd.Series([material.prompts[i].score for i in own], dtype=float)
        row = {"task": task, "family": material.family(task), "group": group} | task_geometry(prompts)
        row["reordered_distance"] = _pairs_mean(reordered_distances(prompts)[0])
        baseline = material.baseline.get(task, np.nan)
        row |= {"mean_score": scores.mean(), "median_score": scores.median(), "max_score": scores.max()}
        row |= {"score_deviation": scores.std(), "baseline": baseline, "change": scores.mean() - baseline}
        tasks.append(row)  # of those scores that are known
    groups = []
    for group, own in pd.DataFrame(tasks, columns=None if tasks else ["group"]).groupby("group", sort=False):
        row = {"group": group, "n_tasks": len(own)}
        for name in ("mean_norm", "mean_distance", "reordered_distance", "mean_score"):
            row |= columns_of(name, known_mean(own[name]))
        groups.append(row)
    of_prompts = [
        {"prompt": row.name, "group": row.group, "task": row.task}
        | prompt_statistics(prompt.embeddings.numpy().astype(np.float64))
        for row, prompt in zip(material.prompts, material.soft_prompts, strict=True)
    ]
    tables = {"prompts": pd.DataFrame(of_prompts), "tasks": pd.DataFrame(tasks), "groups": pd.DataFrame(groups)}
    return Section(notes=tuple(notes)), {name: table for name, table in tables.items() if len(table)}


def _pairs_mean(matrix: Square) -> float:
    """Mean over pairs of different prompts; NaN where it is not defined."""
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    return float(pairs.mean()) if len(pairs) else np.nan


def distances_section(material: Material) -> tuple[Section, Tables]:
    """Every measure of the main prompts, within and between tasks, beside pure noise.

    `measures`: for each of `MEASURES` its mean within a task, between tasks, their ratio, the mean over all pairs, and
    the last two of pure noise with the same norms. `pairs`: the measures of each pair of different prompts, once, in
    the order of `squareform`, with their cosines as vectors and by position. Figures: tasks (`n_tasks`), those with two
    prompts or more (`n_repeated`), with three that differ (`n_varied`), and the coefficient of variation of distances
    within a task (mean over tasks of three prompts or more), of noise with the prompts' norms, which shows the part
    that many dimensions alone explain, and between tasks (for each task, over its prompts and all others).
    """
    prompts, names = material.stacked(), material.names(material.main)
    noise = noise_like(prompts, material.seed)
    found, of_noise = measures(prompts), measures(noise)
    variation, noise_variation = (_variations(some, names) for some in (prompts, noise))
    rows = []
    for measure in (name for name in MEASURES if name in found):
        parts = within_between(found[measure], names)
        parts["noise_ratio"] = within_between(of_noise[measure], names)["ratio"]
        figures = {k: v for part, figure in parts.items() for k, v in columns_of(part, figure).items()}
        means = {"all_pairs": _pairs_mean(found[measure]), "noise": _pairs_mean(of_noise[measure])}
        rows.append({"measure": measure, "title": MEASURES[measure]} | figures | means)
    i, j = np.triu_indices(len(names), 1)
    labels = np.array(material.labels(material.main), dtype=object)
    of_pairs = {measure: matrix[i, j] for measure, matrix in found.items()}
    pairs = pd.DataFrame({"first": labels[i], "second": labels[j]} | of_pairs)
    section = Section(
        figures={
            "n_tasks": len(set(names)),
            "n_repeated": sum(names.count(name) > 1 for name in set(names)),
            "n_varied": int(np.isfinite(variation).sum()),
            "variation_within": known_mean(variation),
            "variation_noise": known_mean(noise_variation),
            "variation_between": variation_between(found["frobenius"], names),
        },
        notes=_cut(material, prompts.shape[1]),
    )
    return section, {"measures": pd.DataFrame(rows), "pairs": pairs}


def _cut(material: Material, n: int) -> tuple[str, ...]:
    """A note where soft prompts of several lengths are compared over their first `n` positions."""
    most = max(prompt.n_tokens for prompt in material.of(material.main))
    return (f"Soft prompts of {n} to {most} tokens are compared over their first {n} positions.",) if most > n else ()


def _variations(prompts: Prompts, names: Sequence[str]) -> list[float]:
    """Of the distances within each task."""
    tasks = np.array(names)
    return [task_geometry(prompts[tasks == task])["distance_variation"] for task in dict.fromkeys(names)]


def maps_section(material: Material, tables: Tables) -> tuple[Section, Tables]:
    """Every projection of the Frobenius distances, and of those after the best permutation; read neighbours off them,
    and nothing else. `maps`: how each was made and how far it can be trusted. `places`: its points."""
    reasons = {name: no_map(name, len(material.main)) for name in MAPS}
    notes = tuple(filter(None, reasons.values()))
    if len(notes) == len(MAPS):
        raise UserError(" ".join(notes), "Give more soft prompts; statistics work with any number.")
    labels, maps, places = material.labels(material.main), [], []
    for measure in ("frobenius", "reordered"):
        for name in (name for name in MAPS if not reasons[name]):
            apart = squareform(tables["pairs"][measure].to_numpy())
            points, about, trust = plane_map(name, apart, material.seed)
            one = f"{name}_{measure}"
            maps.append({"map": one, "projection": name, "measure": measure, "about": about, "trustworthiness": trust})
            places.append(pd.DataFrame({"map": one, "prompt": labels, "x": points[:, 0], "y": points[:, 1]}))
    return Section(notes=notes), {"maps": pd.DataFrame(maps), "places": pd.concat(places)}


def difficulty_section(material: Material, tables: Tables) -> tuple[Section, Tables]:
    """How hard each task is beside how far its tunings lie apart, with other figures that could explain it.

    Longer vectors lie farther apart, and prompts that are tuned for more steps have more time to grow and to part. So
    the correlation of error with distance stands beside the same given norms, given steps and given both, and beside
    that of noise with the prompts' norms, which knows nothing else of the tasks.

    `tasks`, those with two prompts or more and a score: `error` is 1 less the mean score by the task's metric,
    `median_score` and `max_score` are over the tunings, and `gap` is 1 less the median by the maximum: 0 where a usual
    tuning is as good as the best (a reading of the study's difficulty, median to maximum), none where all score 0;
    `validation_loss` (nats a token) and `steps` are means over its prompts, `distance_by_norm` is the mean distance by
    the mean norm, `noise_distance` that between prompts of pure noise with the same norms. `correlations`:
    `correlation_row`, over the tasks that have all of the figures.
    """
    rows = _difficulties(material, tables["pairs"])
    if len(rows) < 3:
        raise UserError(
            f"{len(rows)} tasks have two soft prompts or more and a score, and difficulty is compared over 3.",
            "Give more tunings of each task, with --subject and --examples.",
        )
    correlations = []
    for first, second, *given in _FIGURES:
        x, y, *held = rows[[first, second, *given]].dropna().astype(float).to_numpy().T
        correlate = partial(rank_correlation, x, y, held)
        correlations.append(correlation_row(first, second, "spearman", correlate, tuple(given)))
    return Section(), {"tasks": rows, "correlations": pd.DataFrame(correlations)}


def _difficulties(material: Material, pairs: pd.DataFrame) -> pd.DataFrame:
    prompts, main = material.stacked(), [material.prompts[i] for i in material.main]
    matrices = {
        "mean_distance": squareform(pairs["frobenius"].to_numpy()),
        "reordered_distance": squareform(pairs["reordered"].to_numpy()),
        "noise_distance": distances(noise_like(prompts, material.seed)),
    }
    names = material.names(material.main)
    columns = ["task", "score", "validation_loss", "steps"]
    facts = pd.DataFrame([[row.task or "", row.score, row.validation_loss, row.steps] for row in main], columns=columns)
    facts = facts.astype(dict.fromkeys(columns[1:], float)).assign(mean_norm=np.linalg.norm(prompts, axis=(1, 2)))
    by_task = facts.groupby("task", sort=False)
    rows = by_task.mean().reset_index()  # of the values that are known
    for name in ("median", "max"):
        rows[f"{name}_score"] = by_task["score"].agg(name).to_numpy()
    rows["gap"] = 1 - (rows["median_score"] / rows["max_score"]).where(rows["max_score"] > 0)
    for name, matrix in matrices.items():
        rows[name] = np.diag(task_means(matrix, names)[1])
    rows.insert(1, "family", rows["task"].map(material.family))
    rows.insert(2, "error", 1 - rows.pop("score"))
    rows["distance_by_norm"] = (rows["mean_distance"] / rows["mean_norm"]).where(rows["mean_norm"] > 0, 0.0)
    return rows.dropna(subset=["mean_distance", "error"], ignore_index=True)
