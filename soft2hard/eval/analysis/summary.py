"""An analysis as a few tables for the terminal; the report and the files hold all of it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from soft2hard.eval.analysis.given import GIVEN
from soft2hard.eval.analysis.records import Analysis
from soft2hard.eval.analysis.section_records import (
    Claim,
    Claims,
    Difficulty,
    Distances,
    Estimate,
    Experiment,
    Extraction,
    Maps,
    NotRun,
    Reading,
    Section,
    Statistics,
    Transfer,
)

MOST_TASKS = 20
"""Tasks at most whose number of soft prompts is printed."""
MOST_PROMPTS = 8
"""Soft prompts at most whose own figures and nearest tokens are printed."""


@dataclass(frozen=True)
class Listing:
    """A table of texts."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def listings(analysis: Analysis, n_positions: int) -> list[Listing]:
    """The tables of an analysis, the most telling last; nearest tokens of the first `n_positions` positions."""
    sections = analysis.sections
    found: list[Listing] = _given_tasks(analysis)
    if isinstance(sections.extraction, Extraction) and n_positions:
        found.append(_tokens(analysis, sections.extraction, n_positions))
    if isinstance(sections.statistics, Statistics):
        found += _statistics(sections.statistics)
    if isinstance(sections.distances, Distances):
        found.append(_distances(sections.distances))
    for section, title in ((sections.difficulty, "Difficulty"), (sections.transfer, "Closeness with transfer")):
        if isinstance(section, Difficulty | Transfer):
            found.append(_correlations(section, title))
    found.append(_overview(analysis))
    if isinstance(sections.claims, Claims) and any(claim.estimate for claim in sections.claims.claims):
        found += _claims(sections.claims)
    return found


def _claims(section: Claims) -> Iterator[Listing]:
    """The verdicts last, after what qualifies them."""
    readings = tuple(
        (claim.name.replace("_", " "), one.label, one.says, _figure(one))
        for claim in section.claims
        for one in claim.beside
    )
    if readings:
        columns = ("claim", "read otherwise", "says", "estimate [95 %]")
        yield Listing("Other readings of the claims, by the same rules", columns, readings)
    yield Listing(
        "Claims of the study",
        ("claim", "verdict", "estimate [95 %]", "rule"),
        tuple((claim.text, claim.verdict, _figure(claim), claim.rule) for claim in section.claims),
    )
    notes = tuple((claim.name.replace("_", " "), note) for claim in section.claims for note in claim.notes)
    if notes:
        yield Listing("What qualifies the verdicts, or keeps them open", ("claim", "note"), notes)


def _figure(one: Claim | Reading) -> str:
    p_value = "" if one.p_value is None else f", p = {one.p_value:.2g}"
    return f"{_shown(one.estimate)}{p_value}" + (f", {one.n} tasks" if one.n is not None else "")


def _correlations(section: Difficulty | Transfer, title: str) -> Listing:
    rows = [
        (c.first, c.second, ", ".join(c.given), c.method, _shown(c.correlation), f"{c.p_value:.2g}")
        for c in section.correlations
    ]
    rows += [(c.first, c.second, ", ".join(c.given), c.method, f"– {c.reason}", "") for c in section.undefined]
    return Listing(title, ("figure", "with", "given", "kind", "correlation [95 %]", "p"), tuple(rows))


def _given_tasks(analysis: Analysis) -> list[Listing]:
    """How prompts that were read were told apart by task, for people to see that it is right."""
    counts = Counter(row.task for row in analysis.prompts if row.group == GIVEN)
    if not counts:
        return []
    rows = tuple((str(task), str(n)) for task, n in islice(counts.items(), MOST_TASKS))
    more = f" (the first {MOST_TASKS} of {len(counts)})" if len(counts) > MOST_TASKS else ""
    return [Listing(f"Tasks{more}; --mapping says others", ("task", "soft prompts"), rows)]


def _tokens(analysis: Analysis, section: Extraction, n_positions: int) -> Listing:
    rows = [
        (
            analysis.prompts[one.prompt].name,
            str(place),
            ", ".join(f"{near.text} {near.cosine:.2f}" for near in position.nearest),
            "" if position.start is None else f"{position.start.text}{' (stayed)' if position.stayed else ''}",
        )
        for one in section.prompts[:MOST_PROMPTS]
        for place, position in islice(enumerate(one.positions), n_positions)
    ]
    title = f"Nearest tokens by cosine, in {section.table}{_first(len(section.prompts))}"
    return Listing(title, ("soft prompt", "position", "nearest", "started from"), tuple(rows))


