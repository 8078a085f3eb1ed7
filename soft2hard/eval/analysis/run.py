"""Runs the sections of an analysis one after another; what a folder already holds is not made again."""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from soft2hard.errors import UserError
from soft2hard.eval.analysis.claims import claims_section
from soft2hard.eval.analysis.downloads import write_downloads
from soft2hard.eval.analysis.maps import MAPS, missing
from soft2hard.eval.analysis.material import Material
from soft2hard.eval.analysis.needs import SECTIONS, what_can_be_run
from soft2hard.eval.analysis.records import (
    FILE_NAME,
    Analysis,
    SectionName,
    TaskRow,
    load_analysis,
    load_arrays,
    save_arrays,
)
from soft2hard.eval.analysis.section_difficulty import difficulty_section
from soft2hard.eval.analysis.section_records import Distances, Maps, NotRun, Section
from soft2hard.eval.analysis.section_transfer import transfer_section
from soft2hard.eval.analysis.sections_experiments import (
    interpolation_section,
    positions_section,
    retrieval_section,
    stability_section,
)
from soft2hard.eval.analysis.sections_geometry import distances_section, maps_section
from soft2hard.eval.analysis.sections_statistics import Arrays, statistics_section
from soft2hard.eval.analysis.sections_subject import extraction_section
from soft2hard.storage.run_folders import now, versions

_ALONE: dict[str, Callable[[Material], tuple[Section, Arrays]]] = {
    "extraction": extraction_section,
    "statistics": statistics_section,
    "distances": distances_section,
    "transfer": transfer_section,
    "stability": stability_section,
    "positions": positions_section,
    "interpolation": interpolation_section,
    "retrieval": retrieval_section,
}
_ON_DISTANCES = {"maps": maps_section, "difficulty": difficulty_section}
_NEEDS = {"maps": ("distances",), "difficulty": ("distances",), "claims": ("distances", "difficulty", "transfer")}


def wanted_sections(only: Collection[str]) -> tuple[SectionName, ...]:
    """Those asked for with those that they build on, in order; all where none is named.

    Raises UserError for a section that there is not.
    """
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        raise UserError(f"There is no section '{unknown[0]}'.", f"There are {', '.join(SECTIONS)}.")
    needed = {*only, *(need for name in only for need in _NEEDS.get(name, ()))}
    return tuple(name for name in SECTIONS if not only or name in needed)


def begin(
    material: Material, folder: Path, settings: dict[str, Any], tuning_seconds: float | None
) -> tuple[Analysis, Material]:
    """The analysis of a folder so far, or a new one, with the material whose prompts are scored on their own tasks."""
    if (folder / FILE_NAME).exists():
        analysis = load_analysis(folder)
        return analysis, replace(material, prompts=analysis.prompts)
    material, baseline = material.scored()
    names = dict.fromkeys(row.task for row in material.prompts if row.task is not None)
    analysis = Analysis(
        created=now(),
        settings=json.loads(json.dumps(settings, default=str)),
        versions=versions(),
        subject=None if material.subject is None else material.subject.name,
        prompts=material.prompts,
        tasks=tuple(_task_row(material, name, baseline) for name in names),
        groups=material.groups,
        tuning_seconds=tuning_seconds,
    )
    analysis.save(folder)
    return analysis, material


def _task_row(material: Material, name: str, baseline: Mapping[str, float]) -> TaskRow:
    task = material.task_by_name.get(name)
    instruction = "" if task is None else task.instruction
    return TaskRow(name=name, family=material.family(name), instruction=instruction, baseline=baseline.get(name))


def run_analysis(
    material: Material,
    analysis: Analysis,
    folder: Path,
    only: Collection[str] = (),
    on_section: Callable[[SectionName], None] = lambda name: None,
) -> Analysis:
    """Make the sections that the folder lacks, and write `analysis.json`, the arrays and the CSV files.

    A section that cannot be run is recorded with the reason. Raises UserError where it was asked for by name (`only`).
    """
    for name in wanted_sections(only):
        if _is_done(getattr(analysis.sections, name), material):
            continue
        on_section(name)
        made = _made(name, material, analysis, folder)
        if isinstance(made, NotRun) and name in only:
            raise UserError(made.reason, what_can_be_run(material, only))
        sections = analysis.sections.model_copy(update={name: made})
        analysis = analysis.model_copy(update={"sections": sections})
        analysis.save(folder)
    write_downloads(analysis, folder)
    return analysis


def _is_done(found: object, material: Material) -> bool:
    """Whether a section is there, with all that could be made of it now: packages may have come since."""
    if isinstance(found, Maps):
        made = {one.projection for one in found.maps}
        return not any(name not in made and missing(name, len(material.main)) is None for name in MAPS)
    return isinstance(found, Section)


def _made(name: SectionName, material: Material, analysis: Analysis, folder: Path) -> Section | NotRun:
    started = time.perf_counter()
    try:
        record, arrays = _section(name, material, analysis, folder)
    except UserError as error:
        return NotRun(reason=str(error))
    if arrays:
        save_arrays(folder, name, arrays)
    return record.model_copy(update={"seconds": time.perf_counter() - started})


def _section(name: SectionName, material: Material, analysis: Analysis, folder: Path) -> tuple[Section, Arrays]:
    sections = analysis.sections
    if name in _ALONE:
        return _ALONE[name](material)
    if name == "claims":
        return claims_section(sections.distances, sections.difficulty, sections.transfer)
    if not isinstance(sections.distances, Distances):
        reason = sections.distances.reason if isinstance(sections.distances, NotRun) else "They were not made."
        raise UserError(f"There are no distances for {name}: {reason}", "")
    return _ON_DISTANCES[name](material, load_arrays(folder, "distances"))
