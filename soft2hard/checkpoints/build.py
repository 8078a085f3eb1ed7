"""Makes every embedded checkpoint from nothing, stage by stage; each stage resumes where it was stopped.

scripts/train_embedded --size cpu
"""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
import typer

from soft2hard.checkpoints import EMBEDDED
from soft2hard.checkpoints.install import install
from soft2hard.checkpoints.recipe import Recipe, long_tuning, recipe_named
from soft2hard.data_gen.corpus import load_corpus
from soft2hard.data_gen.corpus.making import CorpusBuilder
from soft2hard.data_gen.corpus_folder import CorpusPlan
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Split
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.world import FINAL_EXAMPLES, FINAL_TUNING
from soft2hard.data_gen.world.training import make_world
from soft2hard.errors import UserError, run_script
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design
from soft2hard.translator.training import train_translator

STAGES = ("world", "corpus", "translator", "install")
TRAINING_CORPORA = ("common", "long", "random")


@dataclass(frozen=True)
class Build:
    """One making of the checkpoints: work in `run`, results in `out`."""

    recipe: Recipe
    run: Path
    out: Path
    workers: int = 1
    log: Callable[[str], None] = print

    def world(self) -> None:
        make_world(self.recipe.world, self.run / "world", self.log)

    @cached_property
    def _tuning_subject(self) -> Subject:
        return load_for_tuning(self.run / "world" / "subject")

    def corpora(self) -> dict[str, tuple[CorpusPlan, LexicalDoD]]:
        """The corpora by name: validation tasks; from the common start; tuned to the end; from random tokens."""
        recipe, dod = self.recipe, LexicalDoD(for_translator=True, n_train=FINAL_EXAMPLES)
        common = replace(recipe.tuning, init="learned")
        scattered = replace(recipe.tuning, init="vocabulary", seed=1)
        fingerprint = self._tuning_subject.fingerprint

        def plan(split: Split, n: int, tuning: Tuning, seed: int) -> tuple[CorpusPlan, LexicalDoD]:
            # Snapshots on the way are free pairs; validation wants the best prompts alone.
            steps = () if split == "validation" else recipe.snapshot_steps
            if tuning.steps > recipe.tuning.steps:
                steps = tuple(range(tuning.steps // 5, tuning.steps, tuning.steps // 5))
            plan = CorpusPlan(
                dod.name, split, n, fingerprint, tuning, steps, shard_size=256, task_seed=seed, n_train=dod.n_train
            )
            return plan, dod

        return {
            "validation": plan("validation", recipe.n_validation_tasks, common, 0),
            "common": plan("train", recipe.n_tasks, common, 0),
            "long": plan("train", recipe.n_long_tasks, replace(long_tuning(recipe), seed=2), 3),
            "random": plan("train", recipe.n_random_tasks, scattered, 2),
        }

    def corpus(self) -> None:
        for name in self.corpora():
            self._corpus(name)

    def _corpus(self, name: str) -> None:
        if self.workers == 1:
            self.make_shards(name, 0, 1)
            return
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=_shard_worker, args=(self.recipe, self.run, self.out, name, i, self.workers))
            for i in range(self.workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise UserError(f"A worker making the corpus '{name}' failed.", "Run the command again to continue.")

    def make_shards(self, name: str, first: int, stride: int) -> None:
        """Make every `stride`-th missing shard of a corpus, from `first` on."""
        plan, dod = self.corpora()[name]
        builder = CorpusBuilder(self.run / "corpus" / name, plan, dod, self._tuning_subject)
        for number in builder.build(range(first, builder.n_shards, stride)):
            self.log(f"corpus {name}: shard {number + 1} of {builder.n_shards}")

    def translator(self) -> None:
        import datasets

        corpus = datasets.concatenate_datasets([load_corpus(self.run / "corpus" / n) for n in TRAINING_CORPORA])
        validation = load_corpus(self.run / "corpus" / "validation", snapshots=False)
        subject = Subject.from_pretrained(str(self.run / "world" / "subject"))
        # A path means nothing on another machine: the card names the subject by its role.
        subject.name = "embedded"
        translator = Translator.for_subject(subject, Design("encoder-decoder"))  # what the embedded one is
        train_translator(
            translator, corpus, validation, self.recipe.translator, self.run / "translator", subject=subject
        )

    def install(self) -> None:
        tuning = replace(long_tuning(self.recipe), steps=self.recipe.final_steps, patience=FINAL_TUNING.patience)
        install(self.run, self.out, tuning)
        self.log(f"saved to {self.out}")


def _shard_worker(recipe: Recipe, run: Path, out: Path, name: str, first: int, stride: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // stride))
    Build(recipe, run, out, log=lambda message: print(message, flush=True)).make_shards(name, first, stride)


def main(
    size: str = typer.Option(
        "cpu", help="cpu: one sitting on two cores; gpu: full size; tiny: seconds, knows nothing."
    ),
    run: Path = typer.Option(Path("runs/embedded"), help="Folder for checkpoints of the work; reused to resume."),
    out: Path = typer.Option(EMBEDDED, help="Folder for the results; by default the one inside the package."),
    stage: list[str] = typer.Option(list(STAGES), help=f"Stages to run, in this order: {', '.join(STAGES)}."),
    workers: int = typer.Option(0, help="Processes that make the corpus; 0: one a core on CPU, one on GPU."),
) -> None:
    """Make the embedded subject, API-side model, soft prompts and translator from nothing."""
    unknown = [name for name in stage if name not in STAGES]
    if unknown:
        raise UserError(f"There is no stage '{unknown[0]}'.", f"Choose among {', '.join(STAGES)}.")
    if not workers:
        workers = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    build = Build(recipe_named(size), run, out, workers)
    for name in STAGES:
        if name in stage:
            getattr(build, name)()


if __name__ == "__main__":
    run_script(main)
