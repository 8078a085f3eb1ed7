"""A run folder belongs to one evaluation: the same settings, the same tasks, the same models."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from soft2hard.errors import UserError
from soft2hard.eval.records import RunRecord
from soft2hard.lm.precision import rounding_of
from soft2hard.storage.files import atomic_write

RUN_FILE = "run.json"


def claim(folder: Path, record: RunRecord) -> None:
    """Begin a run in a folder, or go on with the one that is there.

    Raises UserError where the folder holds a run with other settings, tasks or models, something else, or is no folder:
    cells of one evaluation must not be taken for another's.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file.", "Give a new or empty folder for the run.")
    if (folder / RUN_FILE).exists():
        _check_same(folder, read_begun(folder), record)
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is in use by something else.", "Choose a new or empty folder.")
    else:
        with atomic_write(folder / RUN_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")


def read_begun(folder: Path) -> dict[str, Any]:
    """The record of the run in a folder, as plain values.

    Raises UserError where the file is damaged or of another command.
    """
    path = folder / RUN_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged.", "Choose another folder.") from error
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise UserError(f"{folder} is in use by something else: {path} is of another command.", "Choose a new folder.")
    return found


def _check_same(folder: Path, found: Mapping[str, Any], record: RunRecord) -> None:
    changed = _changed(_deciding(found["config"]), _deciding(record.config))
    if changed:
        raise UserError(f"{folder} holds an evaluation with other settings ({changed}).", "Choose another folder.")
    inputs = _changed(found.get("inputs") or {}, record.inputs)
    if inputs:
        raise UserError(
            f"What the run in {folder} was begun with has changed since: {inputs}.",
            "Choose another folder: old cells do not fit new tasks or models.",
        )


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of an evaluation what decides its results: of the subject's loading its rounding alone, not where it runs."""
    # Runs begun before an evaluation said how it holds its subject held it as now by default.
    return {**config, "loading": rounding_of(config.get("loading") or {})}


def _changed(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    return ", ".join(sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)))
