"""Effects of positions are differences of scores and meanings; planted positions that say all or nothing are found."""

import pandas as pd
import pytest
import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.experiments import mean_embedding, position_effects, random_orders
from soft2hard.eval.analysis.findings import Section, Tables
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models
from tests.planted_prompts import own_task, reader, spoken

SUBJECT = tiny_models.subject("llama")
PROMPTS = [spoken(SUBJECT, text) for text in ("cat red up", "dog blue down", "fish green left")]
TASKS = [own_task(SUBJECT, f"t{i}", prompt) for i, prompt in enumerate(PROMPTS)]
CHANGES = ("mean", "zeros", "removed", "alone", "permuted")


def effect(tables: Tables, change: str, position: int | None) -> pd.Series:
    effects = tables["effects"]
    here = effects["position"].isna() if position is None else effects["position"] == position
    ((_, one),) = effects[here.fillna(False) & (effects["change"] == change)].iterrows()
    return one


@pytest.fixture(scope="module")
def found() -> tuple[Section, Tables]:
    return position_effects(SUBJECT, TASKS, PROMPTS, reader(SUBJECT, [0]), n_orders=3)


def test_every_change_of_every_position_is_there_once(found: tuple[Section, Tables]) -> None:
    section, tables = found
    for task in TASKS:
        own = tables["variants"][tables["variants"]["task"] == task.name]
        assert own["change"].value_counts().to_dict() == dict.fromkeys(CHANGES, 3)
    assert section.figures["score"].value == 1 and section.figures["n_left_out"] == 0


def changed(prompt: SoftPrompt, change: str, position: int) -> SoftPrompt:
    """A variant made by hand."""
    rows, filler = prompt.embeddings.clone(), mean_embedding(SUBJECT)
    kept = [i for i in range(len(rows)) if i != position]
    if change == "removed":
        rows = rows[kept]
    else:
        rows[kept if change == "alone" else position] = torch.zeros_like(filler) if change == "zeros" else filler
    return SoftPrompt(rows, SUBJECT.name, SUBJECT.fingerprint)


@pytest.mark.parametrize("change", CHANGES[:-1])
def test_a_score_is_that_of_the_variant_alone_and_its_loss_is_against_the_prompt_as_it_was(found, change) -> None:
    variants = found[1]["variants"]
    for i, (task, prompt) in enumerate(zip(TASKS, PROMPTS, strict=True)):
        own = variants[(variants["prompt"] == i) & (variants["change"] == change)]
        assert own["position"].tolist() == [0, 1, 2]
        for row in own.itertuples():
            [[alone]] = measure(SUBJECT, [Comparison(task, (changed(prompt, change, row.position),))])
            assert row.score == alone.score and row.score_lost == pytest.approx(1 - alone.score)


def test_effects_are_means_over_tasks(found: tuple[Section, Tables]) -> None:
    variants = found[1]["variants"]
    for change, position in (("mean", 1), ("removed", 0)):
        rows = variants[(variants["change"] == change) & (variants["position"] == position)]["score_lost"]
        one = effect(found[1], change, position)
        assert one["n_tasks"] == 3 and one["score_lost"] == pytest.approx(rows.mean())
        assert one["score_lost_low"] <= one["score_lost"] <= one["score_lost_high"]
    everywhere = variants[variants["change"] == "zeros"]["score_lost"]
    assert effect(found[1], "zeros", None)["score_lost"] == pytest.approx(everywhere.mean())


def test_the_one_position_that_is_read_is_found(found: tuple[Section, Tables]) -> None:
    """The reader reads the first position alone, so masking another changes nothing in what it writes."""
    for change, expected in (("mean", [1, 0, 0]), ("removed", [1, 0, 0]), ("alone", [0, 1, 1])):
        assert [effect(found[1], change, i)["meaning_changed"] for i in range(3)] == expected


def test_an_order_changes_the_meaning_where_it_moves_the_position_that_is_read(found: tuple[Section, Tables]) -> None:
    variants = found[1]["variants"]
    for i in range(3):
        own = variants[(variants["prompt"] == i) & (variants["change"] == "permuted")]["meaning_changed"]
        assert own.tolist() == [order[0] != 0 for order in random_orders(3, 3)]


