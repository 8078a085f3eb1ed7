"""Which sections can be run of what there is, asked before anything is run."""

import re
from collections.abc import Callable, Collection
from typing import get_args

from soft2hard.errors import UserError
from soft2hard.eval.analysis.comparable import check_comparable
from soft2hard.eval.analysis.material import Material, Table
from soft2hard.eval.analysis.records import SectionName

SECTIONS: tuple[SectionName, ...] = get_args(SectionName)
NOT_COMPARING: tuple[SectionName, ...] = ("extraction", "statistics")
"""Sections that can be had of soft prompts of different subjects and widths."""


def _extraction(material: Material) -> None:
    source = material.table or material.need_subject("extraction")
    width = source.rows.shape[1] if isinstance(source, Table) else source.d_model
    for row in material.prompts:
        if row.d_model != width:
            raise UserError(
                f"The soft prompt '{row.name}' is {row.d_model} wide, and the tokens of '{source.name}' are {width}.",
                "Look up each soft prompt in the table of its own subject.",
            )


def _on_tasks(name: SectionName, at_least: int, of_main: bool = True) -> Callable[[Material], None]:
    def check(material: Material) -> None:
        material.need_subject(name)
        material.need_tasks(name, material.main if of_main else material.experimental, at_least)

    return check


_CHECKS: dict[SectionName, Callable[[Material], object]] = {
    "extraction": _extraction,
    "distances": lambda material: material.stacked(),
    "maps": lambda material: material.stacked(),
    "claims": lambda material: material.stacked(),
    "difficulty": lambda material: (material.stacked(), _on_tasks("difficulty", 3)(material)),
    "transfer": _on_tasks("transfer", 2),
    "stability": lambda material: material.need_translator("stability"),
    "positions": _on_tasks("positions", 1, of_main=False),
    "interpolation": _on_tasks("interpolation", 1, of_main=False),
    "retrieval": _on_tasks("retrieval", 3),
}


def objection(name: SectionName, material: Material) -> UserError | None:
    """Why a section cannot be run, as far as that can be seen before."""
    try:
        if name not in NOT_COMPARING:
            check_comparable(material.soft_prompts, 1)
        _CHECKS.get(name, lambda material: None)(material)
    except UserError as error:
        return error
    return None


def what_can_be_run(material: Material, without: Collection[str] = ()) -> str:
    """A sentence for people."""
    names = [name for name in SECTIONS if name not in without and objection(name, material) is None]
    return f"Of these soft prompts can be run: {', '.join(names)}." if names else "Nothing can be run of these."


def _with_names(problem: str, material: Material) -> str:
    """Files in the place of the numbers that soft prompts are called by."""

    def name(match: re.Match[str]) -> str:
        return f"'{material.prompts[int(match[2]) - 1].name}'"

    return re.sub(r"([Ss]oft prompt )(\d+)", name, problem)


def check_material(material: Material, only: Collection[SectionName]) -> None:
    """Raise UserError, before anything is run, for sections asked for by name that cannot be run, and where none is
    named for soft prompts that have no place in one comparison."""
    try:
        if not only or not set(only) <= set(NOT_COMPARING):
            check_comparable(material.soft_prompts, 1)
    except UserError as error:
        able = [f"--only {name}" for name in NOT_COMPARING if objection(name, material) is None]
        raise UserError(
            _with_names(error.problem, material),
            f"Analyse those of one subject; {' '.join(able)} can still be run of all.",
        ) from error
    if material.subject is not None:
        for row, prompt in zip(material.prompts, material.soft_prompts, strict=True):
            try:
                material.subject.check(prompt)
            except UserError as error:
                raise UserError(f"{row.name}: {error.problem}", error.remedy) from error
    for name in only:
        if error := objection(name, material):
            raise UserError(error.problem, f"{error.remedy} {what_can_be_run(material, only)}") from error
