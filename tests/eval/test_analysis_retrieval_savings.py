"""What a stored start saves: a planted copy of the tuned soft prompt is found and saves nearly all; noise nothing."""

from dataclasses import replace

import pytest
import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.eval.analysis.retrieval import nearest, steps_to_reach
from soft2hard.eval.analysis.retrieval_savings import (
    AVERAGE,
    NEAREST,
    RANDOM,
    RetrievalPlan,
    RetrievalSavings,
    Stored,
    TaskStart,
    retrieval_savings,
)
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers
from tests import tiny_models
from tests.planted_prompts import INPUTS

SUBJECT = tiny_models.subject("llama")
WORKERS = SubjectWorkers(SUBJECT)
CONFIG = Tuning(
    n_tokens=3, init="vocabulary", steps=40, batch_size=6, eval_every=2, patience=99, lr=0.3, good_enough=0.0
)
PLAN = RetrievalPlan(early_steps=4, k=2)


def task(word: str) -> Task:
    examples = tuple(Example(text, word) for text in INPUTS)
    return Task(f"write {word}", f"family of {word}", "", (), examples, examples, ())


TASKS = [task("red"), task("dog")]


def noise(seed: int) -> SoftPrompt:
    rows = torch.randn(3, SUBJECT.d_model, generator=torch.Generator().manual_seed(seed))
    return SoftPrompt(rows, SUBJECT.name, SUBJECT.fingerprint)


@pytest.fixture(scope="module")
def copies() -> list[Stored]:
    """The tasks' own soft prompts, stored as those of other tasks of the same families, after much noise."""
    tuned = {found.task.name: found for found in Tuner(SUBJECT, CONFIG, order_seed=0).tune(TASKS)}
    found = [Stored(f"copy of {t.name}", t.family, tuned[t.name].soft_prompt) for t in TASKS]
    return [*(Stored(f"noise {i}", "noise", noise(i)) for i in range(3)), *found]


@pytest.fixture(scope="module")
def found(copies) -> RetrievalSavings:
    return retrieval_savings(WORKERS, TASKS, copies, CONFIG, replace(PLAN, others=("text:cat dog bird",)))


def row(found: RetrievalSavings, name: str, start: str) -> TaskStart:
    (one,) = [r for r in found.tasks if (r.task, r.start) == (name, start)]
    return one


def test_the_planted_copy_is_found_and_its_family_is_right(found) -> None:
    assert [row(found, t.name, NEAREST).source for t in TASKS] == [f"copy of {t.name}" for t in TASKS]
    assert found.same_family.value == 1 and found.same_family_by_chance == pytest.approx(1 / 5)


def test_from_the_planted_copy_the_target_is_met_at_once(found) -> None:
    """It was tuned from the same start in the same order, so it is as good as the base ever was."""
    for t in TASKS:
        copied, base = row(found, t.name, NEAREST), row(found, t.name, "vocabulary")
        assert copied.initial_loss == pytest.approx(base.best_loss, abs=1e-4)
        assert copied.steps == 0 and copied.saved == base.steps - PLAN.early_steps
        assert (
            copied.initial_loss < row(found, t.name, RANDOM).initial_loss or "copy" in row(found, t.name, RANDOM).source
        )


def test_a_start_and_the_base_come_to_their_target_and_steps_are_counted_to_it(found) -> None:
    for t in TASKS:
        own = [r for r in found.tasks if r.task == t.name]
        assert {r.start for r in own} == {"vocabulary", NEAREST, AVERAGE, RANDOM, "text:cat dog bird"}
        base = row(found, t.name, "vocabulary")
        assert [r.target for r in own] == [max(r.best_loss, base.best_loss) for r in own]
        assert all(r.steps == steps_to_reach(r.losses, r.target) for r in own)
        assert all(r.base_steps == steps_to_reach(base.losses, r.target) for r in own)
    base = [r for r in found.tasks if r.start == "vocabulary"]
    assert all(r.saved == 0 for r in base)


def test_retrieved_starts_pay_for_the_early_steps_and_others_do_not(found) -> None:
    for r in found.tasks:
        paid = PLAN.early_steps if r.start in (NEAREST, AVERAGE) else 0
        assert r.saved == r.base_steps - r.steps - paid


def test_what_a_start_saves_does_not_hang_on_a_poor_one_among_the_others(found, copies) -> None:
    """The same without the further start, and with one that is so poor that no target of its own is low."""
    alone = retrieval_savings(WORKERS, TASKS, copies, CONFIG, PLAN)
    for start in (NEAREST, AVERAGE, RANDOM):
        assert [row(alone, t.name, start).saved for t in TASKS] == [row(found, t.name, start).saved for t in TASKS]


def test_the_early_prompt_is_the_base_run_after_so_many_steps(found, copies) -> None:
    """Redone by hand."""
    tuner = Tuner(SUBJECT, CONFIG, snapshot_steps=[PLAN.early_steps], order_seed=0)
    for tuned in tuner.tune(TASKS):
        early = replace(tuned.soft_prompt, embeddings=tuned.snapshots[0][1])
        (match,) = nearest(early, [one.soft_prompt for one in copies], 1)
        assert row(found, tuned.task.name, NEAREST).source == copies[match.index].task


def test_summaries_are_means_over_tasks(found) -> None:
    for summary in found.starts:
        own = [r for r in found.tasks if r.start == summary.start]
        assert summary.saved.value == pytest.approx(sum(r.saved for r in own) / len(own))
        assert summary.initial_loss.value == pytest.approx(sum(r.initial_loss for r in own) / len(own))
        assert (summary.loss_below_random is None) == (summary.start == RANDOM)


def test_what_is_stored_of_a_task_itself_is_not_used_for_it(copies) -> None:
    own = [replace(one, task=one.task.removeprefix("copy of ")) for one in copies]
    found = retrieval_savings(WORKERS, TASKS, own, replace(CONFIG, steps=6), PLAN)
    assert all(r.source != r.task for r in found.tasks if r.source)


def test_a_store_of_the_same_noise_only_makes_retrieval_a_random_choice(copies) -> None:
    stored = [Stored(f"noise {i}", "noise", noise(7)) for i in range(4)]
    found = retrieval_savings(WORKERS, TASKS, stored, replace(CONFIG, steps=6), PLAN)
    for t in TASKS:
        nearest_one, drawn = row(found, t.name, NEAREST), row(found, t.name, RANDOM)
        assert [loss for _, loss in nearest_one.losses] == pytest.approx([loss for _, loss in drawn.losses])
        assert drawn.saved - nearest_one.saved == PLAN.early_steps
    assert found.same_family.value == 0 == found.same_family_by_chance


@pytest.mark.parametrize(
    ("tasks", "n_stored", "config", "plan", "problem"),
    [
        ([], 3, CONFIG, PLAN, "no new tasks"),
        (TASKS, 1, CONFIG, PLAN, "1 stored soft prompts of tasks other"),
        (TASKS, 3, replace(CONFIG, steps=4), PLAN, "is of step 4"),
        (TASKS, 3, CONFIG, replace(PLAN, others=("vocabulary",)), "compared with itself"),
        (TASKS, 3, replace(CONFIG, n_tokens=2), PLAN, "has 3 virtual tokens, but 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(tasks, n_stored, config, plan, problem) -> None:
    stored = [Stored(f"noise {i}", "noise", noise(i)) for i in range(n_stored)]
    with pytest.raises(UserError, match=problem):
        retrieval_savings(WORKERS, tasks, stored, replace(config, steps=min(config.steps, 6)), plan)


def test_plans_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="k is 0"):
        RetrievalPlan(k=0)
