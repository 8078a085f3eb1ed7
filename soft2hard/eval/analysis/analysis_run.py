"""Makes the sections of an analysis one after another; sections that the folder already holds are kept."""

import json
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from soft2hard.errors import UserError
from soft2hard.eval.analysis.claims import claims_section
from soft2hard.eval.analysis.comparisons import difficulty_section, distances_section, maps_section, statistics_section
from soft2hard.eval.analysis.experiments import positions_section, stability_section
from soft2hard.eval.analysis.findings import (
    BY_WISH,
    FILE_NAME,
    SECTIONS,
    Analysis,
    NotRun,
    Section,
    SectionName,
    Tables,
    TaskRow,
    load_analysis,
    load_tables,
    save_tables,
)
from soft2hard.eval.analysis.geometry import MAPS, no_map
from soft2hard.eval.analysis.inputs import Material, Table, check_comparable
from soft2hard.eval.analysis.nearest_tokens import extraction_section
from soft2hard.eval.analysis.readings import readings_section
from soft2hard.eval.analysis.transfer_matrix import transfer_section
from soft2hard.lm.subject import Subject
from soft2hard.storage.run_folders import now, versions

_MAKERS: dict[SectionName, Callable[..., tuple[Section, Tables]]] = {
    "extraction": extraction_section,
    "statistics": statistics_section,
    "distances": distances_section,
    "maps": maps_section,
    "difficulty": difficulty_section,
    "transfer": transfer_section,
    "stability": stability_section,
    "positions": positions_section,
    "readings": readings_section,
}
_ON_DISTANCES = ("maps", "difficulty")
"""Sections made of the material and the tables of 'distances', and not of the material alone."""
_NEEDS = {"maps": ("distances",), "difficulty": ("distances",), "claims": ("distances", "difficulty", "transfer")}


def wanted_sections(only: Collection[str], also: Collection[str] = ()) -> tuple[SectionName, ...]:
    """Those asked for with those that they build on, in order; where none is named, all but those that are made only
    on request, of which `also` names some.

    Raises UserError for an unknown section.
    """
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        raise UserError(f"There is no section '{unknown[0]}'.", f"The sections are {', '.join(SECTIONS)}.")
    needed = {*only, *(need for name in only for need in _NEEDS.get(name, ()))}
    usual = {*SECTIONS} - {*BY_WISH} | {*also}
    return tuple(name for name in SECTIONS if name in (needed if only else usual))


def begin(
    material: Material, folder: Path, settings: dict[str, Any], tuning_seconds: float | None
) -> tuple[Analysis, Material]:
    """The analysis of a folder so far, or a new one, with the material whose prompts are scored on their own tasks."""
    if (folder / FILE_NAME).exists():
        analysis = load_analysis(folder)
        baseline = {task.name: task.baseline for task in analysis.tasks if task.baseline is not None}
        return analysis, replace(material, prompts=analysis.prompts, baseline=baseline)
    material = material.scored()
    tasks = []
    for name in dict.fromkeys(row.task for row in material.prompts if row.task is not None):
        instruction = getattr(material.task_by_name.get(name), "instruction", "")
        known = {"family": material.family(name), "instruction": instruction, "baseline": material.baseline.get(name)}
        tasks.append(TaskRow(name=name, **known))
    analysis = Analysis(
        created=now(),
        settings=json.loads(json.dumps(settings, default=str)),
        versions=versions(),
        subject=None if material.subject is None else material.subject.name,
        prompts=material.prompts,
        tasks=tuple(tasks),
        groups=material.groups,
        tuning_seconds=tuning_seconds,
    )
    analysis.save(folder)
    return analysis, material


def run_analysis(
    material: Material,
    analysis: Analysis,
    folder: Path,
    only: Collection[str] = (),
    on_section: Callable[[SectionName], None] = lambda name: None,
) -> Analysis:
    """Make the sections that the folder lacks, and write their tables and `analysis.json`.

    A section that cannot be run is recorded with the reason. Raises UserError where it was asked for by name (`only`).
    """
    for name in wanted_sections(only, ("readings",) if material.readings is not None else ()):
        if _is_done(name, analysis, material, folder):
            continue
        on_section(name)
        made = _made(name, material, analysis, folder)
        if isinstance(made, NotRun) and name in only:
            raise UserError(made.reason, what_can_be_run(material, only))
        analysis = analysis.model_copy(update={"sections": analysis.sections | {name: made}})
        analysis.save(folder)
    return analysis


def _is_done(name: SectionName, analysis: Analysis, material: Material, folder: Path) -> bool:
    """True if a section is there with all that could be made of it now: packages may have been installed since."""
    if name == "maps" and analysis.found(name):
        made = set(load_tables(folder, analysis, name)["maps"]["projection"])
        return all(one in made or no_map(one, len(material.main)) for one in MAPS)
    return analysis.found(name) is not None


def _made(name: SectionName, material: Material, analysis: Analysis, folder: Path) -> Section | NotRun:
    started = time.perf_counter()
    try:
        if name == "claims":
            section, tables = claims_section(analysis, lambda section: load_tables(folder, analysis, section))
        elif name not in _ON_DISTANCES:
            section, tables = _MAKERS[name](material)
        elif analysis.found("distances") is None:
            raise UserError(f"There are no distances for {name}: {analysis.reason('distances')}", "")
        else:
            section, tables = _MAKERS[name](material, load_tables(folder, analysis, "distances"))
    except UserError as error:
        return NotRun(reason=str(error))
    save_tables(folder, name, tables)
    return section.model_copy(update={"tables": tuple(tables), "seconds": time.perf_counter() - started})


# --- asked before anything is run ----------------------------------------------------------------------


def _check(name: SectionName, material: Material) -> None:
    """Raise UserError where a section cannot be run, as far as it shows before the work."""
    if name not in ("extraction", "statistics"):  # these take soft prompts of different subjects and widths
        check_comparable(material.soft_prompts, 1, material.labels(range(len(material.prompts))))
    if name == "extraction":
        _check_all(material, material.table or material.need_subject(name))
    if name in ("distances", "maps", "claims", "difficulty"):
        material.stacked()
    if name == "stability":
        material.need_translator(name)
    if at_least := {"difficulty": 3, "transfer": 2, "positions": 1, "readings": 1}.get(name):
        material.need_subject(name)
        material.need_tasks(name, material.experimental if name == "positions" else material.main, at_least)


def _check_all(material: Material, source: Subject | Table) -> None:
    for row, prompt in zip(material.prompts, material.soft_prompts, strict=True):
        try:
            source.check(prompt)
        except UserError as error:
            raise UserError(f"{row.name}: {error.problem}", error.remedy) from error


def check_material(material: Material, only: Collection[SectionName]) -> None:
    """Raise UserError, before anything is run, for sections asked for by name that cannot be run, and where none is
    named for soft prompts that have no place in one comparison."""
    if material.subject is not None:
        _check_all(material, material.subject)
    try:
        if not only:
            check_comparable(material.soft_prompts, 1, material.labels(range(len(material.prompts))))
        for name in only:
            _check(name, material)
    except UserError as error:
        raise UserError(error.problem, f"{error.remedy} {what_can_be_run(material, only)}") from error


def what_can_be_run(material: Material, without: Collection[str] = ()) -> str:
    """A sentence for people."""
    names = []
    for name in (name for name in SECTIONS if name not in without):
        with suppress(UserError):
            _check(name, material)
            names.append(name)
    return f"Sections that can be run: {', '.join(names)}." if names else "No section can be run of these."
