"""The stages that make something: corpora of soft prompts, and the translator."""

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoConfig

from soft2hard.compute.memory import free_memory
from soft2hard.data_gen.corpus.maker import Maker, corpus_tasks
from soft2hard.data_gen.corpus.rows import load_corpus
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tuning import START_FILE
from soft2hard.data_gen.world.training import make_world
from soft2hard.errors import UserError, first_line
from soft2hard.eval.calibration import calibrate_saved
from soft2hard.lm.loading import is_masked_config
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.sentences import sentence_encoder
from soft2hard.lm.subject import Subject
from soft2hard.pipeline.recipe import Recipe, TranslatorSettings
from soft2hard.pipeline.stages import Job, Stage, collection_name
from soft2hard.translator.model import Translator
from soft2hard.translator.processes import check_deepspeed
from soft2hard.translator.settings import TranslatorTraining
from soft2hard.translator.training import needs_subject, selected, train_translator


class WorldStage(Stage):
    """The subject and the API-side model, trained from nothing, and the start of soft prompts."""

    name = "world"

    @classmethod
    def is_in(cls, recipe: Recipe) -> bool:
        return recipe.world is not None

    def settings(self) -> dict[str, Any]:
        return self.recipe.plain["world"]

    def results(self) -> tuple[Path, ...]:
        return (self.layout.world / "subject" / START_FILE, self.layout.world / "api_model")

    def writes(self) -> tuple[Path, ...]:
        return (self.layout.world,)

    def size(self) -> str:
        world = self.recipe.world
        return f"a subject in {world.subject.steps:,} steps, an API-side model in {world.api_model.steps:,}"

    def work(self, job: Job) -> None:
        """Train both; after a kill each continues from its last checkpoint."""
        make_world(self.recipe.world, self.layout.world, job.log)


class CorporaStage(Stage):
    """Soft prompts of every corpus."""

    name = "corpora"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("world",) if self.recipe.world is not None else ()

    def settings(self) -> dict[str, Any]:
        chosen = {key: self.recipe.plain[key] for key in ("subject", "seed", "tuning", "corpora")}
        return chosen | {"loading": self.recipe.held.rounding}

    def results(self) -> tuple[Path, ...]:
        return tuple(self.layout.corpora / name for name in self.recipe.corpora)

    def writes(self) -> tuple[Path, ...]:
        return (self.layout.corpora,)

    def inputs(self) -> Iterator[str]:
        yield from dict.fromkeys(collection_name(corpus.dod, corpus.folder) for corpus in self.recipe.corpora.values())

    def folders(self) -> Iterator[tuple[str, Path]]:
        for name, corpus in self.recipe.corpora.items():
            if corpus.folder is not None:
                yield f"corpora.{name}", corpus.folder

    def models(self) -> Iterator[tuple[str, str]]:
        yield "subject", self.recipe.subject

    def size(self) -> str:
        return ", ".join(f"{name}: {c.n_tasks:,} {c.split} tasks" for name, c in self.recipe.corpora.items())

    def prompts(self) -> list[tuple[Tuning, int, int]]:
        corpora = self.recipe.corpora.items()
        return [(self.recipe.corpus_tuning(name), c.n_tasks, 1 + len(c.snapshot_steps)) for name, c in corpora]

    def work(self, job: Job) -> None:
        """Tune the soft prompts of every corpus. Raises UserError, before any is tuned, where tasks are lacking."""
        tasks = {name: corpus_tasks(settings) for name, settings in self.recipe.corpora.items()}
        load = partial(load_for_tuning, self.path_of("subject", self.recipe.subject), self.recipe.held)
        if job.cluster is None:
            subject = load()
            load = lambda: subject  # noqa: E731 (loaded once for all corpora)
        maker = Maker(
            load,
            self.recipe.held,
            job.cluster,
            job.log,
            lambda name, done, total: job.on_progress(f"corpus {name}, soft prompts", done, total),
            lambda name, number, total: job.log(f"corpus {name}: shard {number} of {total}"),
        )
        for name, of_corpus in tasks.items():
            maker.make(self.layout.corpora / name, of_corpus, self.recipe.corpus_tuning(name))