def test_a_position_that_already_says_nothing_loses_nothing() -> None:
    rows = PROMPTS[0].embeddings.clone()
    rows[1] = mean_embedding(SUBJECT)
    prompt = SoftPrompt(rows, SUBJECT.name, SUBJECT.fingerprint)
    _, tables = position_effects(SUBJECT, [own_task(SUBJECT, "t", prompt)], [prompt], reader(SUBJECT, [0, 1, 2]))
    one = effect(tables, "mean", 1)
    assert one["score_lost"] == 0 and one["meaning_changed"] == 0


def test_identical_virtual_tokens_can_stand_in_any_order() -> None:
    rows = SUBJECT.embed_text("cat").detach().cpu().repeat(4, 1)
    prompt = SoftPrompt(rows, SUBJECT.name, SUBJECT.fingerprint)
    _, tables = position_effects(SUBJECT, [own_task(SUBJECT, "t", prompt)], [prompt], reader(SUBJECT, [0, 3]))
    one = effect(tables, "permuted", None)
    assert (one["score_lost"], one["meaning_changed"]) == (0, 0)


def test_tunings_of_one_task_are_averaged_before_tasks_are() -> None:
    prompts, tasks = [PROMPTS[0], PROMPTS[1], PROMPTS[1]], [TASKS[0], TASKS[0], TASKS[1]]
    _, tables = position_effects(SUBJECT, tasks, prompts)
    variants = tables["variants"]
    a, b, c = variants[variants["change"] == "mean"].groupby("prompt")["score_lost"].mean()
    assert effect(tables, "mean", None)["score_lost"] == pytest.approx(((a + b) / 2 + c) / 2)
    assert effect(tables, "mean", 0)["n_tasks"] == 2 and pd.isna(effect(tables, "mean", 0)["meaning_changed"])


def test_a_single_position_is_masked_only() -> None:
    prompt = spoken(SUBJECT, "cat")
    _, tables = position_effects(SUBJECT, [own_task(SUBJECT, "t", prompt)], [prompt])
    assert set(tables["variants"]["change"]) == {"mean", "zeros"}


def test_prompts_without_room_are_counted_and_none_with_room_is_refused() -> None:
    long = SoftPrompt(torch.randn(63, SUBJECT.d_model), SUBJECT.name, SUBJECT.fingerprint)
    section, tables = position_effects(SUBJECT, TASKS[:2], [PROMPTS[0], long], n_orders=1)
    assert section.figures["n_left_out"] == 1 and set(tables["variants"]["prompt"]) == {0}
    with pytest.raises(UserError, match="No soft prompt fits"):
        position_effects(SUBJECT, TASKS[:1], [long], n_orders=1)


def test_random_orders_are_distinct_none_is_the_own_and_no_more_than_there_are() -> None:
    orders = random_orders(4, 10)
    assert len(set(orders)) == 10 and (0, 1, 2, 3) not in orders
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(random_orders(3, 99)) == 5 and random_orders(1, 3) == []
    assert orders == random_orders(4, 10) and orders != random_orders(4, 10, seed=1)


def test_the_mean_embedding_is_that_of_the_vocabulary() -> None:
    subject = tiny_models.subject("gpt2")
    expected = subject.embed_ids(torch.arange(len(subject.embedding))).mean(0)
    torch.testing.assert_close(mean_embedding(subject), expected)


def test_a_masked_prompt_can_be_told_from_the_prompt() -> None:
    """Masking changes what the subject does, not only its score."""
    task = Task("t", "tiny", "", (), (), (), (Example("cat dog", "red"), Example("up", "down")))
    variants = [changed(PROMPTS[0], change, i) for change in ("mean", "removed") for i in range(3)]
    [[same, *others]] = measure(SUBJECT, [Comparison(task, (PROMPTS[0], *variants), PROMPTS[0])])
    assert same.kl == pytest.approx(0, abs=1e-6) and all(found.kl > 1e-3 for found in others)
