"""What an analysis finds, and the folder that holds it.

- `analysis.json` (`Analysis`): what was analysed, and each section's figures, or the reason why it was not run;
- `tables/<section>-<name>.parquet`: the rows of the sections;
- `tunings/<start>-<seed of start>-<seed of order>.safetensors`: the soft prompts that the analysis tuned (`tunings`);
  with the number of virtual tokens at the end where tasks have lengths of their own, and `-on-the-way` for snapshots.

`analysis.json` is replaced after each section, so a killed analysis is resumed with the next one. A figure with an
interval takes three columns of a table: its name, and the same with `_low` and `_high`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save

from soft2hard.errors import UserError
from soft2hard.eval.analysis.settings import Varies
from soft2hard.eval.intervals import Interval, mean_interval
from soft2hard.prompts.files import read_tensors
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.settings import checked
from soft2hard.storage.files import atomic_write

SCHEMA_VERSION = 3
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
    "readings",
    "claims",
]
SECTIONS: tuple[SectionName, ...] = get_args(SectionName)
BY_WISH: tuple[SectionName, ...] = ("readings",)
"""Sections that are made where they are asked for alone: they take long."""
Verdict = Literal["confirmed", "refuted", "undecided", "not tested"]
Tables = dict[str, pd.DataFrame]
"""Of one section, by name."""
MAIN = "main"
"""The group that distances, maps and transfer are of."""
COMMON = "from the common start"
"""The group whose prompts start as those did that the subject's translator was trained on."""
ON_THE_WAY = "on the way"
"""The group of soft prompts that the main tunings had at earlier steps."""
GIVEN = "given"
"""The group of prompts that were read."""
_KEY = "prompts"
"""In the metadata of a file of tunings: the facts known of each soft prompt, in order."""


class Record(BaseModel):
    """Plain JSON values with types; an undefined figure, such as a mean of nothing, is None."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptRow(Record):
    """A soft prompt. Its number in the analysis is its place in `Analysis.prompts`."""

    name: str
    """Its file, or task and tuning."""
    task: str | None
    group: str
    """The set of tunings that it belongs to (`TuningGroup.name`); 'given' for prompts that were read."""
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
    varies: Varies
    """The seeds that differ between tunings of one task: of the start, of the order of examples, or both."""
    n_tunings: int
    n_tasks: int


class NotRun(Record):
    """A section that could not be made."""

    reason: str
    """One line that says what was missing."""


class Section(Record):
    """Figures of one part of the analysis."""

    figures: dict[str, Interval | float | int | str | None] = {}
    """Those of the section as a whole; each section's function names them."""
    notes: tuple[str, ...] = ()
    """Parts that could not be made, and why."""
    tables: tuple[str, ...] = ()
    """Names of its tables."""
    seconds: float = 0.0
    """Wall time."""


class Reading(Record):
    """Another way to look at the subject of a claim, judged by the claim's own rule."""

    label: str
    """How it differs from the claim's figure, such as 'given the norms'."""
    says: Verdict
    estimate: Interval | None
    p_value: float | None
    n: int | None
    """Tasks."""
    noise: bool
    """It is the claim's figure of pure noise with the prompts' norms, which knows nothing of tasks."""


class Claim(Record):
    """A claim of the study of prompt tuning, and what the tasks of this analysis say of it."""

    name: Literal["equidistant", "as_far_as_other_tasks", "harder_vary_more", "closer_transfer_better"]
    text: str
    verdict: Verdict
    figure: str
    """What the estimate is of."""
    estimate: Interval | None
    p_value: float | None
    """Of a permutation test, where the figure is a correlation."""
    n: int | None
    """Tasks."""
    rule: str
    """What makes the verdict."""
    beside: tuple[Reading, ...]
    """Other readings, which change nothing about the verdict."""
    notes: tuple[str, ...]
    """Why there is no verdict, and what qualifies it."""


class Claims(Section):
    """The claims of the study."""

    claims: tuple[Claim, ...]


class Analysis(Record):
    """All of an analysis but its tables."""

    schema_version: Literal[3] = SCHEMA_VERSION
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
    sections: dict[SectionName, Claims | Section | NotRun] = {}

    def found(self, name: SectionName) -> Section | None:
        """A section; None where it was not run."""
        section = self.sections.get(name)
        return section if isinstance(section, Section) else None

    def reason(self, name: SectionName) -> str:
        """Why a section was not run."""
        section = self.sections.get(name)
        return section.reason if isinstance(section, NotRun) else "Its section was not run."

    def save(self, folder: Path) -> None:
        """Write `analysis.json`, whole or not at all."""
        with atomic_write(folder / FILE_NAME) as temporary:
            temporary.write_text(self.model_dump_json(indent=1), encoding="utf-8")


