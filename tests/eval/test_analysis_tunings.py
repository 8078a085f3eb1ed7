"""Tunings of one task from other starts and in other orders, made in passes that are kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.eval.analysis import tunings
from soft2hard.eval.analysis.tunings import COMMON, MAIN, Counts, TuningGroup, plan_groups, tune_groups
from soft2hard.workers.subject_workers import SubjectWorkers
from tests.tiny_training import llama_subject

CONFIG = Tuning(n_tokens=3, steps=3, batch_size=2, eval_every=3, init="vocabulary", lr=0.1)
SUBJECT = llama_subject()
WORKERS = SubjectWorkers(SUBJECT)


def task(name: str, labels: tuple[str, ...] | None = ("cat", "dog"), instruction: str = "red bird") -> Task:
    examples = tuple(Example(word, output) for word in ("one", "two", "three", "four") for output in ("cat", "dog"))
    return Task(name, "tiny", instruction, (), examples, examples, examples, labels)


def tuned(init_seed: int, order_seed: int, **changes: object) -> torch.Tensor:
    tuner = Tuner(SUBJECT, replace(CONFIG, **changes), init_seed=init_seed, order_seed=order_seed)
    (found,) = tuner.tune([task("a")])
    return found.soft_prompt.embeddings


def test_the_seed_of_starts_alone_decides_the_start() -> None:
    still = {"lr": 1e-9}
    assert torch.allclose(tuned(0, 0, **still), tuned(0, 1, **still), atol=1e-6)
    assert not torch.allclose(tuned(0, 0, **still), tuned(1, 0, **still), atol=1e-2)


def test_the_seed_of_orders_alone_decides_the_order_of_examples() -> None:
    same_start = {"init": "text:red bird"}
    assert torch.equal(tuned(0, 0, **same_start), tuned(1, 0, **same_start))
    assert not torch.equal(tuned(0, 0, **same_start), tuned(0, 1, **same_start))


def test_a_start_by_instruction_is_its_tokens_repeated() -> None:
    start = tuned(0, 0, init="instruction", lr=1e-9)
    words = SUBJECT.embed_text("red bird")
    assert torch.allclose(start, torch.cat([words, words[:1]]), atol=1e-6)


def test_a_task_without_an_instruction_cannot_start_from_it() -> None:
    with pytest.raises(UserError, match="no instruction to start from"):
        list(Tuner(SUBJECT, replace(CONFIG, init="instruction")).tune([task("a", instruction="")]))


@pytest.mark.parametrize(
    ("varies", "seeds"), [("both", [(5, 5), (6, 6)]), ("init", [(5, 5), (6, 5)]), ("order", [(5, 5), (5, 6)])]
)
def test_a_group_moves_the_seeds_that_it_varies(varies: tunings.Varies, seeds: list[tuple[int, int]]) -> None:
    group = TuningGroup("g", "vocabulary", varies, 2, (task("a"),))
    assert [(one.init_seed, one.order_seed) for one in group.passes(5)] == seeds


def test_groups_hold_the_tasks_that_have_what_their_start_needs() -> None:
    tasks = [task("bare", None, ""), task("labelled", instruction=""), task("instructed", None)]
    groups = {group.name: group for group in plan_groups(tasks, "vocabulary", Counts(9, 4, 3, 2), common_start=True)}
    assert [t.name for t in groups["from label words"].tasks] == ["labelled"]
    assert [t.name for t in groups["from the instruction"].tasks] == ["instructed"]
    assert groups[MAIN].n == groups[COMMON].n == 4
    assert {name: len(g.tasks) for name, g in groups.items()}[MAIN] == 3


def test_no_control_tasks_leave_the_main_group_alone() -> None:
    assert [group.name for group in plan_groups([task("a")], "vocabulary", Counts(9, 2, 0, 2))] == [MAIN]


def test_passes_are_shared_by_groups_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = plan_groups([task("a"), task("b")], "vocabulary", Counts(9, 2, 1, 2))
    rows, prompts = tune_groups(WORKERS, groups, CONFIG, tmp_path)
    # both: (0,0) (1,1); start: (1,0) anew; order: (0,1) anew; labels and instruction: two each.
    assert len(list(tmp_path.iterdir())) == 8
    assert len(rows) == len(prompts) == 2 * 2 + 4 * 2
    by_name = {(row.group, row.name): prompt for row, prompt in zip(rows, prompts, strict=True)}
    assert by_name[MAIN, "a #0"] is by_name["start varied", "a #0"] is by_name["order varied", "a #0"]
    assert not torch.equal(by_name[MAIN, "a #0"].embeddings, by_name[MAIN, "a #1"].embeddings)

    def nothing_to_do(workers: SubjectWorkers, jobs: list, on_step: object) -> list:
        assert not jobs
        return []

    monkeypatch.setattr(tunings, "tune_jobs", nothing_to_do)
    again, same = tune_groups(WORKERS, groups, CONFIG, tmp_path)
    assert again == rows
    assert all(torch.equal(a.embeddings, b.embeddings) for a, b in zip(same, prompts, strict=True))


def test_a_damaged_pass_is_named(tmp_path: Path) -> None:
    groups = plan_groups([task("a")], "vocabulary", Counts(9, 1, 0, 1))
    tune_groups(WORKERS, groups, CONFIG, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        tune_groups(WORKERS, groups, CONFIG, tmp_path)
