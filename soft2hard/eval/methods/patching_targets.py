"""Target prompts: the texts that soft prompts are patched into, and how a description is cut from what follows.

A few-shot target prompt is three descriptions of tasks and, in the place of a fourth, the placeholders (arXiv
2410.11660, section 3); the chain-of-thought one (the InSPEcT baseline of arXiv 2605.27642) begins with the
placeholders and asks for the classes of an input. The forms are the published ones, the wording ours; for a subject
that knows other words, demonstrations are made from tasks it knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.patching import EncodedTarget
from soft2hard.lm.subject import Subject

STYLES = ("classes_after", "classes_before", "repeated", "chain_of_thought")

BUILT_IN: dict[str, tuple[str, ...]] = {
    "classes_after": (
        "Say which feeling the message conveys: happiness, grief, rage, dread",
        "Decide whether the claim holds: yes, no",
        "Name the kind of story this excerpt comes from: mystery, comedy, western",
        "Tell which composer wrote the piece that is described: Bach or Mozart",
        "Work out the time of day in this scene: morning, noon, evening or night",
        "Sort a support ticket by its subject: billing, delivery, refund",
        "Mark the review as written by a buyer or a bot: human or machine",
        "Find the field a headline belongs to: medicine or finance",
    ),
    "classes_before": (
        "yes or no: Decide whether the claim holds",
        "morning, noon, evening or night: Work out the time of day in this scene",
        "happiness, grief, rage or dread: Say which feeling the message conveys",
        "Bach or Mozart: Tell which composer wrote the piece that is described",
        "human or machine: Mark the review as written by a buyer or a bot",
        "mystery, comedy, western: Name the kind of story this excerpt comes from",
        "medicine or finance: Find the field a headline belongs to",
        "billing, delivery, refund: Sort a support ticket by its subject",
    ),
}
"""Demonstrations of the form that InSPEcT's have (arXiv 2410.11660: eight short descriptions of classification tasks
with their classes after or before); the wording is ours."""

REASONING = " Input: {input} Answer: To begin with, the possible answers are these:"
"""What stands after the placeholders in the chain-of-thought prompt, of the form of the InSPEcT baseline of arXiv
2605.27642."""

STOPS = "\n$.|"
"""Characters at which a description ends (InSPEcT's published code)."""


@dataclass(frozen=True)
class TargetText:
    """A target prompt in words; the placeholders stand between the two."""

    before: str
    after: str = ""


def few_shot_target(demonstrations: Sequence[str], separator: str) -> TargetText:
    """Demonstrations with the separator between and behind them; a separator is a word of its own."""
    joint = f" {separator} " if separator else " "
    return TargetText(joint.join(demonstrations) + joint.rstrip())


def chosen(texts: Sequence[str], n: int, seed: int) -> list[str]:
    """`n` of the texts in random order, the same for the same seed."""
    return Random(f"chosen/{seed}").sample(list(texts), min(n, len(texts)))


def demonstration(task: Task, style: str) -> str:
    """A task written as the style has it; the instruction alone where the task has no classes to list.

    `repeated` says the instruction twice, after the identity prompt of Patchscopes (arXiv 2401.06102, section 3): a
    model that was never trained on lists of descriptions still knows how to repeat.
    """
    if style == "repeated":
        return f"{task.instruction} {task.instruction}"
    if not task.labels:
        return task.instruction
    classes, description = ", ".join(task.labels), task.instruction.rstrip(".")
    return f"{classes}: {task.instruction}" if style == "classes_before" else f"{description}: {classes}"


def encode_target(subject: Subject, text: TargetText, placeholder: str) -> EncodedTarget:
    """The target prompt as the subject reads it.

    Raises UserError where the placeholder is not one token that the subject knows.
    """
    before = subject.prompt_embeddings(text.before or None)
    return EncodedTarget(before, _placeholder(subject, placeholder), subject.embed_text(text.after))


def _placeholder(subject: Subject, word: str) -> torch.Tensor:
    unknown = subject.tokenizer.unk_token_id
    for text in (f" {word}", word):
        ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != unknown:
            return subject.embed_text(text)
    raise UserError(
        f"The placeholder '{word}' is not one token that the subject '{subject.name}' knows.",
        "Give another with the option placeholder: any short word of its vocabulary.",
    )


def stop_ids(subject: Subject) -> list[int]:
    """Tokens that end a description: EOS, and all with one of STOPS in them."""
    n_tokens = min(len(subject.tokenizer), len(subject.embedding))
    texts = subject.tokenizer.batch_decode([[i] for i in range(n_tokens)], clean_up_tokenization_spaces=False)
    return sorted({*subject.eos_ids, *(i for i, text in enumerate(texts) if set(text) & set(STOPS))})


def description(subject: Subject, ids: Sequence[int]) -> str:
    """The text of what was written up to its first stop, a full stop kept; empty where there are no words.

    The published code instead takes the first stretch between stops that begins after a fifth of the text.
    """
    text = subject.tokenizer.decode(list(ids), skip_special_tokens=True).lstrip(f"{STOPS} ")
    end = min((i for i in map(text.find, STOPS) if i >= 0), default=len(text))
    return text[: end + 1 if text[end : end + 1] == "." else end].strip()
