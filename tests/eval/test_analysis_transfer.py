"""The transfer matrix is, cell by cell, what the subject says of one prompt on one task."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from soft2hard.compute import metering
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.findings import PromptRow, Tables
from soft2hard.eval.analysis.inputs import Material
from soft2hard.eval.analysis.transfer_matrix import transfer_matrix, transfer_section
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.lm import scoring
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models
from tests.oracles import accuracies
from tests.written_tasks import prompts, written_tasks

ARCHITECTURES = ["llama", "gpt2", "bloom", "t5"]


@pytest.fixture(params=ARCHITECTURES)
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_models.subject(request.param)


def test_every_cell_is_that_of_one_cell_after_another(subject: Subject) -> None:
    tasks = written_tasks(subject)
    found = transfer_matrix(subject, prompts(subject), tasks)
    for row, prompt in zip([found.baseline, *found.accuracy], [None, *prompts(subject)], strict=True):
        for cell, task in zip(row, tasks, strict=True):
            scores = subject.target_scores([Query(prompt, e.input, e.output) for e in task.test])
            assert cell == np.mean([score.greedy_match for score in scores])
    assert len(np.unique(found.accuracy)) > 2, "the cells should differ for this to mean anything"


def test_every_cell_is_the_accuracy_that_is_measured_elsewhere(subject: Subject) -> None:
    tasks, own = written_tasks(subject), prompts(subject)
    found = transfer_matrix(subject, own, tasks)
    measured = measure(subject, [Comparison(task, (None, *own)) for task in tasks])
    expected = np.array([[cell.accuracy for cell in of_task] for of_task in measured]).T
    np.testing.assert_array_equal(np.vstack([found.baseline, found.accuracy]), expected)


def test_a_cell_is_the_share_of_outputs_that_greedy_search_writes() -> None:
    subject = tiny_models.subject("llama")
    tasks, own = written_tasks(subject), prompts(subject)
    expected = accuracies(subject, [(prompt, task) for prompt in own for task in tasks])
    assert transfer_matrix(subject, own, tasks).accuracy.ravel().tolist() == expected


def test_the_change_is_against_no_prompt() -> None:
    subject = tiny_models.subject("gpt2")
    tasks = written_tasks(subject)
    found = transfer_matrix(subject, prompts(subject), tasks)
    assert found.baseline.max() > 0
    np.testing.assert_array_equal(found.change, found.accuracy - found.baseline[None])


@pytest.mark.parametrize(("batch_tokens", "row_tokens"), [(1, 1), (40, 16), (10**6, 10**6)])
def test_how_examples_are_laid_out_changes_nothing(
    subject: Subject, batch_tokens: int, row_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, own = written_tasks(subject), prompts(subject)
    with monkeypatch.context() as patch:
        patch.setattr(subject.scorer, "shares_prefixes", False)
        plain = transfer_matrix(subject, own, tasks)
    monkeypatch.setattr(scoring, "ROW_TOKENS", row_tokens)
    other = transfer_matrix(subject, own, tasks, batch_tokens=batch_tokens)
    np.testing.assert_array_equal(plain.accuracy, other.accuracy)
    np.testing.assert_array_equal(plain.baseline, other.baseline)


def test_examples_that_tasks_share_are_run_once_a_prompt() -> None:
    subject = tiny_models.subject("llama")
    task, own = written_tasks(subject)[0], prompts(subject)
    with metering.listening() as once:
        one = transfer_matrix(subject, own, [task])
    with metering.listening() as thrice:
        three = transfer_matrix(subject, own, [task, replace(task, name="b"), replace(task, name="c")])
    assert once.total == thrice.total
    np.testing.assert_array_equal(np.repeat(one.accuracy, 3, 1), three.accuracy)


def test_less_is_read_than_with_the_prompt_before_every_example() -> None:
    subject = tiny_models.subject("llama")
    tasks, own = written_tasks(subject), prompts(subject, (20, 20))
    with metering.listening() as shared:
        transfer_matrix(subject, own, tasks)
    with metering.listening() as apart:
        for task in tasks:
            for prompt in (None, *own):
                subject.target_scores([Query(prompt, e.input, e.output) for e in task.test])
    assert shared.total.tokens < apart.total.tokens / 4


@pytest.mark.parametrize(("architecture", "tight_fits"), [("llama", False), ("bart", True)])
def test_what_does_not_fit_the_context_is_missing_and_not_wrong(architecture: str, tight_fits: bool) -> None:
    """The context holds 64 tokens; an encoder-decoder's holds inputs and outputs apart."""
    subject = tiny_models.subject(architecture)
    own = prompts(subject, (45, 2))
    short = Task("short", "tiny", "", (), (), (), (Example("cat", "dog"),))
    tight = replace(short, name="tight", test=(Example("cat " * 10, "dog " * 8),))
    long = replace(short, name="long", test=(*short.test, Example("cat " * 20, "dog")))
    tasks = [short, tight, long]
    missing = np.isnan(transfer_matrix(subject, own, tasks).accuracy).tolist()
    assert missing == [[False, not tight_fits, True], [False] * 3]
    measured = measure(subject, [Comparison(task, tuple(own)) for task in tasks])
    assert missing == np.array([[cell is None for cell in of_task] for of_task in measured]).T.tolist()


