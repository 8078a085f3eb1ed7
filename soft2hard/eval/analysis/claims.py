"""What the tasks of an analysis say of the claims of the study of prompt tuning over SuperGLUE.

Each claim is about one figure, and its rule is fixed here, before any figure is seen: *confirmed* where the whole 95 %
interval lies where the claim puts the figure, *refuted* where the whole interval lies elsewhere, *undecided* in
between and where there are too few tasks, *not tested* where there is no figure. Other readings stand beside each
claim, judged by the same rule; they change no verdict, but a note says where they come out otherwise.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from soft2hard.eval.analysis.relations import Verdict, verdict
from soft2hard.eval.analysis.section_records import (
    Claim,
    Claims,
    CorrelationRow,
    Difficulty,
    Distances,
    Estimate,
    NoCorrelation,
    NotRun,
    Reading,
    Transfer,
)
from soft2hard.eval.analysis.section_transfer import BOTH_TASKS
from soft2hard.eval.analysis.sections_statistics import Arrays
from soft2hard.eval.intervals import Interval

EQUIDISTANT_BELOW = 0.1
"""Distances that vary by less than a tenth of their mean count as nearly equal."""

MIN_TASKS = 8
"""Below this a bootstrap over tasks is too narrow to go by."""

SURE = 0.05
"""A correlation must also have a p-value below this."""

_TENTH = f"{100 * EQUIDISTANT_BELOW:.0f} %"
_FEW = f"undecided with fewer than {MIN_TASKS} tasks"
Rule = Callable[[Interval], Verdict]


@dataclass(frozen=True)
class Figure:
    """A figure that a claim is about, or why there is none."""

    estimate: Estimate | None
    n: int | None
    """Tasks."""
    p_value: float | None = None
    reason: str = ""

    def said(self, rule: Rule) -> tuple[Verdict | None, str]:
        """What the figure says by a rule, or None where there is none; and the reason, if the rule is not it."""
        if self.estimate is None or self.n is None:
            return None, self.reason
        if self.n < MIN_TASKS:
            return "undecided", f"{self.n} task{'s' * (self.n != 1)}, and a verdict needs {MIN_TASKS}."
        found = rule(self.estimate.interval())
        if found != "undecided" and self.p_value is not None and self.p_value >= SURE:
            return "undecided", f"p = {self.p_value:.2g}, where a verdict needs less than {SURE}."
        return found, ""


def claims_section(distances: object, difficulty: object, transfer: object) -> tuple[Claims, Arrays]:
    """All claims; a section that was not run leaves its claims untested."""
    found = (_equidistant(distances), _across(distances), _harder(difficulty), _closer(transfer))
    return Claims(seconds=0, claims=found), {}


def _equidistant(section: object) -> Claim:
    figure = noise = between = Figure(None, None, reason=_why(section))
    if isinstance(section, Distances):
        reason = "" if section.variation_within else "No task has three different soft prompts."
        figure, noise = (
            Figure(estimate, section.n_varied, reason=reason)
            for estimate in (section.variation_within, section.variation_noise)
        )
        between = Figure(section.variation_between, section.n_tasks, reason=reason)
    return _claim(
        figure,
        lambda interval: verdict(interval, "below", EQUIDISTANT_BELOW),
        {"between tasks": between},
        noise,
        name="equidistant",
        text="Re-trainings of one task end nearly equidistant from each other.",
        figure="coefficient of variation of the Frobenius distances between a task's soft prompts, mean over tasks",
        rule=f"confirmed where the interval lies wholly below {EQUIDISTANT_BELOW}, refuted where wholly above; {_FEW}",
    )


def _across(section: object) -> Claim:
    low, high = 1 - EQUIDISTANT_BELOW, 1 + EQUIDISTANT_BELOW
    figure = noise = reordered = Figure(None, None, reason=_why(section))
    if isinstance(section, Distances):
        reason = "There is one task, or no task has two soft prompts."
        of = {m.name: m for m in section.measures}
        figure, reordered, noise = (
            Figure(estimate, section.n_repeated, reason=reason)
            for estimate in (of["frobenius"].ratio, of["reordered"].ratio, of["frobenius"].noise_ratio)
        )

    def rule(interval: Interval) -> Verdict:
        return _equivalent(interval, low, high)

    notes = _unequal(figure.estimate) if figure.estimate and figure.said(rule)[0] == "confirmed" else []
    return _claim(
        figure,
        rule,
        {"after the best permutation of positions": reordered},
        noise,
        notes,
        name="as_far_as_other_tasks",
        text="Re-trainings of one task lie as far from each other as from soft prompts of other tasks.",
        figure="mean Frobenius distance within a task by that between tasks",
        rule=f"equivalent within {_TENTH}: confirmed where the interval lies wholly between {low:g} and"
        f" {high:g}, refuted where wholly outside; {_FEW}",
    )


def _equivalent(interval: Interval, low: float, high: float) -> Verdict:
    said = verdict(interval, "above", low), verdict(interval, "below", high)
    return "refuted" if "refuted" in said else "confirmed" if set(said) == {"confirmed"} else "undecided"


def _unequal(ratio: Estimate) -> list[str]:
    """Whether it is surely not 1, for all that it is near."""
    sides = [side for side in ("below", "above") if verdict(ratio.interval(), side, 1.0) == "confirmed"]
    return [f"Equivalent within {_TENTH} but not equal: the whole interval lies {side} 1." for side in sides]


def _harder(section: object) -> Claim:
    def of(second: str, *given: str, first: str = "error") -> Figure:
        return _correlation(section, first, second, given)

    return _positively_correlated(
        of("mean_distance"),
        {
            "given the norms": of("mean_distance", "mean_norm"),
            "given the steps of tuning": of("mean_distance", "steps"),
            "given the norms and the steps": of("mean_distance", "mean_norm", "steps"),
            "distance divided by norm": of("distance_by_norm"),
            "after the best permutation of positions": of("reordered_distance"),
        },
        of("noise_distance"),
        name="harder_vary_more",
        text="Soft prompts of harder tasks vary more.",
        figure="rank correlation over tasks of the error (1 less the mean score) with the mean Frobenius distance"
        " between a task's soft prompts",
    )


def _closer(section: object) -> Claim:
    def of(measure: str, *given: str, method: str = "spearman") -> Figure:
        return _correlation(section, f"closeness: {measure}", "change", given, method)

    return _positively_correlated(
        of("frobenius"),
        {
            "given both tasks": of("frobenius", *BOTH_TASKS),
            "after the best permutation of positions": of("reordered"),
            "closeness by cosine": of("cosine"),
            "closeness by cosine, given both tasks": of("cosine", *BOTH_TASKS),
            "by values instead of ranks": of("frobenius", method="pearson"),
            "closeness by cosine, by values": of("cosine", method="pearson"),
        },
        None,
        name="closer_transfer_better",
        text="Soft prompts that lie closer transfer better.",
        figure="rank correlation over pairs of different tasks of closeness (the Frobenius distance with its sign"
        " turned) with the change in accuracy against no prompt",
    )


def _positively_correlated(found: Figure, beside: dict[str, Figure], noise: Figure | None, **words: str) -> Claim:
    rule = f"confirmed where the interval lies wholly above 0, refuted where wholly below, with p < {SURE}; {_FEW}"
    return _claim(found, lambda interval: verdict(interval, "above"), beside, noise, rule=rule, **words)


def _claim(
    found: Figure,
    said_by: Rule,
    beside: dict[str, Figure],
    noise: Figure | None,
    notes: Sequence[str] = (),
    *,
    name: str,
    text: str,
    figure: str,
    rule: str,
) -> Claim:
    said, reason = found.said(said_by)
    readings = [_reading(label, other, said_by, False) for label, other in beside.items()]
    if noise is not None:
        readings.append(_reading("pure noise with the same norms", noise, said_by, True))
    return Claim(
        name=name,
        text=text,
        verdict=said or "not tested",
        figure=figure,
        estimate=found.estimate,
        p_value=found.p_value,
        n=found.n,
        rule=rule,
        beside=tuple(one for one in readings if one.says != "not tested"),
        notes=tuple(filter(None, (reason, *notes, *_qualifications(said, readings)))),
    )


def _reading(label: str, figure: Figure, rule: Rule, noise: bool) -> Reading:
    return Reading(
        label=label,
        says=figure.said(rule)[0] or "not tested",
        estimate=figure.estimate,
        p_value=figure.p_value,
        n=figure.n,
        noise=noise,
    )


def _qualifications(said: Verdict | None, readings: Iterable[Reading]) -> list[str]:
    """Which readings come out otherwise than the claim, and whether noise comes out alike."""
    if said is None:
        return []
    others = [one for one in readings if not one.noise and one.says not in (said, "not tested")]
    said_by = ", ".join(f"{one.label} ({one.says})" for one in others)
    notes = [f"Other readings say otherwise: {said_by}."] if others else []
    if said != "undecided" and any(one.noise and one.says == said for one in readings):
        notes.append("Pure noise with the soft prompts' norms gives the same verdict.")
    return notes


def _correlation(section: object, first: str, second: str, given: tuple[str, ...], method: str = "spearman") -> Figure:
    if not isinstance(section, Difficulty | Transfer):
        return Figure(None, None, reason=_why(section))
    wanted = (first, second, given, method)
    rows: tuple[CorrelationRow | NoCorrelation, ...] = (*section.correlations, *section.undefined)
    row = next((row for row in rows if (row.first, row.second, row.given, row.method) == wanted), None)
    if isinstance(row, CorrelationRow):
        return Figure(row.correlation, row.n, row.p_value)
    reason = "Soft prompts differ in length, so that they have no distances." if row is None else row.reason
    return Figure(None, None, reason=reason)


def _why(section: object) -> str:
    return section.reason if isinstance(section, NotRun) else "Its section was not run."
