"""What a run folder remembers: the recipe, and of each stage what it was begun with and whether it has ended."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft2hard.errors import UserError
from soft2hard.storage import run_folders
from soft2hard.storage.run_folders import commit, now, versions, write_json

if TYPE_CHECKING:
    from soft2hard.pipeline.recipe import Recipe
    from soft2hard.pipeline.stages import Layout

SCHEMA_VERSION = 1
_RECIPE = run_folders.Kind("a recipe", "recipe.json", lambda record: record["recipe"])


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
        return cls(dict(settings), now("milliseconds"), versions(), commit(), seed)

    def ended(self, read: Mapping[str, str | None], seconds: float) -> "StageRecord":
        return replace(self, read=dict(read), finished=now("milliseconds"), seconds=round(seconds, 1))


def read_stage(path: Path) -> StageRecord | None:
    """The record of a stage, None where it has not begun. Raises UserError where the file is damaged."""
    if not path.exists():
        return None
    try:
        return StageRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged.", "Choose another folder with --output.") from error


def write_recipe(layout: "Layout", recipe: "Recipe") -> None:
    """Save the recipe with all defaults, and the versions, commit and seed that it is run with.

    Raises UserError where the folder is in use by something else.
    """
    run_folders.is_free(layout.folder, _RECIPE)
    about = {"schema_version": SCHEMA_VERSION, "versions": versions(), "commit": commit(), "seed": recipe.seed}
    write_json(layout.recipe, about | {"written": now("milliseconds"), "recipe": recipe.plain})
