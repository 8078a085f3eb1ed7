"""Synthetic evaluation runs on disk, for the tests of the report."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from safetensors.numpy import save_file

from soft2hard.eval.run_records import MethodRecord, ResultRow, RunRecord, TaskRecord

FAMILIES = ("classify", "relation", "pick", "count")
METHODS = {
    "none": (0.05, None),
    "gold": (0.96, 30.0),
    "soft_prompt": (0.95, None),
    "nearest_token": (0.12, 9000.0),
    "pez": (0.4, 4000.0),
    "translator": (0.9, 45.0),
}
"""Level of the score and of the perplexity."""
HOSTILE = '</script><script>document.title="run"</script><img src=x onerror=alert(1)> <script>alert(1)</script> `|`'
"""A model's output that runs, in a page that does not escape it."""


def rows_of(n_tasks: int = 12, seeds: tuple[int, ...] = (0, 1), shift: float = 0.0) -> list[ResultRow]:
    """Cells of every method; `shift` is added to the translator's scores."""
    random = np.random.default_rng(0)
    return [
        _row(random, task, method, seed, shift if method == "translator" else 0.0)
        for task in tasks_of(n_tasks)
        for method in METHODS
        for seed in seeds
    ]


def _row(random: np.random.Generator, task: TaskRecord, method: str, seed: int, shift: float) -> ResultRow:
    level, perplexity = METHODS[method]
    score = float(np.clip(level + shift + 0.1 * random.standard_normal(), 0, 1))
    kind = {"none": "none", "soft_prompt": "soft"}.get(method, "hard")
    row = ResultRow(method, task.name, task.family, seed, kind, score=score, loss=2 * (1 - score))
    row = replace(row, agreement=score, kl=1 - score, explained_share=2 * score - 1)
    row = replace(row, seconds=0.0 if method == "none" else 1 + score, model_calls=10 * len(method), tokens=100)
    if kind != "hard":
        return row
    prompt = task.instruction if method == "gold" else f"{method} says {' '.join(random.choice(FAMILIES, 4))}"
    row = replace(row, prompt=prompt, perplexity=perplexity * float(np.exp(0.3 * random.standard_normal())))
    row = replace(row, rougeL=score / 2, exact_task=score > 0.95)
    if method != "translator":
        return row
    return replace(
        row,
        verdict="faithful" if score > 0.8 else "doubtful",
        confidence=round(16 * min(1.0, score + 0.04)) / 16,
        trace={"layers": [1, 2]},
    )


def tasks_of(n: int) -> list[TaskRecord]:
    """Tasks of all families in turn."""
    return [
        TaskRecord(
            name=f"task-{i:02}",
            family=FAMILIES[i % len(FAMILIES)],
            instruction=f"Instruction number {i}.",
            labels=("yes", "no") if i % 2 else None,
            examples=((f"input {i}", "yes"),),
        )
        for i in range(n)
    ]


def record_of(rows: list[ResultRow]) -> RunRecord:
    """The record of a run that made these rows."""
    labels = dict.fromkeys(row.method for row in rows)
    return RunRecord(
        config={"dod": "lexical", "n_tasks": len({row.task for row in rows})},
        methods=tuple(MethodRecord(label, label, "arXiv 0000.00000", {"steps": 10}) for label in labels),
        seeds=tuple(sorted({row.seed for row in rows})),
        versions={"soft2hard": "0.1.0"},
        commit="0123abc",
        created="2026-01-02T03:04:05+00:00",
        seconds=12.0,
    )


def write_run(folder: Path, rows: list[ResultRow] | None = None, record: RunRecord | None = None) -> Path:
    """A finished run as the harness leaves it."""
    rows = rows_of() if rows is None else rows
    record = record or record_of(rows)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(asdict(record)))
    names = {row.task for row in rows}
    tasks = [asdict(task) for task in tasks_of(99) if task.name in names]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    lines = [asdict(row) | {"trace": json.dumps(row.trace)} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), folder / "results.parquet")
    random = np.random.default_rng(1)
    save_file(
        {f"{s}/{t['name']}": random.standard_normal((3, 8)).astype("float32") for s in record.seeds for t in tasks},
        folder / "soft_prompts.safetensors",
    )
    steps = [{"step": 10 * i, "loss": 3 / (i + 1), "epoch": i / 4} for i in range(1, 9)]
    steps += [{"step": 40, "eval_loss": 1.5}, {"step": 80, "eval_loss": 1.1}]
    (folder / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    return folder
