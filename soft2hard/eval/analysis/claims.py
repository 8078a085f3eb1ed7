"""What the tasks of an analysis say of the claims of the study of prompt tuning over SuperGLUE.

Each claim is about one figure, and its rule is fixed here, before any figure is seen: *confirmed* where the whole 95 %
interval lies where the claim puts the figure, *refuted* where the whole interval lies elsewhere, *undecided* in
between and where there are too few tasks, *not tested* where there is no figure. Other readings stand beside each
claim, judged by the same rule; they change no verdict, but a note says where they disagree.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from soft2hard.eval.analysis.correlations import BOTH_TASKS
from soft2hard.eval.analysis.findings import Analysis, Claim, Claims, Reading, Tables, Verdict, interval_in
from soft2hard.eval.intervals import Interval

EQUIDISTANT_BELOW = 0.1
"""Distances that vary by less than a tenth of their mean count as nearly equal."""
MIN_TASKS = 8
"""Below this a bootstrap over tasks is too narrow to rely on."""
SURE = 0.05
"""A correlation must also have a p-value below this."""

_TENTH = f"{100 * EQUIDISTANT_BELOW:.0f} %"
_FEW = f"undecided with fewer than {MIN_TASKS} tasks"
Rule = Callable[[Interval], Verdict]
SectionTables = Callable[[str], Tables]
"""The tables of a section by its name; none where it was not run."""


@dataclass(frozen=True)
class Figure:
    """A figure that a claim is about, or why there is none."""

    estimate: Interval | None
    n: int | None
    """Tasks."""
    p_value: float | None = None
    reason: str = ""

    def said(self, rule: Rule) -> tuple[Verdict, str]:
        """The verdict on the figure by a rule; and the reason for it, if the rule is not."""
        if self.estimate is None or self.n is None:
            return "not tested", self.reason
        if self.n < MIN_TASKS:
            return "undecided", f"{self.n} task{'s' * (self.n != 1)}, and a verdict needs {MIN_TASKS}."
        found = rule(self.estimate)
        if found != "undecided" and self.p_value is not None and self.p_value >= SURE:
            return "undecided", f"p = {self.p_value:.2g}, where a verdict needs less than {SURE}."
        return found, ""

    def reading(self, label: str, rule: Rule, noise: bool = False) -> Reading:
        says, _ = self.said(rule)
        return Reading(label=label, says=says, estimate=self.estimate, p_value=self.p_value, n=self.n, noise=noise)


def verdict(interval: Interval, expected: Literal["above", "below"], bound: float = 0.0) -> Verdict:
    """What an interval says of the claim that a figure lies above, or below, a bound; nothing without an interval."""
    if interval.low is None or interval.high is None:
        return "undecided"
    low, high = (interval.low, interval.high) if expected == "above" else (-interval.high, -interval.low)
    limit = bound if expected == "above" else -bound
    return "confirmed" if low > limit else "refuted" if high < limit else "undecided"


def claims_section(analysis: Analysis, tables: SectionTables) -> tuple[Claims, Tables]:
    """All claims; a section that was not run leaves its claims untested."""
    found = (_equidistant(analysis), _across(analysis, tables), _harder(analysis, tables), _closer(analysis, tables))
    return Claims(claims=found), {}


def _equidistant(analysis: Analysis) -> Claim:
    figure = noise = between = Figure(None, None, reason=analysis.reason("distances"))
    if section := analysis.found("distances"):
        of = section.figures
        reason = "" if of["variation_within"] else "No task has three different soft prompts."
        figure, noise = (Figure(of[f"variation_{x}"], of["n_varied"], reason=reason) for x in ("within", "noise"))
        between = Figure(of["variation_between"], of["n_tasks"], reason=reason)
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


def _across(analysis: Analysis, tables: SectionTables) -> Claim:
    low, high = 1 - EQUIDISTANT_BELOW, 1 + EQUIDISTANT_BELOW
    figure = noise = reordered = Figure(None, None, reason=analysis.reason("distances"))
    if section := analysis.found("distances"):
        of = tables("distances")["measures"].set_index("measure")
        figure, reordered, noise = (
            Figure(
                interval_in(of.loc[measure], ratio),
                section.figures["n_repeated"],
                reason="There is one task, or no task has two soft prompts.",
            )
            for measure, ratio in (("frobenius", "ratio"), ("reordered", "ratio"), ("frobenius", "noise_ratio"))
        )

    def rule(interval: Interval) -> Verdict:
        said = {verdict(interval, "above", low), verdict(interval, "below", high)}
        return "refuted" if "refuted" in said else "confirmed" if said == {"confirmed"} else "undecided"

    notes = []
    if figure.estimate and figure.said(rule)[0] == "confirmed":
        sides = [side for side in ("below", "above") if verdict(figure.estimate, side, 1.0) == "confirmed"]
        notes = [f"Equivalent within {_TENTH} but not equal: the whole interval lies {side} 1." for side in sides]
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


def _harder(analysis: Analysis, tables: SectionTables) -> Claim:
    def of(second: str, *given: str) -> Figure:
        return _correlation(analysis, "difficulty", tables, ("error", second, ", ".join(given), "spearman"))

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


def _closer(analysis: Analysis, tables: SectionTables) -> Claim:
    def of(measure: str, *given: str, method: str = "spearman") -> Figure:
        row = (f"closeness: {measure}", "change", ", ".join(given), method)
        return _correlation(analysis, "transfer", tables, row)

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
    found: Figure, judge: Rule, beside: dict[str, Figure], noise: Figure | None, notes: Sequence[str] = (), **words: str
) -> Claim:
    """`words`: the claim's name, text, figure and rule."""
    said, reason = found.said(judge)
    readings = [other.reading(label, judge) for label, other in beside.items()]
    if noise is not None:
        readings.append(noise.reading("pure noise with the same norms", judge, noise=True))
    readings = [one for one in readings if one.says != "not tested"]
    return Claim(
        verdict=said,
        estimate=found.estimate,
        p_value=found.p_value,
        n=found.n,
        beside=tuple(readings),
        notes=tuple(filter(None, (reason, *notes, *_qualifications(said, readings)))),
        **words,
    )


def _qualifications(said: Verdict, readings: Iterable[Reading]) -> list[str]:
    """The readings that disagree with the claim, and whether noise agrees."""
    if said == "not tested":
        return []
    others = [f"{one.label} ({one.says})" for one in readings if not one.noise and one.says != said]
    notes = [f"Other readings say otherwise: {', '.join(others)}."] if others else []
    if said != "undecided" and any(one.noise and one.says == said for one in readings):
        notes.append("Pure noise with the soft prompts' norms gives the same verdict.")
    return notes


def _correlation(analysis: Analysis, section: str, tables: SectionTables, wanted: tuple[str, ...]) -> Figure:
    if analysis.found(section) is None:
        return Figure(None, None, reason=analysis.reason(section))
    for row in tables(section).get("correlations", pd.DataFrame()).to_dict("records"):
        if (row["first"], row["second"], row["given"], row["method"]) == wanted:
            estimate = interval_in(row, "correlation")
            if estimate is None:
                return Figure(None, None, reason=row["reason"])
            return Figure(estimate, int(row["n"]), float(row["p_value"]))
    return Figure(None, None, reason="Soft prompts differ in length, so that they have no distances.")
