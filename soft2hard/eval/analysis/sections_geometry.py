"""Sections about where the soft prompts lie: distances, maps, and difficulty beside distance.

Each function takes the material, and where it builds on them the arrays of 'distances', and gives a record (its seconds
are filled in by who runs it) and arrays. Each raises UserError where something is missing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from soft2hard.errors import UserError
from soft2hard.eval.analysis.geometry import (
    alignment,
    distances,
    noise_like,
    reordered_distances,
    task_geometry,
)
from soft2hard.eval.analysis.maps import MAPS, missing, plane_map
from soft2hard.eval.analysis.material import Material
from soft2hard.eval.analysis.relations import Correlation, Method, rank_correlation, task_means, within_between
from soft2hard.eval.analysis.section_records import (
    CorrelationRow,
    Difficulty,
    DifficultyRow,
    Distances,
    Estimate,
    Map,
    Maps,
    Measure,
)
from soft2hard.eval.analysis.sections_statistics import Arrays, mean_estimate

_TITLES = {
    "frobenius": "Frobenius distance",
    "reordered": "Frobenius distance after the best permutation of positions",
    "alignment_dimensions": "Centred kernel alignment over dimensions",
    "alignment_positions": "Centred kernel alignment over positions",
}


def distances_section(material: Material) -> tuple[Distances, Arrays]:
    """Every measure of the main prompts, within and between tasks, beside pure noise."""
    prompts, names = material.stacked(), material.names(material.main)
    noise = noise_like(prompts, material.seed)
    reordered = reordered_distances(prompts)
    arrays = {"frobenius": distances(prompts), "reordered": reordered.distances}
    noises = {"frobenius": distances(noise), "reordered": reordered_distances(noise).distances}
    arrays["alignment_dimensions"], noises["alignment_dimensions"] = alignment(prompts), alignment(noise)
    if prompts.shape[1] > 1:
        arrays["alignment_positions"] = alignment(prompts, "positions")
        noises["alignment_positions"] = alignment(noise, "positions")
    variation = [row.distance_variation for row in task_geometry(prompts, names)]
    record = Distances(
        seconds=0,
        prompts=material.main,
        measures=tuple(_measure(name, arrays[name], noises[name], names) for name in arrays),
        variation_within=mean_estimate(variation),
        variation_between=mean_estimate(_variation_between(arrays["frobenius"], names)),
    )
    return record, arrays | {"share_moved": reordered.share_moved}


def _measure(
    name: str, matrix: Float[np.ndarray, "n n"], noise: Float[np.ndarray, "n n"], names: Sequence[str]
) -> Measure:
    pairs = np.triu_indices(len(matrix), 1)
    parts = {}
    try:
        found = within_between(matrix, names) if np.isfinite(matrix).all() else None
        parts = {part: Estimate.of(getattr(found, part)) for part in ("within", "between", "ratio") if found}
    except UserError:
        pass  # no task has two prompts, or there is one task
    finite = [float(m[pairs].mean()) if np.isfinite(m[pairs]).all() else None for m in (matrix, noise)]
    empty = {"within": None, "between": None, "ratio": None}
    return Measure(name=name, title=_TITLES[name], mean=finite[0], noise=finite[1], **empty | parts)


def _variation_between(matrix: Float[np.ndarray, "n n"], names: Sequence[str]) -> list[float | None]:
    """For each task the coefficient of variation (unbiased deviation) of its prompts' distances to all others."""
    tasks = np.array(names)
    found = []
    for task in dict.fromkeys(names):
        others = matrix[tasks == task][:, tasks != task]
        several = others.size > 1 and others.mean() > 0
        found.append(float(others.std(ddof=1) / others.mean()) if several else None)
    return found


def maps_section(material: Material, arrays: Arrays) -> tuple[Maps, Arrays]:
    """Every projection of the Frobenius distances, and of those after the best permutation."""
    n = len(material.main)
    reasons = [reason for name in MAPS if (reason := missing(name, n))]
    made = [
        (f"{name}_{measure}", measure, plane_map(name, arrays[measure], material.seed))
        for measure in ("frobenius", "reordered")
        for name in MAPS
        if not missing(name, n)
    ]
    if not made:
        raise UserError(" ".join(reasons), "Give more soft prompts; statistics can be had of any number.")
    rows = tuple(
        Map(name=name, projection=one.name, measure=measure, about=one.about, trustworthiness=one.trustworthiness)
        for name, measure, one in made
    )
    record = Maps(seconds=0, prompts=material.main, maps=rows, missing=tuple(reasons))
    return record, {name: one.places for name, _, one in made}


def difficulty_section(material: Material, arrays: Arrays) -> tuple[Difficulty, Arrays]:
    """How hard each task is beside how far its tunings lie apart."""
    names = material.names(material.main)
    tasks, means = task_means(arrays["frobenius"], names)
    _, reordered = task_means(arrays["reordered"], names)
    rows = []
    for i, task in enumerate(tasks):
        own = [material.prompts[j] for j in material.main if (material.prompts[j].task or "") == task]
        scores = [row.score for row in own if row.score is not None]
        if np.isfinite(means[i, i]) and scores:
            rows.append(
                DifficultyRow(
                    task=task,
                    family=material.family(task),
                    error=1 - float(np.mean(scores)),
                    validation_loss=_plain_mean([row.validation_loss for row in own]),
                    steps=_plain_mean([row.steps for row in own]),
                    mean_distance=float(means[i, i]),
                    reordered_distance=float(reordered[i, i]),
                )
            )
    if len(rows) < 3:
        raise UserError(
            f"{len(rows)} tasks have two soft prompts or more and a score, and difficulty is compared over 3.",
            "Give more tunings of each task, with --subject and --examples.",
        )
    pairs = [
        (first, second)
        for first in ("error", "validation_loss", "steps")
        for second in ("mean_distance", "reordered_distance")
    ]
    found = [_rank_row(rows, first, second) for first, second in pairs]
    return Difficulty(seconds=0, tasks=tuple(rows), correlations=tuple(row for row in found if row)), {}


def _plain_mean(values: Sequence[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _rank_row(rows: Sequence[DifficultyRow], first: str, second: str) -> CorrelationRow | None:
    """None where a figure is missing or the same for all tasks."""
    known = [row for row in rows if getattr(row, first) is not None]
    return correlation_row(
        first,
        second,
        "spearman",
        lambda: rank_correlation([getattr(r, first) for r in known], [getattr(r, second) for r in known]),
    )


def correlation_row(
    first: str, second: str, method: Method, correlate: Callable[[], Correlation]
) -> CorrelationRow | None:
    """A correlation as a row; None where it is not defined."""
    try:
        return CorrelationRow.of(first, second, method, correlate())
    except UserError:
        return None
