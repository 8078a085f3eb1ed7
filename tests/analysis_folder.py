"""A finished analysis on disk, of made-up figures in the real records, with hostile text in every place for text."""

from pathlib import Path

import numpy as np

from soft2hard.eval.analysis.correlation_rows import correlation_row
from soft2hard.eval.analysis.geometry import alignment, distances, reordered_distances
from soft2hard.eval.analysis.interpolation import CurvePoint, Interpolation, KindSummary, PathPoint
from soft2hard.eval.analysis.interpolation import Path as Line
from soft2hard.eval.analysis.maps import plane_map
from soft2hard.eval.analysis.positions_effects import Effect, PositionEffects, VariantResult
from soft2hard.eval.analysis.records import Analysis, GroupRow, PromptRow, Sections, TaskRow, save_arrays
from soft2hard.eval.analysis.relations import mantel, rank_correlation
from soft2hard.eval.analysis.retrieval_savings import NEAREST, RANDOM, RetrievalSavings, StartSummary, TaskStart
from soft2hard.eval.analysis.section_records import (
    Claim,
    Claims,
    CorrelationRow,
    Difficulty,
    DifficultyRow,
    Distances,
    Estimate,
    Experiment,
    Extraction,
    GroupStatistics,
    Map,
    Maps,
    Measure,
    NeighbourRow,
    NoCorrelation,
    PositionRow,
    PromptExtraction,
    Reading,
    StartRow,
    Statistics,
    TaskStatistics,
    Transfer,
)
from soft2hard.eval.analysis.stability import stability
from soft2hard.eval.analysis.statistics import PromptStatistics
from soft2hard.eval.analysis.task_pairs import task_means
from soft2hard.eval.intervals import Interval
from tests.report_runs import HOSTILE

TASKS = tuple(f"task {i:02}" for i in range(6))
FAMILIES = ("sort", "count")
TUNINGS = 4
PROMPTS = tuple((task, i) for task in TASKS for i in range(TUNINGS))
NAMES = tuple(f"{task} #{i}" for task, i in PROMPTS)
_HALF = Estimate(value=0.5, low=0.4, high=0.6)
_ALONE = Estimate(value=0.5, low=None, high=None)
_MIDDLE = Interval(0.5, 0.4, 0.6)


def matrices() -> dict[str, np.ndarray]:
    """Of soft prompts that lie by task, and less closely by family."""
    rng = np.random.default_rng(0)
    tasks = rng.standard_normal((len(TASKS), 4, 16)) + np.repeat(rng.standard_normal((2, 4, 16)), 3, 0)
    prompts = np.repeat(tasks, TUNINGS, 0) + 0.5 * rng.standard_normal((len(PROMPTS), 4, 16))
    return {
        "frobenius": distances(prompts),
        "reordered": reordered_distances(prompts).distances,
        "alignment_dimensions": alignment(prompts),
        "alignment_positions": alignment(prompts, "positions"),
    }


