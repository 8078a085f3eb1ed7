"""The settings of an evaluation: a YAML file, checked as a whole before anything runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from more_itertools import duplicates_everseen
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WrapValidator,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from soft2hard.api.requests import ApiModel
from soft2hard.data_gen.dods.registry import FOLDER_DODS, WITHOUT_FOLDER, checked_options
from soft2hard.data_gen.settings import Tuning
from soft2hard.errors import UserError
from soft2hard.eval.methods.registry import METHODS, method_of, options_of
from soft2hard.lm.settings import Loading
from soft2hard.settings import fields_of, some_of
from soft2hard.storage.names import SMOLLM2, is_embedded_subject
from soft2hard.storage.yaml_files import of_size, read_yaml

if TYPE_CHECKING:
    from soft2hard.eval.methods.base import Method

DODS = ("lexical", *FOLDER_DODS)
"""Collections that can be named; all but the first and `WITHOUT_FOLDER` are read from a folder."""
_STARTS = ("auto", "learned", "vocabulary", "labels")
"""The choices of `Tuning.init` beside a text and a path."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tasks(_Strict):
    """Which tasks: those of a DoD, or of task files."""

    dod: Literal[DODS] | None = None
    """A collection by name; its test split is scored, its validation split, if it has one, serves choices."""
    folder: Path | None = None
    """Where the published files of the collection lie; 'lexical' has none, and without one some come from the
    hub (`WITHOUT_FOLDER`)."""
    dod_options: dict[str, Any] = {}
    """Options of the collection, such as {max_words: 60, sizes: {test: all}} (docs/datasets.md)."""
    files: tuple[Path, ...] = ()
    """Task files, or folders of them, instead of a DoD."""
    n: int = Field(100, ge=1)
    """Test tasks at most."""
    n_validation: int = Field(26, ge=0)
    """Validation tasks for methods that choose something on them, where the collection has such: 'lexical',
    'super-natural-instructions' and 'manifests'."""
    n_train: int = Field(256, ge=1)
    """Training examples of each task of 'lexical'."""
    n_test: int | None = Field(None, ge=1)
    """Test examples of each task at most, drawn anew for each seed; None for all that the source gives."""
    seed: int = 0
    """Of the choice of tasks."""
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Lengths of soft prompts to compare: every task is there once for each, as 'NAME, 5 tokens'. Empty: all soft
    prompts have the `n_tokens` of the tuning."""

    @field_validator("lengths")
    @classmethod
    def _distinct(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if twice := list(duplicates_everseen(lengths)):
            raise ValueError(f"{twice[0]} is there twice")
        return lengths

    @model_serializer(mode="wrap")
    def _as_before(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without what runs were recorded without before it could be asked for, so that these are resumed."""
        return {name: value for name, value in dump(self).items() if name not in ("lengths", "dod_options") or value}

    @model_validator(mode="after")
    def _one_source(self) -> "Tasks":
        if (self.dod is None) == (not self.files):
            raise ValueError("give either dod or files")
        if self.dod_options:
            _check_dod_options(self.dod, self.dod_options)
        if self.folder is None and self.dod in WITHOUT_FOLDER:
            return self
        if (self.dod in (None, "lexical")) != (self.folder is None):
            raise ValueError("give the folder of a published collection, and of nothing else")
        return self