def load_analysis(folder: Path) -> Analysis:
    """Read `analysis.json` of a folder; raises UserError where it is missing, damaged, or of another version."""
    path = folder / FILE_NAME
    try:
        return Analysis.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder} holds no analysis ({FILE_NAME}).", "Make one with soft2hard analyze.") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged or of another version.", "Run the analysis into a new folder.") from error


def save_tables(folder: Path, section: SectionName, tables: Tables) -> None:
    """Write the tables of a section, each whole or not at all."""
    for name, table in tables.items():
        with atomic_write(_path(folder, section, name)) as temporary:
            table.to_parquet(temporary, index=False)


def load_tables(folder: Path, analysis: Analysis, section: SectionName) -> Tables:
    """The tables of a section, none where it was not run; raises UserError where one is missing or damaged."""
    found = analysis.found(section)
    try:
        return {name: pd.read_parquet(_path(folder, section, name)) for name in (found.tables if found else ())}
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise UserError(f"The tables of '{section}' in {folder} cannot be read.", "Run the analysis again.") from error


def all_tables(folder: Path, analysis: Analysis) -> Tables:
    """Those of all sections, by the names of their files; raises UserError as `load_tables` does."""
    found = ((section, load_tables(folder, analysis, section)) for section in SECTIONS)
    return {f"{section}-{name}": table for section, tables in found for name, table in tables.items()}


def as_json(folder: Path, analysis: Analysis) -> str:
    """The analysis with all of its tables, as lists of records."""
    tables = {
        name: json.loads(table.to_json(orient="records", double_precision=15))
        for name, table in all_tables(folder, analysis).items()
    }
    return json.dumps(analysis.model_dump(mode="json") | {"tables": tables}, indent=1)


def _path(folder: Path, section: SectionName, name: str) -> Path:
    return folder / "tables" / f"{section}-{name}.parquet"


def columns_of(name: str, interval: Interval | None) -> dict[str, float | None]:
    """The three columns of a figure with its interval."""
    parts = ("value", name), ("low", f"{name}_low"), ("high", f"{name}_high")
    return {column: getattr(interval, part, None) for part, column in parts}


def interval_in(row: Mapping[str, Any] | pd.Series, name: str) -> Interval | None:
    """The figure that `columns_of` wrote into a row."""
    value, low, high = (None if pd.isna(row[column]) else float(row[column]) for column in columns_of(name, None))
    return None if value is None else Interval(value, low, high)


def known_mean(values: Iterable[float | None], seed: int = 0) -> Interval | None:
    """Mean, with its interval, of the values that are known, one a task; None where none is."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    return mean_interval(known, seed=seed) if known else None


def save_pass(path: Path, prompts: Sequence[SoftPrompt]) -> None:
    """Write the soft prompts of some tasks, of one subject, to one file; its name ends in '.safetensors'."""
    tensors = {str(i): prompt.embeddings for i, prompt in enumerate(prompts)}
    first = prompts[0]
    known = {"subject": first.subject, "fingerprint": first.fingerprint}
    known |= {"template": first.template and first.template.to_json(), "scale": first.scale and str(first.scale)}
    facts = {_KEY: json.dumps([prompt.provenance for prompt in prompts])} | {name: v for name, v in known.items() if v}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, facts))


def is_pass(path: Path) -> bool:
    """True if a file was written by `save_pass`."""
    with suppress(UserError):  # whoever reads it says what is wrong
        return path.suffix == ".safetensors" and _KEY in read_tensors(path)[1]
    return False


def load_pass(path: Path) -> tuple[SoftPrompt, ...]:
    """The soft prompts of a file; 'task' in the provenance of each. Raises UserError for a damaged one."""
    try:
        tensors, metadata = read_tensors(path)
        facts = [{"task": known["task"]} | known for known in json.loads(metadata[_KEY])]
        template = checked(Template, json.loads(metadata.get("template", "{}")), str(path))
        common = {"subject": metadata.get("subject"), "fingerprint": metadata.get("fingerprint"), "template": template}
        common["scale"] = float(metadata["scale"]) if "scale" in metadata else None
        return tuple(SoftPrompt(tensors[str(i)], provenance=known, **common) for i, known in enumerate(facts))
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged.", "Remove it, and its soft prompts are tuned again.") from error
