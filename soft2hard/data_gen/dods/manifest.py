"""Any dataset on the Hugging Face Hub, or a local CSV, JSONL or JSON file, as a task, by a short YAML manifest.

docs/datasets.md has an example. Nothing is fetched but what the manifest names.
"""

import string
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from soft2hard.api.requests import problems
from soft2hard.data_gen.dods.drawing_examples import Sizes, draw, labels_where_few, usable
from soft2hard.data_gen.tables import Records, read_hub, read_records
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

_SUFFIXES = (".yaml", ".yml")
_BY_LABEL = ("label_accuracy", "f1")


class Source(BaseModel, extra="forbid", frozen=True):
    """Where the rows are: a local file, or a dataset on the hub."""

    path: Path | None = None
    """A .csv, .jsonl or .json file; a relative path starts at the manifest's folder."""
    hub: str | None = None
    """A dataset's name on the hub, or a folder laid out as one."""
    config: str | None = None
    split: str = "train"
    """Of a hub dataset; a part of a large one is `train[:10000]`."""
    revision: str | None = None

    @model_validator(mode="after")
    def _one(self) -> "Source":
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path or hub")
        if self.path is not None and len(self.model_fields_set) > 1:
            raise ValueError("config, split and revision are for a hub dataset")
        return self


def _text_keys(value: Any) -> Any:
    """Labels as rows give them, which may be numbers or true and false, as texts."""
    if not isinstance(value, Mapping):
        return value
    if any(isinstance(name, bool) for name in value.values()):
        raise ValueError("YAML reads yes, no, on and off as true and false; write them between quotes")
    return {str(key): name for key, name in value.items()}


class Manifest(BaseModel, extra="forbid", frozen=True):
    """One task."""

    name: str = Field(min_length=1)
    source: Source
    input: str = Field(min_length=1)
    """A column, or a text with columns in braces: `{premise} Hypothesis: {hypothesis}`."""
    output: str = Field(min_length=1)
    """A column."""
    labels: Annotated[dict[str, str], BeforeValidator(_text_keys)] | None = None
    """The output for each value of the output column, where they are not to be taken as they are."""
    instruction: str = ""
    metric: Literal["exact_match", "exact_text", "label_accuracy", "f1", "rougeL"] = "exact_match"
    licence: str = Field(min_length=1)
    sizes: dict[Split, Annotated[int, Field(ge=1)]] = {}
    """Examples of each part at most, where it is not as in `Sizes`."""
    max_words: int | None = Field(None, ge=1)
    """Rows with a longer input or output are left out."""
    use: Split = "test"
    """Which tasks of a run this is one of."""

    @field_validator("input")
    @classmethod
    def _plain(cls, value: str) -> str:
        """A template puts columns in, and does nothing else with them."""
        try:
            odd = [part for part in string.Formatter().parse(value) if part[1] == "" or part[2] or part[3]]
        except ValueError as error:
            raise ValueError(f"its braces do not match ({error})") from error
        if odd:
            raise ValueError("braces hold the name of a column and nothing else")
        return value

    def parts(self) -> list[tuple[str, str | None]]:
        """The parts of an input: a text and the column that follows it."""
        parts = [(text, column) for text, column, _, _ in string.Formatter().parse(self.input)]
        return parts if any(column is not None for _, column in parts) else [("", self.input)]

    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (*(column for _, column in self.parts() if column is not None), self.output)


