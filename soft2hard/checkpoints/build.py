"""Makes every embedded checkpoint from nothing, stage by stage; each stage resumes where it was stopped.

scripts/train_embedded --size cpu
"""

import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
import typer

from soft2hard.checkpoints import EMBEDDED, cards
from soft2hard.checkpoints.recipe import FINAL_EXAMPLES, Recipe, final_tuning, long_tuning, recipe_named
from soft2hard.data_gen.corpus import CorpusBuilder, CorpusPlan, load_corpus
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.initialisation import START_FILE
from soft2hard.data_gen.tasks import Split
from soft2hard.data_gen.tuning import Tuner, Tuning
from soft2hard.data_gen.world.lm_training import LMTrainer, evaluate
from soft2hard.data_gen.world.models import api_trainer, save_language_model, subject_trainer
from soft2hard.errors import UserError, run_script
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_folder
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design
from soft2hard.translator.training import train_translator

STAGES = ("subject", "api_model", "start", "corpus", "translator", "samples")
N_SAMPLES = 20
TRAINING_CORPORA = ("common", "long", "random")


@dataclass(frozen=True)
class Build:
    """One making of the checkpoints: work in `run`, results in `out`."""

    recipe: Recipe
    run: Path
    out: Path
    workers: int = 1
    log: Callable[[str], None] = print

    # --- language models ----------------------------------------------------------------------

    def subject(self) -> None:
        trainer, tokenizer = subject_trainer(self.recipe.subject, self.run / "subject")
        self._language_model(trainer, tokenizer, "subject")

    def api_model(self) -> None:
        trainer, tokenizer = api_trainer(self.recipe.api_model, self.recipe.api_vocab, self.run / "api_model")
        self._language_model(trainer, tokenizer, "api_model")

    def _language_model(self, trainer: LMTrainer, tokenizer, name: str) -> None:
        for _ in trainer.run(lambda entry: self._log_entry(name, entry)):
            pass  # it logs and saves by itself
        scores = {
            "zero_shot": evaluate(trainer.model, trainer.builder, "test", n_per_family=64),
            "few_shot": evaluate(trainer.model, trainer.builder, "test", n_per_family=64, few_shot=True),
        }
        card = cards.language_model_card(name, trainer, scores)
        save_language_model(trainer.model, tokenizer, card, self.out / name)
        self.log(f"{name}: saved to {self.out / name}")

    # --- soft prompts -------------------------------------------------------------------------

    @cached_property
    def _tuning_subject(self) -> Subject:
        return load_for_tuning(self.out / "subject")

    def start(self) -> None:
        """The common start of all soft prompts, saved beside the subject for users' own tuning."""
        subject, text = self._tuning_subject, self.recipe.start_text
        embeddings = subject.embed_text(text).float()
        SoftPrompt(embeddings, "embedded", subject.fingerprint, {"text": text}).save(self.out / "subject" / START_FILE)

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
            raise UserError(f"A worker making the corpus '{name}' failed.", "Run the command again: it goes on.")

    def make_shards(self, name: str, first: int, stride: int) -> None:
        """Make every `stride`-th missing shard of a corpus, from `first` on."""
        plan, dod = self.corpora()[name]
        builder = CorpusBuilder(self.run / "corpus" / name, plan, dod, self._tuning_subject)
        for number in builder.build(range(first, builder.n_shards, stride)):
            self.log(f"corpus {name}: shard {number + 1} of {builder.n_shards}")

    # --- translator ---------------------------------------------------------------------------

    def translator(self) -> None:
        import datasets

        corpus = datasets.concatenate_datasets([load_corpus(self.run / "corpus" / n) for n in TRAINING_CORPORA])
        validation = load_corpus(self.run / "corpus" / "validation", snapshots=False)
        subject = Subject.from_pretrained(str(self.out / "subject"))
        # A package path means nothing on another machine: the card names the subject by its role.
        subject.name = "embedded"
        translator = Translator.for_subject(subject, Design("encoder-decoder"))  # what the embedded one is
        train_translator(
            translator, corpus, validation, self.recipe.translator, self.run / "translator", subject=subject
        )
        translator.save_pretrained(self.out / "translator", dtype=torch.bfloat16)
        cards.write_translator_card(self.out / "translator", translator.card)
        self.log(f"translator: saved to {self.out / 'translator'}")

    def samples(self) -> None:
        """Soft prompts of test tasks, as examples of what a user has."""
        subject = self._tuning_subject
        drawn = LexicalDoD().draw("test", N_SAMPLES, seed=7)
        tasks = [task.record(7, n_train=FINAL_EXAMPLES) for task in drawn]
        tuning = final_tuning(self.recipe)
        found = {t.task.name: t for t in Tuner(subject, tuning).tune(tasks)}
        with atomic_folder(self.out / "soft_prompts", overwrite=True) as folder:
            about = []
            for number, task in enumerate(tasks):
                file = f"{number:02d}-{task.family}.safetensors"
                prompt = found[task.name].soft_prompt
                replace(prompt, subject="embedded").save(folder / file)
                about.append(cards.sample_record(file, found[task.name]))
                (folder / file).with_suffix(".jsonl").write_text(cards.example_lines(task))
            (folder / "tasks.json").write_text(json.dumps(about, indent=2))
        self.log(f"samples: saved to {self.out / 'soft_prompts'}")

    def _log_entry(self, name: str, entry: dict) -> None:
        accuracy = entry["accuracy"]
        mean = sum(accuracy.values()) / len(accuracy)
        self.log(f"{name}: step {entry['step']}, {entry['seconds']} s, loss {entry['loss']:.3f}, accuracy {mean:.3f}")
        path = self.run / name / "log.jsonl"
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


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
