"""The figures of each section of an analysis, as they are kept (`records`)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from soft2hard.eval.analysis.relations import Verdict
from soft2hard.eval.analysis.statistics import PairStatistics, PromptStatistics
from soft2hard.eval.intervals import Interval

MOST_PAIRED = 32
"""Prompts of which every pair is listed; of more, pairs are in the arrays of 'distances' alone."""


class Record(BaseModel):
    """Plain JSON values with types; what is not a number (a mean of nothing) is None."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Record):
    """A figure with its 95 % interval; None at both ends where there is too little for one, such as a single task."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval) -> "Estimate":
        return cls(value=interval.value, low=interval.low, high=interval.high)

    def interval(self) -> Interval:
        return Interval(self.value, self.low, self.high)

    def __str__(self) -> str:
        return str(self.interval())


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
    """`pairs` is empty where prompts cannot be compared, and where there are more than `MOST_PAIRED` of them."""

    prompts: tuple[PromptStatistics, ...]
    pairs: tuple[PairStatistics, ...]
    tasks: tuple[TaskStatistics, ...]
    groups: tuple[GroupStatistics, ...]
    missing: tuple[str, ...]
    """Tasks, and pairs, that could not be compared, and why."""


class Measure(Record):
    """One measure of how far apart, or how alike, two soft prompts are.

    Its matrix is the array of the same name, over `Distances.prompts`.
    """

    name: Literal["frobenius", "reordered", "alignment_dimensions", "alignment_positions", "share_moved"]
    title: str
    mean: float | None
    """Mean over all pairs of different prompts; None where it is not defined."""
    within: Estimate | None
    """Mean over tasks of the mean over pairs of prompts of a task; None where no task has two."""
    between: Estimate | None
    ratio: Estimate | None
    """Within by between."""
    noise: float | None
    """Mean over pairs of prompts of pure noise with the same norms; None where it is not defined."""
    noise_ratio: Estimate | None
    """Within by between, of that noise."""


class Distances(Section):
    """Arrays: one a measure, and that of `moved`, all over `prompts`."""

    prompts: tuple[int, ...]
    """Numbers of the prompts in rows and columns, tasks together."""
    measures: tuple[Measure, ...]
    moved: Measure
    """Share of positions that stand elsewhere in the best permutation."""
    n_tasks: int
    n_repeated: int
    """Tasks with two prompts or more: those with distances within."""
    n_varied: int
    """Tasks with three prompts or more that differ: those whose distances within can vary."""
    variation_within: Estimate | None
    """Coefficient of variation of the distances between prompts of one task, mean over tasks with three or more."""
    variation_noise: Estimate | None
    """The same of pure noise with the prompts' norms: what being far apart in many dimensions gives by itself."""
    variation_between: Estimate | None
    """The same of the distances between prompts of different tasks: for each task, over its prompts and all others."""


class Map(Record):
    """One map of the prompts (`maps.PlaneMap`); its coordinates are the array of the same name."""

    name: str
    """Projection and measure, such as 'tsne_frobenius'."""
    projection: Literal["tsne", "umap", "pca"]
    measure: Literal["frobenius", "reordered"]
    """The distances that were mapped."""
    about: str
    """How it was made."""
    trustworthiness: float | None


class Maps(Section):
    """Arrays: one a map, [n_prompts, 2], over `prompts`."""

    prompts: tuple[int, ...]
    maps: tuple[Map, ...]
    missing: tuple[str, ...]
    """Maps that could not be made and why."""


class Compared(Record):
    """Two figures that are held beside each other."""

    first: str
    second: str
    given: tuple[str, ...]
    """Figures held fixed: a partial correlation."""
    method: Literal["pearson", "spearman"]


class CorrelationRow(Compared):
    """How two figures go together (`relations.Correlation`)."""

    correlation: Estimate
    p_value: float
    n: int
    """Tasks."""


class NoCorrelation(Compared):
    """Two figures whose correlation is not defined."""

    reason: str


class DifficultyRow(Record):
    """How hard a task is and how far its tunings lie apart."""

    task: str
    family: str
    error: float
    """1 less the mean score of its soft prompts by the task's metric."""
    validation_loss: float | None
    """Mean over its soft prompts, nats a token."""
    steps: float | None
    """Mean step of tuning at which they stood: prompts that are tuned for longer have more time to part."""
    mean_norm: float
    """Of its soft prompts: of two pairs of vectors at one angle, the longer ones lie farther apart."""
    mean_distance: float
    reordered_distance: float
    distance_by_norm: float
    """`mean_distance` by `mean_norm`."""
    noise_distance: float
    """Mean distance between prompts of pure noise with the norms of the task's prompts."""


class Difficulty(Section):
    tasks: tuple[DifficultyRow, ...]
    correlations: tuple[CorrelationRow, ...]
    undefined: tuple[NoCorrelation, ...]
    """Correlations that there are not, and why."""


class Transfer(Section):
    """Arrays: 'accuracy' [prompts, tasks], 'baseline' [tasks]; over tasks alone 'change' (row: tuned on, column: used
    on), and the measures of closeness 'frobenius', 'reordered', 'cosine' and 'alignment_dimensions' [tasks, tasks],
    where prompts of one task are averaged."""

    prompts: tuple[int, ...]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    """Tasks and soft prompts that do not fit the subject's context together, by name."""
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
    undefined: tuple[NoCorrelation, ...]
    """Correlations that there are not, and why."""


class Experiment(Section):
    """An experiment of a file of its own: `result` is what its `to_json` gives."""

    result: dict[str, Any]


class Reading(Record):
    """Another way to look at what a claim is about, judged by the claim's own rule."""

    label: str
    """How it differs from the claim's figure, such as 'given the norms'."""
    says: Verdict | Literal["not tested"]
    estimate: Estimate | None
    p_value: float | None
    n: int | None
    """Tasks."""
    noise: bool
    """Whether it is the claim's figure of pure noise with the prompts' norms, which knows of no task."""


class Claim(Record):
    """A claim of the study of prompt tuning, and what the tasks of this analysis say of it."""

    name: Literal["equidistant", "as_far_as_other_tasks", "harder_vary_more", "closer_transfer_better"]
    text: str
    verdict: Verdict | Literal["not tested"]
    figure: str
    """What the estimate is of."""
    estimate: Estimate | None
    p_value: float | None
    """Of a permutation test, where the figure is a correlation."""
    n: int | None
    """Tasks."""
    rule: str
    """What makes the verdict."""
    beside: tuple[Reading, ...]
    """Other readings, which change nothing about the verdict."""
    notes: tuple[str, ...]
    """Why there is no verdict, and what qualifies it."""


class Claims(Section):
    claims: tuple[Claim, ...]
