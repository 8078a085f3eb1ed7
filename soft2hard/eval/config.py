"""What an evaluation is asked to do: a YAML file, checked as a whole before anything runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from soft2hard.api.requests import ApiModel, Layout
from soft2hard.data_gen.dods.registry import FOLDER_DODS, HUB_DODS
from soft2hard.data_gen.tuning import Tuning
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Method
from soft2hard.eval.methods.registry import METHODS
from soft2hard.eval.settings import built, checked_fields
from soft2hard.lm.loading import Loading
from soft2hard.storage.names import is_embedded_subject
from soft2hard.storage.yaml_files import read_yaml

DODS = ("lexical", *FOLDER_DODS)
"""Collections that can be named; all but the first are read from a folder, and `HUB_DODS` without one from the hub."""
_STARTS = ("auto", "learned", "vocabulary", "labels")
"""What `Tuning.init` may be, beside a text and a path."""


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
        checked = checked_fields(METHODS[name], options, f"{name} has no option")
        return {"name": name, "label": value.get("label", name), "options": checked}

    @model_validator(mode="after")
    def _sensible(self) -> "MethodChoice":
        built(METHODS[self.name], self.options)
        return self

    def build(self) -> Method:
        """The method with its options."""
        return METHODS[self.name](**self.options)


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
    """All that decides the results of a run."""

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
    tuning: dict[str, Any] = {}
    """Fields of `Tuning` that differ from its defaults."""
    loading: dict[str, Any] = {}
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
        auto = ("embedded", "embedded") if small else ("gpt2-xl", "subject")
        named = {role: value.get(role, "auto") for role in ("reference", "generator")}
        for (role, name), default in zip(named.items(), auto, strict=True):
            named[role] = default if name == "auto" else name
        named["translator"] = value.get("translator", "embedded")
        return {**value, **{role: None if name == "none" else name for role, name in named.items()}}

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise ValueError(f"{twice[0]} is there twice, and would give the same cells twice")
        return seeds

    @field_validator("tuning")
    @classmethod
    def _tunable(cls, tuning: dict[str, Any]) -> dict[str, Any]:
        checked = checked_fields(Tuning, tuning, "there is no setting")
        init = built(Tuning, checked).init
        if not (init in _STARTS or init.startswith("text:") or Path(init).exists()):
            raise ValueError(f"init is '{init}', not {', '.join(_STARTS)}, text:... or the path of a soft prompt")
        return checked

    @field_validator("loading")
    @classmethod
    def _loadable(cls, loading: dict[str, Any]) -> dict[str, Any]:
        checked = checked_fields(Loading, loading, "there is no setting")
        built(Loading, checked)
        return checked

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

    Raises UserError with all problems at once where the file is missing, is no YAML, or asks for what there is not.
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
        problems = [f"{_place(e['loc'])}{_said(e)}" for e in error.errors()]
        raise UserError(f"{origin}: " + "; ".join(problems) + ".", "Mend these settings.") from error


def _said(error: Mapping[str, Any]) -> str:
    """What pydantic says of a value, in the words of a YAML file."""
    if error["type"] == "extra_forbidden":
        known = Tasks if error["loc"][0] == "tasks" else ApiChoice if error["loc"][0] == "generator" else Evaluation
        return f"there is no such setting; there are {', '.join(known.model_fields)}"
    said = error["msg"].removeprefix("Value error, ").rstrip(".")
    return said.replace("a valid tuple", "a list, such as [0, 1]")


def _place(location: tuple[int | str, ...]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""
