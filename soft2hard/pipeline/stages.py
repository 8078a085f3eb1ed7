"""The stages of a recipe: what each reads and writes, what of the recipe decides it, and what it does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soft2hard.errors import UserError
from soft2hard.lm.precision import rounding_of
from soft2hard.pipeline import work
from soft2hard.pipeline.job import Job
from soft2hard.pipeline.keys import nearest
from soft2hard.pipeline.layout import Layout
from soft2hard.pipeline.recipe import NAMED_BY_RECIPE, Recipe

EVALUATION_FILES = ("results.parquet", "run.json", "tasks.json")
"""What the stages after it read of an evaluation."""
STAGES = ("corpora", "translator", "evaluation", "transfer", "report")

_SENDING = {"max_cost", "concurrency", "batch"}
"""How requests are sent changes no answer, so it may be changed at any time."""


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe in a folder."""

    name: str
    settings: Mapping[str, Any]
    """What of the recipe decides what it makes, as plain JSON; a folder that it has begun in holds it to them."""
    needs: tuple[str, ...]
    """Stages that must have ended before."""
    follows: tuple[str, ...]
    """Stages after whose end it is made anew; `needs` among them."""
    reads: tuple[str, ...]
    """Models, collections and folders, for people."""
    writes: tuple[Path, ...]
    results: tuple[Path, ...]
    """What is there when it has ended; it is made anew where one of these is gone."""
    work: Callable[[Job], str | None]
    """Does it, and returns what is left to do, if anything is."""


def stages_of(recipe: Recipe, layout: Layout) -> list[Stage]:
    """The stages of a recipe, in order."""
    plain = recipe.model_dump(mode="json")
    subject, corpora = f"subject {recipe.subject}", str(layout.corpora)
    found = [
        Stage(
            "corpora",
            {key: plain[key] for key in ("subject", "seed", "tuning", "corpora")}
            | {"loading": rounding_of(recipe.loading)},
            (),
            (),
            (subject, *_collections(recipe)),
            (layout.corpora,),
            tuple(layout.corpora / name for name in recipe.corpora),
            work.make_corpora,
        ),
        Stage(
            "translator",
            {"translator": plain["translator"]},
            ("corpora",),
            ("corpora",),
            (subject, corpora, *([f"base {recipe.translator.base}"] if recipe.translator.base else [])),
            (layout.training,),
            (layout.translator,),
            work.make_translator,
        ),
        Stage(
            "evaluation",
            {key: value for key, value in plain["evaluation"].items() if key not in NAMED_BY_RECIPE}
            | {"loading": rounding_of(recipe.evaluation.loading)},
            ("translator",),
            ("translator",),
            (subject, str(layout.translator), *_evaluated(recipe)),
            (layout.evaluation,),
            tuple(layout.evaluation / name for name in EVALUATION_FILES),
            work.evaluate,
        ),
    ]
    if recipe.transfer is not None:
        found.append(_transfer(recipe, layout, plain["transfer"]))
    follows = tuple(stage.name for stage in found if stage.name in ("evaluation", "transfer"))
    reads = tuple(str(path) for path in (layout.evaluation, layout.transfer)[: len(follows)])
    writes = (layout.report, layout.report.with_suffix(".md"))
    return [*found, Stage("report", {}, ("evaluation",), follows, reads, writes, writes, work.report)]


def _transfer(recipe: Recipe, layout: Layout, settings: Mapping[str, Any]) -> Stage:
    kept = {key: value for key, value in settings.items() if key not in _SENDING}
    asked = recipe.transfer
    names = [f"{model.name} at {model.base_url}" for model in asked.models]
    served = [f"{asked.serve} (served here)"] if asked.serve else []
    reads = (str(layout.evaluation), *served, *names)
    needs = ("evaluation",)
    writes = (layout.ledger, layout.transfer)
    return Stage("transfer", kept, needs, needs, reads, writes, (layout.transfer,), work.transfer)


def _collections(recipe: Recipe) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_collection(corpus.dod, corpus.folder) for corpus in recipe.corpora.values()))


def _collection(dod: str, folder: Path | None) -> str:
    return f"DoD {dod}" + (f" ({folder})" if folder else "")


def _evaluated(recipe: Recipe) -> tuple[str, ...]:
    """Tasks and further models of the evaluation."""
    tasks, config = recipe.evaluation.tasks, recipe.evaluation
    source = [_collection(tasks.dod, tasks.folder)] if tasks.dod else []
    roles = {"reference LM": config.reference, "encoder": config.encoder}
    models = [f"{role} {name}" for role, name in roles.items() if name not in (None, "subject", "reference")]
    return (*source, *map(str, tasks.files), *models)


def chosen(stages: list[Stage], names: list[str]) -> list[Stage]:
    """The stages of these names, in the order of the recipe; all where none is named.

    Raises UserError for one that there is not.
    """
    known = [stage.name for stage in stages]
    for name in names:
        if name in STAGES and name not in known:
            raise UserError(f"This recipe has no stage '{name}'.", f"Its stages are {', '.join(known)}.")
        if name not in known:
            raise UserError(f"There is no stage '{name}'{nearest(name, known)}.", f"Name {', '.join(known)}.")
    return [stage for stage in stages if not names or stage.name in names]
