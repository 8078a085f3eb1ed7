"""Rows of an evaluation: likeness with the nearest of a task's instructions, and what a translator was trained on."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.config import parse_config
from soft2hard.eval.harness import Harness
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.metrics.text import closest_text, rouge
from soft2hard.eval.report import load_run
from soft2hard.eval.results import score_seed
from soft2hard.eval.run_records import ResultRow
from soft2hard.lm.sentences import embedding_cosines
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models, tiny_training
from tests.report_runs import write_run

SUBJECT = tiny_training.llama_subject()
WORDS = tiny_models.WORDS[3:]


class Counting:
    """Embeds a text by how often it holds each word, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n_texts width"]:
        self.asked.append(list(texts))
        return np.array([[text.split().count(word) for word in WORDS] for text in texts], float)


def case(name: str, instruction: str, *paraphrases: str) -> Case:
    examples = tuple(Example(f"{a} {b}", WORDS[0]) for a in WORDS[:3] for b in WORDS[3:5])
    task = Task(name, "tiny", instruction, paraphrases, examples[:2], examples[2:4], examples[4:], tuple(WORDS[:2]))
    return Case(replace(task, metric="label_accuracy"), SoftPrompt(SUBJECT.embed_text("cat").clone()))


CASES = [case("first", "red cat up", "cat down", "four fish up"), case("second", "blue"), case("none", "")]
PROMPTS = {"first": "four fish left", "second": "blue bird", "none": "red"}


def rows(encoder: Counting | None = None) -> dict[tuple[str, str], ResultRow]:
    """Of a text for each task, of the soft prompts, and of no prompt."""
    outcomes = {
        "text": {c.task.name: Outcome(PROMPTS[c.task.name]) for c in CASES},
        "soft": {c.task.name: Outcome(c.soft_prompt) for c in CASES},
        "none": {c.task.name: Outcome(None) for c in CASES},
    }
    found = score_seed(0, CASES, outcomes, Bench(SUBJECT, encoder=encoder))
    return {(row.method, row.task): row for row in found}


def test_the_nearest_rouge_is_the_largest_with_any_of_the_instructions() -> None:
    found = rows()
    # Of three words each, two stand in the same order in the second paraphrase.
    assert found["text", "first"].nearest_rougeL == pytest.approx(2 / 3)
    assert found["text", "first"].rougeL == 0.0
    assert found["text", "second"].nearest_rougeL == found["text", "second"].rougeL == pytest.approx(2 / 3)
    others = [row for (method, task), row in found.items() if method != "text" or task == "none"]
    assert len(others) == 7 and {row.nearest_rougeL for row in others} == {None}


def test_the_nearest_cosine_is_the_largest_with_any_of_the_instructions() -> None:
    found = rows(Counting())
    assert found["text", "first"].nearest_cosine == pytest.approx(2 / 3)
    assert found["text", "first"].sentence_cosine == pytest.approx(0)
    both = found["text", "second"]
    assert both.nearest_cosine == both.sentence_cosine == pytest.approx(1 / np.sqrt(2))
    others = [row for (method, task), row in found.items() if method != "text" or task == "none"]
    assert {(row.nearest_cosine, row.sentence_cosine) for row in others} == {(None, None)}
    assert {row.nearest_cosine for row in rows().values()} == {None}  # without an encoder


def test_each_distinct_text_is_embedded_once() -> None:
    encoder = Counting()
    texts, references = ["cat dog", "cat", "cat dog", "up"], ["cat", "cat dog", "cat dog", "cat"]
    found = embedding_cosines(texts, references, encoder)
    assert found == pytest.approx([1 / np.sqrt(2), 1 / np.sqrt(2), 1, 0])
    assert [sorted(asked) for asked in encoder.asked] == [["cat", "cat dog", "up"]]
    encoder = Counting()
    rows(encoder)
    [asked] = encoder.asked
    assert sorted(asked) == sorted(
        {*PROMPTS.values(), *(t for c in CASES for t in (c.task.instruction, *c.task.paraphrases))} - {"", "red"}
    )


def test_the_closest_text_has_the_highest_rouge_and_is_the_first_of_several() -> None:
    among = ["red up", "cat down", "down cat", "cat red down"]
    for text in ("cat down", "red", "down up", "small"):
        scores = [rouge(text, [one]).rougeL for one in among]
        assert closest_text(text, among) == among[scores.index(max(scores))]


# --- what a translator was trained on -----------------------------------------------------------------


def test_a_run_names_the_instruction_of_the_training_that_is_closest_to_each_task(tmp_path: Path) -> None:
    models = tiny_training.save_models(tmp_path / "models")
    (tmp_path / "tasks").mkdir()
    tiny_training.write_task(tmp_path / "tasks" / "kinds.jsonl", "red green")
    raw = {
        "tasks": {"files": [str(tmp_path / "tasks")]},
        "subject": str(models / "subject"),
        "translator": str(models / "translator"),
        "reference": "none",
        "generator": "none",
        "tuning": {"n_tokens": 2, "steps": 2, "batch_size": 4, "eval_every": 1, "init": "vocabulary"},
        "seeds": [0],
    }
    closest = {}
    for method in ("greedy", "gold"):
        Harness(parse_config(raw | {"methods": [method]}, "test"), tmp_path / method).run()
        [task] = load_run(tmp_path / method).tasks
        closest[method] = task.closest_trained
    assert task.instruction == "red cat" and "red cat" in tiny_training.trained().trained_on
    assert closest == {"greedy": "red cat", "gold": None}  # without a translator nothing is known


def test_runs_from_before_that_was_kept_are_read_without_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    tasks = json.loads((folder / "tasks.json").read_text())
    for task in tasks:
        del task["closest_trained"]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    assert {task.closest_trained for task in load_run(folder).tasks} == {None}
