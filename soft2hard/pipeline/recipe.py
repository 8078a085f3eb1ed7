"""A recipe: one YAML file that says what every stage does, checked as a whole before anything runs."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from soft2hard.api.requests import ApiModel
from soft2hard.data_gen.corpus_folder import CorpusPlan
from soft2hard.data_gen.dods.registry import HUB_DODS
from soft2hard.data_gen.tuning import Tuning
from soft2hard.errors import UserError
from soft2hard.eval.config import DODS, ApiChoice, Evaluation, built, parse_config
from soft2hard.eval.transfer.delivery import Sending
from soft2hard.eval.transfer.material import REFERENCES, Wanted
from soft2hard.eval.transfer.plan import Asking
from soft2hard.lm.loading import Loading
from soft2hard.pipeline.keys import check_keys, checked_settings, nearest
from soft2hard.storage.yaml_files import read_yaml
from soft2hard.translator.processes import deepspeed_config
from soft2hard.translator.settings import Design, TranslatorTraining

NAMED_BY_RECIPE = ("subject", "translator")
"""Settings of an evaluation that the recipe itself decides."""


class _Strict(BaseModel):
    """Refuses keys that there are not, and names the nearest that there is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            check_keys(value, cls.model_fields)
        return value


class CorpusSettings(_Strict):
    """One corpus; the fields are those of `CorpusPlan`, and mean the same."""

    split: Literal["train", "validation"]
    """Translators are trained on 'train' and stopped by 'validation'; evaluations make their own of test tasks."""
    n_tasks: int = Field(ge=1)
    dod: str = "lexical"
    folder: Path | None = None
    """Where the published files of the collection lie, from the working directory; 'lexical' has none."""
    tuning: dict[str, Any] = {}
    """Fields of `Tuning`, over the recipe's."""
    snapshot_steps: tuple[int, ...] = CorpusPlan.snapshot_steps
    shard_size: int = Field(CorpusPlan.shard_size, ge=1)
    task_seed: int = CorpusPlan.task_seed
    n_train: int = Field(CorpusPlan.n_train, ge=1)
    """Training examples of each task of 'lexical'; others bring their own number."""

    @field_validator("dod")
    @classmethod
    def _there_is(cls, dod: str) -> str:
        if dod not in DODS:
            raise ValueError(f"there is no collection '{dod}'{nearest(dod, DODS)}")
        return dod

    @model_validator(mode="after")
    def _one_source(self) -> "CorpusSettings":
        if self.folder is None and self.dod in HUB_DODS:
            return self
        if (self.dod == "lexical") != (self.folder is None):
            raise ValueError("give the folder of a published collection, and of nothing else")
        return self


class TranslatorSettings(_Strict):
    """What the translator is, in the fields of `Design`, and how it is trained."""

    architecture: Literal["auto", "encoder-decoder", "causal-lora"] = Design.architecture
    base: str | None = Design.base
    """Checkpoint to start from, by name or folder; None: the subject's own weights where its architecture allows it."""
    hidden_layers: tuple[int, ...] = Design.hidden_layers
    lora_rank: int = Field(Design.lora_rank, ge=1)
    dropout: float = Field(Design.dropout, ge=0, lt=1)
    instruction_tokens: int = Field(Design.instruction_tokens, ge=1)
    training: dict[str, Any] = {}
    """Fields of `TranslatorTraining` that differ from its defaults."""

    @field_validator("training")
    @classmethod
    def _trainable(cls, training: dict[str, Any]) -> dict[str, Any]:
        checked = checked_settings(TranslatorTraining, training)
        if checked.get("deepspeed") is not None:
            try:
                deepspeed_config(checked["deepspeed"])
            except UserError as error:
                raise ValueError(f"deepspeed: {error.problem} {error.remedy}") from error
        return checked

    @property
    def design(self) -> Design:
        return Design(**self.model_dump(exclude={"training"}))


class TransferSettings(_Strict):
    """Which models behind an API are asked with the evaluation's prompts, and how.

    Fields of `Wanted`, `Asking` and `Sending` mean the same.
    """

    models: tuple[ApiChoice, ...] = ()
    serve: str | None = None
    """A model served on this machine and asked like the others: 'embedded' (the API-side model) or a folder."""
    port: int = Field(8642, ge=1, le=65535)
    """Of the served model; its answers in the ledger are known by it."""
    methods: tuple[str, ...] = Wanted.methods
    n_examples: int | None = Field(Wanted.n_examples, ge=1)
    references: tuple[str, ...] = ()
    shots: int = Field(Wanted.shots, ge=0)
    max_tokens: int = Field(Asking.max_tokens, ge=1)
    repeats: int = Field(Asking.repeats, ge=1)
    max_cost: float | None = Field(Sending.max_cost, ge=0)
    concurrency: int = Field(Sending.concurrency, ge=1)
    batch: bool = Sending.batch

    @model_validator(mode="after")
    def _sensible(self) -> "TransferSettings":
        if not self.models and self.serve is None:
            raise ValueError("name at least one model, or one to serve")
        for name in self.references:
            if name not in REFERENCES:
                raise ValueError(f"there is no reference point '{name}'; there are {', '.join(REFERENCES)}")
        return self

    @property
    def api_models(self) -> list[ApiModel]:
        """The models that are not served here."""
        return [choice.build() for choice in self.models]


