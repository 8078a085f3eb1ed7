"""What a run folder remembers: the recipe, and of each stage what it was begun with and whether it has ended."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft2hard import __version__
from soft2hard.errors import UserError
from soft2hard.eval.provenance import commit
from soft2hard.storage.files import atomic_write

if TYPE_CHECKING:
    from soft2hard.pipeline.recipe import Recipe
    from soft2hard.pipeline.stages import Layout

SCHEMA_VERSION = 1
_LIBRARIES = ("torch", "transformers", "datasets", "numpy")


@dataclass(frozen=True)
class StageRecord:
    """One stage of a run."""

    settings: dict[str, Any]
    """What of the recipe decides what it makes."""
    begun: str
    """Time, UTC."""
    versions: dict[str, str]
    commit: str | None
    seed: int
    read: dict[str, str | None] = field(default_factory=dict)
    """When the stages that it reads from had ended; None for one that had not."""
    finished: str | None = None
    """Time, UTC; None while there is something left to do."""
    seconds: float | None = None
    """Wall time of the sitting that ended it."""
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, settings: Mapping[str, Any], seed: int) -> "StageRecord":
        """The record of a stage that begins now."""
        return cls(dict(settings), now(), versions(), commit(), seed)

    def ended(self, read: Mapping[str, str | None], seconds: float) -> "StageRecord":
        return replace(self, read=dict(read), finished=now(), seconds=round(seconds, 1))


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def versions() -> dict[str, str]:
    """Of this package, Python and the libraries that results depend on."""
    python = sys.version.split()[0]
    return {"soft2hard": __version__, "python": python} | {name: version(name) for name in _LIBRARIES}


def write_record(path: Path, record: StageRecord) -> None:
    _write(path, asdict(record))


def read_record(path: Path) -> StageRecord | None:
    """The record of a stage, None where it has not begun. Raises UserError where the file is damaged."""
    if not path.exists():
        return None
    try:
        return StageRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged.", "Choose another folder with --output.") from error


def write_recipe(layout: "Layout", recipe: "Recipe") -> None:
    """Save the recipe with all defaults, and what it is run with.

    Raises UserError where the folder is in use by something else.
    """
    folder = layout.folder
    if folder.exists() and not layout.recipe.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is in use by something else.", "Choose a new or empty folder with --output.")
    made_with = {"versions": versions(), "commit": commit(), "seed": recipe.seed, "written": now()}
    _write(layout.recipe, {"schema_version": SCHEMA_VERSION} | made_with | {"recipe": recipe.plain})


def differences(found: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """Where two values of JSON differ, as dotted names."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted(found.keys() | wanted.keys()):
            yield from differences(found.get(key), wanted.get(key), f"{place}.{key}".lstrip("."))
    elif found != wanted:
        yield place


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
