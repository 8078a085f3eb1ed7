"""Reading YAML files that people write."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from soft2hard.errors import UserError


def read_yaml(path: Path, what: str) -> Any:
    """The value in a YAML file; nothing in it is run.

    Raises UserError where the file is missing, a folder, unreadable or no YAML; `what` says what it should have been.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder.", f"Give the path of {what}.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", f"Give the path of {what}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.", "Fix the file.") from error


def of_size(raw: Mapping[str, Any], size: str | None, path: Path) -> dict[str, Any]:
    """The settings of the file at `path` without its `variants`; with `size`, as the variant of this name has them.

    Mappings are merged, and a null takes a setting out. Raises UserError where there is no such variant.
    """
    found = dict(raw)
    variants = found.pop("variants", {})
    if size is None:
        return found
    if not isinstance(variants, Mapping) or size not in variants:
        there = ", ".join(variants) if isinstance(variants, Mapping) and variants else "none"
        raise UserError(f"{path} has no size '{size}'.", f"Its sizes: {there}; without --size it is run as it stands.")
    if not isinstance(variants[size], Mapping):
        raise UserError(f"{path}: variants: '{size}' is no mapping.", "Write the settings that are otherwise.")
    return _changed(found, variants[size])


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for key, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _changed(found[key], change) if both else change
    return {key: value for key, value in found.items() if value is not None or key not in changes}
