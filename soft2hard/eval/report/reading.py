"""Reads finished run folders (`soft2hard.eval.run_records`) and refuses those that cannot be trusted."""

import hashlib
import json
import math
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from soft2hard.errors import UserError
from soft2hard.eval.run_records import (
    METRICS,
    SCHEMA_VERSION,
    MethodRecord,
    ReferencePerplexity,
    ResultRow,
    RunRecord,
    TaskRecord,
)

Record = TypeVar("Record")
_MAKE_ANEW = "Restore the file, or make the run anew with soft2hard evaluate."
_DEFAULTS = {f.name: f.default for f in fields(ResultRow) if f.default is not MISSING}
_FILES = ("run.json", "results.parquet", "tasks.json")


@dataclass(frozen=True)
class Run:
    """A finished run, in memory."""

    name: str
    """Name of its folder."""
    record: RunRecord
    rows: tuple[ResultRow, ...]
    tasks: tuple[TaskRecord, ...]
    soft_prompts: dict[tuple[int, str], np.ndarray]
    """By seed and task, (n_tokens, d_model); empty where the run kept none."""
    training: tuple[dict[str, float], ...]
    """Numbers that a training logged, by step; empty where there was none."""
    results_sha256: str
    """Of results.parquet."""

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Labels, in the order of the configuration."""
        return tuple(method.label for method in self.record.methods)

    @cached_property
    def by_method(self) -> dict[str, tuple[ResultRow, ...]]:
        """The rows of each label."""
        return {label: tuple(row for row in self.rows if row.method == label) for label in self.methods}

    @cached_property
    def having(self) -> dict[str, set[str]]:
        """The tasks for which any method has a number, by column of numbers."""
        found: dict[str, set[str]] = {key: set() for key in METRICS}
        for row in self.rows:
            for key, tasks in found.items():
                if getattr(row, key) is not None:
                    tasks.add(row.task)
        return found

    @cached_property
    def families(self) -> tuple[str, ...]:
        """In order of appearance among the tasks."""
        return tuple(dict.fromkeys(task.family for task in self.tasks))

    @cached_property
    def n_missing(self) -> dict[str, int]:
        """How many cells of each method have no row at all."""
        n_cells = len(self.tasks) * len(self.record.seeds)
        return {label: n_cells - len(rows) for label, rows in self.by_method.items()}


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
            "Run the same soft2hard evaluate command again: it goes on where it stopped.",
        )
    table = folder / "results.parquet"
    run = Run(
        name=folder.resolve().name,
        record=record,
        rows=_rows(table),
        tasks=_tasks(folder / "tasks.json"),
        soft_prompts=_soft_prompts(folder / "soft_prompts.safetensors"),
        training=_training(folder / "training.jsonl"),
        results_sha256=hashlib.sha256(table.read_bytes()).hexdigest(),
    )
    _check_agreement(run, table)
    return run


def _run_record(path: Path) -> RunRecord:
    if not path.is_file():
        raise UserError(f"{path.parent} is not a run: there is no run.json.", "Give a folder of soft2hard evaluate.")
    with _damage(path):
        document = _document(path, dict)
        version = document.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version}; this soft2hard reads up to {SCHEMA_VERSION}.",
                "Update soft2hard.",
            )
        if "methods" not in document:
            raise UserError(f"{path} is not of an evaluation.", "Give the output folder of soft2hard evaluate.")
        methods = tuple(_record(MethodRecord, item) for item in document["methods"])
        points = document.get("reference_perplexity")
        nested = {"methods": methods, "reference_perplexity": points and _record(ReferencePerplexity, points)}
        return _record(RunRecord, document | nested | {"seeds": tuple(document["seeds"])})


def _tasks(path: Path) -> tuple[TaskRecord, ...]:
    with _damage(path):
        return tuple(_task(item) for item in _document(path, list))


def _task(item: Mapping[str, Any]) -> TaskRecord:
    labels = item.get("labels")
    examples = tuple((str(x), str(y)) for x, y in item["examples"])
    return _record(TaskRecord, {**item, "labels": None if labels is None else tuple(labels), "examples": examples})


def _rows(path: Path) -> tuple[ResultRow, ...]:
    import pyarrow.parquet

    with _damage(path):
        # Not read_table, which takes folder names such as seed=0 for columns.
        lines = pyarrow.parquet.ParquetFile(path).read().to_pylist()
        return tuple(_row(line) for line in lines)


def _row(line: Mapping[str, Any]) -> ResultRow:
    values = {key: _plain(value) for key, value in line.items()}
    trace = values.get("trace")
    values["trace"] = json.loads(trace) if isinstance(trace, str) else trace or {}
    # A column of numbers that is wholly empty comes back as None also where the field has a plain default.
    filled = {key: _DEFAULTS.get(key) if value is None else value for key, value in values.items()}
    return _record(ResultRow, filled)


def _plain(value: Any) -> Any:
    """A parquet value with what is not a number (NaN, infinities) as None: both say that there is no figure."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _soft_prompts(path: Path) -> dict[tuple[int, str], np.ndarray]:
    if not path.exists():
        return {}
    from safetensors.numpy import load_file

    with _damage(path):
        named = {name.partition("/"): tensor for name, tensor in load_file(path).items()}
        prompts = {(int(seed), task): tensor for (seed, _, task), tensor in named.items()}
        _require(all(p.ndim == 2 and np.isfinite(p).all() for p in prompts.values()), "a tensor is no finite matrix")
        return prompts


