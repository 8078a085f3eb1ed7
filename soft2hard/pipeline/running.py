"""Runs the stages of a recipe in order, each once, and goes on where it was stopped.

One rule for changes: a stage that has begun in a folder is held to the settings that it began with. What belongs to
stages that have not begun may still be changed; for anything else a changed recipe needs a new folder.
"""

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from soft2hard.errors import UserError
from soft2hard.pipeline.job import Job
from soft2hard.pipeline.preflight import check_at_hand
from soft2hard.pipeline.records import StageRecord, read_stage, write_recipe
from soft2hard.pipeline.stages import Stage, chosen, stages_of
from soft2hard.storage.run_folders import differences, write_json

_NOTES = {"corpus.json", "training.json", "step.json", "log.jsonl", "run.json"}
"""Files that stages write before they make anything."""


class Pipeline:
    """A recipe in a folder."""

    def __init__(self, job: Job):
        self.job = job
        self.stages = stages_of(job.recipe, job.layout)

    def run(self, names: Sequence[str] = ()) -> None:
        """Run the stages of these names, or all, that have not ended yet.

        Raises UserError for an unknown stage, a changed recipe, a stage whose input is not there, and, before
        anything is made, for folders, models and keys that cannot be had.
        """
        wanted = chosen(self.stages, list(names))
        self._refuse_changes()
        check_at_hand(self.job.recipe, [stage.name for stage in wanted if not self.is_done(stage)])
        write_recipe(self.job.layout, self.job.recipe)
        for stage in wanted:
            if self.is_done(stage):
                self.job.log(f"{stage.name}: done earlier")
            else:
                self._run(stage)

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage has ended, after the stages that it follows, and what it has made is still there."""
        record = self._record(stage.name)
        ended = record is not None and record.finished is not None and record.read == self._ends(stage.follows)
        return ended and not _gone(stage)

    def _run(self, stage: Stage) -> None:
        self._check_input(stage)
        found = self._record(stage.name)
        record = found or StageRecord.of(stage.settings, self.job.recipe.seed)
        path = self.job.layout.stage(stage.name)
        write_json(path, asdict(record))
        self.job.log(f"{stage.name}: begins")
        started = time.monotonic()
        there = [written for written in stage.writes if written.exists()]
        try:
            left = stage.work(self.job)
        except Exception:
            if found is None and not there and not _worth_keeping(stage.writes):
                path.unlink()  # nothing has been made, so nothing need be held to these settings
                for folder in stage.writes:
                    shutil.rmtree(folder, ignore_errors=True)
            raise
        if left is not None:
            self.job.log(f"{stage.name}: not done: {left}.")
            return
        seconds = time.monotonic() - started
        write_json(path, asdict(record.ended(self._ends(stage.follows), seconds)))
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
            if needed.name in stage.needs and (gone := _gone(needed)):
                raise UserError(
                    f"The stage '{stage.name}' needs '{needed.name}', but {gone[0]} is no longer there.",
                    "Run that stage again, or all of them without --stage.",
                )

    def _record(self, name: str) -> StageRecord | None:
        return read_stage(self.job.layout.stage(name))

    def _ends(self, names: Iterable[str]) -> dict[str, str | None]:
        """When stages have ended."""
        records = {name: self._record(name) for name in names}
        return {name: record.finished if record else None for name, record in records.items()}

    def _refuse_changes(self) -> None:
        for stage in self.stages:
            record = self._record(stage.name)
            if record is None:
                continue
            changed = list(differences(record.settings, stage.settings))
            if changed:
                raise UserError(
                    f"The stage '{stage.name}' in {self.job.layout.folder} was begun with other settings "
                    f"({', '.join(changed)}).",
                    "Restore them in the recipe, or choose a new folder with --output.",
                )


def _gone(stage: Stage) -> list[Path]:
    """What a stage that has ended had made and is not there."""
    return [path for path in stage.results if not path.exists()]


def _worth_keeping(written: Iterable[Path]) -> bool:
    """Whether there is anything but notes of what was begun."""
    files = (file for path in written for file in (path, *path.rglob("*")) if file.is_file())
    return any(file.name not in _NOTES for file in files)
