"""Tasks that soft prompts do in part: what a subject itself writes under them, and what it does not."""

from functools import cache

import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests.tiny_models import WORDS

INPUTS = [*WORDS[3:], *(f"{a} {b}" for a, b in zip(WORDS[3:], WORDS[5:], strict=False))]


def prompts(subject: Subject, lengths: tuple[int, ...] = (2, 5, 3)) -> list[SoftPrompt]:
    generator = torch.Generator().manual_seed(3)
    return [SoftPrompt(torch.randn(n, subject.d_model, generator=generator) * 0.7) for n in lengths]


def written(subject: Subject, prompt: SoftPrompt | None) -> list[Example]:
    """What the subject writes under a prompt, where it comes to an end and can be written down as text."""
    rows = subject.generate_ids([Query(prompt, x) for x in INPUTS], 16)
    texts = [subject.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
    return [
        Example(x, text)
        for x, row, text in zip(INPUTS, rows, texts, strict=True)
        if len(row) < 16 and subject.encode_output(text)[:-1] == row
    ]


@cache
def written_tasks(subject: Subject) -> tuple[Task, ...]:
    """Tasks that one prompt or another does in part, so that cells are not all 0: of each, and of all by turns."""
    of_prompt = [written(subject, prompt)[:6] for prompt in (None, *prompts(subject))]
    wrong = tuple(Example(x, "cat dog") for x in INPUTS[:3])
    mixed = tuple(example for examples in of_prompt for example in examples[:3])
    tests = [*((*examples, *wrong[:i], *examples[:1]) for i, examples in enumerate(of_prompt, 1)), (*mixed, *wrong)]
    return tuple(Task(f"t{i}", "tiny", "", (), (), (), test) for i, test in enumerate(tests))