def write_analysis(folder: Path, **sections: object) -> Path:
    """A folder with every section; those given stand in the place of the made-up ones."""
    folder.mkdir(parents=True, exist_ok=True)
    found = matrices()
    made = {name: make(found) for name, make in _SECTIONS.items() if name not in sections} | sections
    rows = [
        PromptRow(name=name, task=task, group="main", tuning=i, n_tokens=4, d_model=16, score=0.9)
        for name, (task, i) in zip(NAMES, PROMPTS, strict=True)
    ]
    tasks = [TaskRow(name=t, family=FAMILIES[i // 3], instruction=HOSTILE) for i, t in enumerate(TASKS)]
    Analysis(
        created="2026-01-02T03:04:05+00:00",
        settings={"tunings": TUNINGS, "hostile": HOSTILE},
        versions={"torch": "2.9"},
        subject=f"tiny {HOSTILE}",
        prompts=tuple(rows),
        tasks=tuple(tasks),
        groups=(GroupRow(name="main", init="vocabulary", varies="both", n_tunings=TUNINGS, n_tasks=len(TASKS)),),
        tuning_seconds=12.5,
        sections=Sections(**made),
    ).save(folder)
    save_arrays(folder, "distances", found)
    save_arrays(folder, "maps", {"pca_frobenius": plane_map("pca", found["frobenius"]).places})
    means = {name: task_means(found[name], [task for task, _ in PROMPTS])[1] for name in found}
    change = transfer_change()
    close = {name: means[name] for name in ("frobenius", "reordered", "alignment_dimensions")}
    save_arrays(folder, "transfer", {"change": change, "cosine": 1 - means["frobenius"] / 10, **close})
    return folder


def transfer_change() -> np.ndarray:
    """Large on the diagonal, below 0 elsewhere between families; one cell is missing."""
    change = np.full((6, 6), -0.1) + 0.8 * np.eye(6)
    change[0, 1] = 0.3
    change[5, 0] = np.nan
    return change


def _correlation(first: str) -> CorrelationRow:
    x = np.arange(6.0)
    return correlation_row(
        first, HOSTILE, "spearman", lambda: rank_correlation(x, x**2, n_permutations=99, n_resamples=50), (HOSTILE,)
    )


def _undefined() -> NoCorrelation:
    return NoCorrelation(first="steps", second="mean_distance", given=("error",), method="spearman", reason=HOSTILE)


def _statistics(_: dict[str, np.ndarray]) -> Statistics:
    task = TaskStatistics(
        task=HOSTILE, family="sort", group="main", n_prompts=4, mean_norm=3, mean_token_norm=1, norm_variance=0.1,
        variance=2, mean_distance=4, distance_variation=0.1, mean_score=0.9, score_deviation=None,
    )  # fmt: skip
    group = GroupStatistics(
        group="main", n_tasks=6, mean_norm=_HALF, mean_distance=_HALF, reordered_distance=None, mean_score=_HALF
    )
    one = PromptStatistics(
        name=HOSTILE, n_tokens=4, d_model=16, norm=3.0, mean_token_norm=1.0, token_norm_variance=0.1,
        smallest_token_norm=0.5, largest_token_norm=2.0, mean=0.0, variance=1.0, token_cosine=0.1,
    )  # fmt: skip
    return Statistics(seconds=1, prompts=(one,), pairs=(), tasks=(task,), groups=(group,), missing=())


def _distances(found: dict[str, np.ndarray]) -> Distances:
    measures = [
        Measure(
            name=name, title=f"Measure {name}", mean=0.5, within=_HALF, between=_HALF, ratio=_ALONE, noise=None,
            noise_ratio=_HALF,
        )
        for name in (*found, "share_moved")
    ]  # fmt: skip
    return Distances(
        seconds=1, prompts=tuple(range(len(PROMPTS))), measures=tuple(measures[:-1]), moved=measures[-1],
        n_tasks=6, n_repeated=6, n_varied=6, variation_within=_HALF, variation_noise=_HALF, variation_between=_HALF,
    )  # fmt: skip


def _maps(_: dict[str, np.ndarray]) -> Maps:
    one = Map(name="pca_frobenius", projection="pca", measure="frobenius", about=HOSTILE, trustworthiness=0.9)
    return Maps(seconds=1, prompts=tuple(range(len(PROMPTS))), maps=(one,), missing=("umap is not here",))


def _difficulty(_: dict[str, np.ndarray]) -> Difficulty:
    rows = [
        DifficultyRow(
            task=t, family=FAMILIES[i // 3], error=i / 10, validation_loss=None, steps=10.0, mean_distance=1.0 + i,
            reordered_distance=1.0, mean_norm=2.0, distance_by_norm=0.5 + i, noise_distance=3.0,
        )
        for i, t in enumerate(TASKS)
    ]  # fmt: skip
    return Difficulty(seconds=1, tasks=tuple(rows), correlations=(_correlation("error"),), undefined=(_undefined(),))


def _transfer(found: dict[str, np.ndarray]) -> Transfer:
    means = task_means(found["frobenius"], [task for task, _ in PROMPTS])[1]
    test = mantel(means, means**2, n_permutations=99, n_resamples=50)
    return Transfer(
        seconds=1, prompts=tuple(range(len(PROMPTS))), tasks=TASKS, left_out=(HOSTILE,), n_examples=60,
        own=_HALF, other=_HALF, same_family=None, share_helped=0.1,
        correlations=(correlation_row("closeness", "change", "pearson", lambda: test),), undefined=(),
    )  # fmt: skip


def _extraction(_: dict[str, np.ndarray]) -> Extraction:
    tokens = tuple(NeighbourRow(id=i, text=text, scripts=(), cosine=0.5) for i, text in enumerate((HOSTILE, "b", "c")))
    positions = (PositionRow(nearest=tokens, start=tokens[1], stayed=False),) * 4
    prompts = tuple(PromptExtraction(prompt=i, positions=positions, share_stayed=0.0) for i in range(len(PROMPTS)))
    starts = (StartRow(group="main", init="text:x", n_prompts=24, share_stayed=_HALF, nearest_cosine=0.5),)
    return Extraction(seconds=1, k=3, table="tiny", prompts=prompts, starts=starts)


def _stability(_: dict[str, np.ndarray]) -> Experiment:
    texts = [HOSTILE if i == 0 else f"do {task}" for task, i in PROMPTS]
    result = stability([task for task, _ in PROMPTS], texts).to_json()
    kept = ("agreement", "majority", "rougeL", "between_rougeL")
    group = {"group": "main", "n_tasks": 6} | {name: result[name] for name in kept}
    groups = [group | {"recovered": None}, group | {"group": HOSTILE, "recovered": None}]
    shown = {"prompts": list(range(len(PROMPTS))), "texts": texts, "by_group": groups}
    return Experiment(seconds=1, result=result | shown)


def _positions(_: dict[str, np.ndarray]) -> Experiment:
    changes = ("mean", "zeros", "removed", "alone", "permuted")
    effects = [
        Effect(change, position, _MIDDLE, _MIDDLE, 6)
        for change in changes
        for position in ((None,) if change == "permuted" else (None, 0, 1, 2, 3))
    ]
    variant = VariantResult("task 00", 0, "mean", 0, 0.4, 0.5, HOSTILE, True)
    found = PositionEffects(_MIDDLE, tuple(effects), (variant,), 0)
    return Experiment(seconds=1, result=found.to_json())


def _interpolation(_: dict[str, np.ndarray]) -> Experiment:
    shares = (0.0, 0.5, 1.0)
    lines = [
        Line(kind, "task 00", "task 01", tuple(PathPoint(s, 1 - s, s, HOSTILE, "other") for s in shares), 0.2)
        for kind in ("one task", "two tasks")
    ]
    curves = [CurvePoint(line.kind, s, *[_MIDDLE] * 5) for line in lines for s in shares]
    kinds = tuple(KindSummary(line.kind, 3, _MIDDLE) for line in lines)
    return Experiment(seconds=1, result=Interpolation(kinds, tuple(curves), tuple(lines), 0).to_json())


def _retrieval(_: dict[str, np.ndarray]) -> Experiment:
    names = ("vocabulary", NEAREST, RANDOM)
    rows = [
        TaskStart(task, name, HOSTILE, 2.0, 0.5, 0.6, 10, 10, 0, ((0, 2.0), (5, 0.8), (10, 0.9), (15, 0.5)))
        for task in TASKS
        for name in names
    ]
    starts = tuple(StartSummary(name, *[_MIDDLE] * 5, None if name == RANDOM else _MIDDLE) for name in names)
    found = RetrievalSavings("vocabulary", 5, 5, starts, tuple(rows), _MIDDLE, 0.4, 20)
    return Experiment(seconds=1, result=found.to_json())


def _claims(_: dict[str, np.ndarray]) -> Claims:
    names = ("equidistant", "harder_vary_more", "closer_transfer_better")
    verdicts = ("confirmed", "refuted", "not tested")
    reading = Reading(label=f"given {HOSTILE}", says="undecided", estimate=_ALONE, p_value=0.3, n=6, noise=False)
    return Claims(
        seconds=1,
        claims=tuple(
            Claim(
                name=name, text=f"{name} {HOSTILE}", verdict=verdict, figure="a figure", estimate=estimate,
                p_value=None, n=None, rule="rule", beside=(reading,), notes=(f"note {HOSTILE}",),
            )
            for name, verdict, estimate in zip(names, verdicts, (_HALF, _HALF, None), strict=True)
        ),
    )  # fmt: skip


_SECTIONS = {
    "statistics": _statistics,
    "distances": _distances,
    "maps": _maps,
    "difficulty": _difficulty,
    "transfer": _transfer,
    "extraction": _extraction,
    "stability": _stability,
    "positions": _positions,
    "interpolation": _interpolation,
    "retrieval": _retrieval,
    "claims": _claims,
}
