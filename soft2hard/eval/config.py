"""The settings of an evaluation: a YAML file, checked as a whole before anything runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    Strict,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from soft2hard.api.requests import ApiModel, Layout
from soft2hard.data_gen.dods.registry import FOLDER_DODS, HUB_DODS
from soft2hard.data_gen.settings import Tuning
from soft2hard.errors import UserError
from soft2hard.eval.methods.registry import METHODS, method_of, options_of
from soft2hard.lm.settings import Loading
from soft2hard.settings import some_of
from soft2hard.storage.names import is_embedded_subject
from soft2hard.storage.yaml_files import read_yaml

if TYPE_CHECKING:
    from soft2hard.eval.methods.base import Method

DODS = ("lexical", *FOLDER_DODS)
"""Collections that can be named; all but the first are read from a folder, and `HUB_DODS` without one from the hub."""
_STARTS = ("auto", "learned", "vocabulary", "labels")
"""The choices of `Tuning.init` beside a text and a path."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tasks(_Strict):
    """Which tasks: those of a DoD, or of task files."""

    dod: str | None = None
    """A collection by name; its test split is scored, its validation split, if it has one, serves choices."""
    folder: Path | None = None
    """Where the published files of the collection lie; 'lexical' has none, and without one some come from the
    hub (`HUB_DODS`)."""
    files: tuple[Path, ...] = ()
    """Task files, or folders of them, instead of a DoD."""
    n: int = Field(100, ge=1)
    """Test tasks at most."""
    n_validation: int = Field(26, ge=0)
    """Validation tasks for methods that choose something on them, where the collection has such: 'lexical',
    'super-natural-instructions' and 'manifests'."""
    n_train: int = Field(256, ge=1)
    """Training examples of each task of 'lexical'."""
    seed: int = 0
    """Of the choice of tasks."""

    @field_validator("dod")
    @classmethod
    def _known(cls, dod: str | None) -> str | None:
        if dod is not None and dod not in DODS:
            raise ValueError(f"there is no collection '{dod}'; there are {', '.join(DODS)}")
        return dod

    @model_validator(mode="after")
    def _one_source(self) -> "Tasks":
        if (self.dod is None) == (not self.files):
            raise ValueError("give either dod or files")
        if self.folder is None and self.dod in HUB_DODS:
            return self
        if (self.dod in (None, "lexical")) != (self.folder is None):
            raise ValueError("give the folder of a published collection, and of nothing else")
        return self


class MethodChoice(_Strict):
    """A method with its options and a label to tell it by."""

    name: str
    label: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        """`soft`, or `{name: few-shot, label: few-shot 8, k: 8}`, or as a run's record has it, with `options`."""
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or "name" not in value:
            raise ValueError("write a method as its name, or as a mapping with 'name' and its options")
        name = value["name"]
        if not isinstance(name, str) or name not in METHODS:
            raise ValueError(f"there is no method '{name}'; there are {', '.join(METHODS)}")
        options = {k: v for k, v in value.items() if k not in ("name", "label")}
        if isinstance(options.get("options"), Mapping):
            options |= options.pop("options")
        checked = checked_fields(options_of(name), options, f"{name} has no option")
        return {"name": name, "label": value.get("label", name), "options": checked}

    def build(self) -> "Method":
        """The method with its options."""
        return method_of(self.name)(**self.options)


class ApiChoice(_Strict):
    """A model behind an OpenAI-compatible API, with the fields of `ApiModel`; the key stays in the environment."""

    name: str = Field(min_length=1)
    base_url: str = ApiModel.base_url
    layout: Layout = ApiModel.layout
    key_env: str = ApiModel.key_env
    parameters: dict[str, Any] = {}

    @model_validator(mode="after")
    def _sensible(self) -> "ApiChoice":
        built(ApiModel, self.model_dump())
        return self

    def build(self) -> ApiModel:
        """The model as requests name it."""
        return ApiModel(**self.model_dump())


def _kind_of_model(value: Any) -> str:
    return "api" if isinstance(value, (Mapping, ApiChoice)) else "name"


