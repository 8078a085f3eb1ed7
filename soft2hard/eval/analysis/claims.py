"""What the tasks of an analysis say of the claims of the study of prompt tuning over SuperGLUE.

Each claim is about one figure, and its rule is fixed here, before any figure is seen: *confirmed* where the whole 95 %
interval lies where the claim puts the figure, *refuted* where the whole interval lies elsewhere, *undecided* in
between and where there are too few tasks, *not tested* where there is no figure. Other readings stand beside each
claim, judged by the same rule; they change no verdict, but a note says where they disagree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

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
_POSITIVE = f"confirmed where the interval lies wholly above 0, refuted where wholly below, with p < {SURE}; {_FEW}"
SectionTables = Callable[[str], Tables]
"""The tables of a section by its name; none where it was not run."""
Source = tuple[str, ...]
"""Where a figure is found: its section, then of 'distances' the figure's name and that of its number of tasks, or a
measure and a column of 'measures', of others first, second, given and method of a row of 'correlations'."""


def _error(second: str, *given: str) -> Source:
    return ("difficulty", "error", second, ", ".join(given), "spearman")


def _closeness(measure: str, *given: str, method: str = "spearman") -> Source:
    return ("transfer", f"closeness: {measure}", "change", ", ".join(given), method)


@dataclass(frozen=True)
class _Question:
    """A claim before it is judged: that a figure lies between two bounds."""

    text: str
    figure: str
    rule: str
    source: Source
    low: float = -inf
    high: float = inf
    beside: Mapping[str, Source] = field(default_factory=dict)
    """Other readings, by how they differ."""
    noise: Source | None = None
    """The same of pure noise with the soft prompts' norms."""


_QUESTIONS = {
    "equidistant": _Question(
        "Re-trainings of one task end nearly equidistant from each other.",
        "coefficient of variation of the Frobenius distances between a task's soft prompts, mean over tasks",
        f"confirmed where the interval lies wholly below {EQUIDISTANT_BELOW}, refuted where wholly above; {_FEW}",
        ("distances", "variation_within", "n_varied"),
        high=EQUIDISTANT_BELOW,
        beside={"between tasks": ("distances", "variation_between", "n_tasks")},
        noise=("distances", "variation_noise", "n_varied"),
    ),
    "as_far_as_other_tasks": _Question(
        "Re-trainings of one task lie as far from each other as from soft prompts of other tasks.",
        "mean Frobenius distance within a task by that between tasks",
        f"equivalent within {_TENTH}: confirmed where the interval lies wholly between {1 - EQUIDISTANT_BELOW:g} and"
        f" {1 + EQUIDISTANT_BELOW:g}, refuted where wholly outside; {_FEW}",
        ("distances", "frobenius", "ratio"),
        low=1 - EQUIDISTANT_BELOW,
        high=1 + EQUIDISTANT_BELOW,
        beside={"after the best permutation of positions": ("distances", "reordered", "ratio")},
        noise=("distances", "frobenius", "noise_ratio"),
    ),
    "harder_vary_more": _Question(
        "Soft prompts of harder tasks vary more.",
        "rank correlation over tasks of the error (1 less the mean score) with the mean Frobenius distance"
        " between a task's soft prompts",
        _POSITIVE,
        _error("mean_distance"),
        low=0.0,
        beside={
            "given the norms": _error("mean_distance", "mean_norm"),
            "given the steps of tuning": _error("mean_distance", "steps"),
            "given the norms and the steps": _error("mean_distance", "mean_norm", "steps"),
            "distance divided by norm": _error("distance_by_norm"),
            "after the best permutation of positions": _error("reordered_distance"),
        },
        noise=_error("noise_distance"),
    ),
    "closer_transfer_better": _Question(
        "Soft prompts that lie closer transfer better.",
        "rank correlation over pairs of different tasks of closeness (the Frobenius distance with its sign"
        " turned) with the change in accuracy against no prompt",
        _POSITIVE,
        _closeness("frobenius"),
        low=0.0,
        beside={
            "given both tasks": _closeness("frobenius", *BOTH_TASKS),
            "after the best permutation of positions": _closeness("reordered"),
            "closeness by cosine": _closeness("cosine"),
            "closeness by cosine, given both tasks": _closeness("cosine", *BOTH_TASKS),
            "by values instead of ranks": _closeness("frobenius", method="pearson"),
            "closeness by cosine, by values": _closeness("cosine", method="pearson"),
        },
    ),
}