def _check_dod_options(dod: str | None, options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that the collection has not."""
    if dod not in FOLDER_DODS:
        raise ValueError("dod_options are of a published collection")
    try:
        checked_options(dod, options)
    except UserError as error:
        raise ValueError(str(error)) from error


TRAINED = "trained"
"""The name of a classifier that an evaluation trains itself."""


class Style(_Strict):
    """How rewritings of style-transfer tasks are sampled, rewarded and measured."""

    classifier: str = TRAINED
    """Rewards: what soft2hard classifier has saved, or a sequence classifier of transformers, by name or folder;
    'trained': a linear one over the encoder, trained on half of the tasks' sentences without pairs."""
    judge: str = TRAINED
    """Measures, likewise; 'trained': on the other half."""
    samples: int = Field(32, ge=1)
    """Rewritings sampled of each sentence, of which the best by reward counts."""
    top_k: int = Field(10, ge=1)
    """Tokens that the subject draws from."""


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
        try:
            options = fields_of(options_of(name), options)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return {"name": name, "label": value.get("label", name), "options": options}

    def build(self) -> "Method":
        """The method with its options."""
        return method_of(self.name)(**self.options)


def _api_model(given: Any, build: Callable[[Any], ApiModel]) -> ApiModel:
    try:
        return build(given)
    except UserError as error:
        raise ValueError(str(error)) from error


ApiChoice = Annotated[ApiModel, WrapValidator(_api_model)]
"""A model behind an OpenAI-compatible API; the key stays in the environment."""


class Evaluation(_Strict):
    """Everything that decides the results of a run."""

    tasks: Tasks
    methods: tuple[MethodChoice, ...]
    seeds: tuple[int, ...] = (0, 1)
    """Each seed draws other examples, another tuning and other random choices of the methods."""
    subject: str = "embedded"
    translator: str | None = "auto"
    """None where no method translates. 'auto' becomes 'embedded' for the embedded subject, and 'smollm2' for others:
    of subjects that it was not trained for, it reads what their soft prompts do."""
    reference: str | None = "auto"
    """Reference LM for perplexities: 'embedded' (the API-side model), 'subject', a name or a folder; None for none.
    'auto' becomes 'embedded' for the embedded subject, 'subject' for 'smollm2' and 'gpt2-xl' for others."""
    generator: (
        Annotated[
            Annotated[str, Tag("name")] | Annotated[ApiChoice, Tag("api")],
            Discriminator(lambda given: "api" if isinstance(given, (Mapping, ApiModel)) else "name"),
        ]
        | None
    ) = "auto"
    """Model asked for instructions: as `reference`, or one behind an API; 'auto' becomes 'embedded' or 'subject'."""
    encoder: str | None = None
    """Sentence-embedding model (sentence-transformers, by name or folder) for the cosine of prompts with gold
    instructions; 'reference' takes the reference LM's last hidden state; None for no such figure."""
    style: Style | None = None
    """For style-transfer tasks: their rewritings are rewarded and measured with it and the encoder; None: neither."""
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
        if subject == SMOLLM2:  # which is there for those who do without the hub
            usual["reference"] = "subject"
        usual["translator"] = "embedded" if small else SMOLLM2
        named = {role: value.get(role, "auto") for role in usual}
        chosen = {role: usual[role] if name == "auto" else name for role, name in named.items()}
        return {**value, **{role: None if name == "none" else name for role, name in chosen.items()}}

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if twice := list(duplicates_everseen(seeds)):
            raise ValueError(f"{twice[0]} is there twice, and would give the same cells twice")
        return seeds

    @field_validator("tuning")
    @classmethod
    def _tunable(cls, tuning: dict[str, Any]) -> dict[str, Any]:
        init = tuning.get("init", Tuning.init)
        if not (init in _STARTS or init.startswith("text:") or Path(init).exists()):
            raise ValueError(f"init is '{init}', not {', '.join(_STARTS)}, text:... or the path of a soft prompt")
        return tuning

    @field_serializer("generator")
    def _without_label(self, generator: str | ApiModel | None) -> Any:
        """As runs have recorded it before models had labels, so that these are resumed."""
        if not isinstance(generator, ApiModel):
            return generator
        return {name: value for name, value in vars(generator).items() if name != "label" or value is not None}

    @model_validator(mode="after")
    def _consistent(self) -> "Evaluation":
        if twice := list(duplicates_everseen(choice.label for choice in self.methods)):
            raise ValueError(f"two methods are labelled '{twice[0]}'; give one another label")
        if not self.methods or not self.seeds:
            raise ValueError("name at least one method and one seed")
        if self.style is not None and self.encoder is None:
            raise ValueError("style needs an encoder to tell the content of rewritings by; set encoder, such as minilm")
        return self

    def tuning_of(self, seed: int) -> Tuning:
        """How soft prompts are tuned under a seed."""
        return Tuning(**self.tuning | {"seed": seed})


def read_config(path: Path, size: str | None = None) -> Evaluation:
    """An evaluation from a YAML file, or one of its `variants` by name.

    Raises UserError with all problems at once where the file is missing, is no YAML, or asks for what does not exist.
    """
    raw = read_yaml(path, "an evaluation's YAML file")
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no settings.", "It must be a mapping with at least tasks and methods.")
    return parse_config(of_size(raw, size, path), str(path))


def parse_config(raw: Mapping[str, Any], origin: str) -> Evaluation:
    """An evaluation from plain values; raises UserError with all problems at once."""
    try:
        return Evaluation.model_validate(raw)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {_said(e)}".removeprefix(": ") for e in error.errors()]
        raise UserError(f"{origin}: " + "; ".join(problems) + ".", "Change these settings.") from error


def _said(error: Mapping[str, Any]) -> str:
    """A message of pydantic's in the words of a YAML file."""
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = {"tasks": Tasks, "generator": ApiModel, "style": Style}.get(error["loc"][0], Evaluation)
        return f"there is no such setting; there are {', '.join(known.__pydantic_fields__)}"
    said = error["msg"].removeprefix("Value error, ").rstrip(".")
    return said.replace("a valid tuple", "a list, such as [0, 1]")
