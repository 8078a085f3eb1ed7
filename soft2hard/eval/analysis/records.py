"""What an analysis leaves on disk.

A folder of an analysis holds

- `analysis.json` (`Analysis`): what was analysed and every section's figures, or why a section was not run;
- `arrays/<section>.npz`: its matrices and maps, whose rows and columns the section's record names;
- `csv/<name>.csv`: the same numbers for other programs;
- `tunings/<start>-<seed of start>-<seed of order>.safetensors` where the analysis tuned the prompts itself (`tunings`).

`analysis.json` appears anew after each section, so a killed analysis goes on with the next one.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from soft2hard.errors import UserError
from soft2hard.eval.analysis.section_records import (
    Claims,
    Difficulty,
    Distances,
    Experiment,
    Extraction,
    Maps,
    NotRun,
    Record,
    Statistics,
    Transfer,
)
from soft2hard.storage.files import atomic_write

SCHEMA_VERSION = 2
FILE_NAME = "analysis.json"


SectionName = Literal[
    "extraction",
    "statistics",
    "distances",
    "maps",
    "difficulty",
    "transfer",
    "stability",
    "positions",
    "interpolation",
    "retrieval",
    "claims",
]


class PromptRow(Record):
    """A soft prompt. Its number in the analysis is its place in `Analysis.prompts`."""

    name: str
    """Its file, or task and tuning."""
    task: str | None
    """Name of its task; None where that is not known."""
    group: str
    """Which set of tunings it belongs to (`TuningGroup.name`); 'given' for prompts that were read."""
    tuning: int
    """Number of the tuning within task and group, from 0."""
    n_tokens: int
    d_model: int
    init: str | None = None
    """Where it was started (`Tuning.init`)."""
    init_seed: int | None = None
    order_seed: int | None = None
    validation_loss: float | None = None
    """Nats a token."""
    steps: int | None = None
    """Step of tuning at which it stood."""
    score: float | None = None
    """On its own task's test examples by the task's metric, 0 to 1."""


class TaskRow(Record):
    """A task that soft prompts belong to; family and instruction are empty where its examples are not known."""

    name: str
    family: str
    instruction: str
    baseline: float | None = None
    """Score of its test examples without a prompt, by the task's metric, 0 to 1."""


class GroupRow(Record):
    """A set of tunings that were made alike."""

    name: str
    init: str
    varies: Literal["both", "init", "order"]
    """Which seeds differ between tunings of one task: of the start, of the order of examples, or both."""
    n_tunings: int
    n_tasks: int


class Sections(Record):
    """None: not yet run."""

    extraction: Extraction | NotRun | None = None
    statistics: Statistics | NotRun | None = None
    distances: Distances | NotRun | None = None
    maps: Maps | NotRun | None = None
    difficulty: Difficulty | NotRun | None = None
    transfer: Transfer | NotRun | None = None
    stability: Experiment | NotRun | None = None
    """`stability.Stability.to_json`."""
    positions: Experiment | NotRun | None = None
    interpolation: Experiment | NotRun | None = None
    retrieval: Experiment | NotRun | None = None
    claims: Claims | NotRun | None = None


class Analysis(Record):
    """All of an analysis but its arrays."""

    schema_version: Literal[2] = SCHEMA_VERSION
    created: str
    """ISO time."""
    settings: dict[str, Any]
    """Options of the command."""
    versions: dict[str, str]
    subject: str | None
    """Name of the subject; None where none was given."""
    prompts: tuple[PromptRow, ...]
    tasks: tuple[TaskRow, ...]
    groups: tuple[GroupRow, ...] = ()
    tuning_seconds: float | None = None
    """Wall time of the tuning; None where prompts were read."""
    sections: Sections = Sections()

    def save(self, folder: Path) -> None:
        """Write `analysis.json`, whole or not at all."""
        with atomic_write(folder / FILE_NAME) as temporary:
            temporary.write_text(self.model_dump_json(indent=1), encoding="utf-8")


def load_analysis(folder: Path) -> Analysis:
    """Read `analysis.json` of a folder; raises UserError where it is missing or damaged."""
    path = folder / FILE_NAME
    try:
        return Analysis.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder} holds no analysis ({FILE_NAME}).", "Make one with soft2hard analyze.") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged or of another version.", "Run the analysis into a new folder.") from error


def save_arrays(folder: Path, section: SectionName, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays of a section, whole or not at all."""
    with atomic_write(folder / "arrays" / f"{section}.npz") as temporary:
        np.savez_compressed(temporary, **arrays)


def load_arrays(folder: Path, section: SectionName) -> dict[str, np.ndarray]:
    """The arrays of a section by name; raises UserError where they are missing or damaged."""
    path = folder / "arrays" / f"{section}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"The arrays of '{section}' in {folder} cannot be read.", "Run the analysis again.") from error