def verdict(interval: Interval, low: float = -inf, high: float = inf) -> Verdict:
    """What an interval says of the claim that a figure lies between two bounds; nothing without an interval."""
    if interval.low is None or interval.high is None:
        return "undecided"
    if low < interval.low and interval.high < high:
        return "confirmed"
    return "refuted" if interval.high < low or interval.low > high else "undecided"


def claims_section(analysis: Analysis, tables: SectionTables) -> tuple[Claims, Tables]:
    """All claims; a section that was not run leaves its claims untested."""
    return Claims(claims=tuple(_judged(name, one, analysis, tables) for name, one in _QUESTIONS.items())), {}


def _judged(name: str, asked: _Question, analysis: Analysis, tables: SectionTables) -> Claim:
    def read(label: str, source: Source) -> tuple[Reading, str]:
        """A reading, and the reason for its verdict where the rule is not."""
        figures, reason = _figures(source, analysis, tables)
        estimate, n, p_value = (figures.get(key) for key in ("estimate", "n", "p_value"))
        says: Verdict = "not tested"
        if estimate is not None and n < MIN_TASKS:
            says, reason = "undecided", f"{n} task{'s' * (n != 1)}, and a verdict needs {MIN_TASKS}."
        elif estimate is not None:
            says, reason = verdict(estimate, asked.low, asked.high), ""
            if says != "undecided" and p_value is not None and p_value >= SURE:
                says, reason = "undecided", f"p = {p_value:.2g}, where a verdict needs less than {SURE}."
        noise = source is asked.noise
        return Reading(label=label, says=says, estimate=estimate, p_value=p_value, n=n, noise=noise), reason

    own, reason = read("", asked.source)
    sources = asked.beside | ({"pure noise with the same norms": asked.noise} if asked.noise else {})
    readings = [one for one, _ in (read(*item) for item in sources.items()) if one.says != "not tested"]
    notes = [reason] if reason else []
    if own.says == "confirmed" and asked.low < 1 < asked.high < inf:
        sides = {"below": verdict(own.estimate, high=1.0), "above": verdict(own.estimate, low=1.0)}
        surely = [side for side, says in sides.items() if says == "confirmed"]
        notes += [f"Equivalent within {_TENTH} but not equal: the whole interval lies {side} 1." for side in surely]
    others = [f"{one.label} ({one.says})" for one in readings if not one.noise and one.says != own.says]
    if others and own.says != "not tested":
        notes.append(f"Other readings say otherwise: {', '.join(others)}.")
    if own.says != "undecided" and any(one.noise and one.says == own.says for one in readings):
        notes.append("Pure noise with the soft prompts' norms gives the same verdict.")
    words = {"name": name, "text": asked.text, "figure": asked.figure, "rule": asked.rule, "notes": tuple(notes)}
    figures = {key: getattr(own, key) for key in ("estimate", "p_value", "n")}
    return Claim(verdict=own.says, beside=tuple(readings), **figures, **words)


def _figures(source: Source, analysis: Analysis, tables: SectionTables) -> tuple[dict[str, Any], str]:
    """An estimate with its number of tasks and its p-value as far as they are known; and the reason why there is none,
    if there is none."""
    section, *key = source
    found = analysis.found(section)
    if found is None:
        return {}, analysis.reason(section)
    if section != "distances":
        for row in tables(section).get("correlations", pd.DataFrame()).to_dict("records"):
            if [row["first"], row["second"], row["given"], row["method"]] == key:
                estimate = interval_in(row, "correlation")
                if estimate is None:
                    return {}, row["reason"]
                return {"estimate": estimate, "n": int(row["n"]), "p_value": float(row["p_value"])}, ""
        return {}, "Soft prompts differ in length, so that they have no distances."
    if key[0] in found.figures:
        value, n = (found.figures[name] for name in key)
        return {"estimate": value, "n": n}, "No task has three different soft prompts."
    measures = tables("distances")["measures"].set_index("measure")
    figures = {"estimate": interval_in(measures.loc[key[0]], key[1]), "n": found.figures["n_repeated"]}
    return figures, "There is one task, or no task has two soft prompts."