def _training(path: Path) -> tuple[dict[str, float], ...]:
    if not path.exists():
        return ()
    with _damage(path):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        _require(all(isinstance(line, dict) and _is_number(line.get("step")) for line in lines), "a line has no step")
        return tuple({key: float(value) for key, value in line.items() if _is_number(value)} for line in lines)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_agreement(run: Run, table: Path) -> None:
    """Rows, tasks and methods must speak of the same things, each cell once."""
    with _damage(table):
        _require(bool(run.rows), "it has no rows")
        for what, values in (("method", run.methods), ("task", [task.name for task in run.tasks])):
            repeated = [value for value, n in Counter(values).items() if n > 1]
            _require(not repeated, f"the run has {what} {repeated[0] if repeated else ''!r} twice")
            unknown = {getattr(row, what) for row in run.rows} - set(values)
            _require(not unknown, f"the run knows no {what} {min(unknown, default='')!r}")
        cells = Counter((row.method, row.task, row.seed) for row in run.rows)
        cell, n = cells.most_common(1)[0]
        _require(n == 1, f"the cell {cell} stands in it {n} times")
        _require({row.seed for row in run.rows} <= set(run.record.seeds), "it has seeds that the run does not name")
        for row in run.rows:
            _require(row.score is None or 0 <= row.score <= 1, f"the score {row.score} is not between 0 and 1")


def _document(path: Path, kind: type) -> Any:
    document = json.loads(path.read_text(encoding="utf-8"))
    _require(isinstance(document, kind), f"it holds no JSON {'object' if kind is dict else 'list'}")
    return document


def _record(kind: Callable[..., Record], values: Mapping[str, Any]) -> Record:
    """A record of known fields, each of its declared type; fields that this version does not know are left out."""
    hints = _type_hints(kind)
    known = {key: _whole(value, hints[key]) for key, value in values.items() if key in hints}
    for key, value in known.items():
        _require(_fits(value, hints[key]), f"{key} is {value!r:.60}")
    return kind(**known)


_type_hints = cache(typing.get_type_hints)
"""Kept, as rows are many."""


def _whole(value: Any, hint: Any) -> Any:
    """Undo what tables do to whole numbers and truth values in a column with gaps: they become floating-point."""
    if isinstance(value, float) and value.is_integer() and not _fits(value, hint):
        return bool(value) if value in (0, 1) and _fits(True, hint) else int(value)
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a type, looking into unions and literals but not into containers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file's content, as one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except KeyError as error:
        raise UserError(f"{path} is damaged: there is no {error}.", _MAKE_ANEW) from error
    except Exception as error:
        # The formats' libraries raise exceptions of many classes for a broken file.
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"{path} is damaged: {first}.", _MAKE_ANEW) from error


def soft_prompt_label(run: Run) -> str | None:
    """The method whose prompts are the soft prompts themselves, against which recovery is measured; None: there is
    none in the run."""
    kinds: Mapping[str, set[str]] = {
        label: {row.kind for row in rows if row.failure is None} for label, rows in run.by_method.items()
    }
    soft: Sequence[MethodRecord] = [method for method in run.record.methods if kinds[method.label] == {"soft"}]
    named = [method.label for method in soft if method.name == "soft"]
    return next(iter([*named, *(method.label for method in soft)]), None)


def soft_scores(run: Run) -> dict[tuple[str, int], float]:
    """Score of the soft prompts by task and seed, 0 for a failed cell; empty where the run has none of them."""
    label = soft_prompt_label(run)
    return {(row.task, row.seed): row.score or 0.0 for row in run.by_method[label]} if label else {}
