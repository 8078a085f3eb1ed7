"""Runs the stages of a recipe in order, each once, and goes on where it was stopped.

One rule for changes: a stage that has begun in a folder is held to the settings that it began with. What belongs to
stages that have not begun may still be changed; for anything else a changed recipe needs a new folder.
"""

import time
from collections.abc import Iterable, Sequence

from soft2hard.errors import UserError
from soft2hard.pipeline.preflight import check_at_hand
from soft2hard.pipeline.records import StageRecord, differences, read_record, write_recipe, write_record
from soft2hard.pipeline.stages import Stage, chosen, stages_of
from soft2hard.pipeline.work import Job


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
        """Whether a stage has ended, and after the stages that it follows."""
        record = self._record(stage.name)
        return record is not None and record.finished is not None and record.read == self._ends(stage.follows)

    def _run(self, stage: Stage) -> None:
        missing = [name for name in stage.needs if self._ends([name])[name] is None]
        if missing:
            raise UserError(
                f"The stage '{stage.name}' needs '{missing[0]}', which has not ended.",
                "Run that stage first, or all of them without --stage.",
            )
        found = self._record(stage.name)
        record = found or StageRecord.of(stage.settings, self.job.recipe.seed)
        path = self.job.layout.stage(stage.name)
        write_record(path, record)
        self.job.log(f"{stage.name}: begins")
        started = time.monotonic()
        try:
            left = stage.work(self.job)
        except UserError:
            if found is None and not any(written.exists() for written in stage.writes):
                path.unlink()  # nothing has been made, so nothing need be held to these settings
            raise
        if left is not None:
            self.job.log(f"{stage.name}: not done: {left}.")
            return
        seconds = time.monotonic() - started
        write_record(path, record.ended(self._ends(stage.follows), seconds))
        self.job.log(f"{stage.name}: done in {seconds:.0f} s")

    def _record(self, name: str) -> StageRecord | None:
        return read_record(self.job.layout.stage(name))

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
