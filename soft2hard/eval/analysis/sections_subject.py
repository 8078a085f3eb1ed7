"""Sections that look soft prompts up in the subject's vocabulary, or run them on it: extraction and transfer."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from soft2hard.errors import UserError
from soft2hard.eval.analysis.embedding_table import extract_by_table
from soft2hard.eval.analysis.extraction import Extraction as Found
from soft2hard.eval.analysis.extraction import extract, start_ids
from soft2hard.eval.analysis.geometry import alignment, distances, reordered_distances
from soft2hard.eval.analysis.material import Material, Table
from soft2hard.eval.analysis.relations import mantel, row_means, task_means
from soft2hard.eval.analysis.section_records import (
    CorrelationRow,
    Estimate,
    Extraction,
    PositionRow,
    PromptExtraction,
    StartRow,
    Transfer,
)
from soft2hard.eval.analysis.sections_geometry import correlation_row
from soft2hard.eval.analysis.sections_statistics import Arrays, mean_estimate
from soft2hard.eval.analysis.transfer_matrix import shared_transfer_matrix
from soft2hard.eval.intervals import by_task, mean_interval


def extraction_section(material: Material) -> tuple[Extraction, Arrays]:
    """Nearest tokens of every position of every prompt, in the subject's table or in the one given."""
    found, name = _extracted(material)
    rows = tuple(_prompt_row(i, one) for i, one in enumerate(found))
    groups = dict.fromkeys(row.group for row in material.prompts)
    starts = tuple(_start_row(material, group, found) for group in groups)
    return Extraction(seconds=0, k=material.sizes.k, table=name, prompts=rows, starts=starts), {}


def _extracted(material: Material) -> tuple[list[Found], str]:
    prompts, k = list(material.soft_prompts), material.sizes.k
    if isinstance(material.table, Table):
        return extract_by_table(material.table.rows, prompts, k), material.table.name
    subject = material.table or material.need_subject("extraction")
    rows = zip(material.prompts, prompts, strict=True)
    starts = [
        start_ids(subject, row.init or "", prompt.n_tokens, material.task_by_name.get(row.task or ""))
        for row, prompt in rows
    ]
    return extract(subject, prompts, k, starts=starts), subject.name


def _prompt_row(number: int, found: Found) -> PromptExtraction:
    positions = tuple(PositionRow.model_validate(position) for position in found.as_json())
    return PromptExtraction(prompt=number, positions=positions, share_stayed=found.share_stayed)


def _start_row(material: Material, group: str, found: Sequence[Found]) -> StartRow:
    numbers = [i for i, row in enumerate(material.prompts) if row.group == group]
    inits = dict.fromkeys(material.prompts[i].init or "not known" for i in numbers)
    shares = by_task(
        (material.prompts[i].task or "", found[i].share_stayed) for i in numbers if found[i].share_stayed is not None
    )
    cosines = [position.nearest[0].cosine for i in numbers for position in found[i].positions]
    return StartRow(
        group=group,
        init=", ".join(inits),
        n_prompts=len(numbers),
        share_stayed=mean_estimate(list(shares.values())),
        nearest_cosine=float(np.mean(cosines)),
    )


def transfer_section(material: Material) -> tuple[Transfer, Arrays]:
    """Accuracy of every main prompt on every task, and how it goes with the closeness of prompts."""
    material.need_subject("transfer")
    numbers = material.need_tasks("transfer", material.main, 2)
    names = list(dict.fromkeys(material.names(numbers)))
    tasks = [material.task_by_name[name] for name in names]
    found = shared_transfer_matrix(material.crew, material.of(numbers), tasks)
    if not (np.isfinite(found.accuracy).all() and np.isfinite(found.baseline).all()):
        raise UserError("Some soft prompts do not fit the subject's context with a task's examples.", "Shorten them.")
    _, change = row_means(found.change, material.names(numbers))
    close = _closeness(material, numbers)
    arrays = {"accuracy": found.accuracy, "baseline": found.baseline, "change": change}
    others = ~np.eye(len(names), dtype=bool)
    record = Transfer(
        seconds=0,
        prompts=tuple(numbers),
        tasks=tuple(names),
        n_examples=sum(len(task.test) for task in tasks),
        own=Estimate.of(mean_interval(np.diag(change))),
        other=Estimate.of(mean_interval([row[keep].mean() for row, keep in zip(change, others, strict=True)])),
        same_family=_same_family(change, [task.family for task in tasks]),
        share_helped=float((change[others] > 0).mean()),
        correlations=_correlations(close, change, material.seed),
    )
    return record, arrays | close


def _closeness(material: Material, numbers: Sequence[int]) -> Arrays:
    """Measures over tasks, prompts of one task averaged; none where prompts differ in length."""
    prompts = material.of(numbers)
    if len({prompt.n_tokens for prompt in prompts}) > 1:
        return {}
    rows, names = np.stack([p.embeddings.numpy() for p in prompts]).astype(np.float64), material.names(numbers)
    measures = {
        "frobenius": distances(rows),
        "reordered": reordered_distances(rows).distances,
        "alignment_dimensions": alignment(rows),
    }
    return {name: task_means(matrix, names)[1] for name, matrix in measures.items()}


def _correlations(close: Arrays, change: Float[np.ndarray, "n n"], seed: int) -> tuple[CorrelationRow, ...]:
    """Distances with their sign turned, so that closer is more, beside the change in accuracy.

    By ranks, where each pair of tasks counts alike, and by values, where the few pairs that gain much count most.
    """
    signs = {"frobenius": -1.0, "reordered": -1.0, "alignment_dimensions": 1.0}
    rows = [
        correlation_row(
            f"closeness: {name}",
            "change",
            method,
            lambda near=signs[name] * matrix, method=method: mantel(near, change, method=method, seed=seed),
        )
        for method in ("spearman", "pearson")
        for name, matrix in close.items()
    ]
    return tuple(row for row in rows if row)


def _same_family(change: Float[np.ndarray, "n n"], families: Sequence[str]) -> Estimate | None:
    """Mean over tasks of the change on other tasks of their family."""
    found = []
    for i, family in enumerate(families):
        own = [change[i, j] for j, other in enumerate(families) if j != i and other == family]
        if own:
            found.append(float(np.mean(own)))
    return mean_estimate(found)
