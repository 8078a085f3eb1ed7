"""A finished analysis on disk, of planted soft prompts, with hostile text in every place for text."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from soft2hard.eval.analysis.claims import claims_section
from soft2hard.eval.analysis.comparisons import difficulty_section, distances_section, maps_section, statistics_section
from soft2hard.eval.analysis.correlations import correlation_row, rank_correlation
from soft2hard.eval.analysis.experiments import stability
from soft2hard.eval.analysis.findings import (
    Analysis,
    GroupRow,
    NotRun,
    PromptRow,
    Section,
    SectionName,
    Tables,
    TaskRow,
    columns_of,
    load_tables,
    save_tables,
)
from soft2hard.eval.analysis.inputs import Material
from soft2hard.eval.analysis.page import CHANGES
from soft2hard.eval.analysis.readings import MEASURES, correlations_with_score
from soft2hard.eval.intervals import Interval
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests.report_runs import HOSTILE

TASKS = tuple(f"task {i:02} {HOSTILE}" for i in range(6))
FAMILIES = ("sort", f"count {HOSTILE}")
TUNINGS = 4
PROMPTS = tuple((task, i) for task in TASKS for i in range(TUNINGS))
NAMES = tuple(f"{task} #{i}" for task, i in PROMPTS)
_MIDDLE = Interval(0.5, 0.4, 0.6)


def planted() -> np.ndarray:
    """Soft prompts that lie by task, and less closely by family."""
    rng = np.random.default_rng(0)
    tasks = rng.standard_normal((len(TASKS), 4, 16)) + np.repeat(rng.standard_normal((2, 4, 16)), 3, 0)
    return (np.repeat(tasks, TUNINGS, 0) + 0.5 * rng.standard_normal((len(PROMPTS), 4, 16))).astype(np.float32)


def transfer_change() -> np.ndarray:
    """Large on the diagonal, below 0 elsewhere; one cell is missing."""
    change = np.full((6, 6), -0.1) + 0.8 * np.eye(6)
    change[0, 1] = 0.3
    change[5, 0] = np.nan
    return change


def write_analysis(folder: Path, **sections: NotRun | None) -> Path:
    """A folder with every section; those given, such as ones that were not run, stand in the place of the planted
    ones, and None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = tuple(
        PromptRow(
            name=name, task=task, group="main", tuning=i, n_tokens=4, d_model=16, score=1 - int(task[5:7]) / 10, steps=9
        )
        for name, (task, i) in zip(NAMES, PROMPTS, strict=True)
    )
    material = Material(rows, tuple(SoftPrompt(torch.from_numpy(prompt)) for prompt in planted()))
    analysis = Analysis(
        created="2026-01-02T03:04:05+00:00",
        settings={"tunings": TUNINGS, "hostile": HOSTILE},
        versions={"torch": "2.9"},
        subject=f"tiny {HOSTILE}",
        prompts=rows,
        tasks=tuple(TaskRow(name=t, family=FAMILIES[i // 3], instruction=HOSTILE) for i, t in enumerate(TASKS)),
        groups=(GroupRow(name="main", init="vocabulary", varies="both", n_tunings=TUNINGS, n_tasks=len(TASKS)),),
        tuning_seconds=12.5,
    )
    makers = {
        "statistics": lambda: statistics_section(material),
        "distances": lambda: distances_section(material),
        "maps": lambda: maps_section(material, load_tables(folder, analysis, "distances")),
        "difficulty": lambda: difficulty_section(material, load_tables(folder, analysis, "distances")),
        "extraction": _extraction,
        "transfer": _transfer,
        "stability": _stability,
        "positions": _positions,
        "readings": _readings,
        "claims": lambda: claims_section(analysis, lambda name: load_tables(folder, analysis, name)),
    }
    for name, make in makers.items():
        found = sections[name] if name in sections else _kept(folder, name, *make())
        if found is not None:
            analysis = analysis.model_copy(update={"sections": analysis.sections | {name: found}})
    analysis.save(folder)
    return folder


def _kept(folder: Path, name: SectionName, section: Section, tables: Tables) -> Section:
    save_tables(folder, name, tables)
    return section.model_copy(update={"tables": tuple(tables), "notes": (*section.notes, f"note {HOSTILE}")})


def _extraction() -> tuple[Section, Tables]:
    rows = [
        {"prompt": name, "group": "main", "task": task, "position": position, "rank": rank, "id": rank, "token": token}
        | {"scripts": "Latin", "cosine": 0.5, "start": "b", "start_cosine": 0.4, "stayed": False}
        for name, (task, _) in zip(NAMES, PROMPTS, strict=True)
        for position in range(4)
        for rank, token in enumerate((HOSTILE, "b", "c"), 1)
    ]
    starts = {"group": "main", "init": "text:x", "n_prompts": 24} | columns_of("share_stayed", _MIDDLE)
    tables = {"tokens": pd.DataFrame(rows), "starts": pd.DataFrame([starts | {"nearest_cosine": 0.5}])}
    return Section(figures={"k": 3, "table": f"tiny {HOSTILE}"}), tables


def _transfer() -> tuple[Section, Tables]:
    change = transfer_change()
    pairs = pd.DataFrame({"tuned_on": np.repeat(TASKS, 6), "used_on": np.tile(TASKS, 6), "change": change.ravel()})
    pairs["frobenius"] = np.random.default_rng(0).random(36)
    x = np.arange(6.0)
    correlation = correlation_row(
        HOSTILE, "change", "spearman", lambda: rank_correlation(x, x**2, n_permutations=99, n_resamples=50), (HOSTILE,)
    )
    undefined = correlation_row("steps", "change", "pearson", lambda: rank_correlation(x, x * 0))
    figures = {"own": _MIDDLE, "other": _MIDDLE, "same_family": None, "share_helped": 0.1, "n_examples": 60}
    return Section(figures=figures), {"pairs": pairs, "correlations": pd.DataFrame([correlation, undefined])}


def _stability() -> tuple[Section, Tables]:
    texts = [HOSTILE if i == 0 else f"do {task[:7]}" for task, i in PROMPTS]
    figures, tasks = stability([task for task, _ in PROMPTS], texts)
    said = pd.DataFrame({"prompt": NAMES, "group": "main", "text": texts})
    groups = pd.DataFrame([{"group": HOSTILE, "n_tasks": 6} | columns_of("agreement", _MIDDLE)])
    return Section(figures=figures), {"tasks": tasks, "texts": said, "groups": groups}


def _readings() -> tuple[Section, Tables]:
    texts = {"best_rouge1_output": HOSTILE, "best_class_rate_output": HOSTILE}
    rows = [
        {"prompt": name, "task": task, "group": "main", "step": 9, "score": 0.5 + i / 10, "other_rouge1": 0.1}
        | {measure: i / 5 for measure in MEASURES}
        | texts
        for name, (task, i) in zip(NAMES, PROMPTS, strict=True)
    ]
    table = pd.DataFrame(rows)
    figures = {"max_rouge1": _MIDDLE, "other_rouge1": _MIDDLE, "n_pairs": 25, "n_unread": 0}
    return Section(figures=figures), {"prompts": table, "correlations": correlations_with_score(table)}


def _positions() -> tuple[Section, Tables]:
    effects = [
        {"change": change, "position": position, "n_tasks": 6}
        | columns_of("score_lost", _MIDDLE)
        | columns_of("meaning_changed", _MIDDLE)
        for change in CHANGES
        for position in ((None,) if change == "permuted" else (None, 0, 1, 2, 3))
    ]
    table = pd.DataFrame(effects).astype({"position": "Int64"})
    return Section(figures={"score": _MIDDLE, "n_left_out": 0}), {"effects": table}
