"""Runs the stages of a recipe in order, each once, and resumes where it was stopped.

One rule for changes: a stage that has begun in a folder is held to the settings that it began with. What belongs to
stages that have not begun may still be changed; for anything else a changed recipe needs a new folder.
"""

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from soft2hard.errors import UserError, first_line
from soft2hard.lm.loading import READING_ERRORS
from soft2hard.lm.smollm2 import fetched_smollm2
from soft2hard.pipeline.recipe import Recipe
from soft2hard.pipeline.stages import Job, Stage, models_of, stages_of
from soft2hard.storage.hub import hub_error
from soft2hard.storage.names import SMOLLM2
from soft2hard.storage.run_folders import Kind, commit, differences, is_free, now, versions, write_json

_NOTES = {"corpus.json", "training.json", "step.json", "log.jsonl", "run.json"}
"""Files that stages write before they make anything."""


_NOT_ENDED = {"read": {}, "finished": None, "seconds": None}
"""When the stages that it reads from had ended, when it ended itself (UTC), and after how long a sitting."""
_RECIPE = Kind("a recipe", "recipe.json", lambda record: record["recipe"])


def about(recipe: Recipe) -> dict[str, Any]:
    """What every record says of how it was made."""
    return {"schema_version": 1, "versions": versions(), "commit": commit(), "seed": recipe.seed}


class Pipeline:
    """A recipe in a folder."""

    def __init__(self, job: Job):
        self.job = job
        self.stages = stages_of(job.recipe, job.layout)

    def run(self, names: Sequence[str] = ()) -> None:
        """Run the stages of these names, or all, that have not ended yet.

        Raises UserError for an unknown stage, a changed recipe, a stage whose input is not there, and, before
        anything is made, for folders, models and keys that are missing.
        """
        wanted = stages_of(self.job.recipe, self.job.layout, names)
        self._refuse_changes()
        check_inputs([stage for stage in wanted if not self.is_done(stage)])
        is_free(self.job.layout.folder, _RECIPE)
        written = {"written": now("milliseconds"), "recipe": self.job.recipe.plain}
        write_json(self.job.layout.recipe, about(self.job.recipe) | written)
        for stage in wanted:
            if self.is_done(stage):
                self.job.log(f"{stage.name}: done earlier")
            else:
                self._run(stage)

    def is_done(self, stage: Stage) -> bool:
        """True if a stage has ended, after the stages that it follows, and its results are still there."""
        record = self._record(stage.name)
        if record is None or record["finished"] is None or record["read"] != self._ends(stage.follows):
            return False
        return all(path.exists() for path in stage.results())

    def _run(self, stage: Stage) -> None:
        self._check_input(stage)
        found, path = self._record(stage.name), self.job.layout.stage(stage.name)
        begun = {"settings": stage.settings(), "begun": now("milliseconds")} | _NOT_ENDED
        record = found or about(self.job.recipe) | begun
        write_json(path, record)
        self.job.log(f"{stage.name}: begins")
        started = time.monotonic()
        there = [written for written in stage.writes() if written.exists()]
        try:
            left = stage.work(self.job)
        except Exception:
            if found is None and not there and not _worth_keeping(stage.writes()):
                path.unlink()  # nothing has been made, so nothing need be held to these settings
                for folder in stage.writes():
                    shutil.rmtree(folder, ignore_errors=True)
            raise
        if left is not None:
            self.job.log(f"{stage.name}: not done: {left}.")
            return
        seconds = time.monotonic() - started
        ended = {"read": self._ends(stage.follows), "finished": now("milliseconds"), "seconds": round(seconds, 1)}
        write_json(path, record | ended)
        self.job.log(f"{stage.name}: done in {seconds:.0f} s")

    def _check_input(self, stage: Stage) -> None:
        """Raise UserError where what a stage reads has not been made, or is gone."""
        missing = [name for name in stage.needs if self._ends([name])[name] is None]
        if missing:
            raise UserError(
                f"The stage '{stage.name}' needs '{missing[0]}', which has not ended.",
                "Run that stage first, or all of them without --stage.",
            )
        for needed in self.stages:
            gone = [path for path in needed.results() if not path.exists()]
            if needed.name in stage.needs and gone:
                raise UserError(
                    f"The stage '{stage.name}' needs '{needed.name}', but {gone[0]} is no longer there.",
                    "Run that stage again, or all of them without --stage.",
                )

    def _record(self, name: str) -> dict[str, Any] | None:
        """The record of a stage, None where it has not begun. Raises UserError where the file is damaged."""
        path = self.job.layout.stage(name)
        if not path.exists():
            return None
        with suppress(ValueError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict) and record.keys() >= {"settings", *_NOT_ENDED}:
                return record
        raise UserError(f"{path} is damaged.", "Choose another folder with --output.")

    def _ends(self, names: Iterable[str]) -> dict[str, str | None]:
        """When stages have ended."""
        return {name: (self._record(name) or _NOT_ENDED)["finished"] for name in names}

    def _refuse_changes(self) -> None:
        for stage in self.stages:
            record = self._record(stage.name)
            if record is None:
                continue
            changed = list(differences(record["settings"], stage.settings()))
            if changed:
                raise UserError(
                    f"The stage '{stage.name}' in {self.job.layout.folder} was begun with other settings "
                    f"({', '.join(changed)}).",
                    "Restore them in the recipe, or choose a new folder with --output.",
                )


def check_inputs(stages: Sequence[Stage]) -> None:
    """Raise UserError where a folder, a model or a key that these stages read is missing, before hours of work.

    Of a model on the hub the configuration is fetched, which shows whether it exists and may be downloaded.
    """
    for what, folder in (found for stage in stages for found in stage.folders()):
        if not folder.exists():
            raise UserError(
                f"The folder {folder} of {what} is not there.",
                "Get its files (docs/datasets.md says where), or name their folder in the recipe.",
            )
    for role, name, path in models_of(stages):
        _check_model(role, name, path)
    for stage in stages:
        stage.check()


def _check_model(role: str, name: str, path: str) -> None:
    if name == SMOLLM2:
        fetched_smollm2()
        return
    try:
        AutoConfig.from_pretrained(path, trust_remote_code=False)
    except READING_ERRORS as error:
        found = hub_error(error, name, "subject") or UserError(
            f"The model '{name}' cannot be read ({first_line(error)}).", "Give a folder that holds the model."
        )
        raise UserError(f"{role}: {found.problem}", found.remedy) from error


def _worth_keeping(written: Iterable[Path]) -> bool:
    """True if there is anything but notes of what was begun."""
    files = (file for path in written for file in (path, *path.rglob("*")) if file.is_file())
    return any(file.name not in _NOTES for file in files)
