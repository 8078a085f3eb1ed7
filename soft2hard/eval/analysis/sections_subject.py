"""The section that looks soft prompts up in a vocabulary: extraction."""

from collections.abc import Sequence

import numpy as np

from soft2hard.eval.analysis.embedding_table import extract_by_table
from soft2hard.eval.analysis.extraction import Extraction as Found
from soft2hard.eval.analysis.extraction import extract, start_ids
from soft2hard.eval.analysis.material import Material, Table
from soft2hard.eval.analysis.section_records import Extraction, PositionRow, PromptExtraction, StartRow
from soft2hard.eval.analysis.sections_statistics import Arrays, mean_estimate
from soft2hard.eval.intervals import by_task


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
