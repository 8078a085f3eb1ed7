"""Whether all that a run reads can be had, found out before hours of work and not after."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from soft2hard.api.client import read_key
from soft2hard.errors import UserError, first_line
from soft2hard.eval.cases import Draw
from soft2hard.eval.config import Evaluation
from soft2hard.eval.loaded_models import problems_of
from soft2hard.eval.metrics.text import sentence_encoder
from soft2hard.lm.loading import READING_ERRORS
from soft2hard.pipeline.recipe import Recipe
from soft2hard.storage.hub import hub_error
from soft2hard.storage.names import located
from soft2hard.translator.processes import check_deepspeed


def check_at_hand(recipe: Recipe, stages: Sequence[str]) -> None:
    """Raise UserError where a folder, a model or a key that these stages read cannot be had.

    Of a model on the hub the configuration is fetched, which shows whether it exists and may be downloaded.
    """
    for what, folder in folders_of(recipe, stages):
        if not folder.exists():
            raise UserError(
                f"The folder {folder} of {what} is not there.",
                "Get its files (docs/datasets.md says where), or name their folder in the recipe.",
            )
    if "evaluation" in stages:
        _check_methods(recipe.evaluation)
    if "translator" in stages:
        check_deepspeed(recipe.training.deepspeed)
    for role, name in models_of(recipe, stages):
        _check_model(role, name)
    if "translator" in stages:
        check_base(recipe)
    if "evaluation" in stages and recipe.evaluation.encoder not in (None, "reference"):
        sentence_encoder(recipe.evaluation.encoder)  # its library may be missing too, and it is small
    if "transfer" in stages and recipe.transfer is not None:
        for model in recipe.transfer.api_models:
            read_key(model)


def check_base(recipe: Recipe, **reading: Any) -> None:
    """Raise UserError where the translator's base is of another kind than its architecture.

    `reading` goes to the reading of its configuration.
    """
    design = recipe.translator.design
    name, of = (recipe.subject, "subject") if design.base is None else (design.base, "translator.base")
    if design.base is None and design.architecture != "causal-lora":
        return
    config = AutoConfig.from_pretrained(located(name, "subject"), trust_remote_code=False, **reading)
    if config.is_encoder_decoder and design.architecture == "causal-lora":
        raise UserError(
            f"{of}: '{name}' is an encoder-decoder, and a translator of causal-lora writes with a causal LM.",
            "Name a causal LM as base, or choose the architecture encoder-decoder.",
        )
    if not config.is_encoder_decoder and design.architecture != "causal-lora":
        raise UserError(
            f"{of}: '{name}' is no encoder-decoder, as the architecture {design.architecture} takes it with a base.",
            "Name an encoder-decoder as base, or choose the architecture causal-lora.",
        )


def folders_of(recipe: Recipe, stages: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Folders and files of tasks that these stages read, each with what it is of."""
    if "corpora" in stages:
        for name, corpus in recipe.corpora.items():
            if corpus.folder is not None:
                yield f"corpora.{name}", corpus.folder
    if "evaluation" in stages:
        tasks = recipe.evaluation.tasks
        for path in (*tasks.files, *([tasks.folder] if tasks.folder else [])):
            yield "evaluation.tasks", path


def models_of(recipe: Recipe, stages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Language models that these stages read, each with its role, as names that can be loaded."""
    if {"corpora", "translator", "evaluation"} & set(stages):
        yield "subject", located(recipe.subject, "subject")
    if "translator" in stages and recipe.translator.base is not None:
        yield "translator.base", recipe.translator.base
    if "evaluation" in stages:
        config = recipe.evaluation
        for role, name in (("reference", config.reference), ("generator", config.generator)):
            if isinstance(name, str) and name != "subject":
                yield f"evaluation.{role}", located(name, "api_model")
    if "transfer" in stages and recipe.transfer is not None and recipe.transfer.serve is not None:
        yield "transfer.serve", located(recipe.transfer.serve, "api_model")


def _check_methods(config: Evaluation) -> None:
    """Raise UserError where the test tasks lack what a method needs."""
    methods = [(choice, choice.build()) for choice in config.methods]
    problems = problems_of(config, methods, Draw(config.tasks))
    if config.encoder == "reference" and config.reference is None:
        problems.append("the encoder is to be the reference LM, but there is none")
    if problems:
        raise UserError(f"evaluation: {'; '.join(problems)}.", "Leave them out, or give what they need.")


def _check_model(role: str, name: str) -> None:
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except READING_ERRORS as error:
        found = hub_error(error, name, "subject") or UserError(
            f"The model '{name}' cannot be read ({first_line(error)}).", "Give a folder that holds the model."
        )
        raise UserError(f"{role}: {found.problem}", found.remedy) from error
