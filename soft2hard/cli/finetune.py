"""soft2hard finetune: a translator learns a user's own tasks."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soft2hard.cli.common import (
    SubjectName,
    TranslatorName,
    claim,
    load_subject,
    no_remains,
    quiet,
    rounding_of,
    say,
    with_loading,
)
from soft2hard.cli.config_options import with_options
from soft2hard.cli.corpus import build_corpus
from soft2hard.cli.train import TRAINING_HELP, check_deepspeed, concatenate, load_corpora
from soft2hard.cli.tune import TUNING_HELP
from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.data_gen.taskfiles import TaskFilesDoD
    from soft2hard.data_gen.tuning import Tuning
    from soft2hard.lm.subject import Subject


@with_options(
    "tuning",
    "soft2hard.data_gen.tuning",
    "Tuning",
    prefix="tuning_",
    panel="Tuning of the new soft prompts",
    helps=TUNING_HELP,
)
@with_options(
    "training",
    "soft2hard.translator.settings",
    "TranslatorTraining",
    panel="Training of the translator",
    helps=TRAINING_HELP,
    defaults={"lr": 5e-4},  # a quarter of train's: what the translator knows is to be kept
)
@with_loading
def finetune(
    tasks: Annotated[
        list[Path],
        typer.Argument(
            metavar="TASKS",
            help="Task files (.jsonl or .csv with columns input and output), or folders of them; at least two tasks, "
            'each with its instruction: {"instruction": "..."} as first line of JSONL, "# instruction: ..." in CSV, '
            "or <stem>.instruction.txt beside it.",
        ),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for soft prompts, log, checkpoints, and, when trained, translator/; run again to go on.",
        ),
    ],
    translator: TranslatorName = "embedded",
    subject: SubjectName = "embedded",
    prompts_per_task: Annotated[
        int, typer.Option(min=1, help="Soft prompts tuned for each task, from different seeds: more pairs to learn.")
    ] = 4,
    mix: Annotated[
        Path | None,
        typer.Option(help="The corpus that the translator was trained on: part of it is mixed in against forgetting."),
    ] = None,
    mix_ratio: Annotated[float, typer.Option(min=0.0, help="Old pairs for each new one, where --mix is given.")] = 1.0,
    training: dict[str, Any],
    tuning: dict[str, Any],
    loading: dict[str, Any],
) -> None:
    """Teach a translator new tasks: tune their soft prompts, then train it further on them.

    A fifth of the tasks, at least one, is held out and tells when to stop. The old translator stays as it is.

    [bold]Example:[/bold] soft2hard finetune my_tasks/ --mix runs/corpus -o runs/my_translator
    """
    quiet()
    from soft2hard.data_gen.taskfiles import TaskFilesDoD, read_tasks
    from soft2hard.data_gen.tuning import Tuning
    from soft2hard.translator.model import Translator
    from soft2hard.translator.processes import process_group_ended
    from soft2hard.translator.settings import TranslatorTraining
    from soft2hard.translator.training import train_translator

    check_deepspeed(training["deepspeed"])
    config = TranslatorTraining(**training)
    tuning_config = Tuning(**tuning)
    new_tasks = tuple(read_tasks(tasks, tuning_config.seed))
    _need_instructions(new_tasks)
    dod = TaskFilesDoD(new_tasks)
    lm = load_subject(subject, fast=True, loading=loading)
    model = Translator.from_pretrained(translator, subject=lm)
    old = [] if mix is None else load_corpora([mix], lm)
    _check_length(mix, tuning_config)
    settings = {"tasks": dod.name, "translator": str(translator), "subject": lm.fingerprint, "mix": mix}
    settings |= {"prompts_per_task": prompts_per_task, "mix_ratio": mix_ratio, "training": training, "tuning": tuning}
    with process_group_ended(), no_remains(output), redirect_stdout(sys.stderr):  # the Trainer prints its log
        claim(output, {"command": "finetune"} | settings | rounding_of(loading))
        rounding = rounding_of(loading)
        folders = {split: _tune(dod, split, prompts_per_task, lm, tuning_config, output, rounding) for split in _SPLITS}
        new, held_out = (concatenate(load_corpora(folders[split], lm)) for split in _SPLITS)
        if old:
            n_old = min(len(old[0]), round(mix_ratio * len(new)))
            new = concatenate([new, old[0].select(sorted(Random(config.seed).sample(range(len(old[0])), n_old)))])
        train_translator(model, new, held_out, config, output, subject=lm)
    say(f"Translator: {output / 'translator'}")


_SPLITS = ("train", "validation")


def _tune(
    dod: "TaskFilesDoD",
    split: str,
    n_seeds: int,
    subject: "Subject",
    config: "Tuning",
    output: Path,
    rounding: dict[str, Any],
) -> list[Path]:
    """Tune the soft prompts of a split from several seeds; returns a corpus folder for each.

    `rounding` says how the subject's weights were rounded.
    """
    from dataclasses import replace

    from soft2hard.data_gen.corpus.making import CorpusBuilder
    from soft2hard.data_gen.corpus_folder import CorpusPlan

    n_tasks = len(list(dod.tasks(split)))
    folders = []
    for seed in range(config.seed, config.seed + n_seeds):
        folder = output / "tuned" / f"{split}-{seed}"
        tuning = replace(config, seed=seed)
        plan = CorpusPlan(
            dod.name, split, n_tasks, subject.fingerprint, tuning, shard_size=64, n_train=None, **rounding
        )
        build_corpus(CorpusBuilder(folder, plan, dod, subject), f"Tuning {split} tasks, seed {seed}")
        folders.append(folder)
    return folders


def _need_instructions(tasks: tuple) -> None:
    without = [task.name for task in tasks if not task.instruction]
    if without:
        raise UserError(
            f"{len(without)} of {len(tasks)} tasks have no instruction, such as '{without[0]}'.",
            f"Write it in the header of the file, or in {without[0]}.instruction.txt beside it.",
        )


def _check_length(mix: Path | None, tuning: "Tuning") -> None:
    from soft2hard.data_gen.corpus import corpus_plan

    if mix is None:
        return
    n_tokens = corpus_plan(mix)["tuning"]["n_tokens"]
    if n_tokens != tuning.n_tokens:
        raise UserError(
            f"'{mix}' has soft prompts of {n_tokens} virtual tokens, but new ones would get {tuning.n_tokens}.",
            f"Add --tuning-n-tokens {n_tokens}.",
        )
