"""What an analysis leaves on disk.

A folder of an analysis holds

- `analysis.json` (`Analysis`): what was analysed and every section's figures, or why a section was not run;
- `arrays/<section>.npz`: its matrices and maps, whose rows and columns the section's record names;
- `csv/<name>.csv`: the same numbers for other programs;
- `soft_prompts.safetensors` where the analysis tuned them itself: one tensor a prompt, named by its number.

`analysis.json` appears anew after each section, so a killed analysis goes on with the next one.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from soft2hard.errors import UserError
from soft2hard.eval.analysis.relations import Correlation, Verdict
from soft2hard.eval.intervals import Interval
from soft2hard.files import atomic_write

SCHEMA_VERSION = 1
FILE_NAME = "analysis.json"

SectionName = Literal[
    "extraction",
    "statistics",
    "distances",
    "maps",
    "difficulty",
    "transfer",
    "stability",
    "positions",
    "interpolation",
    "retrieval",
    "claims",
]


class Record(BaseModel):
    """Plain JSON values with types; what is not a number (a mean of nothing) is None."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Record):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> "Estimate":
        return cls(value=interval.value, low=interval.low, high=interval.high)

    def interval(self) -> Interval:
        return Interval(self.value, self.low, self.high)

    def __str__(self) -> str:
        return str(self.interval())


class PromptRow(Record):
    """A soft prompt. Its number in the analysis is its place in `Analysis.prompts`."""

    name: str
    """Its file, or task and tuning."""
    task: str | None
    """Name of its task; None where that is not known."""
    group: str
    """Which set of tunings it belongs to (`TuningGroup.name`); 'given' for prompts that were read."""
    tuning: int
    """Number of the tuning within task and group, from 0."""
    n_tokens: int
    d_model: int
    init: str | None = None
    """Where it was started (`Tuning.init`)."""
    init_seed: int | None = None
    order_seed: int | None = None
    validation_loss: float | None = None
    """Nats a token."""
    steps: int | None = None
    """Step of tuning at which it stood."""
    score: float | None = None
    """Share of its own task's test outputs that the subject writes exactly, 0 to 1."""


class TaskRow(Record):
    """A task that soft prompts belong to."""

    name: str
    family: str
    instruction: str
    baseline: float | None = None
    """Share of its test outputs that the subject writes exactly without a prompt, 0 to 1."""


class GroupRow(Record):
    """A set of tunings that were made alike."""

    name: str
    init: str
    varies: Literal["both", "init", "order"]
    """Which seeds differ between tunings of one task: of the start, of the order of examples, or both."""
    n_tunings: int
    n_tasks: int


class NotRun(Record):
    """A section that there is not."""

    reason: str
    """One line that says what was missing."""


class Section(Record):
    """Figures of one part of the analysis."""

    seconds: float
    """Wall time."""


class NeighbourRow(Record):
    """A token of the vocabulary beside a position (`extraction.Neighbour`)."""

    id: int
    text: str
    scripts: tuple[str, ...]
    cosine: float


class PositionRow(Record):
    """One position of a soft prompt (`extraction.Position`)."""

    nearest: tuple[NeighbourRow, ...]
    """Nearest first."""
    start: NeighbourRow | None
    """The token it was started from; None where that is not known."""
    stayed: bool | None
    """Whether that token is still the nearest."""


class PromptExtraction(Record):
    """What the positions of one soft prompt resemble."""

    prompt: int
    positions: tuple[PositionRow, ...]
    share_stayed: float | None


class StartRow(Record):
    """What stayed of the starts of one group of tunings."""

    group: str
    init: str
    n_prompts: int
    share_stayed: Estimate | None
    """Mean over tasks; None where starts are not known."""
    nearest_cosine: float
    """Mean cosine of positions with their nearest token."""


class Extraction(Section):
    k: int
    table: str
    """Whose embedding table: a subject's name or a file."""
    prompts: tuple[PromptExtraction, ...]
    starts: tuple[StartRow, ...]


class TaskStatistics(Record):
    """Soft prompts of one task (`geometry.TaskGeometry`) in one group, with their scores."""

    task: str
    family: str
    group: str
    n_prompts: int
    mean_norm: float
    mean_token_norm: float
    norm_variance: float | None
    variance: float | None
    mean_distance: float | None
    distance_variation: float | None
    mean_score: float | None
    score_deviation: float | None
    """Standard deviation (unbiased) of the scores."""


class GroupStatistics(Record):
    """One group of tunings, over its tasks."""

    group: str
    n_tasks: int
    mean_norm: Estimate
    mean_distance: Estimate | None
    """Within a task."""
    reordered_distance: Estimate | None
    """The same after the best permutation of positions."""
    mean_score: Estimate | None


class Statistics(Section):
    tasks: tuple[TaskStatistics, ...]
    groups: tuple[GroupStatistics, ...]


class Measure(Record):
    """One measure of how far apart, or how alike, two soft prompts are.

    Its matrix is the array of the same name, over `Distances.prompts`.
    """

    name: Literal["frobenius", "reordered", "alignment_dimensions", "alignment_positions"]
    title: str
    within: Estimate | None
    """Mean over tasks of the mean over pairs of prompts of a task; None where no task has two."""
    between: Estimate | None
    ratio: Estimate | None
    """Within by between."""
    noise: float | None
    """Mean over pairs of prompts of pure noise with the same norms; None where it is not defined."""


