"""Translations made by hand, for what is said of them."""

from collections.abc import Sequence

from soft2hard.data_gen.tasks import Example
from soft2hard.translator.translate import Translation
from soft2hard.translator.verdict import (
    Judgement,
    Parting,
    RestsOn,
    further_inputs,
    lower_bound,
    verdict_of,
)
from soft2hard.translator.verification import Candidate


def judged(
    n_alike: int,
    n: int,
    *,
    chose: bool = False,
    rests_on: RestsOn = "exact",
    explained: float | None = 0.93,
    partings: Sequence[Parting] = (),
) -> Judgement:
    """A judgement whose verdict and bounds follow from its counts."""
    return Judgement(
        text="Name the colour.",
        verdict=verdict_of(n_alike, n, chose),
        rests_on=rests_on,
        n_inputs=n,
        n_alike=n_alike,
        at_least=None if chose else lower_bound(n_alike, n),
        further=None if chose else further_inputs(n_alike, n),
        divergence=0.0441,
        explained=explained,
        partings=tuple(partings),
    )


def pairs(name: str, n: int) -> tuple[Example, ...]:
    """Inputs with outputs."""
    return tuple(Example(f"{name} {i}", f"output {i}") for i in range(n))


def translated(judgement: Judgement | None, text: str = "Name the colour.", **fields: object) -> Translation:
    """A translation with this judgement, and two candidates."""
    best = Candidate(text, 1.0, 0.02, 40, -3.5, 0.97)
    second = Candidate("Say a colour.", 0.5, 0.6, 40, -9.25, None, "search")
    known = {
        "chosen_on": pairs("chose", 8),
        "judged_on": pairs("judged", 0 if judgement is None or judgement.at_least is None else judgement.n_inputs),
        "probe_source": "examples",
        "ending": "learned",
        "candidates": (best, second),
        "by_proposer": {"search": second, "translator": best},
    }
    return Translation("colours.safetensors", text, text, judgement, **known | fields)