@dataclass
class Manifests:
    """A manifest, or a folder of manifests (`*.yaml`).

    `dropped` counts what the last reading left out and why. Raises UserError for a manifest with unknown fields or
    values, and for rows without the columns it names.
    """

    folder: Path
    """The folder, or the path of one manifest."""
    dropped: Counter[str] = field(default_factory=Counter)

    name = "manifests"

    @property
    def licence(self) -> str:
        """As the manifests give them."""
        return "; ".join(dict.fromkeys(manifest.licence for manifest in self._manifests().values()))

    @property
    def source(self) -> str:
        """Where the rows of each are."""
        return "; ".join(str(manifest.source.hub or manifest.source.path) for manifest in self._manifests().values())

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """The tasks by the names of their manifests' files; `seed` draws their examples."""
        self.dropped.clear()
        chosen = [(path, manifest) for path, manifest in self._manifests().items() if manifest.use == split]
        yield from (self._task(path, manifest, seed) for path, manifest in chosen[:n])

    def _manifests(self) -> dict[Path, Manifest]:
        paths = [self.folder]
        if self.folder.is_dir():
            paths = sorted(path for path in self.folder.iterdir() if path.suffix in _SUFFIXES)
            if not paths:
                raise UserError(f"{self.folder} has no manifests.", "Put files ending in .yaml there.")
        found = {path: read_manifest(path) for path in paths}
        (name, count), *_ = Counter(manifest.name for manifest in found.values()).most_common(1)
        if count > 1:
            raise UserError(f"Two manifests in {self.folder} are named '{name}'.", "Give one another name.")
        return found

    def _task(self, path: Path, manifest: Manifest, seed: int) -> Task:
        records = _records(path, manifest)
        examples = usable(_examples(path, manifest, records), self.dropped, manifest.max_words)
        labels = tuple(dict.fromkeys(_names(manifest, records).values())) or labels_where_few(examples)
        if manifest.metric in _BY_LABEL and not labels:
            raise UserError(
                f"{path} asks for {manifest.metric}, but '{manifest.output}' has too many values to be labels.",
                "Name the labels, or choose exact_match or rougeL.",
            )
        try:
            parts = draw(examples, Sizes(**manifest.sizes), Random(f"{manifest.name}/{seed}"))
        except UserError as error:
            raise UserError(f"{path}: {error.problem}", error.remedy) from error
        return parts.task(manifest.name, "manifest", manifest.instruction, labels=labels, metric=manifest.metric)


def read_manifest(path: Path) -> Manifest:
    """The manifest in a YAML file. Raises UserError with all its problems at once."""
    try:
        return Manifest.model_validate(read_yaml(path, "a manifest"))
    except ValidationError as error:
        raise UserError(f"{path}: {problems(error)}.", "docs/datasets.md says what a manifest holds.") from error


def _records(path: Path, manifest: Manifest) -> Records:
    """The source's rows. Raises UserError where a column is not there."""
    source, columns = manifest.source, manifest.columns()
    if source.path is not None:
        rows = [row for _, row in read_records(path.parent / source.path, (".csv", ".jsonl", ".json"))]
        there = tuple(dict.fromkeys(column for row in rows for column in row))
        records = Records(str(path.parent / source.path), there, rows)
    else:
        records = read_hub(source.hub, source.config, source.split, source.revision, columns)
    missing = [column for column in columns if column not in records.columns]
    if missing:
        raise UserError(
            f"{path} names the column '{missing[0]}', but {records.origin} has {', '.join(records.columns) or 'none'}.",
            "Name columns that are there.",
        )
    return records


def _examples(path: Path, manifest: Manifest, records: Records) -> Iterator[Example]:
    names, parts, columns = _names(manifest, records), manifest.parts(), manifest.columns()
    for row in records.rows:
        values = {column: _text(path, column, row.get(column)) for column in columns}
        output = values[manifest.output]
        if names and output and output not in names:
            raise UserError(
                f"{path} has no label for '{output}', a value of '{manifest.output}' (there are {', '.join(names)}).",
                "Name it under labels.",
            )
        # A row that lacks one of the columns has no input: half a template asks for something else.
        whole = all(values.values())
        input = "".join(text + (values[column] if column else "") for text, column in parts)
        yield Example(input if whole else "", names.get(output, output))


def _names(manifest: Manifest, records: Records) -> dict[str, str]:
    """Outputs by values: those of the manifest, else the names of classes that the source gives; empty for neither."""
    if manifest.labels is not None:
        return manifest.labels
    return {str(number): name for number, name in enumerate(records.class_names.get(manifest.output, ()))}


def _text(path: Path, column: str, value: Any) -> str:
    if value is not None and not isinstance(value, str | int | float):
        raise UserError(
            f"{path} names the column '{column}', which holds a {type(value).__name__}, not a text.",
            "Name a column of texts or numbers.",
        )
    return "" if value is None else str(value).strip()
