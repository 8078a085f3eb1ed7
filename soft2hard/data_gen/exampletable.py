"""Tables of examples in JSONL and CSV files, read with the number of the line to blame for a mistake."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soft2hard.errors import UserError

HEADER_FIELDS = ("instruction", "name", "family", "metric", "paraphrases")

Header = dict[str, str]
"""Texts of one line by field; of `paraphrases` there may be several lines, one a paraphrase."""
Record = tuple[int, dict]
"""The line an example stands on, counted from 1, and its columns."""


@dataclass(frozen=True)
class Table:
    """What a file holds."""

    path: Path
    header: Header
    """Those of `HEADER_FIELDS` that are given."""
    rows: list[dict[str, str]]
    """The columns asked for, stripped of white space at their ends; never empty."""


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """The header and the named columns of a .jsonl or .csv file.

    Raises UserError where the file cannot be read, a column or value is missing, or there is no row.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path} is neither {' nor '.join(SUFFIXES)}.", "Give a JSONL or CSV file with columns input and output."
        )
    header, records = reader(path, read_text(path), columns)
    rows = [_row(path, number, record, columns) for number, record in records]
    if not rows:
        raise UserError(f"{path} has no examples.", f"Add at least one with {' and '.join(columns)}.")
    return Table(path, header, rows)


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


def _read_jsonl(path: Path, text: str, columns: Sequence[str]) -> tuple[Header, list[Record]]:
    records = list(_objects(path, text))
    header: Header = {}
    if records and not {"input", "output"} & set(records[0][1]):
        header = _header(path, *records.pop(0))
    return header, records


def _objects(path: Path, text: str) -> Iterator[Record]:
    # Not splitlines(), which also breaks at characters that JSON allows within a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            detail = getattr(error, "msg", "it is nested too deeply")
            raise UserError(f"{path}, line {number}: not JSON ({detail}).", "Write one object a line.") from error
        if not isinstance(record, dict):
            raise UserError(
                f"{path}, line {number}: JSON, but not an object.", 'Write {"input": "...", "output": "..."}.'
            )
        yield number, record


def _read_csv(path: Path, text: str, columns: Sequence[str]) -> tuple[Header, list[Record]]:
    lines = text.splitlines(keepends=True)
    n_comments = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    header: Header = {}
    for number, line in enumerate(lines[:n_comments], start=1):
        key, colon, value = line.lstrip("#").partition(":")
        if colon and key.strip() in HEADER_FIELDS:  # other comments are remarks
            given = _header(path, number, {key.strip(): value.strip()})
            if "paraphrases" in given and "paraphrases" in header:
                given["paraphrases"] = f"{header['paraphrases']}\n{given['paraphrases']}"
            header |= given
    reader = csv.DictReader(io.StringIO("".join(lines[n_comments:]), newline=""), strict=True)
    records: list[Record] = []
    try:
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing and lines[n_comments:]:
            raise UserError(
                f"{path} has no column {' and no column '.join(missing)} (it has {', '.join(reader.fieldnames)}).",
                f"Name the columns in its first line: {','.join(columns)}.",
            )
        for record in reader:
            number = n_comments + reader.line_num
            if None in record:
                raise UserError(
                    f"{path}, line {number}: more values than columns.",
                    'Put values that hold commas between double quotes: "a, b".',
                )
            records.append((number, record))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {n_comments + reader.line_num}: not CSV ({error}).", "Check its double quotes."
        ) from error
    return header, records


def _header(path: Path, number: int, record: dict) -> Header:
    unknown = [key for key in record if key not in HEADER_FIELDS]
    if unknown:
        raise UserError(
            f"{path}, line {number}: '{unknown[0]}' is neither input, output, nor a header field.",
            f"Give the columns input and output; the header's fields are {', '.join(HEADER_FIELDS)}.",
        )
    lines = {
        key: value if key == "paraphrases" and isinstance(value, list) else [value] for key, value in record.items()
    }
    wrong = [key for key, texts in lines.items() if not all(isinstance(text, str) and text.strip() for text in texts)]
    if wrong:
        what = "a list of texts" if wrong[0] == "paraphrases" else "a text"
        raise UserError(f"{path}, line {number}: the header's {wrong[0]} is not {what}.", "Write it between quotes.")
    return {key: "\n".join(" ".join(text.split()) for text in texts) for key, texts in lines.items() if texts}


def _row(path: Path, number: int, record: dict, columns: Sequence[str]) -> dict[str, str]:
    for column in columns:
        if record.get(column) is None:
            raise UserError(f"{path}, line {number}: no {column}.", f"Every example needs {' and '.join(columns)}.")
        value = record[column]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UserError(
                f"{path}, line {number}: {column} is a {type(value).__name__}, not a text.", "Write it between quotes."
            )
        if not str(value).strip():
            raise UserError(f"{path}, line {number}: {column} is empty.", "Fill it in or leave the line out.")
    return {column: str(record[column]).strip() for column in columns}


_READERS: dict[str, Callable[[Path, str, Sequence[str]], tuple[Header, list[Record]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
}
SUFFIXES = tuple(_READERS)
"""Suffixes of task files."""