def _statistics(section: Statistics) -> Iterator[Listing]:
    rows = tuple(
        (
            one.name,
            f"{one.n_tokens} x {one.d_model}",
            *map(_shown, (one.norm, one.mean_token_norm, one.token_norm_variance, one.variance, one.token_cosine)),
        )
        for one in section.prompts[:MOST_PROMPTS]
    )
    columns = ("soft prompt", "size", "norm", "mean token norm", "its variance", "variance of entries", "token cosine")
    yield Listing(f"Each soft prompt{_first(len(section.prompts))}", columns, rows)
    if section.pairs and len(section.prompts) <= MOST_PROMPTS:
        names = ("distance", "reordered_distance", "cosine", "token_cosine", "alignment")
        rows = tuple((one.first, one.second, *(_shown(getattr(one, name)) for name in names)) for one in section.pairs)
        columns = ("first", "second", "Frobenius", "reordered", "cosine", "token cosine", "alignment")
        yield Listing("Pairs of soft prompts", columns, rows)
    if section.groups and any(group.mean_distance for group in section.groups):
        names = ("mean_norm", "mean_distance", "reordered_distance", "mean_score")
        rows = tuple(
            (one.group, str(one.n_tasks), *(_shown(getattr(one, name)) for name in names)) for one in section.groups
        )
        columns = ("tunings", "tasks", "norm", "distance within a task", "reordered", "score")
        yield Listing("Groups of tunings", columns, rows)


def _first(n: int) -> str:
    return f" (the first {MOST_PROMPTS} of {n})" if n > MOST_PROMPTS else ""


def _distances(section: Distances) -> Listing:
    rows = tuple(
        (one.title, *map(_shown, (one.within, one.between, one.ratio, one.mean, one.noise)))
        for one in (*section.measures, section.moved)
    )
    columns = ("measure", "within a task", "between tasks", "ratio", "all pairs", "pure noise")
    return Listing("Distances and likeness", columns, rows)


def _overview(analysis: Analysis) -> Listing:
    rows: list[tuple[str, ...]] = []
    reasons: dict[str, list[str]] = {}
    if analysis.tuning_seconds is not None:
        rows.append(("tuning", f"{analysis.tuning_seconds:.0f}", f"{len(analysis.prompts)} soft prompts"))
    for name in type(analysis.sections).model_fields:
        section = getattr(analysis.sections, name)
        if isinstance(section, NotRun):
            reasons.setdefault(_without_name(section.reason, name), []).append(name)
        elif isinstance(section, Section):
            rows.append((name, f"{section.seconds:.1f}", _headline(section)))
    rows += [(", ".join(names), "", f"not run: {reason}") for reason, names in reasons.items()]
    return Listing("Sections", ("section", "seconds", "what it found"), tuple(rows))


def _without_name(reason: str, name: str) -> str:
    """A reason that several sections may share."""
    return reason.replace(f"and {name} needs", "and it needs")


def _headline(section: Section) -> str:
    if isinstance(section, Extraction):
        known = [row for row in section.starts if row.share_stayed]
        return "; ".join(f"{row.group}: {_shown(row.share_stayed)} of positions stayed" for row in known)
    if isinstance(section, Statistics):
        return (
            f"{len(section.prompts)} soft prompts, {len(section.tasks)} tasks in {len(section.groups)} groups"
            + "".join(f"; {reason}" for reason in section.missing)
        )
    if isinstance(section, Distances):
        own, noise = _shown(section.variation_within), _shown(section.variation_noise)
        return f"variation of distances within a task {own}, of pure noise {noise}"
    if isinstance(section, Maps):
        made = ", ".join(one.name for one in section.maps)
        return " ".join([f"{made}." if made else "", *(f"Not made: {reason}" for reason in section.missing)]).strip()
    if isinstance(section, Difficulty):
        return f"{len(section.tasks)} tasks"
    if isinstance(section, Transfer):
        own, other = _shown(section.own), _shown(section.other)
        found = f"change in accuracy {own} on the own task, {other} on others (up in {section.share_helped:.1%})"
        return found + (f"; without {', '.join(section.left_out)}" if section.left_out else "")
    return _experiment(section.result) if isinstance(section, Experiment) else ""


def _experiment(result: dict[str, Any]) -> str:
    """The figures with intervals at the top of an experiment's result."""
    intervals = {name: value for name, value in result.items() if isinstance(value, dict) and "low" in value}
    return "; ".join(f"{name} {_shown(Estimate.model_validate(value))}" for name, value in intervals.items())


def _shown(value: Estimate | float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, Estimate) else f"{value:.4g}"
