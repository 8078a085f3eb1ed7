"""Tables in JSONL, CSV and JSON files, read with the number of the line to blame, and datasets on the Hugging Face Hub.

A header may stand above a table: in JSONL an object without any of the table's columns, in CSV comment lines
(`# instruction: ...`), also in the form that spreadsheet programs give them (`"# instruction: a, b",`).
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soft2hard.errors import UserError

SUFFIXES = (".jsonl", ".csv")
"""Suffixes of tables that people write."""
HEADER_FIELDS = ("instruction", "name", "family", "metric", "paraphrases")
LONGEST_FIELD = 2**31 - 1
"""Characters of a CSV field; the `csv` module reads 131,072 unless it is told otherwise."""

Header = dict[str, str]
"""Texts of one line by field; of `paraphrases` there may be several lines, one a paraphrase."""
Record = tuple[int, dict[str, Any]]
"""The line a record stands on, counted from 1, and its values by column; None for NaN and infinity."""


@dataclass(frozen=True)
class Table:
    """What a file holds."""

    header: Header
    """Those of `HEADER_FIELDS` that are given."""
    rows: list[dict[str, str]]
    """The columns asked for, stripped of white space at their ends; never empty."""


@dataclass(frozen=True)
class Records:
    """Rows of a file or of a dataset."""

    origin: str
    """What to call the table in messages."""
    columns: tuple[str, ...]
    rows: Iterable[Mapping[str, Any]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For columns of numbers that stand for classes: the names in the order of the numbers."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises UserError where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (first at byte {error.start}).", "Save it again in the encoding UTF-8."
        ) from error
    except OSError as error:
        raise UserError(
            f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions."
        ) from error


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.", "Get the file from its source again.") from error


def read_table(path: Path, columns: Sequence[str], may_lack: Sequence[str] = ()) -> Table:
    """The header and the named columns of a .jsonl or .csv file, and those that a row may lack, empty where it does.

    Raises UserError where the file cannot be read, a column or value is missing, or there is no row.
    """
    header: Header = {}
    wanted = " and ".join(columns)
    if path.suffix.lower() == ".jsonl":
        records = list(read_jsonl(path))
        if records and not {"input", "output", *columns} & set(records[0][1]):
            header = _header(path, *records.pop(0))
    elif path.suffix.lower() == ".csv":
        lines = read_text(path).splitlines(keepends=True)
        comments = csv_comments(lines)
        header = _csv_header(path, comments)
        records = _csv_records(path, "".join(lines[len(comments) :]), columns, len(comments))
    else:
        raise UserError(f"{path} is neither {' nor '.join(SUFFIXES)}.", f"Give a JSONL or CSV file with {wanted}.")
    if not records:
        raise UserError(f"{path} has no examples.", f"Add at least one with {wanted}.")
    rows = [
        _row(path, number, record, columns) | {name: str(record.get(name) or "").strip() for name in may_lack}
        for number, record in records
    ]
    return Table(header, rows)


def read_records(path: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Record]:
    """The records of a table without a header, by its suffix; a .json file is a list of objects.

    Values of a CSV file are texts, all others are what JSON gives. Raises UserError where the file cannot be read or
    holds something else, and where a column or key stands twice.
    """
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise UserError(f"{path} is none of {', '.join(suffixes)}.", "Give a file with one of these suffixes.")
    if suffix != ".json":
        return list(read_jsonl(path)) if suffix == ".jsonl" else _csv_records(path, read_text(path))
    found = parse_json(read_text(path), str(path))
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise UserError(f"{path} is no list of objects.", 'Write [{"column": value, ...}, ...].')
    return list(enumerate(found, start=1))


def read_jsonl(path: Path) -> Iterator[Record]:
    """The objects of a JSONL file with their lines, counted from 1. Raises UserError for a line that is none."""
    # Not splitlines(), which also breaks at characters that JSON allows within a string.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            record = parse_json(line, f"{path}, line {number}")
            if not isinstance(record, dict):
                raise UserError(
                    f"{path}, line {number}: JSON, but not an object.", 'Write {"input": "...", "output": "..."}.'
                )
            yield number, record


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text that people or programs wrote, with None for NaN and infinity.

    `where` says in messages where the text stands. Raises UserError for a text that is not JSON, for a key that stands
    twice in an object, and for half a character (a lone surrogate, as half an emoji that was cut), which no file in
    UTF-8 can hold.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := _twice([key for key, _ in pairs]):
            raise UserError(f"{where}: the key '{twice}' stands twice.", "Leave one of the two.")
        return dict(pairs)

    try:
        found = json.loads(
            text, object_pairs_hook=distinct, parse_constant=lambda name: None, parse_float=_finite_or_none
        )
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: half a character (a lone surrogate).", "Write the whole character, or leave it out."
        ) from error
    except (ValueError, RecursionError) as error:
        detail = getattr(error, "msg", "it is nested too deeply")
        raise UserError(f"{where}: not JSON ({detail}).", "Check its quotes, commas and braces.") from error
    return found


def csv_comments(lines: Sequence[str]) -> list[str]:
    """The lines above a CSV table, without the quotes and commas that spreadsheet programs put around a comment."""
    found: list[str] = []
    for line in lines:
        text = line.strip()
        if text.startswith('"#'):
            text = next(csv.reader([text]))[0]
        text = text.rstrip(",").rstrip()
        if text and not text.startswith("#"):
            break
        found.append(text)
    return found


def read_hub(
    name: str,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    columns: Sequence[str] | None = None,
) -> Records:
    """A dataset on the Hugging Face Hub, or in a folder that is laid out as one there.

    Of a dataset that has all `columns`, only these are read. Raises UserError where it cannot be loaded.
    """
    import datasets  # here, because it takes seconds, and local files need not wait for it

    origin = " ".join(["dataset", name, *([config] if config else []), split])
    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"The {origin} cannot be loaded: {error}.",
            "Check its name, configuration and split; without the network it must be in the cache already.",
        ) from error
    names = {name: tuple(kind.names) for name, kind in found.features.items() if isinstance(kind, datasets.ClassLabel)}
    there = tuple(found.column_names)
    if columns is not None and set(columns) <= set(there):
        found = found.select_columns(list(dict.fromkeys(columns)))  # others may hold images that take long to decode
    return Records(f"The {origin}", there, found, names)


def _csv_records(path: Path, text: str, columns: Sequence[str] = (), n_above: int = 0) -> list[Record]:
    """The rows below `n_above` other lines, under the columns that the first one names."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    records: list[Record] = []
    try:
        reader.fieldnames = names = [name.strip() for name in reader.fieldnames or ()]
        if missing := [column for column in columns if text and column not in names]:
            raise UserError(
                f"{path} has no column {' and no column '.join(missing)} (it has {', '.join(names)}).",
                f"Name the columns in its first line, in lower case and with commas between: {','.join(columns)}.",
            )
        if twice := _twice(names):
            raise UserError(f"{path} has the column '{twice}' twice.", "Rename one of the two, or leave it out.")
        for record in reader:
            if None in record:
                raise UserError(
                    f"{path}, line {n_above + reader.line_num}: more values than columns.",
                    'Put values that hold commas between double quotes: "a, b".',
                )
            records.append((n_above + reader.line_num, record))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {n_above + reader.line_num}: not CSV ({error}).", "Check its double quotes."
        ) from error
    return records


