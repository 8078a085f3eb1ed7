"""Sections about where the soft prompts lie: distances and maps.

Each function takes the material, and where it builds on them the arrays of 'distances', and gives a record (its seconds
are filled in by who runs it) and arrays. Each raises UserError where something is missing.
"""

from collections.abc import Sequence

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
from soft2hard.eval.analysis.section_records import Distances, Estimate, Map, Maps, Measure
from soft2hard.eval.analysis.sections_statistics import Arrays, mean_estimate
from soft2hard.eval.analysis.task_pairs import variation_between, within_between

_TITLES = {
    "frobenius": "Frobenius distance",
    "reordered": "Frobenius distance after the best permutation of positions",
    "alignment_dimensions": "Centred kernel alignment over dimensions",
    "alignment_positions": "Centred kernel alignment over positions",
    "share_moved": "Share of positions that the best permutation moves",
}


def distances_section(material: Material) -> tuple[Distances, Arrays]:
    """Every measure of the main prompts, within and between tasks, beside pure noise."""
    prompts, names = material.stacked(), material.names(material.main)
    noise = noise_like(prompts, material.seed)
    arrays, noises = _matrices(prompts), _matrices(noise)
    variation, of_noise = ([row.distance_variation for row in task_geometry(some, names)] for some in (prompts, noise))
    across = variation_between(arrays["frobenius"], names)
    measures = [_measure(name, matrix, noises[name], names) for name, matrix in arrays.items()]
    record = Distances(
        seconds=0,
        prompts=material.main,
        measures=tuple(one for one in measures if one.name != "share_moved"),
        moved=next(one for one in measures if one.name == "share_moved"),
        n_tasks=len(set(names)),
        n_repeated=sum(names.count(name) > 1 for name in set(names)),
        n_varied=sum(value is not None for value in variation),
        variation_within=mean_estimate(variation),
        variation_noise=mean_estimate(of_noise),
        variation_between=None if across is None else Estimate.of(across),
    )
    return record, arrays


def _matrices(prompts: Float[np.ndarray, "n n_tokens d_model"]) -> Arrays:
    """Every measure of every pair."""
    reordered = reordered_distances(prompts)
    found = {
        "frobenius": distances(prompts),
        "reordered": reordered.distances,
        "alignment_dimensions": alignment(prompts),
    }
    if prompts.shape[1] > 1:
        found["alignment_positions"] = alignment(prompts, "positions")
    return found | {"share_moved": reordered.share_moved}


def _measure(
    name: str, matrix: Float[np.ndarray, "n n"], noise: Float[np.ndarray, "n n"], names: Sequence[str]
) -> Measure:
    pairs = np.triu_indices(len(matrix), 1)
    finite = [float(m[pairs].mean()) if np.isfinite(m[pairs]).all() else None for m in (matrix, noise)]
    own, of_noise = (_within_between(some, names) for some in (matrix, noise))
    return Measure(
        name=name, title=_TITLES[name], mean=finite[0], noise=finite[1], noise_ratio=of_noise["ratio"], **own
    )


def _within_between(matrix: Float[np.ndarray, "n n"], names: Sequence[str]) -> dict[str, Estimate | None]:
    """None where no task has two prompts, there is one task, or the measure is not defined for some pair."""
    parts = ("within", "between", "ratio")
    try:
        found = within_between(matrix, names) if np.isfinite(matrix).all() else None
    except UserError:
        found = None
    return {part: None if found is None else Estimate.of(getattr(found, part)) for part in parts}


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
