"""An analysis of tunings in one YAML file: tasks, where each starts and how long it is, and what is made of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, TypeAdapter, field_validator, model_validator

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.findings import SECTIONS
from soft2hard.eval.analysis.settings import Counts, Sizes, StudyTuning
from soft2hard.eval.analysis.tunings import Start
from soft2hard.eval.cases import drawn_tasks
from soft2hard.eval.config import Tasks
from soft2hard.eval.methods.options import InspectOracleOptions
from soft2hard.lm.settings import Loading
from soft2hard.lm.subject import Subject
from soft2hard.settings import checked, nearest, settings, some_of
from soft2hard.storage.yaml_files import of_size, read_yaml

_REMEDY = "Change these settings (docs/understanding.md)."


@settings
class StartText:
    """The text that the soft prompts of one task start from."""

    text: str = Field(min_length=1)
    n_tokens: PositiveInt | None = None
    """Virtual tokens; the text is repeated or cut. None: as many as the text has."""


@settings
class Study:
    """Everything that decides what `soft2hard analyze STUDY.yaml` makes."""

    tasks: Tasks = Field()
    """As in an evaluation."""
    subject: str = "embedded"
    """'embedded', a folder, or a name in the local cache or on the hub."""
    translator: str | None = None
    """As in soft2hard analyze; None: 'embedded' beside the embedded subject, else none."""
    starts: dict[str, StartText] = Field(default_factory=dict)
    """Start texts by task; all others start as `tuning.init` says, and so do the groups that are compared with them."""
    counts: some_of(Counts) = Field(default_factory=dict)
    sizes: some_of(Sizes) = Field(default_factory=dict)
    tuning: some_of(StudyTuning) = Field(default_factory=dict)
    loading: some_of(Loading) = Field(default_factory=dict)
    readings: some_of(InspectOracleOptions) | None = None
    """Options of InSPEcT for the section of readings; None: it is not made."""
    only: tuple[str, ...] = ()
    """Sections to make, with those that they need; all where none is named."""

    @field_validator("only")
    @classmethod
    def _sections(cls, only: tuple[str, ...]) -> tuple[str, ...]:
        for name in only:
            if name not in SECTIONS:
                raise ValueError(f"there is no section '{name}'{nearest(name, SECTIONS)}")
        return only

    @model_validator(mode="after")
    def _counted_once(self) -> "Study":
        if "n_tasks" in self.counts:
            raise ValueError("counts: the number of tasks is n under tasks")
        if self.tasks.lengths:
            raise ValueError("tasks.lengths: a study has lengths of its own, n_tokens of the tuning and of each start")
        return self

    @property
    def plain(self) -> dict[str, Any]:
        """The study as plain JSON values."""
        return TypeAdapter(Study).dump_python(self, mode="json")

    def inspect_options(self) -> InspectOracleOptions | None:
        """How soft prompts are read; None where they are not."""
        return None if self.readings is None else InspectOracleOptions(**self.readings)

    def drawn(self) -> tuple[Task, ...]:
        """Its tasks, with the examples of the tuning's seed."""
        return tuple(drawn_tasks(self.tasks, "test", StudyTuning(**self.tuning).seed))

    def starts_of(self, subject: Subject, tasks: Sequence[Task]) -> dict[str, Start]:
        """Where each task that has a text starts, and its length. Raises UserError for a text of no task here."""
        names = [task.name for task in tasks]
        for name in self.starts:
            if name not in names:
                raise UserError(
                    f"There is a start for '{name}', which is none of the tasks{nearest(name, names)}.",
                    "Name starts by the tasks' names.",
                )
        lengths = {name: len(subject.embed_text(one.text)) for name, one in self.starts.items()}
        return {name: Start(f"text:{one.text}", one.n_tokens or lengths[name]) for name, one in self.starts.items()}


def read_study(path: Path, size: str | None = None) -> Study:
    """A study from a YAML file, or one of its `variants` by name. Raises UserError with all problems in one line."""
    raw = read_yaml(path, "a study")
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no study.", "Write a mapping with tasks (docs/understanding.md).")
    return checked(Study, of_size(raw, size, path), str(path), _REMEDY)
