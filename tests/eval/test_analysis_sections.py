"""Sections called on planted material: transfer, statistics and stability, with texts and examples that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis import sections_experiments
from soft2hard.eval.analysis.material import Material
from soft2hard.eval.analysis.records import PromptRow
from soft2hard.eval.analysis.section_transfer import transfer_section
from soft2hard.eval.analysis.sections_experiments import stability_section
from soft2hard.eval.analysis.sections_statistics import statistics_section
from soft2hard.eval.analysis.transfer_matrix import transfer_matrix
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models, tiny_training
from tests.planted_prompts import own_task, spoken

SUBJECT = tiny_models.subject("llama")
SHORT, LONG = (Example("cat", "dog"), Example("red", "blue")), Example("cat " * 60, "dog")


def task(name: str, *examples: Example, family: str = "f") -> Task:
    return Task(name, family, "", (), (), (), (*SHORT, *examples))


def material(lengths: dict[str, list[int]], *tasks: Task, **rows: object) -> Material:
    """Random soft prompts of these lengths for each task."""
    generator = torch.Generator().manual_seed(0)
    prompts, found = [], []
    for name, own in lengths.items():
        for i, n in enumerate(own):
            prompts.append(SoftPrompt(torch.randn(n, SUBJECT.d_model, generator=generator)))
            found.append(
                PromptRow(name=f"{name} {i}", task=name, group="given", tuning=i, n_tokens=n, d_model=16, **rows)
            )
    return Material(tuple(found), tuple(prompts), tasks, subject=SUBJECT)


def test_one_example_that_is_too_long_costs_its_task_and_no_other() -> None:
    given = material(dict.fromkeys("abcd", [3, 3]), task("a"), task("b"), task("c", LONG), task("d"))
    record, arrays = transfer_section(given)
    assert record.tasks == ("a", "b", "d") and record.left_out == ("task c",)
    assert [given.prompts[i].task for i in record.prompts] == list("aabbdd")
    kept = [t for t in given.tasks if t.name != "c"]
    alone = transfer_matrix(SUBJECT, given.of(record.prompts), kept)
    np.testing.assert_array_equal(arrays["accuracy"], alone.accuracy)
    assert arrays["frobenius"].shape == arrays["change"].shape == (3, 3) and record.n_examples == 6


def test_one_soft_prompt_that_is_too_long_is_left_out_and_its_task_is_kept() -> None:
    given = material({"a": [3, 62], "b": [3, 3], "c": [3]}, task("a"), task("b"), task("c"))
    record, _ = transfer_section(given)
    assert record.tasks == ("a", "b", "c") and record.left_out == ("soft prompt a 1",)
    assert record.prompts == (0, 2, 3, 4)
    alone = material({"a": [62], "b": [3, 3], "c": [3]}, task("a"), task("b"), task("c"))
    assert transfer_section(alone)[0].left_out == ("task a",)


def test_a_transfer_that_leaves_fewer_than_two_tasks_is_refused_with_their_names() -> None:
    given = material({"a": [3], "b": [3], "c": [3]}, task("a"), task("b", LONG), task("c", LONG))
    with pytest.raises(UserError, match="1 tasks are left whose longest") as refused:
        transfer_section(given)
    assert "task b, task c" in refused.value.remedy


def test_prompts_of_different_lengths_have_a_transfer_but_no_closeness() -> None:
    record, arrays = transfer_section(material({"a": [3], "b": [4], "c": [3]}, task("a"), task("b"), task("c")))
    assert record.correlations == () and "frobenius" not in arrays and record.left_out == ()


def test_difficulty_is_by_the_metric_of_the_task() -> None:
    """Under its soft prompt the subject finds each label likelier than the others, but writes none of them."""
    prompts = [spoken(SUBJECT, text) for text in ("cat red up", "dog blue down")]
    tasks = [own_task(SUBJECT, name, prompt) for name, prompt in zip("ab", prompts, strict=True)]
    given = material({"a": [3], "b": [3]}, *tasks)
    scored, baseline = replace(given, soft_prompts=tuple(prompts)).scored()
    assert [row.score for row in scored.prompts] == [1, 1]
    exact = transfer_matrix(SUBJECT, prompts, tasks)
    assert np.diag(exact.accuracy).max() < 1 and set(baseline) == {"a", "b"}


def test_statistics_are_of_prompts_pairs_tasks_and_groups() -> None:
    given = material({"a": [3, 3], "b": [3]}, task("a", family="g"), score=0.5)
    record, _ = statistics_section(given)
    first, second, third = (p.embeddings.numpy().astype(float) for p in given.soft_prompts)
    assert [one.norm for one in record.prompts] == pytest.approx([np.linalg.norm(p) for p in (first, second, third)])
    assert [(p.first, p.second) for p in record.pairs] == [("a 0", "a 1"), ("a 0", "b 0"), ("a 1", "b 0")]
    a, b = record.tasks
    assert (a.task, a.family, a.n_prompts, b.n_prompts, a.mean_score, a.score_deviation) == ("a", "g", 2, 1, 0.5, 0)
    assert a.mean_distance == pytest.approx(np.linalg.norm(first - second)) and b.mean_distance is None
    (group,) = record.groups
    assert group.mean_distance.value == a.mean_distance and group.mean_distance.low is None  # of a single task
    norms = [(np.linalg.norm(first) + np.linalg.norm(second)) / 2, np.linalg.norm(third)]
    assert group.mean_norm.value == pytest.approx(np.mean(norms)) and group.n_tasks == 2


def test_one_translation_too_long_for_the_subject_leaves_the_section_of_stability(monkeypatch) -> None:
    texts = ["cat dog", "cat dog", "red " * 80, "one two", "two one", "two one"]
    monkeypatch.setattr(sections_experiments, "greedy_translation", lambda _: lambda prompts: texts[: len(prompts)])
    given = material({"a": [3, 3], "b": [3, 3], "c": [3, 3]}, task("a"), task("b"), task("c", family="g"))
    result = stability_section(replace(given, translator=tiny_training.translator(SUBJECT)))[0].result
    assert result["n_unread"] == 1 and [row["cosine"] is None for row in result["tasks"]] == [False, True, False]
    assert result["agreement"]["value"] == pytest.approx(2 / 3)
    assert result["family_agreement"]["value"] == 0 and result["family_rougeL"]["value"] == 0  # a and b alone
    assert result["cosine"]["value"] == pytest.approx(1, abs=1e-4)
