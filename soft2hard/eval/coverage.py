"""How much of the tasks a subject can read at all."""

from collections.abc import Iterator, Sequence

from soft2hard.data_gen.tasks import Task
from soft2hard.lm.subject import Subject


def unknown_share(subject: Subject, tasks: Sequence[Task]) -> float:
    """Share of the tokens of instructions and test examples that are the tokenizer's 'unknown' token, 0 to 1.

    0 for tokenizers without one, which spell what they do not know.
    """
    unknown = subject.tokenizer.unk_token_id
    if unknown is None:
        return 0.0
    encoded = subject.tokenizer(list(dict.fromkeys(_texts(tasks))), add_special_tokens=False)["input_ids"]
    n_tokens = sum(map(len, encoded))
    return sum(ids.count(unknown) for ids in encoded) / n_tokens if n_tokens else 0.0


def _texts(tasks: Sequence[Task]) -> Iterator[str]:
    for task in tasks:
        yield task.instruction
        for example in task.test:
            yield from (example.input, example.output)
