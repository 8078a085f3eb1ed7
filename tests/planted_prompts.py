"""Tiny tasks whose right answers are what a subject writes under planted soft prompts, and a reader of soft prompts."""

from collections.abc import Sequence

import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.analysis.meaning import Translate
from soft2hard.queries import Query
from soft2hard.softprompt import SoftPrompt
from soft2hard.subject import Subject
from tests import tiny_models

_LONGEST = 24  # tokens, EOS included; longer outputs are left out
INPUTS = [f"{a} {b}" for a in tiny_models.WORDS[3:6] for b in tiny_models.WORDS[9:11]]


def spoken(subject: Subject, text: str) -> SoftPrompt:
    """A soft prompt whose virtual tokens are the tokens of a text."""
    return SoftPrompt(subject.embed_text(text).detach().cpu(), subject.name, subject.fingerprint, {})


def own_task(subject: Subject, name: str, prompt: SoftPrompt) -> Task:
    """The task that a soft prompt does perfectly."""
    outputs = subject.generate([Query(prompt, text) for text in INPUTS], max_new_tokens=_LONGEST)
    ended = [len(subject.encode_output(output)) <= _LONGEST for output in outputs]
    examples = tuple(Example(*pair) for pair, end in zip(zip(INPUTS, outputs, strict=True), ended, strict=True) if end)
    assert examples
    return Task(name, "planted", "", (), examples, examples, examples)


def reader(subject: Subject, positions: Sequence[int]) -> Translate:
    """Reads the nearest words (by Euclidean distance) of these positions, of all soft prompts at once."""

    def translate(prompts: Sequence[SoftPrompt]) -> list[str]:
        table = subject.embedding.float().cpu()
        rows = [torch.cdist(prompt.embeddings, table).argmin(1).tolist() for prompt in prompts]
        return [subject.tokenizer.decode([row[p] for p in positions if p < len(row)]) for row in rows]

    return translate
