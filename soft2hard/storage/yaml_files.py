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


def read_sized_yaml(path: Path, what: str, size: str | None, remedy: str) -> Any:
    """The value in a YAML file, without its `variants`; with `size`, under the changes of the variant of this name.

    Raises UserError as `read_yaml` does, and for a size that the file has not.
    """
    raw = read_yaml(path, what)
    if not isinstance(raw, dict):
        return raw
    variants = raw.pop("variants", {})
    if size is None:
        return raw
    if not isinstance(variants, dict) or size not in variants:
        there = ", ".join(variants) if isinstance(variants, dict) and variants else "none"
        raise UserError(f"{path} has no size '{size}'.", f"Its sizes: {there}; without --size it is run as it stands.")
    if not isinstance(variants[size], Mapping):
        raise UserError(f"{path}: variants: write each as a mapping of the settings that are otherwise.", remedy)
    return changed(raw, variants[size])


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with those of a variant in their place: mappings are merged, a null takes a setting out."""
    found = dict(values)
    for key, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = changed(found[key], change) if both else change
    return {key: value for key, value in found.items() if value is not None or key not in changes}