class Distances(Section):
    """Arrays: one a measure, and 'share_moved', all over `prompts`."""

    prompts: tuple[int, ...]
    """Numbers of the prompts in rows and columns, tasks together."""
    measures: tuple[Measure, ...]
    variation_within: Estimate | None
    """Coefficient of variation of the distances between prompts of one task, mean over tasks with three or more."""
    variation_between: Estimate | None
    """The same of the distances between prompts of different tasks: for each task, over its prompts and all others."""


class Map(Record):
    """One map of the prompts; its coordinates are the array of the same name."""

    name: str
    """'tsne', 'umap' or 'pca'."""
    about: str
    """What was mapped and how."""


class Maps(Section):
    """Arrays: one a map, [n_prompts, 2], over `prompts`."""

    prompts: tuple[int, ...]
    maps: tuple[Map, ...]
    missing: tuple[str, ...]
    """Maps that could not be made and why."""


class CorrelationRow(Record):
    """How two figures go together (`relations.Correlation`)."""

    first: str
    second: str
    method: Literal["pearson", "spearman"]
    correlation: Estimate
    p_value: float
    n: int
    """Tasks."""

    @classmethod
    def of(
        cls, first: str, second: str, method: Literal["pearson", "spearman"], found: Correlation
    ) -> "CorrelationRow":
        estimate = Estimate.of(found.correlation)
        return cls(first=first, second=second, method=method, correlation=estimate, p_value=found.p_value, n=found.n)


class DifficultyRow(Record):
    """How hard a task is and how far its tunings lie apart."""

    task: str
    family: str
    error: float
    """1 less the mean score of its soft prompts."""
    validation_loss: float | None
    """Mean over its soft prompts, nats a token."""
    mean_distance: float
    reordered_distance: float


class Difficulty(Section):
    tasks: tuple[DifficultyRow, ...]
    correlations: tuple[CorrelationRow, ...]


class Transfer(Section):
    """Arrays: 'accuracy' [prompts, tasks], 'baseline' [tasks]; over tasks alone 'change' (row: tuned on, column: used
    on), 'frobenius', 'reordered' and 'alignment_dimensions' [tasks, tasks], where prompts of one task are averaged."""

    prompts: tuple[int, ...]
    tasks: tuple[str, ...]
    n_examples: int
    """Test examples in all, over tasks."""
    own: Estimate
    """Mean over tasks of the change in accuracy, against no prompt, on the prompt's own task."""
    other: Estimate
    """The same on other tasks."""
    same_family: Estimate | None
    """On other tasks of the same family; None where families have one task each."""
    share_helped: float
    """Share of pairs of different tasks in which accuracy rises."""
    correlations: tuple[CorrelationRow, ...]
    """Of closeness with the change in accuracy: Mantel tests."""


class Experiment(Section):
    """An experiment of a file of its own: `result` is what its `to_json` gives."""

    result: dict[str, Any]


class Claim(Record):
    """A claim of the study of prompt tuning, and what the tasks of this analysis say of it."""

    name: Literal["equidistant", "harder_vary_more", "closer_transfer_better"]
    text: str
    verdict: Verdict | Literal["not tested"]
    figure: str
    """What the estimate is of."""
    estimate: Estimate | None
    rule: str
    """What makes the verdict."""


class Claims(Section):
    claims: tuple[Claim, ...]


class Sections(Record):
    """None: not yet run."""

    extraction: Extraction | NotRun | None = None
    statistics: Statistics | NotRun | None = None
    distances: Distances | NotRun | None = None
    maps: Maps | NotRun | None = None
    difficulty: Difficulty | NotRun | None = None
    transfer: Transfer | NotRun | None = None
    stability: Experiment | NotRun | None = None
    """`stability.Stability.to_json`."""
    positions: Experiment | NotRun | None = None
    interpolation: Experiment | NotRun | None = None
    retrieval: Experiment | NotRun | None = None
    claims: Claims | NotRun | None = None


class Analysis(Record):
    """All of an analysis but its arrays."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: str
    """ISO time."""
    settings: dict[str, Any]
    """Options of the command."""
    versions: dict[str, str]
    subject: str | None
    """Name of the subject; None where none was given."""
    prompts: tuple[PromptRow, ...]
    tasks: tuple[TaskRow, ...]
    groups: tuple[GroupRow, ...] = ()
    tuning_seconds: float | None = None
    """Wall time of the tuning; None where prompts were read."""
    sections: Sections = Sections()

    def save(self, folder: Path) -> None:
        """Write `analysis.json`, whole or not at all."""
        with atomic_write(folder / FILE_NAME) as temporary:
            temporary.write_text(self.model_dump_json(indent=1), encoding="utf-8")


def load_analysis(folder: Path) -> Analysis:
    """Read `analysis.json` of a folder; raises UserError where it is missing or damaged."""
    path = folder / FILE_NAME
    try:
        return Analysis.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder} holds no analysis ({FILE_NAME}).", "Make one with soft2hard analyze.") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged or of another version.", "Run the analysis into a new folder.") from error


def save_arrays(folder: Path, section: SectionName, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays of a section, whole or not at all."""
    with atomic_write(folder / "arrays" / f"{section}.npz") as temporary:
        np.savez_compressed(temporary, **arrays)


def load_arrays(folder: Path, section: SectionName) -> dict[str, np.ndarray]:
    """The arrays of a section by name; raises UserError where they are missing or damaged."""
    path = folder / "arrays" / f"{section}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"The arrays of '{section}' in {folder} cannot be read.", "Run the analysis again.") from error
