"""Reading YAML files that people write."""

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
