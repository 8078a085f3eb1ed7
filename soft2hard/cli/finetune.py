"""soft2hard finetune: a translator learns a user's own tasks."""

import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from pydantic import PositiveFloat

from soft2hard.cli.common import (
    AtLeast0,
    LoadingFlags,
    Output,
    TranslatorName,
    claim,
    flags_of,
    load_subject,
    no_remains,
    progress_bar,
    quiet,
    say,
    say_unknown,
)
from soft2hard.cli.train import check_deepspeed, concatenate, load_corpora
from soft2hard.data_gen.dods.real_tasks import is_apart
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.lm.settings import Loading
from soft2hard.settings import settings
from soft2hard.translator.material import Untuned, made_tasks
from soft2hard.translator.settings import MadeCollection, TranslatorTraining

if TYPE_CHECKING:
    import datasets

    from soft2hard.data_gen.taskfiles import TaskFilesDoD
    from soft2hard.lm.subject import Subject

OwnSubject = Annotated[
    str,
    Parameter(
        help="The frozen language model that the soft prompts belong to: 'embedded', a folder, a GGUF file, or a name "
        "in the local cache or on the hub; by default the one that the translator was trained for."
    ),
]
_FEWEST_TO_HOLD_OUT = 10
"""Tasks that are taught by their examples alone, from which on a fifth is held out: of fewer, all are taught."""
_OTHER = " (other examples)"
_FEWEST_PAIRS = 64  # of new tasks in an epoch
_STEPS = 8  # of an epoch, at least, where their size is not asked for
_SPLITS = ("train", "validation")
_MOST_MADE = 4096
"""Tasks of the package that are mixed in, before they come again."""


@settings
class FurtherTraining(TranslatorTraining):
    """How a trained translator is trained further."""

    lr: PositiveFloat = 5e-4
    """Learning rate of Muon and AdamW: a quarter of train's, since what the translator knows is to be kept."""
    follower_steps: Annotated[int, Parameter(parse=False)] = 0
    """None: the translator's own follower stays, and how much it counts."""