class Evaluation(_Strict):
    """Everything that decides the results of a run."""

    tasks: Tasks
    methods: tuple[MethodChoice, ...]
    seeds: tuple[int, ...] = (0, 1)
    """Each seed draws other examples, another tuning and other random choices of the methods."""
    subject: str = "embedded"
    translator: str | None = "embedded"
    """None where no method translates."""
    reference: str | None = "auto"
    """Reference LM for perplexities: 'embedded' (the API-side model), 'subject', a name or a folder; None for none.
    'auto' becomes 'embedded' for the embedded subject and 'gpt2-xl' for others."""
    generator: (
        Annotated[Annotated[str, Tag("name")] | Annotated[ApiChoice, Tag("api")], Discriminator(_kind_of_model)] | None
    ) = "auto"
    """Model asked for instructions: as `reference`, or one behind an API; 'auto' becomes 'embedded' or 'subject'."""
    encoder: str | None = None
    """Sentence-embedding model (sentence-transformers, by name or folder) for the cosine of prompts with gold
    instructions; 'reference' takes the reference LM's last hidden state; None for no such figure."""
    tuning: some_of(Tuning) = {}
    """Fields of `Tuning` that differ from its defaults."""
    loading: some_of(Loading) = {}
    """Fields of `Loading`, how the subject is held in memory, that differ from its defaults."""
    max_seconds: float | None = Field(None, gt=0)
    """Budget of each method on each seed."""
    max_model_calls: int | None = Field(None, ge=1)
    """Budget of each method for each case."""

    @model_validator(mode="before")
    @classmethod
    def _name_models(cls, value: Any) -> Any:
        """Put the names of models for 'auto' and None for 'none', so that a run's record says what was used."""
        if not isinstance(value, Mapping):
            return value
        subject = value.get("subject", "embedded")
        small = isinstance(subject, str) and is_embedded_subject(subject)
        usual = {"reference": "embedded" if small else "gpt2-xl", "generator": "embedded" if small else "subject"}
        usual["translator"] = "embedded"
        named = {role: value.get(role, "auto") for role in usual}
        chosen = {role: usual[role] if name == "auto" else name for role, name in named.items()}
        return {**value, **{role: None if name == "none" else name for role, name in chosen.items()}}

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise ValueError(f"{twice[0]} is there twice, and would give the same cells twice")
        return seeds

    @field_validator("tuning")
    @classmethod
    def _tunable(cls, tuning: dict[str, Any]) -> dict[str, Any]:
        init = tuning.get("init", Tuning.init)
        if not (init in _STARTS or init.startswith("text:") or Path(init).exists()):
            raise ValueError(f"init is '{init}', not {', '.join(_STARTS)}, text:... or the path of a soft prompt")
        return tuning

    @model_validator(mode="after")
    def _consistent(self) -> "Evaluation":
        labels = [m.label for m in self.methods]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two methods are labelled '{twice[0]}'; give one another label")
        if not self.methods or not self.seeds:
            raise ValueError("name at least one method and one seed")
        return self

    def tuning_of(self, seed: int) -> Tuning:
        """How soft prompts are tuned under a seed."""
        return Tuning(**self.tuning | {"seed": seed})


def read_config(path: Path) -> Evaluation:
    """An evaluation from a YAML file.

    Raises UserError with all problems at once where the file is missing, is no YAML, or asks for what does not exist.
    """
    raw = read_yaml(path, "an evaluation's YAML file")
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no settings.", "It must be a mapping with at least tasks and methods.")
    return parse_config(raw, str(path))


def parse_config(raw: Mapping[str, Any], origin: str) -> Evaluation:
    """An evaluation from plain values; raises UserError with all problems at once."""
    try:
        return Evaluation.model_validate(raw)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {_said(e)}".removeprefix(": ") for e in error.errors()]
        raise UserError(f"{origin}: " + "; ".join(problems) + ".", "Change these settings.") from error


def _said(error: Mapping[str, Any]) -> str:
    """A message of pydantic's in the words of a YAML file."""
    if error["type"] == "extra_forbidden":
        known = Tasks if error["loc"][0] == "tasks" else ApiChoice if error["loc"][0] == "generator" else Evaluation
        return f"there is no such setting; there are {', '.join(known.model_fields)}"
    said = error["msg"].removeprefix("Value error, ").rstrip(".")
    return said.replace("a valid tuple", "a list, such as [0, 1]")


# --- values of a file as fields of a dataclass ------------------------------------------------

_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a finite number", "finite numbers"),
    bool: ("true or false", "true or false"),
    str: ("a text", "texts"),
    NoneType: ("null", "null"),
}
"""Types that a value in a file can have, in the singular and the plural."""


def checked_fields(cls: type, given: Mapping[Any, Any], unknown: str) -> dict[str, Any]:
    """Values for fields of a dataclass, in the types that its annotations ask for: lists become tuples, and numbers
    that YAML takes for a text (1e-3) numbers.

    Raises ValueError with all problems at once, or with the dataclass's own; `unknown` begins the sentence about a
    field that does not exist.
    """
    hints = get_type_hints(cls)
    types = {field.name: hints[field.name] for field in fields(cls)}
    values, problems = {}, []
    for name, value in given.items():
        if name not in types:
            problems.append(f"{unknown} '{name}'; there are {', '.join(sorted(types)) or 'none'}")
            continue
        try:
            values[name] = TypeAdapter(_as_written(types[name])).validate_python(value)
        except ValidationError:
            shown = json.dumps(value, ensure_ascii=False, default=str)
            problems.append(f"{name} is {shown}, not {_in_words(types[name])}")
    if problems:
        raise ValueError("; ".join(problems))
    built(cls, values)
    return values


def built(cls: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of these values; raises ValueError where it refuses them."""
    try:
        return cls(**values)
    except UserError as error:
        raise ValueError(str(error)) from error


def _as_written(annotation: Any) -> Any:
    """The pydantic type of what a file may give to a field of this type."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return Union[tuple(_as_written(part) for part in parts if _is_writable(part))]  # noqa: UP007 (made at run time)
    if origin in (Sequence, tuple, list):
        return tuple[_as_written(parts[0]), ...]
    if annotation is float:
        return Annotated[FiniteFloat, BeforeValidator(_no_bool)]
    return Annotated[annotation, Strict()] if annotation in (int, bool, str) else annotation


def _is_writable(annotation: Any) -> bool:
    """True where a file can hold such a value: no loaded model, for one."""
    return get_origin(annotation) is not None or annotation in _WORDS


def _in_words(annotation: Any, plural: bool = False) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_in_words(part, plural) for part in parts if _is_writable(part))
    if origin in (Sequence, tuple, list):
        return f"{'lists' if plural else 'a list'} of {_in_words(parts[0], plural=True)}"
    return _WORDS[annotation][plural] if annotation in _WORDS else str(annotation)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value
