"""What a certificate says: whether a translator reads the vectors of soft prompts, or guesses (`certifying` makes it).

A certificate lies in the folder of the evaluation whose tasks and soft prompts it is about.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter

from soft2hard.errors import UserError
from soft2hard.eval.intervals import (
    Interval,
    PairedDifference,
    by_task,
    mean_interval,
    paired_difference,
    ratio_interval,
)
from soft2hard.settings import settings
from soft2hard.storage.files import write_text

FILE = "certificate.json"
"""Within the folder of the run that it is about."""
SCHEMA_VERSION = 1
_FEWEST_TASKS = 6
"""For a claim: of fewer, no test of signs can be clear at 5 %, and a bootstrap interval is of a few values."""
MATCHED = "its own soft prompt"
OTHER, SAME_FAMILY, SHUFFLED, NOISE = (
    "another task's",
    "another task's of its family",
    "its own, positions shuffled",
    "noise of the same norms",
)
VECTORS_ALONE, ACTS_ALONE = "its own, without what it does", "noise, with what its own does"
LABELS_BESIDE, LABELS_ALONE = "its own, with labelled examples instead", "labelled examples alone"
PARTS = (VECTORS_ALONE, ACTS_ALONE, LABELS_BESIDE, LABELS_ALONE)
"""For a translator that also reads what soft prompts do: either of the two by itself, and labelled examples, such as it
was trained on, in the place of what the soft prompt does, and of both (which it has met where it was pre-trained on
tasks' examples)."""
RIVALS = {
    "vectors": "the vectors, by a translator of these alone",
    "examples": "examples instead",
    "both": "soft prompt and examples",
    "nothing": "nothing",
}
"""What translators read that were trained for comparison, by `Design.reads`."""
VERIFIED = (MATCHED, OTHER, *RIVALS.values())
"""What is read where texts are verified too; the other ways to spoil a soft prompt only show in what is written."""
FIGURES = {
    "nll": "NLL of the gold text",
    "rougeL": "ROUGE-L",
    "score": "recovery",
    "verified_rougeL": "ROUGE-L, verified",
    "verified_score": "recovery, verified",
}
"""Of a `TaskReading`, with their titles; `nll` in nats a token. Scores are shown as recovery: their mean over that of
the soft prompts on the same tasks."""


@settings
class CertificateSettings:
    """How much is read."""

    candidates: PositiveInt = 24
    """Candidates of each translator that are verified."""
    probes: PositiveInt = 8
    """Inputs that they are verified on."""
    verify: bool = True
    """Also choose among candidates beside the soft prompt."""
    score: bool = True
    """Also have the subject act on what is written, which takes most of the time; without, likelihoods and texts are
    all there is."""
    wayward: NonNegativeInt = 0
    """Tasks whose soft prompts are tuned again, close to another task's instruction."""
    pull: PositiveFloat = 0.3
    """How strongly these are pulled to it, see the pull of tuning."""


@dataclass(frozen=True)
class TaskReading:
    """What came of one thing that was read for one task and seed."""

    read: str
    task: str
    seed: int
    nll: float
    """Of the reference instruction and its paraphrases, mean over them, nats a token."""
    text: str
    """The greedy text."""
    rougeL: float
    """With the nearest of the reference instruction and its paraphrases."""
    score: float | None
    """Of the text on the task's test examples; None where it does not fit the subject's context."""
    verified_text: str | None = None
    verified_rougeL: float | None = None
    verified_score: float | None = None


@dataclass(frozen=True)
class WaywardReading:
    """A soft prompt of one task that was tuned close to the text of another (Khashabi et al. 2022)."""

    task: str
    towards: str
    """The other task, whose instruction's tokens the soft prompt started from and was pulled to."""
    pull: float
    nearest: float
    """Share of its vectors whose nearest token is still that of the other instruction."""
    score: float | None
    """Of the soft prompt on its own task's test examples."""
    nll_own: float
    nll_other: float
    """Of the instructions of both tasks, given the soft prompt, nats a token."""
    text: str
    """The greedy text."""
    is_own: bool
    """Whether it is nearer to its own task's phrasings than to the other's, by ROUGE-L."""


@dataclass(frozen=True)
class Certificate:
    """All readings, and what they were made with."""

    translator: str
    rivals: Mapping[str, str]
    """Folders of the translators that read other things, by what they read."""
    settings: CertificateSettings
    readings: tuple[TaskReading, ...]
    soft_scores: Mapping[str, float]
    """Scores of the soft prompts on their tasks' test examples, by 'seed/task'."""
    wayward: tuple[WaywardReading, ...] = ()
    made_with: Mapping[str, Any] | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """What was read, in order."""
        return tuple(dict.fromkeys(one.read for one in self.readings))

    @property
    def n_tasks(self) -> int:
        return len({one.task for one in self.readings})

    def values(self, read: str, figure: str) -> dict[str, float]:
        """A figure by task, mean over seeds; of tasks without it, such as those whose text did not fit, nothing."""
        found = ((r.task, getattr(r, figure)) for r in self.readings if r.read == read)
        return by_task((task, value) for task, value in found if value is not None)

    def interval(self, read: str, figure: str) -> Interval | None:
        """Its mean over tasks; of a score the recovery."""
        values = self.values(read, figure)
        if not figure.endswith("score"):
            return mean_interval(list(values.values())) if values else None
        soft = by_task((key.partition("/")[2], score) for key, score in self.soft_scores.items())
        tasks = [task for task in values if task in soft]
        if not any(soft[task] for task in tasks):
            return None
        return ratio_interval([values[task] for task in tasks], [soft[task] for task in tasks])

    def difference(self, read: str, figure: str) -> PairedDifference | None:
        """Of something else that was read less the soft prompt itself, over the same tasks."""
        own, other = self.values(MATCHED, figure), self.values(read, figure)
        return paired_difference(other, own) if own.keys() & other.keys() else None

    def sentences(self) -> list[str]:
        """What follows, whichever way it goes."""
        said = []
        parts = [read for read in PARTS if read in self.reads]
        others = [read for read in self.reads if read not in (MATCHED, *parts, *RIVALS.values())]
        spoiled = [read for read in others if _is_enough(self.difference(read, "nll"))]
        worse = [read for read in spoiled if _is_above(self.difference(read, "nll"))]
        if others and not spoiled:
            said.append(f"{self.n_tasks} tasks are too few to say whether the translator reads soft prompts.")
        elif spoiled:
            rest = [read for read in spoiled if read not in worse]
            follows = "reads the soft prompt" if parts else "reads the vectors"
            said.append(
                "The gold text is clearly likelier given the soft prompt itself than given each of "
                f"{len(worse)} of {len(spoiled)} things in its place"
                + (f", but not than given: {'; '.join(rest)}." if rest else f": the translator {follows}.")
            )
        said += [self._beside(name) for name in (*parts, *RIVALS.values()) if name in self.reads]
        if self.wayward:
            n, own = len(self.wayward), sum(one.is_own for one in self.wayward)
            said.append(
                f"Of {n} soft prompts that were tuned close to another task's instruction, {own} are read as their "
                "own task's."
            )
        return said

    def _beside(self, name: str) -> str:
        paired = self.difference(name, "nll")
        if paired is None or not _is_enough(paired):
            return f"Given {name}, too few tasks were read to say how likely the gold text is."
        how = "about as likely as"
        if _is_above(paired) or _is_below(paired):
            how = f"clearly {'less' if _is_above(paired) else 'more'} likely than"
        return (
            f"Given {name}, the gold text is {how} given the soft prompt: its negative log-likelihood differs by "
            f"{paired.difference} nats a token."
        )


def _is_above(paired: PairedDifference | None) -> bool:
    return _is_enough(paired) and (paired.difference.low or 0.0) > 0


def _is_below(paired: PairedDifference | None) -> bool:
    return _is_enough(paired) and (paired.difference.high or 0.0) < 0


def _is_enough(paired: PairedDifference | None) -> bool:
    return paired is not None and paired.n_tasks >= _FEWEST_TASKS


def pooled(certificates: Sequence[Certificate]) -> Certificate:
    """Certificates of one translator, of runs that share no task, over all their tasks."""
    return replace(
        certificates[0],
        readings=tuple(r for one in certificates for r in one.readings),
        soft_scores={key: score for one in certificates for key, score in one.soft_scores.items()},
        wayward=tuple(w for one in certificates for w in one.wayward),
    )


# --- on disk ------------------------------------------------------------------------------------


def save(certificate: Certificate, folder: Path) -> Path:
    """Write it into the folder of its run."""
    path = folder / FILE
    write_text(path, json.dumps({"schema_version": SCHEMA_VERSION} | asdict(certificate), indent=1))
    return path


def load(folder: Path) -> Certificate | None:
    """The certificate in a run's folder; None where there is none. Raises UserError where it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("schema_version") > SCHEMA_VERSION:
            raise UserError(f"{path} was written by a later soft2hard.", "Update soft2hard.")
        return TypeAdapter(Certificate).validate_python(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged.", "Make it again with soft2hard certify.") from error