def finetune(
    tasks: list[Path],
    /,
    *,
    output: Output,
    translator: TranslatorName = "embedded",
    subject: OwnSubject | None = None,
    prompts_per_task: AtLeast0 = 4,
    mix: Path | None = None,
    mix_made: tuple[MadeCollection, ...] = (),
    mix_ratio: Annotated[float, Parameter(validator=Number(gte=0))] = 1.0,
    training: flags_of(FurtherTraining, "Training of the translator") = FurtherTraining(),
    tuning: flags_of(Tuning, "Tuning of the new soft prompts", "tuning_") = Tuning(),
    loading: LoadingFlags = Loading(),
) -> None:
    """Teach a translator new tasks: tune their soft prompts, then train it further on them.

    A fifth of the tasks, at least one, is held out and tells when to stop; of fewer than ten that are taught without
    tuning none is, and other examples of theirs do. The old translator stays as it is.

    How far it believes the subject stays as it is.

    **Example:** `soft2hard finetune my_tasks/ --mix runs/corpus -o runs/my_translator`

    Without tuning, for a translator that reads what soft prompts do, whichever model they are of: `soft2hard finetune
    my_tasks/ --translator smollm2 --prompts-per-task 0 --mix-made everyday -o runs/mine`. It may read the vectors of
    its own subject worse after that: it is shown none.

    Args:
        tasks: Task files (.jsonl or .csv with columns input and output), or folders of them; at least two tasks, unless
            --prompts-per-task is 0, each with its instruction: `{"instruction": "..."}` as first line of JSONL,
            `# instruction: ...` in CSV, or `STEM.instruction.txt` beside it.
        output: Folder for soft prompts, log, checkpoints, and, when trained, translator/; run again to resume.
        prompts_per_task: Soft prompts tuned for each task, from different seeds: more pairs to learn. 0: none; the
            labelled examples alone are read, which takes a hundredth of the time and a translator that reads examples.
        mix: The corpus that the translator was trained on: part of it is mixed in against forgetting.
        mix_made: Collections that come with the package (lexical, operations, everyday): the examples alone of their
            tasks are mixed in against forgetting, others in each epoch, for a translator that reads examples.
        mix_ratio: Old pairs for each new one, of --mix and of --mix-made.
    """
    quiet()
    from soft2hard.data_gen.taskfiles import TaskFilesDoD, read_tasks
    from soft2hard.translator.model import Translator
    from soft2hard.translator.processes import process_group_ended
    from soft2hard.translator.training import refuse_examples_alone, train_translator

    check_deepspeed(training.deepspeed)
    if not prompts_per_task:
        _refuse_what_needs_soft_prompts(mix, training, tuning)
    new_tasks = tuple(read_tasks(tasks, tuning.seed))
    _need_instructions(new_tasks)
    dod = TaskFilesDoD(new_tasks, fewest=2 if prompts_per_task else 1)
    lm = load_subject(subject or _own_subject(translator), fast=True, loading=loading)
    say_unknown(lm, {text for task in new_tasks for one in task.examples for text in (one.input, one.output)})
    model = Translator.from_pretrained(translator, subject=lm)
    if mix_made or not prompts_per_task:
        flag = "--mix-made" if mix_made else "--prompts-per-task 0"
        refuse_examples_alone(model.card, lm, f"Leave {flag} out, and let soft prompts be tuned.")
    old = [] if mix is None else load_corpora([mix], lm)
    _check_length(mix, tuning)
    asked = {"tasks": dod.name, "translator": str(translator), "subject": lm.fingerprint, "mix": mix}
    asked |= {"prompts_per_task": prompts_per_task, "mix_ratio": mix_ratio}
    asked |= {"training": vars(training), "tuning": vars(tuning)}
    if mix_made:
        asked |= {"mix_made": mix_made}
    with process_group_ended(), no_remains(output), redirect_stdout(sys.stderr):  # DeepSpeed prints its log
        claim(output, {"command": "finetune"} | asked | loading.rounding)
        new = held_out = None
        if prompts_per_task:
            tunings = [replace(tuning, seed=tuning.seed + i) for i in range(prompts_per_task)]
            folders = {split: _tune(dod, split, tunings, lm, output, loading) for split in _SPLITS}
            new, held_out = (concatenate(load_corpora(folders[split], lm)) for split in _SPLITS)
        untuned = _untuned(dod, new, mix_made, mix_ratio, training)
        if old:
            n_old = min(len(old[0]), round(mix_ratio * len(new)))
            new = concatenate([new, old[0].select(sorted(Random(training.seed).sample(range(len(old[0])), n_old)))])
        if untuned.tasks:
            say(_who_is_taught(untuned))
            training = _in_steps(training, untuned)
        made = train_translator(model, new, held_out, training, output, subject=lm, untuned=untuned)
    say(_what_came_of_it(made.card.training, untuned))
    say(f"Translator: {output / 'translator'}")


def _own_subject(translator: str) -> str:
    from soft2hard.storage.names import folder_of
    from soft2hard.translator.settings import read_card

    return read_card(folder_of(translator, "translator")).subject


def _untuned(
    dod: "TaskFilesDoD",
    tuned: "datasets.Dataset | None",
    mixed_from: Sequence[MadeCollection],
    ratio: float,
    training: TranslatorTraining,
) -> Untuned:
    """The tasks whose examples alone are read: the new ones where no soft prompt is tuned, and others beside them, none
    of which is like a held-out one."""
    new, held_out = (() if tuned else tuple(dod.tasks(split)) for split in _SPLITS)
    apart = {text.casefold() for task in dod.tasks("validation") for text in task.phrasings}
    if 0 < len(new) + len(held_out) < _FEWEST_TO_HOLD_OUT:
        new, apart = (*new, *held_out), set()
        held_out = tuple(replace(one, name=one.name + _OTHER, train=(*one.validation, *one.test)) for one in new)
    n_new = max(len(new), _FEWEST_PAIRS) if new else 0

    def usable(task: Task) -> bool:
        is_other = apart.isdisjoint(text.casefold() for text in task.phrasings)
        return is_other and (not training.apart_from_real or is_apart(task.name))

    n_beside = math.ceil(ratio * (len(tuned) if tuned else n_new)) if mixed_from else 0
    n_made = min(n_beside * math.ceil(training.epochs), max(n_beside, _MOST_MADE))
    beside = made_tasks(mixed_from, n_made, usable, training.seed)
    return Untuned(new, held_out, tuple(beside), n_beside, n_new)


