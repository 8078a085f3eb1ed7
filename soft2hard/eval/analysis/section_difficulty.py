"""The section of difficulty: how hard each task is beside how far its tunings lie apart, with what else could tell why.

Longer vectors lie farther apart, and prompts that are tuned for more steps have more time to grow and to part. So the
correlation of error with distance stands beside the same given norms, given steps and given both, and beside that of
noise with the prompts' norms, which knows of the tasks by nothing but those.
"""

from collections.abc import Sequence

import numpy as np

from soft2hard.errors import UserError
from soft2hard.eval.analysis.correlation_rows import Row, correlation_row, parted
from soft2hard.eval.analysis.geometry import distances, noise_like, task_geometry
from soft2hard.eval.analysis.material import Material
from soft2hard.eval.analysis.partial_correlation import partial_rank_correlation
from soft2hard.eval.analysis.relations import rank_correlation
from soft2hard.eval.analysis.section_records import Difficulty, DifficultyRow
from soft2hard.eval.analysis.sections_statistics import Arrays
from soft2hard.eval.analysis.task_pairs import task_means

_PLAIN = (
    *(
        (first, second)
        for first in ("error", "validation_loss", "steps")
        for second in ("mean_distance", "reordered_distance")
    ),
    ("error", "distance_by_norm"),
    ("error", "noise_distance"),
    ("error", "mean_norm"),
    ("mean_norm", "mean_distance"),
)
_PARTIAL = (
    ("error", "mean_distance", ("mean_norm",)),
    ("error", "mean_distance", ("steps",)),
    ("error", "mean_distance", ("mean_norm", "steps")),
    ("steps", "mean_distance", ("error",)),
)


def difficulty_section(material: Material, arrays: Arrays) -> tuple[Difficulty, Arrays]:
    """How hard each task is beside how far its tunings lie apart; `arrays` are those of 'distances'."""
    rows = _rows(material, arrays)
    if len(rows) < 3:
        raise UserError(
            f"{len(rows)} tasks have two soft prompts or more and a score, and difficulty is compared over 3.",
            "Give more tunings of each task, with --subject and --examples.",
        )
    found = [_row(rows, first, second) for first, second in _PLAIN]
    found += [_row(rows, first, second, given) for first, second, given in _PARTIAL]
    correlations, undefined = parted(found)
    return Difficulty(seconds=0, tasks=tuple(rows), correlations=correlations, undefined=undefined), {}


def _rows(material: Material, arrays: Arrays) -> list[DifficultyRow]:
    """Of tasks with two prompts or more and a score."""
    prompts, names = material.stacked(), material.names(material.main)
    tasks, means = task_means(arrays["frobenius"], names)
    of_noise = distances(noise_like(prompts, material.seed))
    reordered, noise = (np.diag(task_means(matrix, names)[1]) for matrix in (arrays["reordered"], of_noise))
    norms = [one.mean_norm for one in task_geometry(prompts, names)]
    rows = []
    for i, (task, distance) in enumerate(zip(tasks, np.diag(means), strict=True)):
        own = [material.prompts[j] for j in material.main if (material.prompts[j].task or "") == task]
        scores = [row.score for row in own if row.score is not None]
        if np.isfinite(distance) and scores:
            rows.append(
                DifficultyRow(
                    task=task,
                    family=material.family(task),
                    error=1 - float(np.mean(scores)),
                    validation_loss=_plain_mean([row.validation_loss for row in own]),
                    steps=_plain_mean([row.steps for row in own]),
                    mean_norm=norms[i],
                    mean_distance=float(distance),
                    reordered_distance=float(reordered[i]),
                    distance_by_norm=float(distance) / norms[i] if norms[i] else 0.0,
                    noise_distance=float(noise[i]),
                )
            )
    return rows


def _plain_mean(values: Sequence[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _row(rows: Sequence[DifficultyRow], first: str, second: str, given: tuple[str, ...] = ()) -> Row:
    """Over the tasks that have all of these figures."""
    figures = (first, second, *given)
    known = [row for row in rows if all(getattr(row, figure) is not None for figure in figures)]
    x, y, *held = ([getattr(row, figure) for row in known] for figure in figures)
    return correlation_row(
        first,
        second,
        "spearman",
        lambda: partial_rank_correlation(x, y, held) if given else rank_correlation(x, y),
        given,
    )
