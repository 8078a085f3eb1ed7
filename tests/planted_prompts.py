"""Tiny tasks whose right answers are what a subject answers under planted soft prompts; a reader of soft prompts."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.analysis.experiments import Translate
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models

LABELS = tuple(tiny_models.WORDS[3:11])
INPUTS = [f"{a} {b}" for a in tiny_models.WORDS[3:6] for b in tiny_models.WORDS[9:11]]


def spoken(subject: Subject, text: str) -> SoftPrompt:
    """A soft prompt whose virtual tokens are the tokens of a text."""
    return SoftPrompt(subject.embed_text(text).detach().cpu(), subject.name, subject.fingerprint, {})


def own_task(subject: Subject, name: str, prompt: SoftPrompt) -> Task:
    """The task that a soft prompt does perfectly: its labels are those that the subject finds likeliest under it."""
    anything = tuple(Example(text, LABELS[0]) for text in INPUTS)
    task = Task(name, "planted", "", (), anything, anything, anything, LABELS, "label_accuracy")
    [[found]] = measure(subject, [Comparison(task, (prompt,))])
    examples = tuple(Example(text, answer) for text, answer in zip(INPUTS, found.answers, strict=True))
    return replace(task, train=examples, validation=examples, test=examples)


def reader(subject: Subject, positions: Sequence[int]) -> Translate:
    """Reads the nearest words (by Euclidean distance) of these positions, of all soft prompts at once."""

    def translate(prompts: Sequence[SoftPrompt]) -> list[str]:
        table = subject.embedding.float().cpu()
        rows = [torch.cdist(prompt.embeddings, table).argmin(1).tolist() for prompt in prompts]
        return [subject.tokenizer.decode([row[p] for p in positions if p < len(row)]) for row in rows]

    return translate
