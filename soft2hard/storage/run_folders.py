"""A folder that belongs to one piece of work: claimed with all that decides its results, resumed by it alone.

The record of the work is one JSON file in the folder, for people to read: what decides the results (settings, hashes of
what is read) and what the work was made with (versions, commit, time). Whatever marks the work as finished is written
last, so that a folder without it is resumed.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from soft2hard import __version__
from soft2hard.errors import UserError
from soft2hard.storage.files import write_text

_ELSEWHERE = "Choose another folder, or remove it."
_LIBRARIES = ("torch", "transformers", "datasets", "numpy")

Record = Mapping[str, Any]
"""Plain JSON values by name."""


@dataclass(frozen=True)
class Kind:
    """A kind of work that folders are claimed for."""

    name: str
    """With its article, for messages: 'an evaluation'."""
    file: str
    """Name of its record in the folder."""
    identity: Callable[[Record], Record]
    """The part of a record that must be the same for a work to be resumed, with defaults for what older records lack;
    hashes of what the work reads lie under 'inputs'. Fails on a record of other work (KeyError, TypeError, ...)."""
    alone: bool = True
    """False where other things may lie in the folder, such as the record of the command that the work is a part of."""
    remedy: str = _ELSEWHERE
    """What to do where the folder holds the same kind of work with other settings."""


def claim(folder: Path, kind: Kind, record: Record) -> dict[str, Any] | None:
    """Begin a work in a folder with this record, or resume the one that is there; returns its record, None if begun.

    Raises UserError, in one line, where the folder is a file, holds something else, a damaged record or, named one by
    one, other settings or inputs.
    """
    path, wanted = folder / kind.file, json.loads(json.dumps(record, default=str))
    if is_free(folder, kind):
        write_json(path, wanted)
        return None
    found = read_record(folder, kind)
    changed = list(differences(kind.identity(found), kind.identity(wanted)))
    inputs = [name.removeprefix("inputs.") for name in changed if name.startswith("inputs.")]
    if settings := [name for name in changed if not name.startswith("inputs.")]:
        raise UserError(f"{folder} holds {kind.name} made with other settings ({', '.join(settings)}).", kind.remedy)
    if inputs:
        raise UserError(
            f"What {kind.name} in {folder} was begun with has changed since: {', '.join(inputs)}.",
            "Choose another folder: what is made of other inputs does not fit.",
        )
    return found


def is_free(folder: Path, kind: Kind) -> bool:
    """True where a work is yet to begin; what a crash has left of writing its record does not count.

    Raises UserError where the folder is a file or is in use by something else.
    """
    path = folder / kind.file
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file.", "Give a new or empty folder.")
    if path.exists() and path.stat().st_size:
        return False
    others = any(one != path and not _is_unfinished(one, path) for one in folder.glob("*"))
    if others and path.exists():
        raise UserError(f"{path} is empty, as a crash may leave it.", _ELSEWHERE)
    if others and kind.alone:
        raise UserError(f"{folder} is in use by something else.", "Choose a new or empty folder.")
    return True


def _is_unfinished(file: Path, record: Path) -> bool:
    """True for the temporary file of a killed `atomic_write` of the record."""
    return file.name.startswith(f".{record.stem}.") and file.name.endswith(f".tmp{record.suffix}")


def read_record(folder: Path, kind: Kind) -> dict[str, Any]:
    """The record of the work in a folder. Raises UserError where it cannot be read or is of other work."""
    path = folder / kind.file
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged.", _ELSEWHERE) from error
    try:
        kind.identity(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} is in use by something else: {path} is of another command.", _ELSEWHERE) from error
    return found


def write_json(path: Path, values: Any) -> None:
    """Write JSON values for people to read, whole or not at all."""
    write_text(path, json.dumps(values, indent=1))


def differences(found: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """The names, dotted, under which two JSON values differ; lists are compared as wholes."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted(found.keys() | wanted.keys()):
            yield from differences(found.get(key), wanted.get(key), f"{place}.{key}".lstrip("."))
    elif found != wanted:
        yield place


# --- what a work is made with -----------------------------------------------------------------


def made_with() -> dict[str, Any]:
    """Versions, commit and time, for a record of work that begins now."""
    return {"versions": versions(), "commit": commit(), "created": now()}


def versions() -> dict[str, str]:
    """Of this package, Python and the libraries that results depend on."""
    own = {"soft2hard": __version__, "python": sys.version.split()[0]}
    return own | {name: version(name) for name in _LIBRARIES}


def now(timespec: str = "seconds") -> str:
    """ISO time, UTC, to the unit that `datetime.isoformat` calls so."""
    return datetime.now(timezone.utc).isoformat(timespec=timespec)


def commit() -> str | None:
    """The git commit of this code, with '+' where the package has changes; None outside a checkout."""
    try:
        changed = "+" if _git("status", "--porcelain", "--", ".") else ""
        return _git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    package = Path(__file__).parents[1]
    return subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, check=True).stdout.strip()