class TranslatorStage(Stage):
    """The translator, trained on the train corpora and stopped by the validation corpora."""

    name = "translator"
    needs = ("corpora",)

    def settings(self) -> dict[str, Any]:
        return {"translator": self.recipe.plain["translator"]}

    def results(self) -> tuple[Path, ...]:
        return (self.layout.translator,)

    def writes(self) -> tuple[Path, ...]:
        return (self.layout.training,)

    def inputs(self) -> Iterator[str]:
        yield str(self.layout.corpora)

    def models(self) -> Iterator[tuple[str, str]]:
        yield "subject", self.recipe.subject
        if self.recipe.translator.base is not None:
            yield "translator.base", self.recipe.translator.base

    def check(self, **reading: Any) -> None:
        """Raise UserError where DeepSpeed or an encoder is missing, or the base is of another kind than the
        architecture takes.

        `reading` goes to the reading of its configuration.
        """
        check_deepspeed(self.recipe.training.deepspeed)
        design = self.recipe.translator
        if design.calibration_encoder is not None:
            sentence_encoder(design.calibration_encoder)  # its library may be missing, and it is small
        name, of = (self.recipe.subject, "subject") if design.base is None else (design.base, "translator.base")
        if design.base is None and design.architecture != "causal-lora":
            return
        if self.recipe.makes(name):
            return  # every subject of a world is a causal LM
        config = AutoConfig.from_pretrained(self.path_of("subject", name), trust_remote_code=False, **reading)
        kind = (
            "an encoder-decoder" if config.is_encoder_decoder else "a masked LM" if is_masked_config(config) else None
        )
        if kind and design.architecture == "causal-lora":
            raise UserError(
                f"{of}: '{name}' is {kind}, and a translator of causal-lora writes with a causal LM.",
                "Name a causal LM as base, or choose the architecture encoder-decoder.",
            )
        if not config.is_encoder_decoder and design.architecture != "causal-lora":
            raise UserError(
                f"{of}: '{name}' is no encoder-decoder, as the architecture {design.architecture} takes it with a "
                "base.",
                "Name an encoder-decoder as base, or choose the architecture causal-lora.",
            )

    def size(self) -> str:
        corpora = self.recipe.of_split("train").values()
        pairs = sum(c.n_tasks * (1 + len(c.snapshot_steps)) for c in corpora)
        return f"{pairs:,} pairs, at most {self.recipe.training.epochs:g} epochs"

    def work(self, job: Job) -> None:
        """Train the translator. Raises UserError where none can be made from its base."""
        self.train(self.recipe.translator, self.recipe.training, self.layout.training)

    def train(self, design: TranslatorSettings, training: TranslatorTraining, folder: Path) -> None:
        """Train a translator of this design on the recipe's corpora."""
        subject = Subject.from_pretrained(self.path_of("subject", self.recipe.subject), loading=self.recipe.held)
        subject.name = self.recipe.subject  # for the card: the path of the package means nothing on another machine
        train, validation = (
            datasets.concatenate_datasets(
                [load_corpus(self.layout.corpora / n, snapshots=split == "train") for n in self.recipe.of_split(split)]
            )
            for split in ("train", "validation")
        )
        try:
            translator = Translator.for_subject(subject, design)
        except (OSError, ValueError) as error:
            base = design.base or self.recipe.subject
            raise UserError(
                f"No translator can be made from '{base}' ({first_line(error)}).", "Name another as translator.base."
            ) from error
        if not needs_subject(translator, training):
            subject = None  # its memory is better used in training
            free_memory()
        with redirect_stdout(sys.stderr):  # DeepSpeed prints its log
            train_translator(translator, train, validation, training, folder, subject=subject)
            load = partial(
                Subject.from_pretrained, self.path_of("subject", self.recipe.subject), loading=self.recipe.held
            )
            calibrated_on = selected(validation, training, to_validate=True)
            encoder = None if design.calibration_encoder is None else sentence_encoder(design.calibration_encoder)
            calibrate_saved(folder / "translator", load, calibrated_on, design.calibration_tasks, encoder)


class ComparisonsStage(TranslatorStage):
    """Further translators, for the evaluation and as rivals of the certificate."""

    name = "comparisons"

    @classmethod
    def is_in(cls, recipe: Recipe) -> bool:
        return bool(recipe.comparisons)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"comparisons": self.recipe.plain["comparisons"]}

    def results(self) -> tuple[Path, ...]:
        return tuple(self.layout.comparison(name) for name in self.recipe.comparisons)

    def writes(self) -> tuple[Path, ...]:
        return (self.layout.comparisons,)

    def size(self) -> str:
        return f"{', '.join(self.recipe.comparisons)}: each as the translator"

    def work(self, job: Job) -> None:
        """Train them one after another."""
        for name in self.recipe.comparisons:
            design = self.recipe.comparison(name)
            training = TranslatorTraining(**{"seed": self.recipe.seed} | design.training)
            self.train(design, training, self.layout.comparisons / name)
            job.log(f"comparisons: {name} is trained")
