"""Scores and tasks got the plain way, to hold the package's own against."""

from collections.abc import Sequence

import numpy as np

from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Task
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import Prompt


def accuracies(subject: Subject, pairs: Sequence[tuple[Prompt, Task]], max_new_tokens: int = 16) -> list[float]:
    """Share of each task's test examples whose output greedy search writes, token for token, under its prompt."""
    found = []
    for prompt, task in pairs:
        queries = [Query(prompt, e.input) for e in task.test]
        wanted = [subject.encode_output(e.output) for e in task.test]
        written = subject.generate_ids(queries, max_new_tokens)
        found.append(float(np.mean([w[:-1] == ids for w, ids in zip(wanted, written, strict=True)])))
    return found


def held_out_tasks(n: int) -> list[Task]:
    """Test tasks of the embedded world, families in turn, with 64 examples to tune on."""
    return [task.record(0, n_train=64) for task in LexicalDoD().draw("test", n, 0)]
