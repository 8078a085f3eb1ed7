"""The numbers of an analysis as CSV files, for other programs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soft2hard.eval.analysis.records import Analysis, load_arrays
from soft2hard.eval.analysis.section_records import Claims, Distances, Extraction, Maps, Section, Transfer
from soft2hard.storage.files import atomic_folder


def write_downloads(analysis: Analysis, folder: Path) -> Path:
    """Write `csv/`: a file for each list of records, and one for each matrix; returns the folder.

    Fields within fields have names joined by a full stop, such as `own.low`.
    """
    with atomic_folder(folder / "csv", overwrite=True) as place:
        for name, table in _tables(analysis, folder):
            table.to_csv(place / f"{name}.csv", index=False)
    return folder / "csv"


def _tables(analysis: Analysis, folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    for name in ("prompts", "tasks", "groups"):
        yield from _rows(name, [row.model_dump() for row in getattr(analysis, name)])
    for name in type(analysis.sections).model_fields:
        section = getattr(analysis.sections, name)
        if not isinstance(section, Section):
            continue
        if isinstance(section, Extraction):
            yield from _rows("extraction-positions", list(_neighbours(section, analysis)))
        values = section.model_dump(exclude={"prompts"} if isinstance(section, Extraction) else None)
        values = values.get("result") or values
        for key, value in values.items():
            if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
                yield from _rows(f"{name}-{key}", value)
        yield from _rows(f"{name}-figures", list(_figures(values)))
        if isinstance(section, Claims):
            yield from _rows(
                "claims-beside", [{"claim": c.name} | r.model_dump() for c in section.claims for r in c.beside]
            )
        if isinstance(section, Distances | Maps | Transfer):
            yield from _matrices(name, section, analysis, folder)


def _rows(name: str, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Lists of texts become one text; lists of records are left to files of their own."""
    if rows:
        yield name, pd.json_normalize([{key: _flat(v) for key, v in row.items() if not _nested(v)} for row in rows])


def _nested(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(one, dict) for one in value)


def _flat(value: Any) -> Any:
    texts = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    return "; ".join(value) if texts else value


def _figures(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The figures of a section as a whole, those with an interval and plain ones."""
    for key, value in values.items():
        if isinstance(value, dict) and "low" in value:
            yield {"figure": key, **value}
        elif isinstance(value, int | float) and key != "seconds":
            yield {"figure": key, "value": value}


def _neighbours(section: Extraction, analysis: Analysis) -> Iterator[dict[str, Any]]:
    for one in section.prompts:
        for place, position in enumerate(one.positions):
            for rank, near in enumerate(position.nearest, 1):
                yield {
                    "prompt": analysis.prompts[one.prompt].name,
                    "group": analysis.prompts[one.prompt].group,
                    "position": place,
                    "rank": rank,
                    "id": near.id,
                    "token": near.text,
                    "cosine": near.cosine,
                    "start": None if position.start is None else position.start.text,
                    "stayed": position.stayed,
                }


def _matrices(
    name: str, section: Distances | Maps | Transfer, analysis: Analysis, folder: Path
) -> Iterator[tuple[str, pd.DataFrame]]:
    """A matrix with the names of its rows in the first column; the places of a map as x and y."""
    prompts = [analysis.prompts[i].name for i in section.prompts]
    tasks = list(section.tasks) if isinstance(section, Transfer) else prompts
    for key, array in load_arrays(folder, name).items():
        rows = prompts if key == "accuracy" else tasks
        columns = ["x", "y"] if isinstance(section, Maps) else tasks if array.ndim == 2 else [key]
        yield f"{name}-{key}", _matrix(rows, columns, array)


def _matrix(rows: list[str], columns: list[str], array: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(array.reshape(len(rows), -1), columns=columns)
    table.insert(0, "name", rows, allow_duplicates=True)
    return table
