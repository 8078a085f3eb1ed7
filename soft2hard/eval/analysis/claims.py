"""What the tasks of an analysis say of the claims of the study of prompt tuning over SuperGLUE.

Each claim is about one figure, and its rule is fixed here, before any figure is seen: *confirmed* where the whole 95 %
interval lies where the claim puts the figure, *refuted* where the whole interval lies elsewhere, *undecided* in
between, *not tested* where there is no figure.
"""

from soft2hard.eval.analysis.relations import verdict
from soft2hard.eval.analysis.section_records import (
    Claim,
    Claims,
    CorrelationRow,
    Difficulty,
    Distances,
    Estimate,
    Transfer,
)
from soft2hard.eval.analysis.sections_statistics import Arrays

EQUIDISTANT_BELOW = 0.1
"""Distances that vary by less than a tenth of their mean count as nearly equal."""


def claims_section(distances: object, difficulty: object, transfer: object) -> tuple[Claims, Arrays]:
    """All claims; a section that was not run leaves its claims untested."""
    variation, ratio = None, None
    if isinstance(distances, Distances):
        variation = distances.variation_within
        ratio = next((m.ratio for m in distances.measures if m.name == "frobenius"), None)
    harder = _found(difficulty.correlations, "error", "mean_distance") if isinstance(difficulty, Difficulty) else None
    closer = _found(transfer.correlations, "closeness: frobenius", "change") if isinstance(transfer, Transfer) else None
    found = (_equidistant(variation), _across(ratio), _harder(harder), _closer(closer))
    return Claims(seconds=0, claims=found), {}


def _equidistant(variation: Estimate | None) -> Claim:
    return Claim(
        name="equidistant",
        text="Re-trainings of one task end nearly equidistant from each other.",
        verdict="not tested" if variation is None else verdict(variation.interval(), "below", EQUIDISTANT_BELOW),
        figure="coefficient of variation of the Frobenius distances between a task's soft prompts, mean over tasks",
        estimate=variation,
        rule=f"confirmed where the interval lies wholly below {EQUIDISTANT_BELOW}, refuted where wholly above",
    )


def _across(ratio: Estimate | None) -> Claim:
    low, high = 1 - EQUIDISTANT_BELOW, 1 + EQUIDISTANT_BELOW
    said = "not tested"
    if ratio is not None:
        within = ratio.low > low and ratio.high < high
        outside = ratio.high < low or ratio.low > high
        said = "confirmed" if within else "refuted" if outside else "undecided"
    return Claim(
        name="as_far_as_other_tasks",
        text="Re-trainings of one task lie as far from each other as from soft prompts of other tasks.",
        verdict=said,
        figure="mean Frobenius distance within a task by that between tasks",
        estimate=ratio,
        rule=f"confirmed where the interval lies wholly between {low:g} and {high:g}, refuted where wholly outside",
    )


def _harder(found: CorrelationRow | None) -> Claim:
    return _positively_correlated(
        found,
        name="harder_vary_more",
        text="Soft prompts of harder tasks vary more.",
        figure="rank correlation over tasks of the error (1 less the mean score) with the mean Frobenius distance"
        " between a task's soft prompts",
    )


def _closer(found: CorrelationRow | None) -> Claim:
    return _positively_correlated(
        found,
        name="closer_transfer_better",
        text="Soft prompts that lie closer transfer better.",
        figure="rank correlation over pairs of different tasks of closeness (the Frobenius distance with its sign"
        " turned) with the change in accuracy against no prompt",
    )


def _positively_correlated(found: CorrelationRow | None, *, name: str, text: str, figure: str) -> Claim:
    return Claim(
        name=name,
        text=text,
        verdict="not tested" if found is None else verdict(found.correlation.interval(), "above"),
        figure=figure,
        estimate=None if found is None else found.correlation,
        rule="confirmed where the interval lies wholly above 0, refuted where wholly below",
    )


def _found(rows: tuple[CorrelationRow, ...], first: str, second: str) -> CorrelationRow | None:
    """By ranks."""
    return next((row for row in rows if (row.first, row.second, row.method) == (first, second, "spearman")), None)
