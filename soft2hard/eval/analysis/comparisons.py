"""Sections that compare soft prompts by their numbers alone: statistics, distances, maps and difficulty.

Each function takes the material, and the tables of 'distances' where it builds on them, and gives the section (its
seconds are filled in by the caller) with its tables. Each raises UserError where something is missing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import squareform

from soft2hard.errors import UserError
from soft2hard.eval.analysis.correlations import (
    correlation_row,
    partial_rank_correlation,
    rank_correlation,
    task_means,
    variation_between,
    within_between,
)
from soft2hard.eval.analysis.findings import Section, Tables, columns_of, known_mean
from soft2hard.eval.analysis.geometry import (
    MAPS,
    Prompts,
    Square,
    alignment,
    cosines,
    distances,
    no_map,
    noise_like,
    plane_map,
    prompt_statistics,
    reordered_distances,
    task_geometry,
    token_cosines,
)
from soft2hard.eval.analysis.inputs import Material, stacked

MEASURES = {
    "frobenius": "Frobenius distance",
    "reordered": "Frobenius distance after the best permutation of positions",
    "alignment_dimensions": "Centred kernel alignment over dimensions",
    "alignment_positions": "Centred kernel alignment over positions",
    "share_moved": "Share of positions that the best permutation moves",
}
_FIGURES = (
    *((x, y) for x in ("error", "validation_loss", "steps") for y in ("mean_distance", "reordered_distance")),
    ("error", "distance_by_norm"),
    ("error", "noise_distance"),
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
    group (`task_geometry`), with the mean and the unbiased deviation of their scores. `groups`: means over tasks of
    the norm, the distance within a task, as it is and after the best permutation of positions, and the score."""
    notes: list[str] = []
    tasks = [row for group in material.all_groups() for row in _task_rows(material, group, notes)]
    groups = []
    for group in dict.fromkeys(row["group"] for row in tasks):
        own = [row for row in tasks if row["group"] == group]
        row = {"group": group, "n_tasks": len(own)}
        for name in ("mean_norm", "mean_distance", "reordered_distance", "mean_score"):
            row |= columns_of(name, known_mean([one[name] for one in own]))
        groups.append(row)
    of_prompts = [
        {"prompt": row.name, "group": row.group, "task": row.task}
        | prompt_statistics(prompt.embeddings.numpy().astype(np.float64))
        for row, prompt in zip(material.prompts, material.soft_prompts, strict=True)
    ]
    tables = {"prompts": pd.DataFrame(of_prompts), "tasks": pd.DataFrame(tasks), "groups": pd.DataFrame(groups)}
    return Section(notes=tuple(notes)), {name: table for name, table in tables.items() if len(table)}


def _task_rows(material: Material, group: str, notes: list[str]) -> list[dict[str, Any]]:
    """Task by task, since prompts of different tasks may differ in length; `notes` names tasks whose own do."""
    numbers = material.of_group(group)
    rows = []
    for task in dict.fromkeys(material.names(numbers)):
        own = [i for i in numbers if (material.prompts[i].task or "") == task]
        try:
            prompts = stacked(material.of(own), 1)
        except UserError as error:
            notes.append(f"Task '{task}': {error.problem}")
            continue
        scores = pd.Series([material.prompts[i].score for i in own], dtype=float)
        row = {"task": task, "family": material.family(task), "group": group} | task_geometry(prompts)
        row["reordered_distance"] = _pairs_mean(reordered_distances(prompts)[0]) if len(own) > 1 else None
        row |= {"mean_score": scores.mean(), "score_deviation": scores.std()}  # of those that are known
        rows.append(row)
    return rows


def _pairs_mean(matrix: Square) -> float | None:
    """Mean over pairs of different prompts; None where it is not defined."""
    mean = matrix[np.triu_indices(len(matrix), 1)].mean()
    return float(mean) if np.isfinite(mean) else None


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
    found, of_noise = _matrices(prompts), _matrices(noise)
    variation, noise_variation = (_variations(some, names) for some in (prompts, noise))
    rows = []
    for measure, matrix in found.items():
        parts = within_between(matrix, names) | {"noise_ratio": within_between(of_noise[measure], names)["ratio"]}
        figures = {k: v for part, figure in parts.items() for k, v in columns_of(part, figure).items()}
        means = {"all_pairs": _pairs_mean(matrix), "noise": _pairs_mean(of_noise[measure])}
        rows.append({"measure": measure, "title": MEASURES[measure]} | figures | means)
    i, j = np.triu_indices(len(names), 1)
    labels = np.array([material.prompts[number].name for number in material.main], dtype=object)
    pairs = pd.DataFrame({"first": labels[i], "second": labels[j]})
    extra = {"cosine": cosines(prompts), "token_cosine": token_cosines(prompts)}
    for measure, matrix in (found | extra).items():
        pairs[measure] = matrix[i, j]
    section = Section(
        figures={
            "n_tasks": len(set(names)),
            "n_repeated": sum(names.count(name) > 1 for name in set(names)),
            "n_varied": sum(value is not None for value in variation),
            "variation_within": known_mean(variation),
            "variation_noise": known_mean(noise_variation),
            "variation_between": variation_between(found["frobenius"], names),
        }
    )
    return section, {"measures": pd.DataFrame(rows), "pairs": pairs}


