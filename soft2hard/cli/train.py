"""soft2hard train: a translator from a corpus of soft prompts."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soft2hard.cli.common import (
    SubjectName,
    claim,
    load_subject,
    no_remains,
    quiet,
    rounding_of,
    say,
    whole_numbers,
    with_loading_to_run,
)
from soft2hard.cli.config_options import with_options
from soft2hard.errors import UserError
from soft2hard.translator.processes import check_deepspeed

if TYPE_CHECKING:
    import datasets

    from soft2hard.lm.subject import Subject


class ArchitectureName(str, Enum):
    """An architecture of translators."""

    auto = "auto"
    encoder_decoder = "encoder-decoder"
    causal_lora = "causal-lora"


_PANEL = "Architecture"
TRAINING_HELP = {"seed": "Seed of the order of pairs, of noise and of dropout."}


@with_options("training", "soft2hard.translator.settings", "TranslatorTraining", panel="Training", helps=TRAINING_HELP)
@with_loading_to_run
def train(
    corpora: Annotated[
        list[Path],
        typer.Argument(metavar="CORPUS", help="Corpora to train on, as made by soft2hard tune --dod --split train."),
    ],
    *,
    validation: Annotated[
        Path,
        typer.Option(help="Corpus of other tasks (tune --split validation): decides when to stop, and what to keep."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for log and checkpoints, and, when trained, translator/; run again to go on with it.",
        ),
    ],
    subject: SubjectName = "embedded",
    architecture: Annotated[
        ArchitectureName,
        typer.Option(
            help="encoder-decoder: an encoder reads the soft prompt, a decoder writes. causal-lora: a frozen causal "
            "language model, by default the subject itself, goes on from the soft prompt under low-rank adapters. "
            "auto: encoder-decoder where there is a --base or the subject is no causal language model, else the other.",
            rich_help_panel=_PANEL,
        ),
    ] = ArchitectureName.auto,
    base: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint to start from, a folder or a name: an encoder-decoder (such as google/t5-v1_1-base), or "
            "a causal language model for causal-lora. By default an encoder-decoder starts from the subject's own "
            "weights, or as a small random T5 where it cannot, and causal-lora from the subject.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    hidden_layers: Annotated[
        str,
        typer.Option(
            help="Layers of the subject, such as 8,16, whose hidden states over the soft prompt are read beside its "
            "vectors. The translator then needs its subject to translate.",
            rich_help_panel=_PANEL,
        ),
    ] = "",
    lora_rank: Annotated[
        int, typer.Option(min=1, help="Rank of the adapters of causal-lora.", rich_help_panel=_PANEL)
    ] = 64,
    dropout: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.9,
            help="Dropout of an encoder-decoder that does not start from --base, and of adapters.",
            rich_help_panel=_PANEL,
        ),
    ] = 0.1,
    instruction_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            help="Longest instruction that is learned and written, in tokens; what is longer is cut.",
            rich_help_panel=_PANEL,
        ),
    ] = 64,
    training: dict[str, Any],
    loading: dict[str, Any],
) -> None:
    """Train a translator: it learns to write the instruction that a soft prompt was tuned for.

    [bold]Example:[/bold] soft2hard train runs/corpus --validation runs/validation -o runs/english

    On several GPUs: accelerate launch -m soft2hard train ... --deepspeed zero2
    """
    quiet()
    from soft2hard.compute.memory import free_memory
    from soft2hard.translator.model import Translator
    from soft2hard.translator.processes import process_group_ended
    from soft2hard.translator.settings import Design, TranslatorTraining
    from soft2hard.translator.training import needs_subject, train_translator

    check_deepspeed(training["deepspeed"])
    config = TranslatorTraining(**training)
    layers = whole_numbers(hidden_layers, "--hidden-layers", "8,16")
    design = Design(architecture.value, base, layers, lora_rank, dropout, instruction_tokens)
    lm = load_subject(subject, loading=loading)
    data = load_corpora([*corpora, validation], lm)
    try:
        translator = Translator.for_subject(lm, design=design)
    except (OSError, ValueError) as error:
        raise UserError(f"'{base}' is no base that can be read: {error}.", "Check --base.") from error
    settings = {"corpora": [str(p.resolve()) for p in corpora], "validation": str(validation.resolve())}
    settings |= {"subject": lm.fingerprint, "base": base, "dropout": dropout, "training": training}
    if (translator.card.architecture, layers) != ("encoder-decoder", ()):  # else as runs begun before the choice
        settings |= {"architecture": translator.card.architecture, "hidden_layers": layers, "lora_rank": lora_rank}
    if instruction_tokens != Design.instruction_tokens:
        settings |= {"instruction_tokens": instruction_tokens}
    kept = lm if needs_subject(translator, config) else None
    del lm
    free_memory()
    with process_group_ended(), no_remains(output), redirect_stdout(sys.stderr):  # the Trainer prints its log
        claim(output, {"command": "train"} | settings | rounding_of(loading))
        train_translator(translator, concatenate(data[:-1]), data[-1], config, output, subject=kept)
    say(f"Translator: {output / 'translator'}")


def load_corpora(folders: Sequence[Path], subject: "Subject") -> list["datasets.Dataset"]:
    """The corpora of these folders. Raises UserError unless all are of this subject and of one prompt length."""
    from soft2hard.data_gen.corpus import corpus_plan, load_corpus

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