def _csv_header(path: Path, comments: Sequence[str]) -> Header:
    header: Header = {}
    for number, line in enumerate(comments, start=1):
        key, colon, value = line.lstrip("#").partition(":")
        if colon and key.strip() in HEADER_FIELDS:  # other comments are remarks
            given = _header(path, number, {key.strip(): value.strip()})
            if "paraphrases" in given and "paraphrases" in header:
                given["paraphrases"] = f"{header['paraphrases']}\n{given['paraphrases']}"
            header |= given
    return header


def _header(path: Path, number: int, record: dict[str, Any]) -> Header:
    unknown = [key for key in record if key not in HEADER_FIELDS]
    if unknown:
        raise UserError(
            f"{path}, line {number}: '{unknown[0]}' is neither input, output, nor a header field.",
            f"Give the columns input and output; the header's fields are {', '.join(HEADER_FIELDS)}.",
        )
    header: Header = {}
    for key, value in record.items():
        texts = value if key == "paraphrases" and isinstance(value, list) else [value]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            what = "a list of texts" if key == "paraphrases" else "a text"
            raise UserError(f"{path}, line {number}: the header's {key} is not {what}.", "Write it between quotes.")
        if texts:
            header[key] = "\n".join(" ".join(text.split()) for text in texts)
    return header


def _row(path: Path, number: int, record: dict[str, Any], columns: Sequence[str]) -> dict[str, str]:
    for column in columns:
        value, fault = record.get(column), None
        if value is None:
            fault = f"no {column}.", f"Every example needs {' and '.join(columns)}."
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            fault = f"{column} is a {type(value).__name__}, not a text.", "Write it between quotes."
        elif not str(value).strip():
            fault = f"{column} is empty.", "Fill it in or leave the line out."
        if fault:
            raise UserError(f"{path}, line {number}: {fault[0]}", fault[1])
    return {column: str(record[column]).strip() for column in columns}


def _finite_or_none(number: str) -> float | None:
    return value if math.isfinite(value := float(number)) else None


def _twice(names: Sequence[str]) -> str | None:
    """The first name that stands twice; columns without a name, as programs add them at the right, do not count."""
    return next((name for name, count in Counter(names).items() if name and count > 1), None)
