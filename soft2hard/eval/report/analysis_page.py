"""The page of an analysis: one HTML file, no network, and nothing of a text run or taken for markup.

It is made as the page of an evaluation is (`page`), from the records of `soft2hard analyze` alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soft2hard.eval.analysis.interpolation import Interpolation
from soft2hard.eval.analysis.positions_effects import PositionEffects
from soft2hard.eval.analysis.records import FILE_NAME, Analysis, SectionName, load_analysis, load_arrays
from soft2hard.eval.analysis.retrieval_savings import RetrievalSavings
from soft2hard.eval.analysis.section_records import Experiment, NotRun
from soft2hard.eval.analysis.stability import Stability
from soft2hard.eval.report.analysis_data import (
    Arrays,
    Page,
    add_difficulty,
    add_distances,
    add_extraction,
    add_maps,
    add_statistics,
    add_transfer,
    families_of,
)
from soft2hard.eval.report.analysis_experiments import (
    add_interpolation,
    add_positions,
    add_retrieval,
    add_stability,
    group_of,
    result_of,
)
from soft2hard.eval.report.analysis_markdown import analysis_markdown
from soft2hard.eval.report.page import render_template
from soft2hard.storage.files import atomic_write

PAGE_NAME = "analysis.html"
SUMMARY_NAME = "analysis.md"
_SCRIPTS = (
    "elements.js",
    "scales.js",
    "charts.js",
    "pointing.js",
    "tables.js",
    "analysis_heat.js",
    "analysis_main.js",
)
_EXPERIMENTS = {
    "stability": (Stability, add_stability),
    "positions": (PositionEffects, add_positions),
    "interpolation": (Interpolation, add_interpolation),
    "retrieval": (RetrievalSavings, add_retrieval),
}
_WITH_ARRAYS: tuple[SectionName, ...] = ("distances", "maps", "transfer")
TITLES: dict[SectionName, str] = {
    "claims": "Claims",
    "statistics": "Statistics",
    "distances": "Distances",
    "maps": "Maps",
    "difficulty": "Difficulty",
    "transfer": "Transfer",
    "extraction": "Nearest tokens",
    "stability": "Translations",
    "positions": "Positions",
    "interpolation": "Arithmetic",
    "retrieval": "Retrieval",
}


@dataclass(frozen=True)
class Drawn:
    """What is shown of an analysis: tables, charts and heat maps, and the records of its experiments."""

    page: Page
    found: dict[SectionName, Any]
    groups: list[dict[str, Any]]
    """Stability of each group of tunings."""


def write_analysis_page(folder: Path) -> Path:
    """Write the page of the analysis in a folder beside its records, with a summary in Markdown, and return its path.

    Raises UserError where the folder holds no analysis, where its records or arrays are damaged or of another version,
    and where the page cannot be written.
    """
    analysis = load_analysis(folder)
    arrays = {name: load_arrays(folder, name) for name in _WITH_ARRAYS if _ran(analysis, name)}
    drawn = draw(analysis, arrays)
    texts = {SUMMARY_NAME: analysis_markdown(analysis, drawn.page), PAGE_NAME: render_analysis(analysis, drawn)}
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            # JSON may hold half a surrogate pair, which no file can.
            temporary.write_text(text, encoding="utf-8", errors="replace")
    return folder / PAGE_NAME


def draw(analysis: Analysis, arrays: dict[SectionName, Arrays]) -> Drawn:
    """All tables and figures; `arrays` are those of the sections that have some."""
    page, found = Page(), {}
    sections = analysis.sections
    for name, (kind, add) in _EXPERIMENTS.items():
        section = getattr(sections, name)
        if isinstance(section, Experiment):
            found[name] = result_of(kind, section.result)
            add(page, found[name])
    texts, groups = {}, []
    if "stability" in found:
        texts = dict(zip(*(sections.stability.result.get(key, ()) for key in ("prompts", "texts")), strict=True))
        groups = [group_of(row) for row in sections.stability.result.get("by_group", ())]
    if _ran(analysis, "statistics"):
        add_statistics(page, sections.statistics)
    if _ran(analysis, "distances"):
        add_distances(page, analysis, sections.distances, arrays["distances"])
    if _ran(analysis, "maps"):
        add_maps(page, analysis, sections.maps, arrays["maps"], texts)
    if _ran(analysis, "difficulty"):
        add_difficulty(page, sections.difficulty)
    if _ran(analysis, "transfer"):
        add_transfer(page, analysis, sections.transfer, arrays["transfer"])
    if _ran(analysis, "extraction"):
        add_extraction(page, analysis, sections.extraction)
    return Drawn(page, found, groups)


def render_analysis(analysis: Analysis, drawn: Drawn) -> str:
    """The page as HTML."""
    page, sections = drawn.page, analysis.sections
    families = list(dict.fromkeys(families_of(analysis, range(len(analysis.prompts)))))
    context: dict[str, Any] = {
        "analysis": analysis,
        "sections": sections,
        "found": drawn.found,
        "stability_groups": drawn.groups,
        "families": families,
        "charts": page.charts,
        "heats": page.heats,
        "titles": TITLES,
        "ran": [name for name in TITLES if _ran(analysis, name)],
        "missing": {name: _reason(analysis, name) for name in TITLES if not _ran(analysis, name)},
        "n_tokens": sorted({row.n_tokens for row in analysis.prompts}),
        "file_name": FILE_NAME,
    }
    data = {"tables": page.tables, "charts": page.charts, "heats": page.heats, "methods": [], "families": families}
    return render_template("analysis.html", ("page.css", "analysis.css"), _SCRIPTS, context, data)


def _ran(analysis: Analysis, name: SectionName) -> bool:
    section = getattr(analysis.sections, name)
    return section is not None and not isinstance(section, NotRun)


def _reason(analysis: Analysis, name: SectionName) -> str:
    section = getattr(analysis.sections, name)
    return "not run yet" if section is None else section.reason
