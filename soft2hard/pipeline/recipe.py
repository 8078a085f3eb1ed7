"""A recipe: one YAML file that says what every stage does, checked as a whole before anything runs."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, field_validator, model_validator

from soft2hard.api.requests import ApiModel
from soft2hard.data_gen.dods.registry import WITHOUT_FOLDER, checked_options
from soft2hard.data_gen.settings import CorpusSettings, Tuning
from soft2hard.data_gen.world import World
from soft2hard.errors import UserError
from soft2hard.eval.certificate import CertificateSettings
from soft2hard.eval.config import DODS, ApiChoice, Evaluation, parse_config
from soft2hard.eval.transfer.settings import TransferChoices
from soft2hard.lm.settings import Loading
from soft2hard.settings import check_keys, checked, nearest, settings, some_of
from soft2hard.storage.yaml_files import of_size, read_yaml
from soft2hard.translator.processes import deepspeed_config
from soft2hard.translator.settings import Design, TranslatorTraining

NAMED_BY_RECIPE = ("subject", "translator")
"""Settings of an evaluation that the recipe itself decides."""
_REMEDY = "Change these settings (docs/recipes.md)."


@settings
class RecipeCorpus(CorpusSettings):
    """One corpus; evaluations make their own soft prompts of test tasks."""

    split: Literal["train", "validation"]
    """Translators are trained on 'train' and stopped by 'validation'."""

    @model_validator(mode="after")
    def _one_source(self) -> "RecipeCorpus":
        if self.dod not in DODS:
            raise ValueError(f"there is no collection '{self.dod}'{nearest(self.dod, DODS)}")
        if self.dod_options:
            try:
                checked_options(self.dod, self.dod_options)
            except (UserError, KeyError) as error:
                raise ValueError(f"dod_options: {error}") from error
        if (self.dod == "lexical") != (self.folder is None) and not (
            self.folder is None and self.dod in WITHOUT_FOLDER
        ):
            raise ValueError("give the folder of a published collection, and of nothing else")
        return self


@settings
class TranslatorSettings(Design):
    """What the translator is, and how it is trained."""

    training: some_of(TranslatorTraining) = Field(default_factory=dict)
    """Fields of `TranslatorTraining` that differ from its defaults."""
    calibration_tasks: NonNegativeInt = 32
    """Validation tasks on which it is chosen how far verification believes the subject; 0: wholly."""
    calibration_encoder: str | None = None
    """A sentence-embedding model by which texts are like a task's instructions there, besides by their words."""

    @field_validator("training")
    @classmethod
    def _trainable(cls, training: dict[str, Any]) -> dict[str, Any]:
        if training.get("deepspeed") is not None:
            try:
                deepspeed_config(training["deepspeed"])
            except UserError as error:
                raise ValueError(f"deepspeed: {error}") from error
        return training


@settings
class TransferSettings(TransferChoices):
    """Which models behind an API are asked with the evaluation's prompts, and how."""

    models: tuple[ApiChoice, ...] = ()
    """The models, by name and endpoint."""
    serve: str | None = None
    """A model served on this machine and asked like the others: 'embedded' (the API-side model) or a folder."""
    port: int = Field(8642, ge=1, le=65535)
    """Of the served model; its answers in the ledger are known by it."""
    references: tuple[Literal["none", "gold", "few-shot", "few-shot-all"], ...] = ()
    """Reference points asked for each task, where the evaluation lacks them."""

    @model_validator(mode="after")
    def _somebody(self) -> "TransferSettings":
        if not self.models and self.serve is None:
            raise ValueError("name at least one model, or one to serve")
        return self

    @property
    def api_models(self) -> list[ApiModel]:
        """The models that are not served here."""
        return list(self.models)


@settings
class Size:
    """How large a model is, as its makers publish it, for plans on machines that do not have it."""

    parameters: PositiveFloat
    """Number of parameters."""
    width: PositiveInt
    """Width of its input embeddings."""
    gated: bool = False
    """True if its licence must be accepted on the hub before it can be downloaded."""


