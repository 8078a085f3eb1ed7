"""The tables and pictures of a run over the embedded world; the demo that shows one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from scripts.demo import demo_evaluation
from scripts.optimize_embedded import all_that_fit
from scripts.readme_figures import draw_families, draw_methods, markdown
from scripts.transfer_embedded import markdown as transfer_table
from scripts.transfer_embedded import of_gold
from soft2hard.api.ledger import Spent
from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.dods.lexical import UNSEEN_FAMILIES, LexicalDoD, parse
from soft2hard.eval.cases import drawn_tasks
from soft2hard.eval.intervals import Interval
from soft2hard.eval.report import load_run
from soft2hard.eval.transfer.results import AnswerRow, MethodRow, Score, TransferResult
from tests.report_runs import FAMILIES, rows_of, write_run

UNSEEN = sorted(UNSEEN_FAMILIES)[0]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run whose last family is one that the translator has not met."""
    monkeypatch.setattr("tests.report_runs.FAMILIES", (*FAMILIES[:3], UNSEEN))
    return load_run(write_run(tmp_path / "run"))


def test_recovery_is_a_ratio_of_means_apart_over_seen_and_unseen_families(run) -> None:
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in markdown(run).splitlines()}
    for at, unseen in ((1, False), (3, True)):
        of = {m: [r.score for r in run.rows if r.method == m and (r.family == UNSEEN) == unseen] for m in run.methods}
        for method in run.methods:
            expected = np.mean(of[method]) / np.mean(of["soft_prompt"])
            assert cells[method][at].startswith(f"{expected:.3f} [")
    rows = [r for r in run.rows if r.method == "translator"]
    assert cells["translator"][0].startswith(f"{np.mean([r.score for r in rows]):.3f} [")
    assert cells["translator"][2].startswith(f"{np.mean([r.exact_task for r in rows if r.family != UNSEEN]):.3f}")
    assert cells["translator"][5].startswith(f"{np.mean([r.explained_share for r in rows]):.3f} [")
    assert cells["translator"][6] == f"{np.mean([r.seconds for r in rows]):.1f}"
    assert cells["none"][2] == cells["none"][4] == "–"
    assert markdown(run).endswith("9 tasks of seen families, 3 of unseen ones.")


def test_without_soft_prompts_there_is_no_recovery(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", [row for row in rows_of() if row.method == "gold"]))
    [line] = [line for line in markdown(run).splitlines() if line.startswith("| gold")]
    assert line.split(" | ")[2] == "–"


def test_the_pictures_are_drawn_also_where_methods_fail_or_lack_a_figure(tmp_path: Path) -> None:
    rows = [
        replace(r, score=None, prompt=None, perplexity=None, failure="gave up") if r.method == "pez" else r
        for r in rows_of(4)
    ]
    run = load_run(write_run(tmp_path / "run", rows))
    for draw, name in ((draw_families, "a.png"), (draw_methods, "b.svg")):
        draw(run, tmp_path / "figures" / name)
        assert (tmp_path / "figures" / name).stat().st_size > 1000


def test_the_demo_shows_a_test_task_of_every_family() -> None:
    shown = drawn_tasks(demo_evaluation(15, 0).tasks, "test", 0)
    assert len({task.family for task in shown}) == len(shown) == 15
    assert {parse(task.instruction).split for task in shown} == {"test"}


def test_a_transfer_is_told_as_a_share_of_what_gold_instructions_do_there() -> None:
    interval = Interval(0.5, 0.5, 0.5)
    rows = tuple(MethodRow("m", name, Score(interval, 2, 4, 0, 0), 0.9, None, 0, 0) for name in ("gold", "pez", "odd"))
    right = {"gold": (True, True, True, False), "pez": (True, False, False, False), "odd": ()}
    answers = tuple(
        AnswerRow("m", method, "1", f"task {i // 2}", i, 0, "x", "Yes", "", "yes" if hit else "no", False, None, None)
        for method, of_method in right.items()
        for i, hit in enumerate(of_method)
    )
    result = TransferResult(rows, {}, Spent(0.0, 0, 0.0), None, answers, {})
    shares = of_gold(result)
    assert shares["gold"].value == 1 and shares["pez"].value == pytest.approx((0.5 + 0) / (1 + 0.5))
    table = transfer_table(result)
    assert f"| pez | 0.900 | {interval} | {shares['pez']} |" in table and f"| odd | 0.900 | {interval} | – |" in table


def test_few_shot_with_all_that_fits_leaves_room_for_every_input_and_for_no_further_example() -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_path("api_model"))
    drawn = [drawn.record(7, n_train=256) for drawn in LexicalDoD().draw("test", 15, 7)]
    task = next(task for task in drawn if task.family == "filter")
    [row] = all_that_fit([task], embedded_path("api_model"))
    shown = row.prompt.count("Input:")
    assert 8 < shown < len(task.train)
    sizes = [len(tokenizer.encode(f"{row.prompt}\nInput: {e.input}\nOutput:")) for e in task.test]
    one = len(tokenizer.encode(row.prompt)) / shown
    assert max(sizes) + 24 <= 1024 < max(sizes) + 24 + 3 * one