def _matrices(prompts: Prompts) -> dict[str, Square]:
    """Every measure of every pair."""
    reordered, moved = reordered_distances(prompts)
    found = {
        "frobenius": distances(prompts),
        "reordered": reordered,
        "alignment_dimensions": alignment(prompts),
        "share_moved": moved,
    }
    if prompts.shape[1] > 1:
        found["alignment_positions"] = alignment(prompts, "positions")
    return {measure: found[measure] for measure in MEASURES if measure in found}


def _variations(prompts: Prompts, names: Sequence[str]) -> list[float | None]:
    """Of the distances within each task."""
    tasks = np.array(names)
    return [task_geometry(prompts[tasks == task])["distance_variation"] for task in dict.fromkeys(names)]


def maps_section(material: Material, tables: Tables) -> tuple[Section, Tables]:
    """Every projection of the Frobenius distances, and of those after the best permutation; read neighbours off them,
    and nothing else. `maps`: how each was made and how far it can be trusted. `places`: its points."""
    n = len(material.main)
    notes = tuple(reason for name in MAPS if (reason := no_map(name, n)))
    maps, places = [], []
    for measure in ("frobenius", "reordered"):
        for name in (name for name in MAPS if not no_map(name, n)):
            apart = squareform(tables["pairs"][measure].to_numpy())
            points, about, trust = plane_map(name, apart, material.seed)
            one = f"{name}_{measure}"
            maps.append({"map": one, "projection": name, "measure": measure, "about": about, "trustworthiness": trust})
            labels = [material.prompts[i].name for i in material.main]
            places.append(pd.DataFrame({"map": one, "prompt": labels, "x": points[:, 0], "y": points[:, 1]}))
    if not maps:
        raise UserError(" ".join(notes), "Give more soft prompts; statistics work with any number.")
    return Section(notes=notes), {"maps": pd.DataFrame(maps), "places": pd.concat(places)}


def difficulty_section(material: Material, tables: Tables) -> tuple[Section, Tables]:
    """How hard each task is beside how far its tunings lie apart, with other figures that could explain it.

    Longer vectors lie farther apart, and prompts that are tuned for more steps have more time to grow and to part. So
    the correlation of error with distance stands beside the same given norms, given steps and given both, and beside
    that of noise with the prompts' norms, which knows nothing else of the tasks.

    `tasks`, those with two prompts or more and a score: `error` is 1 less the mean score by the task's metric,
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

        def correlate(x: np.ndarray = x, y: np.ndarray = y, held: list[np.ndarray] = held) -> Any:
            return partial_rank_correlation(x, y, held) if held else rank_correlation(x, y)

        correlations.append(correlation_row(first, second, "spearman", correlate, tuple(given)))
    return Section(), {"tasks": rows, "correlations": pd.DataFrame(correlations)}


def _difficulties(material: Material, pairs: pd.DataFrame) -> pd.DataFrame:
    prompts, names = material.stacked(), material.names(material.main)
    noise = distances(noise_like(prompts, material.seed))
    matrices = {
        "mean_distance": squareform(pairs["frobenius"].to_numpy()),
        "reordered_distance": squareform(pairs["reordered"].to_numpy()),
        "noise_distance": noise,
    }
    within = {name: np.diag(task_means(matrix, names)[1]) for name, matrix in matrices.items()}
    norms = np.linalg.norm(prompts, axis=(1, 2))
    tasks = np.array(names)
    rows = []
    for i, task in enumerate(dict.fromkeys(names)):
        own = [material.prompts[j] for j in material.main if (material.prompts[j].task or "") == task]
        scores = [row.score for row in own if row.score is not None]
        norm = float(norms[tasks == task].mean())
        if np.isfinite(within["mean_distance"][i]) and scores:
            rows.append(
                {
                    "task": task,
                    "family": material.family(task),
                    "error": 1 - float(np.mean(scores)),
                    "validation_loss": pd.Series([row.validation_loss for row in own], dtype=float).mean(),
                    "steps": pd.Series([row.steps for row in own], dtype=float).mean(),
                    "mean_norm": norm,
                    **{name: float(values[i]) for name, values in within.items()},
                    "distance_by_norm": float(within["mean_distance"][i]) / norm if norm else 0.0,
                }
            )
    return pd.DataFrame(rows)
