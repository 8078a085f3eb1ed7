"""Writing a finished run: results, tasks and soft prompts, and last its record with the time taken."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save_file

from soft2hard.eval.claiming import read_begun
from soft2hard.eval.methods.base import Case
from soft2hard.eval.records import ResultRow, RunRecord, TaskRecord
from soft2hard.storage.files import atomic_write

_SHOWN_EXAMPLES = 8

Losses = Mapping[int, Mapping[str, Sequence[tuple[int, float]]]]
"""Steps with validation losses of the tuning, by seed and task."""


def write_results(
    folder: Path,
    record: RunRecord,
    rows: Sequence[ResultRow],
    cases: dict[int, list[Case]],
    losses: Losses,
    seconds: float | None,
) -> None:
    """Everything `records` says a finished run holds; `seconds` are None where no cell was made in this sitting."""
    table = pa.Table.from_pylist([_flat(row) for row in rows])
    with atomic_write(folder / "results.parquet") as temporary:
        pq.write_table(table, temporary)
    with atomic_write(folder / "results.json") as temporary:
        temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    with atomic_write(folder / "soft_prompts.safetensors") as temporary:
        save_file(_embeddings(cases), temporary)
    with atomic_write(folder / "tasks.json") as temporary:
        of_first_seed = next(iter(cases.values()))
        records = [asdict(_task_record(case)) for case in of_first_seed]
        temporary.write_text(json.dumps(records, indent=1), encoding="utf-8")
    with atomic_write(folder / "training.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in tuning_curves(losses)), encoding="utf-8")
    with atomic_write(folder / "run.json") as temporary:
        begun = read_begun(folder)
        commits = dict.fromkeys([*(begun.get("commit") or "unknown").split(", "), record.commit or "unknown"])
        # A sitting that made nothing has scored old cells once more: they are still those of the earlier code.
        commit = begun.get("commit") if seconds is None else ", ".join(commits)
        seconds = begun.get("seconds") if seconds is None else seconds
        finished = replace(record, created=begun["created"], commit=commit, seconds=seconds or 0.0)
        temporary.write_text(json.dumps(finished.to_json(), indent=1), encoding="utf-8")


def tuning_curves(losses: Losses) -> Iterator[dict[str, float]]:
    """Mean validation loss over tasks by step, one column a seed; a task that has stopped keeps its last loss."""
    steps = sorted({step for of_seed in losses.values() for of_task in of_seed.values() for step, _ in of_task})
    for step in steps:
        line: dict[str, float] = {"step": step}
        for seed, of_seed in losses.items():
            now = [max((s, loss) for s, loss in of_task if s <= step)[1] for of_task in of_seed.values() if of_task]
            if now:
                line[f"validation loss, seed {seed}"] = fmean(now)
        yield line


def _flat(row: ResultRow) -> dict[str, object]:
    # Traces differ from method to method: a column of JSON text holds them all.
    return asdict(row) | {"trace": json.dumps(row.trace)}


def _embeddings(cases: dict[int, list[Case]]) -> dict:
    return {
        f"{seed}/{case.task.name}": case.soft_prompt.embeddings.contiguous()
        for seed, of_seed in cases.items()
        for case in of_seed
        if case.soft_prompt is not None
    }


def _task_record(case: Case) -> TaskRecord:
    task = case.task
    examples = tuple((e.input, e.output) for e in task.train[:_SHOWN_EXAMPLES])
    return TaskRecord(task.name, task.family, task.instruction, task.labels, examples)