@settings
class Recipe:
    """All that decides what the stages make."""

    corpora: dict[str, RecipeCorpus] = Field(min_length=1)
    """By the name of their folder."""
    evaluation: Evaluation = Field()
    """As docs/evaluation.md has it, or the path of such a file from the recipe's folder; subject and translator are the
    recipe's."""
    subject: str = "embedded"
    """'embedded', a folder, or a name in the local cache or on the hub."""
    world: World | None = None
    """Language models to train from nothing; 'embedded' then stands for these wherever the recipe names a model."""
    seed: int = 0
    """Of tuning, training and transfer where they name none; an evaluation has seeds of its own."""
    tuning: some_of(Tuning) = Field(default_factory=dict)
    """Fields of `Tuning` for all soft prompts; a corpus and the evaluation may name others over them."""
    loading: some_of(Loading) = Field(default_factory=dict)
    """Fields of `Loading` that differ from its defaults: how the subject is held in memory."""
    translator: TranslatorSettings = Field(default_factory=TranslatorSettings)
    comparisons: dict[str, some_of(TranslatorSettings)] = Field(default_factory=dict)
    """Further translators, trained on the same corpora, by name: what of `translator` is otherwise. A method of the
    evaluation names one as its `translator`; those that read other things than soft prompts are the certificate's
    rivals."""
    certificate: CertificateSettings | None = None
    """Whether the translator reads the vectors (`soft2hard certify`); None: it is not asked."""
    transfer: TransferSettings | None = None
    sizes: dict[str, Size] = Field(default_factory=dict)
    """Published sizes of models by name."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.world is not None and self.subject != "embedded":
            raise ValueError(f"subject is '{self.subject}', but a recipe with a world has the subject 'embedded'")
        for split in ("train", "validation"):
            if not self.of_split(split):
                raise ValueError(f"corpora: there is none of split '{split}'")
        lengths = {name: self.corpus_tuning(name).n_tokens for name in self.corpora}
        lengths["evaluation"] = self.evaluation.tuning_of(0).n_tokens
        first, *others = lengths
        for name in others:
            if lengths[name] != lengths[first]:
                n_tokens = f"{lengths[first]} virtual tokens, {name} of {lengths[name]}"
                raise ValueError(f"{first} has soft prompts of {n_tokens}: a translator reads one length")
        labels = [method.label for method in self.evaluation.methods]
        for method in self.transfer.methods if self.transfer else ():
            if method not in (*labels, *self.transfer.references):
                raise ValueError(f"transfer: the evaluation has no method '{method}'{nearest(method, labels)}")
        return self

    def corpus_tuning(self, name: str) -> Tuning:
        """How the soft prompts of a corpus are tuned."""
        return Tuning(**{"seed": self.seed} | self.tuning | self.corpora[name].tuning)

    @cached_property
    def training(self) -> TranslatorTraining:
        """How the translator is trained."""
        return TranslatorTraining(**{"seed": self.seed} | self.translator.training)

    def comparison(self, name: str) -> TranslatorSettings:
        """A further translator: the recipe's with what it changes; of `training` too only what it names."""
        changed, own = self.comparisons[name], vars(self.translator)
        training = own["training"] | changed.get("training", {})
        return TranslatorSettings(**own | changed | {"training": training})

    def compared(self) -> dict[str, str]:
        """The comparisons that methods of the evaluation name as their translators, by the methods' labels."""
        named = {choice.label: choice.options.get("translator") for choice in self.evaluation.methods}
        return {label: name for label, name in named.items() if name in self.comparisons}

    def makes(self, model: str) -> bool:
        """True for the name of a model that this recipe trains from nothing."""
        return self.world is not None and model == "embedded"

    @property
    def held(self) -> Loading:
        """How the subject is held in memory."""
        return Loading(**self.loading)

    def of_split(self, split: str) -> dict[str, RecipeCorpus]:
        """The corpora of a split, by name."""
        return {name: corpus for name, corpus in self.corpora.items() if corpus.split == split}

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The recipe with all defaults, as plain JSON values."""
        return TypeAdapter(Recipe).dump_python(self, mode="json")


def read_recipe(path: Path, size: str | None = None) -> Recipe:
    """A recipe from a YAML file, or one of its `variants` by name. Raises UserError with all problems in one line."""
    raw = read_yaml(path, "a recipe")
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no recipe.", "Write a mapping with corpora and evaluation (docs/recipes.md).")
    raw = of_size(raw, size, path)
    try:
        check_keys(raw, Recipe.__dataclass_fields__)
        found = raw | {"evaluation": _evaluation(raw, path)} if "evaluation" in raw else raw
    except ValueError as error:
        raise UserError(f"{path}: {error}.", _REMEDY) from error
    return checked(Recipe, found, str(path), _REMEDY)


def _evaluation(raw: Mapping[str, Any], path: Path) -> Evaluation:
    """The evaluation of a recipe, with the recipe's subject and tuning."""
    given, origin = raw["evaluation"], f"{path}, evaluation"
    if isinstance(given, str):
        origin = str(path.parent / given)
        given = read_yaml(path.parent / given, "an evaluation's YAML file")
    if not isinstance(given, dict):
        raise ValueError("evaluation: write its settings, or the path of an evaluation's YAML file")
    given = of_size(given, None, path)
    check_keys(given, [key for key in Evaluation.model_fields if key not in NAMED_BY_RECIPE])
    own, shared = checked(some_of(Tuning), given.get("tuning") or {}, origin), raw.get("tuning") or {}
    shared = checked(some_of(Tuning), shared, f"{path}: tuning", _REMEDY)
    # Seeds of an evaluation are its own.
    tuning = {key: value for key, value in (shared | own).items() if key != "seed"}
    loading = checked(some_of(Loading), raw.get("loading") or {}, f"{path}: loading", _REMEDY)
    named = {"subject": raw.get("subject", Recipe.subject), "tuning": tuning}
    return parse_config(({"loading": loading} if loading else {}) | given | named, origin)
