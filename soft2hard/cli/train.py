"""soft2hard train: a translator from a corpus of soft prompts."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from soft2hard.cli.common import (
    AtLeast0,
    Output,
    RunLoading,
    RunLoadingFlags,
    SubjectName,
    claim,
    flags_of,
    load_subject,
    no_remains,
    quiet,
    say,
)
from soft2hard.errors import UserError
from soft2hard.translator.processes import check_deepspeed
from soft2hard.translator.settings import Design, Evidence, TranslatorTraining

if TYPE_CHECKING:
    import datasets

    from soft2hard.lm.subject import Subject
    from soft2hard.translator.model import Translator


def train(
    corpora: list[Path],
    /,
    *,
    validation: Path,
    output: Output,
    subject: SubjectName = "embedded",
    start: str | None = None,
    design: flags_of(Design, "Architecture") = Design(),
    training: flags_of(TranslatorTraining, "Training") = TranslatorTraining(),
    calibration_tasks: AtLeast0 = 32,
    calibration_encoder: str | None = None,
    loading: RunLoadingFlags = RunLoading(),
) -> None:
    """Train a translator: it learns to write the instruction that a soft prompt was tuned for.

    **Example:** `soft2hard train runs/corpus --validation runs/validation -o runs/english`

    On several GPUs: `torchrun --nproc_per_node 4 -m soft2hard train ... --deepspeed zero2`

    Args:
        corpora: Corpora to train on, as made by soft2hard tune --dod --split train.
        validation: Corpus of other tasks (tune --split validation): decides when to stop, and what to keep.
        output: Folder for log and checkpoints, and, when trained, translator/; run again to resume.
        start: A translator of this subject to go on from, 'embedded', 'smollm2' or a folder, instead of a new one. Its
            architecture is kept; it is pre-trained, too, where that is asked for.
        calibration_tasks: Validation tasks on which it is chosen, after training, how far verification believes what
            the subject does under texts (docs/translating.md); 0: wholly.
        calibration_encoder: Sentence-embedding model, 'minilm', a name or a folder (extra 'embeddings'), by which texts
            are like a task's instructions there in meaning, too; without, by their words alone.
    """
    quiet()
    from soft2hard.compute.memory import free_memory
    from soft2hard.eval.calibration import calibrate_saved
    from soft2hard.lm.sentences import sentence_encoder
    from soft2hard.translator.model import translator_fingerprint
    from soft2hard.translator.processes import one_process_remark, process_group_ended
    from soft2hard.translator.training import needs_subject, selected, train_translator

    if training.pretrain_from != TranslatorTraining.pretrain_from and not training.pretrain_tasks:
        raise UserError("--pretrain-from names where tasks come from, and none are read.", "Give --pretrain-tasks.")
    if not calibration_tasks and (training.follower_steps or calibration_encoder is not None):
        flag = "--follower-steps" if training.follower_steps else "--calibration-encoder"
        raise UserError(
            f"{flag} does nothing without calibration, which weighs what it says.", "Leave --calibration-tasks above 0."
        )
    if start is not None and design != Design():
        raise UserError(
            f"The architecture of '{start}' cannot be changed.", "Leave out --start, or the flags of the architecture."
        )
    if remark := one_process_remark():
        say(remark)
    check_deepspeed(training.deepspeed)
    encoder = None if calibration_encoder is None else sentence_encoder(calibration_encoder)
    lm = load_subject(subject, loading=loading)
    data = load_corpora([*corpora, validation], lm)
    translator = _new(lm, design) if start is None else _begun(start, lm)
    settings = {"corpora": [str(p.resolve()) for p in corpora], "validation": str(validation.resolve())}
    settings |= {"subject": lm.fingerprint, "base": design.base, "dropout": design.dropout, "training": vars(training)}
    if (translator.card.architecture, design.hidden_layers) != ("encoder-decoder", ()):
        # Left out otherwise, so that runs begun before there was a choice are resumed.
        settings |= {"architecture": translator.card.architecture, "hidden_layers": design.hidden_layers}
        settings |= {"lora_rank": design.lora_rank}
    if design.instruction_tokens != Design.instruction_tokens:
        settings |= {"instruction_tokens": design.instruction_tokens}
    if design.reads != "vectors":
        settings |= {"reads": design.reads, "shown": design.shown}
    if start is not None:
        settings |= {"start": translator_fingerprint(translator)}
    kept = lm if needs_subject(translator, training) else None
    del lm
    free_memory()
    with process_group_ended(), no_remains(output), redirect_stdout(sys.stderr):  # DeepSpeed prints its log
        claim(output, {"command": "train"} | settings | loading.rounding)
        train_translator(translator, concatenate(data[:-1]), data[-1], training, output, subject=kept)
        load = partial(load_subject, subject, fast=True, loading=loading)
        calibrated_on = selected(data[-1], training, to_validate=True)
        found = calibrate_saved(output / "translator", load, calibrated_on, calibration_tasks, encoder)
    if found is not None and found.n_tasks:
        alone = f", the vectors alone {found.alone:.2g}" if translator.card.reads == "both" else ""
        say(f"Evidence counts {found.weight:.2g}{alone} (chosen on {found.n_tasks} validation tasks)")
    say(f"Translator: {output / 'translator'}")


def _new(subject: "Subject", design: Design) -> "Translator":
    from soft2hard.translator.model import Translator

    try:
        return Translator.for_subject(subject, design=design)
    except (OSError, ValueError) as error:
        raise UserError(f"'{design.base}' is no base that can be read: {error}.", "Check --base.") from error


def _begun(start: str, subject: "Subject") -> "Translator":
    """A saved translator to train further; what was chosen for it once says nothing of what it will be."""
    from soft2hard.translator.model import Translator

    found = Translator.from_pretrained(start, subject=subject)
    found.card = replace(found.card, evidence=Evidence())
    return found


def load_corpora(folders: Sequence[Path], subject: "Subject") -> list["datasets.Dataset"]:
    """The corpora of these folders. Raises UserError unless all are of this subject and of one prompt length."""
    from soft2hard.data_gen.corpus.rows import corpus_plan, load_corpus

    found = [load_corpus(folder) for folder in folders]
    plans = [corpus_plan(folder) for folder in folders]
    for folder, plan in zip(folders, plans, strict=True):
        if plan["subject"] != subject.fingerprint:
            raise UserError(
                f"The corpus '{folder}' was tuned on another subject than '{subject.name}'.",
                "Give its own subject with --subject.",
            )
        if plan["tuning"]["n_tokens"] != plans[0]["tuning"]["n_tokens"]:
            raise UserError(
                f"'{folders[0]}' has soft prompts of {plans[0]['tuning']['n_tokens']} virtual tokens, "
                f"'{folder}' of {plan['tuning']['n_tokens']}.",
                "Tune all with the same --n-tokens.",
            )
    return found


def concatenate(corpora: Sequence["datasets.Dataset"]) -> "datasets.Dataset":
    """Corpora as one."""
    import datasets

    return datasets.concatenate_datasets(list(corpora))