def test_bad_input_is_refused_before_anything_is_run() -> None:
    subject = tiny_models.subject("llama")
    (task, *_), own = written_tasks(subject), prompts(subject)
    with metering.listening() as heard:
        for bad_prompts, bad_tasks, problem in (
            ([], [task], "0 soft prompts"),
            (own, [], "0 tasks"),
            (own, [replace(task, test=())], "no test examples"),
            ([SoftPrompt(torch.ones(2, 3))], [task], "3 wide"),
            ([replace(own[0], fingerprint="other")], [task], "another model"),
        ):
            with pytest.raises(UserError, match=problem):
                transfer_matrix(subject, bad_prompts, bad_tasks)
    assert heard.total.tokens == 0


# --- the section ---------------------------------------------------------------------------------------

SUBJECT = tiny_models.subject("llama")
LEFT_OUT = "Left out, because it does not fit the subject's context with the others:"
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


def tasks_of(tables: Tables) -> list[str]:
    return list(dict.fromkeys(tables["pairs"]["tuned_on"]))


def test_one_example_that_is_too_long_costs_its_task_and_no_other() -> None:
    given = material(dict.fromkeys("abcd", [3, 3]), task("a"), task("b"), task("c", LONG), task("d"))
    section, tables = transfer_section(given)
    assert tasks_of(tables) == ["a", "b", "d"] and section.notes == (f"{LEFT_OUT} task c",)
    accuracy = tables["accuracy"]
    assert list(accuracy["tuned_on"][::3]) == list("aabbdd")
    kept = [t for t in given.tasks if t.name != "c"]
    prompts = given.of(i for i, row in enumerate(given.prompts) if row.task != "c")
    alone = transfer_matrix(SUBJECT, prompts, kept)
    np.testing.assert_array_equal(accuracy["accuracy"], alone.accuracy.ravel())
    of_tasks = alone.change.reshape(3, 2, 3).mean(1)  # prompts of one task are averaged
    np.testing.assert_allclose(tables["pairs"]["change"], of_tasks.ravel())
    assert len(tables["pairs"].dropna(subset=["frobenius", "change"])) == 9 and section.figures["n_examples"] == 6


def test_one_soft_prompt_that_is_too_long_is_left_out_and_its_task_is_kept() -> None:
    given = material({"a": [3, 62], "b": [3, 3], "c": [3]}, task("a"), task("b"), task("c"))
    section, tables = transfer_section(given)
    assert tasks_of(tables) == ["a", "b", "c"] and section.notes == (f"{LEFT_OUT} soft prompt a 1",)
    assert list(tables["accuracy"]["prompt"][::3]) == ["a 0", "b 0", "b 1", "c 0"]
    alone = material({"a": [62], "b": [3, 3], "c": [3]}, task("a"), task("b"), task("c"))
    assert transfer_section(alone)[0].notes == (f"{LEFT_OUT} task a",)


def test_a_transfer_that_leaves_fewer_than_two_tasks_is_refused_with_their_names() -> None:
    given = material({"a": [3], "b": [3], "c": [3]}, task("a"), task("b", LONG), task("c", LONG))
    with pytest.raises(UserError, match="1 tasks are left whose longest") as refused:
        transfer_section(given)
    assert "task b, task c" in refused.value.remedy


def test_prompts_of_different_lengths_have_a_transfer_but_no_closeness() -> None:
    section, tables = transfer_section(material({"a": [3], "b": [4], "c": [3]}, task("a"), task("b"), task("c")))
    assert "correlations" not in tables and "frobenius" not in tables["pairs"] and section.notes == ()
