"""Accuracies are those of what is generated, and the table averages what it says it averages."""

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch

from soft2hard.data_gen.dods.lexical import UNSEEN_FAMILIES
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.recovery import TaskResult, accuracies, as_rows, by_family, held_out_tasks, per_task, summary
from soft2hard.softprompt import Prompt, SoftPrompt
from soft2hard.subject import Query, Subject
from tests import tiny_models

UNSEEN = sorted(UNSEEN_FAMILIES)[0]
INPUTS = ["cat dog", "red", "one two three", "up", "bird fish", "left right left", "small", "big up"]


def task(name: str, examples: list[Example]) -> Task:
    return Task(name, "tiny", "", (), (), (), tuple(examples))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_accuracy_is_the_share_of_outputs_that_are_generated_exactly(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    prompts: list[Prompt] = ["dog", "up down", SoftPrompt(torch.randn(3, subject.d_model)), None, "fish red"]
    pairs = [(prompt, task(str(i), _half_right(subject, prompt))) for i, prompt in enumerate(prompts)]
    expected = []
    for prompt, of_prompt in pairs:
        written = subject.generate([Query(prompt, e.input) for e in of_prompt.test], max_new_tokens=12)
        expected.append(np.mean([text == e.output for text, e in zip(written, of_prompt.test, strict=True)]))
    assert accuracies(subject, pairs) == pytest.approx(expected)
    assert 0 < np.mean(expected) < 1


def _half_right(subject: Subject, prompt: Prompt) -> list[Example]:
    """Examples of which every other one has the output that the subject writes, where that output is a plain one."""
    rows = subject.generate_ids([Query(prompt, text) for text in INPUTS], max_new_tokens=12)
    right = cycle([True, False])
    examples = []
    for text, row in zip(INPUTS, rows, strict=True):
        plain = len(row) < 12 and min(row, default=9) > 3
        examples.append(Example(text, subject.tokenizer.decode(row) if plain and next(right) else "cat cat"))
    return examples


RESULT = TaskResult(
    task="a",
    family="classify",
    seed=0,
    no_prompt=0.1,
    gold=0.8,
    soft=1.0,
    greedy=0.5,
    verified=0.75,
    greedy_recovered=False,
    verified_recovered=True,
    verdict="faithful",
    agreement=1.0,
    divergence=0.1,
    instruction="",
    greedy_text="",
    verified_text="",
)


def result(task: str, seed: int, family: str = "classify", **figures: object) -> TaskResult:
    return replace(RESULT, task=task, seed=seed, family=family, **figures)


def test_seeds_are_averaged_within_a_task_before_tasks_are() -> None:
    results = [result("a", 0, soft=1.0), result("b", 0, soft=0.8), result("a", 1, soft=0.0)]
    assert per_task(results, "soft").tolist() == [0.5, 0.8]
    assert summary(results)["accuracy: soft prompt"].value == pytest.approx(0.65)  # not 0.6, the mean of all rows


def test_recovery_is_a_ratio_of_means_and_exact_tasks_a_share() -> None:
    results = [
        result("a", 0, soft=1.0, greedy=0.5, verified=1.0, greedy_recovered=True),
        result("b", 0, soft=0.5, greedy=0.1, verified=0.5, verified_recovered=False),
        result("c", 0, soft=0.5, greedy=0.4, verified=0.1),
    ]
    figures = summary(results)
    assert figures["recovery, greedy"].value == pytest.approx(1.0 / 2.0)
    assert figures["recovery, verified"].value == pytest.approx(1.6 / 2.0)
    assert figures["exact task, greedy"].value == pytest.approx(1 / 3)
    assert figures["exact task, verified"].value == pytest.approx(2 / 3)
    assert all(f.low <= f.value <= f.high for f in figures.values())


def test_unseen_families_are_apart_but_for_figures_of_the_subject_alone() -> None:
    seen, unseen = result("a", 0), result("b", 0, UNSEEN, soft=0.6, gold=0.9, verified=0.3, greedy=0.0)
    figures = summary([seen, unseen])
    assert figures["accuracy: soft prompt"].value == 1.0
    assert figures["recovery, verified"].value == pytest.approx(0.75)
    assert figures["recovery, verified, unseen families"].value == pytest.approx(0.5)
    assert figures["accuracy: gold text, all families"].value == pytest.approx(0.85)
    assert figures["soft prompt minus gold text, all families"].value == pytest.approx(-0.05)
    assert not any("unseen" in name for name in summary([seen]))


def test_families_count_distinct_tasks_and_average_their_rows() -> None:
    results = [result("a", 0, gold=0.2), result("a", 1, gold=0.4), result("b", 0, gold=0.9), result("c", 0, "count")]
    families = by_family(results)
    assert {name: figures["n_tasks"] for name, figures in families.items()} == {"classify": 2, "count": 1}
    assert families["classify"]["gold"] == pytest.approx(0.5)
    assert families["count"]["verified_recovered"] == 1.0


def test_rows_for_json_hold_all_fields() -> None:
    assert TaskResult(**as_rows([RESULT])[0]) == RESULT


def test_held_out_tasks_are_distinct_and_of_all_families_the_unseen_ones_too() -> None:
    tasks = held_out_tasks(40)
    assert len({t.name for t in tasks}) == 40
    assert set(UNSEEN_FAMILIES) <= {t.family for t in tasks}
    assert [t.name for t in tasks] == [t.name for t in held_out_tasks(40)]