def _in_steps(training: FurtherTraining, untuned: Untuned) -> FurtherTraining:
    """The training with smaller steps, unless their size was asked for, where an epoch would have but a few."""
    if training.batch_size != FurtherTraining.batch_size:
        return training
    n_pairs = untuned.n_tasks + untuned.n_beside
    return replace(training, batch_size=min(training.batch_size, max(1, n_pairs // _STEPS)))


def _validates_what_is_taught(untuned: Untuned) -> bool:
    """Whether other examples of the taught tasks validate, for want of tasks to hold out."""
    return bool(untuned.held_out) and all(task.name.endswith(_OTHER) for task in untuned.held_out)


def _who_is_taught(untuned: Untuned) -> str:
    if _validates_what_is_taught(untuned):
        return (
            f"{len(untuned.tasks)} tasks are taught, and other examples of theirs tell when to stop (from "
            f"{_FEWEST_TO_HOLD_OUT} tasks on, tasks that are held out do)."
        )
    n, first = len(untuned.held_out), ", ".join(task.name for task in untuned.held_out[:3])
    return f"{len(untuned.tasks)} tasks are taught; {n} tell when to stop: {first}{', ...' if n > 3 else ''}."


def _what_came_of_it(record: dict, untuned: Untuned) -> str:
    before, after = record.get("initial_validation_loss"), record["best_validation_loss"]
    if before is None or after is None:
        return "Taught."
    of_what = " of the very tasks that were taught, on other examples (of others it says nothing)"
    of_what = of_what if _validates_what_is_taught(untuned) else ""
    said = f"Validation loss{of_what}: {after:.3f} nats a token, {before:.3f} before"
    return said if after < before else f"{said}: it learned nothing of use. Give more tasks, or more examples of each."


def _refuse_what_needs_soft_prompts(mix: Path | None, training: TranslatorTraining, tuning: Tuning) -> None:
    """Refuse settings that would do nothing where no soft prompt is tuned."""
    usual = FurtherTraining()
    given = {"mix": mix is not None, "tuning-...": tuning != Tuning(seed=tuning.seed)}
    given |= {name: getattr(training, name) != getattr(usual, name) for name in ("noise", "share", "least_learned")}
    if useless := next((name for name, is_given in given.items() if is_given), None):
        raise UserError(
            f"--{useless.replace('_', '-')} is about soft prompts, and with --prompts-per-task 0 none are tuned.",
            "Leave it out; --mix-made mixes tasks in." if useless == "mix" else "Leave it out.",
        )


def _tune(
    dod: "TaskFilesDoD", split: str, tunings: list[Tuning], subject: "Subject", output: Path, loading: Loading
) -> list[Path]:
    """Tune the soft prompts of a split in each of these ways; returns a corpus folder for each."""
    from soft2hard.data_gen.corpus.folder import CorpusPlan
    from soft2hard.data_gen.corpus.shards import CorpusBuilder

    n_tasks = len(list(dod.tasks(split)))
    folders = [output / "tuned" / f"{split}-{tuning.seed}" for tuning in tunings]
    for folder, tuning in zip(folders, tunings, strict=True):
        plan = CorpusPlan(
            dod.name, split, n_tasks, subject.fingerprint, tuning, shard_size=64, n_train=None, **loading.rounding
        )
        builder = CorpusBuilder(folder, plan, dod, subject)
        with progress_bar() as progress:
            missing = sum(min(64, n_tasks - i * 64) for i in builder.missing())
            title = f"Tuning {split} tasks, seed {tuning.seed}"
            bar = progress.add_task(title, total=n_tasks, completed=n_tasks - missing)
            for _ in builder.build(on_task=lambda _, bar=bar: progress.advance(bar)):
                pass
    return folders


def _need_instructions(tasks: tuple) -> None:
    without = [task.name for task in tasks if not task.instruction]
    if without:
        raise UserError(
            f"{len(without)} of {len(tasks)} tasks have no instruction, such as '{without[0]}'.",
            f"Write it in the header of the file, or in {without[0]}.instruction.txt beside it.",
        )


def _check_length(mix: Path | None, tuning: Tuning) -> None:
    from soft2hard.data_gen.corpus.rows import corpus_plan

    if mix is None:
        return
    n_tokens = corpus_plan(mix)["tuning"]["n_tokens"]
    if n_tokens != tuning.n_tokens:
        raise UserError(
            f"'{mix}' has soft prompts of {n_tokens} virtual tokens, but new ones would get {tuning.n_tokens}.",
            f"Add --tuning-n-tokens {n_tokens}.",
        )
