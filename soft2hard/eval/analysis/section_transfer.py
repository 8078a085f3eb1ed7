"""The section of transfer: accuracy of every soft prompt on every task, and how it goes with the closeness of prompts.

Much of the Frobenius distance of two prompts is their two lengths, and much of the change in accuracy is how well the
column's task does without a prompt. So closeness is also measured by cosine, which knows nothing of lengths, and every
correlation stands beside that of what is left of both matrices once each row's and each column's own part is taken out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.correlation_rows import Row, correlation_row, parted
from soft2hard.eval.analysis.geometry import alignment, cosines, distances, reordered_distances
from soft2hard.eval.analysis.material import Material
from soft2hard.eval.analysis.relations import mantel
from soft2hard.eval.analysis.section_records import Estimate, Transfer
from soft2hard.eval.analysis.sections_statistics import Arrays
from soft2hard.eval.analysis.task_pairs import other_tasks_mean, row_means, task_means
from soft2hard.eval.analysis.transfer_matrix import TransferMatrix, shared_transfer_matrix
from soft2hard.eval.intervals import mean_interval

BOTH_TASKS = ("task tuned on", "task used on")
"""What is held fixed where both matrices are double-centred."""
_SIGNS = {"frobenius": -1.0, "reordered": -1.0, "cosine": 1.0, "alignment_dimensions": 1.0}


@dataclass(frozen=True)
class _Kept:
    """Prompts and tasks that fit the subject's context with each other."""

    numbers: list[int]
    tasks: list[Task]
    found: TransferMatrix
    left_out: tuple[str, ...]


def transfer_section(material: Material) -> tuple[Transfer, Arrays]:
    """Accuracy of every main prompt on every task, and how it goes with the closeness of prompts."""
    material.need_subject("transfer")
    numbers = material.need_tasks("transfer", material.main, 2)
    tasks = [material.task_by_name[name] for name in dict.fromkeys(material.names(numbers))]
    kept = _that_fit(material, numbers, tasks, shared_transfer_matrix(material.crew, material.of(numbers), tasks))
    families = np.array([task.family for task in kept.tasks])
    _, change = row_means(kept.found.change, material.names(kept.numbers))
    others = ~np.eye(len(change), dtype=bool)
    other = other_tasks_mean(change)
    same_family = other_tasks_mean(change, families[:, None] == families[None])
    close = _closeness(material, kept.numbers)
    correlations, undefined = parted(_correlations(close, change, material.seed))
    record = Transfer(
        seconds=0,
        prompts=tuple(kept.numbers),
        tasks=tuple(task.name for task in kept.tasks),
        left_out=kept.left_out,
        n_examples=sum(len(task.test) for task in kept.tasks),
        own=Estimate.of(mean_interval(np.diag(change))),
        other=Estimate.of(other),
        same_family=None if same_family is None else Estimate.of(same_family),
        share_helped=float((change[others] > 0).mean()),
        correlations=correlations,
        undefined=undefined,
    )
    arrays = {"accuracy": kept.found.accuracy, "baseline": kept.found.baseline, "change": change}
    return record, arrays | close


def _that_fit(material: Material, numbers: Sequence[int], tasks: Sequence[Task], found: TransferMatrix) -> _Kept:
    """Without the tasks and prompts that have no room for each other, those in the way of most others first.

    A task goes with its prompts, and with its last prompt. Raises UserError where fewer than two tasks are left.
    """
    names = np.array(material.names(numbers))
    of_tasks = np.array([task.name for task in tasks])
    row, column = np.ones(len(names), dtype=bool), np.isfinite(found.baseline)
    while True:
        row &= np.isin(names, of_tasks[column])
        column &= np.isin(of_tasks, names[row])
        worst = _worst(~np.isfinite(found.accuracy) & row[:, None] & column[None], row, column)
        if worst is None:
            break
        axis, i = worst
        (row, column)[axis][i] = False
    left_out = [f"task {name}" for name in of_tasks[~column]]
    own = ~row & np.isin(names, of_tasks[column])
    left_out += [f"soft prompt {material.prompts[numbers[i]].name}" for i in np.flatnonzero(own)]
    if column.sum() < 2:
        raise UserError(
            f"{column.sum()} tasks are left whose longest example fits the subject's context with the soft prompts.",
            f"Shorten the soft prompts or the examples: left out are {', '.join(left_out)}.",
        )
    return _Kept(
        [number for number, fits in zip(numbers, row, strict=True) if fits],
        [task for task, fits in zip(tasks, column, strict=True) if fits],
        TransferMatrix(found.accuracy[row][:, column], found.baseline[column]),
        tuple(left_out),
    )


def _worst(
    missing: Bool[np.ndarray, "n_prompts n_tasks"],
    row: Bool[np.ndarray, " n_prompts"],
    column: Bool[np.ndarray, " n_tasks"],
) -> tuple[int, int] | None:
    """The prompt (0) or task (1), with its number, of which the largest share is missing; None where nothing is."""
    if not missing.any():
        return None
    shares = (missing.sum(1) / max(column.sum(), 1), missing.sum(0) / max(row.sum(), 1))
    axis = int(shares[1].max() >= shares[0].max())
    return axis, int(shares[axis].argmax())


def _closeness(material: Material, numbers: Sequence[int]) -> Arrays:
    """Measures over tasks, prompts of one task averaged; none where prompts differ in length."""
    prompts = material.of(numbers)
    if len({prompt.n_tokens for prompt in prompts}) > 1:
        return {}
    rows, names = np.stack([p.embeddings.numpy() for p in prompts]).astype(np.float64), material.names(numbers)
    measures = {
        "frobenius": distances(rows),
        "reordered": reordered_distances(rows).distances,
        "cosine": cosines(rows),
        "alignment_dimensions": alignment(rows),
    }
    return {name: task_means(matrix, names)[1] for name, matrix in measures.items()}


def _correlations(close: Arrays, change: Float[np.ndarray, "n n"], seed: int) -> list[Row]:
    """Distances with their sign turned, so that closer is more, beside the change in accuracy.

    By ranks, where each pair of tasks counts alike, and by values, where the few pairs that gain much count most; of
    the whole matrices, and of what their rows and columns leave.
    """
    return [
        correlation_row(
            f"closeness: {name}",
            "change",
            method,
            lambda near=_SIGNS[name] * matrix, method=method, centred=bool(given): mantel(
                near, change, method=method, centred=centred, seed=seed
            ),
            given,
        )
        for given in ((), BOTH_TASKS)
        for method in ("spearman", "pearson")
        for name, matrix in close.items()
    ]