class Size(_Strict):
    """How large a model is, as its makers publish it, for plans on machines that do not have it."""

    parameters: float = Field(gt=0)
    width: int = Field(ge=1)
    """Of its input embeddings."""
    gated: bool = False
    """Whether its licence must be accepted on the hub before it can be downloaded."""


class Recipe(_Strict):
    """All that decides what the stages make."""

    subject: str = "embedded"
    """'embedded', a folder, or a name in the local cache or on the hub."""
    seed: int = 0
    """Of tuning, training and transfer where they name none; an evaluation has seeds of its own."""
    tuning: dict[str, Any] = {}
    """Fields of `Tuning` for all soft prompts; a corpus and the evaluation may name others over them."""
    loading: dict[str, Any] = {}
    """Fields of `Loading` that differ from its defaults: how the subject is held in memory."""
    corpora: dict[str, CorpusSettings] = Field(min_length=1)
    """By the name of their folder."""
    translator: TranslatorSettings = TranslatorSettings()
    evaluation: Evaluation
    """As docs/evaluation.md has it, or the path of such a file from the recipe's folder; subject and translator are the
    recipe's."""
    transfer: TransferSettings | None = None
    sizes: dict[str, Size] = {}
    """Published sizes of models by name."""

    @field_validator("tuning")
    @classmethod
    def _tunable(cls, tuning: dict[str, Any]) -> dict[str, Any]:
        return checked_settings(Tuning, tuning)

    @field_validator("loading")
    @classmethod
    def _loadable(cls, loading: dict[str, Any]) -> dict[str, Any]:
        return checked_settings(Loading, loading)

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        splits = {corpus.split for corpus in self.corpora.values()}
        for split in ("train", "validation"):
            if split not in splits:
                raise ValueError(f"corpora: there is none of split '{split}'")
        tunings = {name: self.corpus_tuning(name) for name in self.corpora}
        tunings["evaluation"] = self.evaluation.tuning_of(0)
        first = next(iter(tunings))
        for name, tuning in tunings.items():
            if tuning.n_tokens != tunings[first].n_tokens:
                n_tokens = f"{tunings[first].n_tokens} virtual tokens, {name} of {tuning.n_tokens}"
                raise ValueError(f"{first} has soft prompts of {n_tokens}: a translator reads one length")
        labels = [method.label for method in self.evaluation.methods]
        for method in self.transfer.methods if self.transfer else ():
            if method not in (*labels, *self.transfer.references):
                raise ValueError(f"transfer: the evaluation has no method '{method}'{nearest(method, labels)}")
        return self

    def corpus_tuning(self, name: str) -> Tuning:
        """How the soft prompts of a corpus are tuned. Raises ValueError for settings that there are not."""
        own = checked_settings(Tuning, self.corpora[name].tuning, f"corpora.{name}.tuning: ")
        return built(Tuning, {"seed": self.seed} | self.tuning | own)

    @cached_property
    def training(self) -> TranslatorTraining:
        """How the translator is trained."""
        return TranslatorTraining(**{"seed": self.seed} | self.translator.training)

    def of_split(self, split: str) -> dict[str, CorpusSettings]:
        """The corpora of a split, by name."""
        return {name: corpus for name, corpus in self.corpora.items() if corpus.split == split}


def read_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file. Raises UserError with all problems in one line."""
    raw = read_yaml(path, "a recipe")
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no recipe.", "Write a mapping with corpora and evaluation (docs/recipes.md).")
    try:
        check_keys(raw, Recipe.model_fields)
        found = raw | {"evaluation": _evaluation(raw, path)} if "evaluation" in raw else raw
        return Recipe.model_validate(found)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {_said(e['msg'])}".lstrip(": ") for e in error.errors()]
        raise UserError(f"{path}: {'; '.join(problems)}.", "Mend these settings (docs/recipes.md).") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}.", "Mend these settings (docs/recipes.md).") from error


def _evaluation(raw: Mapping[str, Any], path: Path) -> Evaluation:
    """The evaluation of a recipe, with the recipe's subject and tuning."""
    given, origin = raw["evaluation"], f"{path}, evaluation"
    if isinstance(given, str):
        origin = str(path.parent / given)
        given = read_yaml(path.parent / given, "an evaluation's YAML file")
    if not isinstance(given, dict):
        raise ValueError("evaluation: write its settings, or the path of an evaluation's YAML file")
    check_keys(given, [key for key in Evaluation.model_fields if key not in NAMED_BY_RECIPE], f"{origin}: ")
    shared = raw.get("tuning") or {}
    own = given.get("tuning") or {}
    if not isinstance(shared, dict) or not isinstance(own, dict):
        raise ValueError("tuning: write a mapping of settings")
    for place, settings in (("tuning", shared), (f"{origin}, tuning", own)):
        check_keys(settings, Tuning.__dataclass_fields__, f"{place}: ")
    if isinstance(raw.get("loading"), dict):
        check_keys(raw["loading"], Loading.__dataclass_fields__, "loading: ")
    # Seeds of an evaluation are its own.
    tuning = {key: value for key, value in (shared | own).items() if key != "seed"}
    subject = raw.get("subject", Recipe.model_fields["subject"].default)
    loading = {"loading": raw["loading"]} if raw.get("loading") else {}
    return parse_config(loading | given | {"subject": subject, "tuning": tuning}, origin)


def _said(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".")
