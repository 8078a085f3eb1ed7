"""Reads finished run folders (`soft2hard.eval.run_records`) and refuses those that cannot be trusted."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from soft2hard.errors import UserError, first_line
from soft2hard.eval import certificate
from soft2hard.eval.certificate import Certificate
from soft2hard.eval.run_records import SCHEMA_VERSION, ResultRow, RunRecord, TaskRecord

_FILES = ("run.json", "results.parquet", "tasks.json")


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, in memory."""

    name: str
    """Of its folder."""
    record: RunRecord
    rows: tuple[ResultRow, ...]
    tasks: tuple[TaskRecord, ...]
    soft_prompts: dict[tuple[int, str], np.ndarray]
    """By seed and task, (n_tokens, d_model); empty where the run kept none."""
    training: pd.DataFrame
    """Numbers that a training logged, a line a record with its `step`; empty where there was none."""
    certificate: Certificate | None
    """Whether its translator reads the vectors, where soft2hard certify has found out."""
    results_sha256: str
    """Of results.parquet."""

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Labels, in the order of the configuration."""
        return tuple(method.label for method in self.record.methods)

    @cached_property
    def families(self) -> tuple[str, ...]:
        """In order of appearance among the tasks."""
        return tuple(dict.fromkeys(task.family for task in self.tasks))

    @property
    def template(self) -> str | None:
        """That its prompts were made under; None: the subject's own."""
        return self.record.config.get("loading", {}).get("template")

    @property
    def has_lengths(self) -> bool:
        """Whether its tasks stand there once for each of several lengths of soft prompts, as 'NAME, 5 tokens'."""
        return bool(self.record.config.get("tasks", {}).get("lengths"))

    @cached_property
    def by_method(self) -> dict[str, tuple[ResultRow, ...]]:
        """The rows of each label."""
        return {label: tuple(row for row in self.rows if row.method == label) for label in self.methods}

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The rows as a table; `soft` is the score of the soft prompt of the same task and seed, 0 where it failed or
        is lacking, and 1 in all cells where the run has no soft prompts."""
        table = pd.DataFrame([vars(row) for row in self.rows]).astype({"score": float, "confidence": float})
        if self.soft_label is None:
            return table.assign(soft=1.0)
        soft = {(row.task, row.seed): row.score or 0.0 for row in self.by_method[self.soft_label]}
        return table.assign(soft=[soft.get((row.task, row.seed), 0.0) for row in self.rows])

    @cached_property
    def soft_label(self) -> str | None:
        """The method whose prompts are the soft prompts themselves, against which recovery is measured, if any."""
        kinds = {label: {row.kind for row in rows if row.failure is None} for label, rows in self.by_method.items()}
        soft = [method for method in self.record.methods if kinds[method.label] == {"soft"}]
        return next((m.label for m in sorted(soft, key=lambda method: method.name != "soft")), None)


def load_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        UserError: the folder is missing or no run, the run is unfinished or of a newer schema, a file is damaged, or
            the files contradict each other.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.", "Give the output folder of soft2hard evaluate.")
    record = _run_record(folder / "run.json")
    lacking = [name for name in _FILES if not (folder / name).is_file()]
    if record.seconds is None or lacking:
        raise UserError(
            f"The run in {folder} is unfinished{f': there is no {lacking[0]}' if lacking else ''}.",
            "Run the same soft2hard evaluate command again: it resumes where it stopped.",
        )
    with _damage(folder / "tasks.json") as path:
        tasks = TypeAdapter(tuple[TaskRecord, ...]).validate_json(path.read_bytes())
    with _damage(folder / "results.parquet") as path:
        run = Run(
            name=folder.resolve().name,
            record=record,
            rows=_rows(path),
            tasks=tasks,
            soft_prompts=_soft_prompts(folder / "soft_prompts.safetensors"),
            training=_training(folder / "training.jsonl"),
            certificate=certificate.load(folder),
            results_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        _check_agreement(run)
    return run


def _run_record(path: Path) -> RunRecord:
    if not path.is_file():
        raise UserError(f"{path.parent} is not a run: there is no run.json.", "Give a folder of soft2hard evaluate.")
    with _damage(path):
        document = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
        version = document.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version}; this soft2hard reads up to {SCHEMA_VERSION}.",
                "Update soft2hard.",
            )
        if "methods" not in document:
            raise UserError(f"{path} is not of an evaluation.", "Give the output folder of soft2hard evaluate.")
        return TypeAdapter(RunRecord).validate_python(document)


def _rows(path: Path) -> tuple[ResultRow, ...]:
    import pyarrow.parquet

    # Not read_table, which takes folder names such as seed=0 for columns.
    lines = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    return TypeAdapter(tuple[ResultRow, ...]).validate_python([_line(line) for line in lines])


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    """A parquet row without its gaps (empty, NaN, infinite), which the fields' defaults fill."""
    known = {k: v for k, v in line.items() if v is not None and not (isinstance(v, float) and not math.isfinite(v))}
    trace = known.get("trace", {})
    return known | {"trace": json.loads(trace) if isinstance(trace, str) else trace}


def _soft_prompts(path: Path) -> dict[tuple[int, str], np.ndarray]:
    if not path.exists():
        return {}
    from safetensors.numpy import load_file

    with _damage(path):
        named = {name.partition("/"): tensor for name, tensor in load_file(path).items()}
        if not all(p.ndim == 2 and np.isfinite(p).all() for p in named.values()):
            raise ValueError("a tensor is no finite matrix")
        return {(int(seed), task): tensor for (seed, _, task), tensor in named.items()}


def _training(path: Path) -> pd.DataFrame:
    if not path.exists() or not path.stat().st_size:
        return pd.DataFrame()
    with _damage(path):
        table = pd.read_json(path, lines=True, convert_dates=False)
        if "step" not in table or table["step"].isna().any():
            raise ValueError("a line has no step")
        return table.select_dtypes("number")


def _check_agreement(run: Run) -> None:
    """Rows, tasks and methods must speak of the same things, each cell once."""
    if not run.rows:
        raise ValueError("it has no rows")
    for what, known in (("method", run.methods), ("task", [task.name for task in run.tasks])):
        if repeated := [value for value, n in Counter(known).items() if n > 1]:
            raise ValueError(f"the run has {what} {repeated[0]!r} twice")
        if unknown := {getattr(row, what) for row in run.rows} - set(known):
            raise ValueError(f"the run knows no {what} {min(unknown)!r}")
    cell, n = Counter((row.method, row.task, row.seed) for row in run.rows).most_common(1)[0]
    if n > 1:
        raise ValueError(f"the cell {cell} stands in it {n} times")
    if {row.seed for row in run.rows} - set(run.record.seeds):
        raise ValueError("it has seeds that the run does not name")
    if strange := [row.score for row in run.rows if row.score is not None and not 0 <= row.score <= 1]:
        raise ValueError(f"the score {strange[0]} is not between 0 and 1")


@contextmanager
def _damage(path: Path) -> Iterator[Path]:
    """Whatever goes wrong with a file's content, as one line."""
    try:
        yield path
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the formats' libraries raise exceptions of many classes for a broken file
        problem = first_line(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")
        remedy = "Restore the file, or make the run again with soft2hard evaluate."
        raise UserError(f"{path} is damaged: {problem}.", remedy) from error
