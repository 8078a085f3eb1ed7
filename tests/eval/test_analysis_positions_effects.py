"""Effects of positions are differences of scores and meanings; planted positions that say all or nothing are found."""

import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.eval.analysis.positions import mask_each, mean_embedding, permute_randomly
from soft2hard.eval.analysis.positions_effects import Effect, PositionEffects, position_effects
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models
from tests.planted_prompts import own_task, reader, spoken

SUBJECT = tiny_models.subject("llama")
PROMPTS = [spoken(SUBJECT, text) for text in ("cat red up", "dog blue down", "fish green left")]
TASKS = [own_task(SUBJECT, f"t{i}", prompt) for i, prompt in enumerate(PROMPTS)]


def effect(found: PositionEffects, change: str, position: int | None) -> Effect:
    (one,) = [e for e in found.effects if (e.change, e.position) == (change, position)]
    return one


@pytest.fixture(scope="module")
def found() -> PositionEffects:
    return position_effects(SUBJECT, TASKS, PROMPTS, reader(SUBJECT, [0]), n_orders=3)


def test_every_change_of_every_position_is_there_once(found) -> None:
    by_change = {change: 3 for change in ("mean", "zeros", "removed", "alone", "permuted")}
    for task in TASKS:
        own = [variant for variant in found.variants if variant.task == task.name]
        assert {change: sum(v.change == change for v in own) for change in by_change} == by_change
    assert found.score.value == 1 and found.n_left_out == 0


def test_what_is_lost_is_the_score_as_it_was_less_the_variants_own(found) -> None:
    """Each measured by itself."""
    filler = mean_embedding(SUBJECT)
    for i, (task, prompt) in enumerate(zip(TASKS, PROMPTS, strict=True)):
        for position, variant in enumerate(mask_each(prompt, filler)):
            [[alone]] = measure(SUBJECT, [Comparison(task, (variant.soft_prompt,))])
            (row,) = [v for v in found.variants if (v.prompt, v.change, v.position) == (i, "mean", position)]
            assert row.score == alone.score and row.score_lost == pytest.approx(1 - alone.score)


def test_effects_are_means_over_tasks(found) -> None:
    for change, position in (("mean", 1), ("removed", 0)):
        rows = [v.score_lost for v in found.variants if (v.change, v.position) == (change, position)]
        one = effect(found, change, position)
        assert one.n_tasks == 3 and one.score_lost.value == pytest.approx(sum(rows) / 3)
        assert one.score_lost.low <= one.score_lost.value <= one.score_lost.high
    everywhere = [v.score_lost for v in found.variants if v.change == "zeros"]
    assert effect(found, "zeros", None).score_lost.value == pytest.approx(sum(everywhere) / 9)


def test_the_one_position_that_is_read_is_found(found) -> None:
    """The reader reads the first position alone, so masking another changes nothing in what it writes."""
    assert [effect(found, "mean", i).meaning_changed.value for i in range(3)] == [1, 0, 0]
    assert [effect(found, "removed", i).meaning_changed.value for i in range(3)] == [1, 0, 0]
    assert [effect(found, "alone", i).meaning_changed.value for i in range(3)] == [0, 1, 1]


def test_an_order_changes_the_meaning_where_it_moves_the_position_that_is_read(found) -> None:
    for i, prompt in enumerate(PROMPTS):
        own = [v.meaning_changed for v in found.variants if v.prompt == i and v.change == "permuted"]
        assert own == [variant.positions[0] != 0 for variant in permute_randomly(prompt, 3)]


def test_a_position_that_already_says_nothing_loses_nothing() -> None:
    filler = mean_embedding(SUBJECT)
    rows = PROMPTS[0].embeddings.clone()
    rows[1] = filler
    prompt = SoftPrompt(rows, SUBJECT.name, SUBJECT.fingerprint)
    found = position_effects(SUBJECT, [own_task(SUBJECT, "t", prompt)], [prompt], reader(SUBJECT, [0, 1, 2]))
    assert effect(found, "mean", 1).score_lost.value == 0 and effect(found, "mean", 1).meaning_changed.value == 0


def test_identical_virtual_tokens_can_stand_in_any_order() -> None:
    rows = SUBJECT.embed_text("cat").detach().cpu().repeat(4, 1)
    prompt = SoftPrompt(rows, SUBJECT.name, SUBJECT.fingerprint)
    found = position_effects(SUBJECT, [own_task(SUBJECT, "t", prompt)], [prompt], reader(SUBJECT, [0, 3]))
    one = effect(found, "permuted", None)
    assert (one.score_lost.value, one.meaning_changed.value) == (0, 0)


def test_tunings_of_one_task_are_averaged_before_tasks_are() -> None:
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    tasks = [TASKS[0], TASKS[0], TASKS[1]]
    found = position_effects(SUBJECT, tasks, prompts)
    rows = {i: [v.score_lost for v in found.variants if v.prompt == i and v.change == "mean"] for i in range(3)}
    mean = [sum(row) / len(row) for row in rows.values()]
    assert effect(found, "mean", None).score_lost.value == pytest.approx(((mean[0] + mean[1]) / 2 + mean[2]) / 2)
    assert effect(found, "mean", 0).n_tasks == 2 and effect(found, "mean", 0).meaning_changed is None


def test_a_single_position_is_masked_only() -> None:
    prompt = spoken(SUBJECT, "cat")
    found = position_effects(SUBJECT, [own_task(SUBJECT, "t", prompt)], [prompt])
    assert {v.change for v in found.variants} == {"mean", "zeros"}


def test_prompts_without_room_are_counted_and_none_with_room_is_refused() -> None:
    long = SoftPrompt(torch.randn(63, SUBJECT.d_model), SUBJECT.name, SUBJECT.fingerprint)
    found = position_effects(SUBJECT, TASKS[:2], [PROMPTS[0], long], n_orders=1)
    assert found.n_left_out == 1 and {v.prompt for v in found.variants} == {0}
    with pytest.raises(UserError, match="No soft prompt fits"):
        position_effects(SUBJECT, TASKS[:1], [long], n_orders=1)


def test_one_task_each_is_asked_for() -> None:
    with pytest.raises(UserError, match="3 soft prompts and 2 tasks"):
        position_effects(SUBJECT, TASKS[:2], PROMPTS)
    with pytest.raises(UserError, match="0 soft prompts"):
        position_effects(SUBJECT, [], [])
