"""The report of evaluation runs: its figures, its comparisons, what it refuses, and what it makes of hostile text."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from sklearn.metrics import roc_auc_score

from soft2hard.api.ledger import Spent
from soft2hard.checkpoints import embedded_path
from soft2hard.errors import UserError
from soft2hard.eval.config import read_config
from soft2hard.eval.harness import Harness
from soft2hard.eval.intervals import Interval, mean_interval, ratio_interval
from soft2hard.eval.report import Run, load_run, plain, write_report
from soft2hard.eval.report.charts import soft_prompt_map
from soft2hard.eval.report.figures import (
    RECOVERY,
    SCORE,
    compare,
    differences,
    estimate,
    interval_text,
    number_text,
    per_task,
)
from soft2hard.eval.report.parts import Section, Table
from soft2hard.eval.report.sections import contents
from soft2hard.eval.results import HALVES, SHUFFLED, mauve_points
from soft2hard.eval.run_records import ReferencePerplexity, ResultRow
from soft2hard.eval.transfer.results import AnswerRow, MethodRow, Score, TransferResult
from soft2hard.lm.subject import Subject
from tests import command_line
from tests.report_runs import HOSTILE, record_of, rows_of, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that `rows_of` describes."""
    return load_run(write_run(tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture
def run_of(tmp_path: Path):
    """Makes a run of rows."""
    names = iter("abcdefgh")
    return lambda rows, record=None: load_run(write_run(tmp_path / next(names), rows, record))


class Elements(HTMLParser):
    """Names of the elements and attributes of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


@cache
def parts_of(run: Run) -> list[Section]:
    return contents(run, [], ())


def section(run: Run, title: str, transfers: tuple = ()) -> Section | None:
    parts = contents(run, [], transfers) if transfers else parts_of(run)
    return next((part for part in parts if part.title == title), None)


def lines(table: Table) -> list[dict]:
    """The rows of a table by the names of its columns."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def all_figures(run: Run, method: str) -> dict:
    return next(line for line in lines(section(run, "Methods").tables[1]) if line["method"] == method)


def of_method(rows: list[ResultRow], method: str) -> list[ResultRow]:
    return [row for row in rows if row.method == method]


def seed_means(rows: list[ResultRow], method: str, key: str) -> dict[str, float]:
    """A figure by task, averaged over seeds, straight from the rows."""
    own = of_method(rows, method)
    return {
        t: float(np.mean([getattr(r, key) for r in own if r.task == t])) for t in dict.fromkeys(r.task for r in own)
    }


def failing(row: ResultRow, reason: str = "out of memory") -> ResultRow:
    """The row as a failed cell."""
    return ResultRow(row.method, row.task, row.family, row.seed, "none", failure=reason, seconds=row.seconds)


# Figures


def test_a_run_is_read_back_as_it_was_written(run: Run):
    assert list(run.rows) == rows_of()
    assert run.record == record_of(rows_of())
    assert [task.examples for task in run.tasks][0] == (("input 0", "yes"),)
    assert len(run.soft_prompts) == 24 and run.soft_prompts[0, "task-00"].shape == (3, 8)


def test_whole_numbers_and_truth_values_survive_a_column_that_became_floating_point(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    frame = pyarrow.parquet.read_table(folder / "results.parquet").to_pandas()
    frame["exact_task"] = frame["exact_task"].astype("float")
    frame["tokens"] = frame["tokens"].astype("float")
    frame.to_parquet(folder / "results.parquet")
    assert list(load_run(folder).rows) == rows_of()


def test_a_run_from_before_the_explained_share_is_reported_and_compared(tmp_path: Path):
    folder, after = write_run(tmp_path / "old"), load_run(write_run(tmp_path / "new"))
    table = pyarrow.parquet.read_table(folder / "results.parquet")
    pyarrow.parquet.write_table(table.drop_columns("explained_share"), folder / "results.parquet")
    before = load_run(folder)
    assert list(before.rows) == [replace(row, explained_share=None) for row in rows_of()]
    for path in write_report([before], tmp_path / "old.html"):
        assert "Agreement" in path.read_text() and "Explained share" not in path.read_text()
    for path in write_report([before, after], tmp_path / "both.html"):
        assert "Explained share" in path.read_text()
    assert "explained_share" not in {change.figure.key for change in compare(before, after).changes}
    shown = run_command(folder)
    assert shown.exit_code == 0 and "Recovery" in shown.stderr and "Explained share" not in shown.stderr


def test_the_main_table_averages_seeds_first_and_bootstraps_tasks(run: Run, tmp_path: Path):
    rows = rows_of()
    page, summary = write_report([run], tmp_path / "report.html")
    for line in lines(section(run, "Methods").tables[0]):
        scores = seed_means(rows, line["method"], "score")
        expected = mean_interval(list(scores.values()))
        assert line["Score"] == expected
        ratio = ratio_interval(list(scores.values()), list(seed_means(rows, "soft_prompt", "score").values()))
        assert line["Recovery"] == ratio
        assert f"{expected.value:.3f} <small>[{expected.low:.3f}, {expected.high:.3f}]</small>" in page.read_text()
        assert f"| {plain(line['method'])} | 0 of 24 | {interval_text(expected)} |" in summary.read_text()


def test_a_task_at_several_lengths_is_one_task_to_an_interval(run: Run):
    """What does not depend on the length would otherwise look the surer the more lengths there are."""
    twice = [replace(row, task=f"{row.task}, {n} tokens") for n in (5, 20) for row in rows_of()]
    of_lengths = replace(run, rows=tuple(twice), record=replace(run.record, config={"tasks": {"lengths": [5, 20]}}))
    for figure in (SCORE, RECOVERY):
        assert estimate(of_lengths, "pez", figure) == estimate(run, "pez", figure)
    assert [test for *_, test in differences(of_lengths)] == [test for *_, test in differences(run)]


def test_perplexities_are_averaged_geometrically(run: Run):
    logs = [np.log(row.perplexity) for row in of_method(rows_of(), "pez")]
    assert all_figures(run, "pez")["Perplexity"].value == pytest.approx(np.exp(np.mean(logs)))


def test_failed_cells_count_as_zero_in_shares_and_are_left_out_of_what_has_no_worst_value(run_of):
    rows = rows_of()
    first = next(i for i, row in enumerate(rows) if row.method == "pez")
    rows[first] = failing(rows[first])
    run = run_of(rows)
    line = all_figures(run, "pez")
    scores = [row.score or 0.0 for row in of_method(rows, "pez")]
    losses = list(seed_means(rows[first + 1 :], "pez", "loss").values())
    assert line["failed"] == "1 of 24"
    assert line["Score"].value == pytest.approx(np.mean(scores))
    assert line["ROUGE-L"].value == pytest.approx(np.mean(scores) / 2)
    explained = [row.explained_share or 0.0 for row in of_method(rows, "pez")]
    assert line["Explained share"].value == pytest.approx(np.mean(explained)) and min(explained) < 0
    assert line["Loss"].value == pytest.approx(np.mean(losses))
    assert section(run, "Failures").tables[0].rows == [["pez", 1, "out of memory"]]


def test_a_method_that_always_fails_scores_zero_and_gets_no_text_figures(run_of):
    line = all_figures(run_of([failing(row) if row.method == "pez" else row for row in rows_of()]), "pez")
    assert line["Score"].value == 0 and line["ROUGE-L"] is None


def test_cells_without_a_row_and_figures_without_all_tasks_are_said(tmp_path: Path, run_of):
    rows = [replace(r, perplexity=None) if (r.method, r.task) == ("pez", "task-03") else r for r in rows_of()]
    for path in write_report([run_of(rows[:-1], record_of(rows))], tmp_path / "report.html"):
        assert "translator has no row for 1 cells" in path.read_text()
        assert "Over fewer than all 12 tasks: pez, Perplexity: 11" in path.read_text()


def test_costs_are_means_and_sums_over_all_cells(run: Run):
    line = lines(section(run, "Cost").tables[0])[-1]
    own = of_method(rows_of(), "translator")
    mean, total = np.mean([row.seconds for row in own]), np.sum([row.seconds for row in own])
    assert line["Seconds"] == f"{number_text(mean)} ({number_text(total)})"
    assert line["Model calls"] == f"{number_text(100.0)} ({number_text(100.0 * len(own))})"


def test_recovery_of_a_family_is_the_ratio_of_mean_scores_over_its_tasks(run: Run):
    own = [row.score for row in rows_of() if row.method == "pez" and row.family == "pick"]
    soft = [row.score for row in rows_of() if row.method == "soft_prompt" and row.family == "pick"]
    line = next(line for line in lines(section(run, "Families").tables[0]) if line["family"] == "pick")
    assert (line["pez"], line["tasks"]) == (f"{np.mean(own) / np.mean(soft):.2f}", 3) and "soft_prompt" not in line


def test_without_soft_prompts_there_is_no_recovery_and_the_page_says_so(tmp_path: Path):
    folder = write_run(tmp_path / "run", [row for row in rows_of() if row.method != "soft_prompt"])
    (folder / "soft_prompts.safetensors").unlink()
    run = load_run(folder)
    page, _ = write_report([run], tmp_path / "report.html")
    text = page.read_text()
    assert "so there is no recovery" in text and "Map of the soft prompts" not in text
    assert "Recovery" not in section(run, "Methods").tables[1].columns


def test_a_confidence_that_is_no_share_is_left_out_and_said(run_of):
    run = run_of([replace(row, confidence=180.0) if row.method == "pez" else row for row in rows_of()])
    found = section(run, "Calibration")
    assert any("The confidence of pez leaves the range" in note for note in found.notes)
    assert {trace.name for chart in found.charts for trace in chart.data} == {"translator"}
    assert len(found.charts) == 2  # score and agreement


def test_confidence_is_judged_by_whether_a_prompt_does_nine_tenths_of_its_soft_prompts_work(run_of):
    # A soft prompt that scores nothing is nothing to fall short of.
    zero = {("task-00", "soft_prompt"), ("task-00", "translator")}
    rows = [replace(r, score=0.0) if (r.task, r.method) in zero else r for r in rows_of()]
    [line] = lines(section(run_of(rows), "Calibration").tables[0])
    soft = {(r.task, r.seed): r.score for r in of_method(rows, "soft_prompt")}
    own = [r for r in of_method(rows, "translator") if r.task != "task-00"]
    success = np.array([r.score >= 0.9 * soft[r.task, r.seed] for r in own])
    confidence = np.array([r.confidence for r in own])
    assert (line["cells"], line["left out"], line["succeed"]) == (len(own), 2, success.mean())
    assert line["AUROC"] == pytest.approx(roc_auc_score(success, confidence))
    kept = confidence >= line["from"]
    assert kept.mean() == line["kept"] and success[kept].mean() >= 0.95


def test_verdicts_are_set_against_the_soft_prompts_they_were_given_for(run: Run):
    rows = rows_of()
    soft = {(r.task, r.seed): r.score for r in of_method(rows, "soft_prompt")}
    found = lines(section(run, "Calibration").tables[1])
    assert [(line["method"], line["verdict"]) for line in found] == [
        ("translator", "faithful"),
        ("translator", "doubtful"),
    ]
    for line in found:
        part = [r for r in of_method(rows, "translator") if r.verdict == line["verdict"]]
        assert (line["cells"], line["score"]) == (len(part), pytest.approx(np.mean([r.score for r in part])))
        base = sum(soft[r.task, r.seed] for r in part)
        assert line["recovery"] == pytest.approx(sum(r.score for r in part) / base)


def test_methods_are_ranked_and_every_pair_is_compared_on_its_common_tasks(run: Run, run_of):
    rows = rows_of()
    means = {m: np.mean([r.score for r in of_method(rows, m)]) for m in run.methods}
    order = sorted(means, key=lambda m: -means[m])
    found = section(run, "Differences")
    neighbours, pairs = found.tables
    assert [tuple(row[:2]) for row in neighbours.rows] == list(zip(order, order[1:], strict=False))
    assert len(pairs.rows) == 6 * 5 / 2
    assert all(row[2].value == pytest.approx(means[row[0]] - means[row[1]]) for row in pairs.rows)
    assert {(a, b): float(p) for a, b, _, p, _ in pairs.rows}["gold", "none"] < 0.001
    assert "<b>" in found.charts[0].data[0].text[0][-1]
    same = section(run_of([replace(r, score=0.5 + 0.1 * (i % 2)) for i, r in enumerate(rows)]), "Differences")
    assert not any("<b>" in text for row in same.charts[0].data[0].text for text in row)


def test_the_perplexity_of_gold_instructions_stands_beside_that_of_prompts(tmp_path: Path, run_of):
    record = replace(record_of(rows_of()), reference_perplexity=ReferencePerplexity(9.6, 471.0, 12))
    run = run_of(rows_of(), record)
    assert run.record.reference_perplexity == record.reference_perplexity
    for path in write_report([run], tmp_path / "report.html"):
        assert "gold instructions themselves have a perplexity of 9.600, words shuffled 471.0" in path.read_text()


def searched(prompt: str, steps: list[int], scores: list[float], perplexities: list[float]) -> dict:
    """The trace of a search."""
    points = zip(steps, scores, perplexities, strict=True)
    return {"curve": [{"step": i, "prompt": prompt, "score": s, "perplexity": p} for i, s, p in points]}


def test_kinds_of_text_stand_in_the_order_of_their_mauve(tmp_path: Path):
    """105 gold instructions of the lexical world are of the kind of its phrasings; their shuffled words are not. Seeds
    that give the same texts once more change nothing."""
    tasks = "tasks: {dod: lexical, n: 105, n_test: 1, n_validation: 1, n_train: 8}"
    config = f"{tasks}\ntuning: {{steps: 1}}\nseeds: [0, 1]\nmethods: [none, gold]\n"
    (tmp_path / "gold.yaml").write_text(config)
    done = command_line.run("evaluate", tmp_path / "gold.yaml", "-o", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    run = load_run(tmp_path / "run")
    kinds = run.record.mauve
    assert list(kinds) == ["gold", HALVES, SHUFFLED]  # none writes no text
    assert kinds["gold"]["texts"] == 105
    assert min(kinds["gold"]["mauve"], kinds[HALVES]["mauve"]) > 0.6 > kinds[SHUFFLED]["mauve"]
    harness = Harness(read_config(tmp_path / "gold.yaml"), tmp_path / "run")
    cases = {seed: harness.cases(seed, "test") for seed in (0, 1)}
    reference = Subject.from_pretrained(embedded_path("api_model"))
    once = mauve_points([row for row in run.rows if row.seed == 0], cases, reference)
    assert once["gold"] == pytest.approx(kinds["gold"])
    [section] = [part for part in contents(run, [], ()) if part.title == "Kind of text"]
    values = [row[2] for row in section.tables[0].rows]
    assert values == sorted(values, reverse=True) and len(values) == 3


def test_searches_are_shown_by_step_and_one_that_stopped_keeps_its_last_value(tmp_path: Path, run_of):
    rows = of_method(rows_of(2, (0,)), "pez")
    traces = [
        searched("a", [0, 10, 20], [0.0, 0.5, 1.0], [100, 10, 4]),
        searched("b", [0, 10], [0.0, 0.1], [400, 1000]),
    ]
    run = run_of([replace(row, trace=trace) for row, trace in zip(rows, traces, strict=True)])
    found = section(run, "Searches by step")
    [line] = lines(found.tables[0])
    assert (line["looks"], line["first step"], line["last step"]) == (3, 0, 20)
    assert [line["score, first"], line["score, last"]] == pytest.approx([0.0, 0.55])
    # Geometric means: of 100 and 400, of 4 and 1000.
    assert [line["perplexity, first"], line["perplexity, last"]] == pytest.approx([200.0, np.sqrt(4000.0)])
    score, natural = found.charts
    assert list(score.data[0].y) == pytest.approx([0.0, 0.3, 0.55]) and natural.layout.yaxis.type == "log"
    assert "Searches by step" in write_report([run], tmp_path / "report.html")[1].read_text()
    assert section(run_of(rows_of()), "Searches by step") is None  # a translator's trace is no search's


def test_trials_of_few_tasks_are_shown_with_their_spread(run_of, run: Run):
    rows = of_method(rows_of(1, (0, 1, 2)), "pez")
    figures = [(0.2, 10.0, 0.5), (0.4, 1000.0, 0.1), (0.9, 100.0, 0.3)]
    rows = [
        replace(row, score=score, perplexity=perplexity, performance_differential=differential)
        for row, (score, perplexity, differential) in zip(rows, figures, strict=True)
    ]
    record = replace(record_of(rows), reference_perplexity=ReferencePerplexity(9.6, 471.0, 1, 30.0))
    found = section(run_of(rows, record), "Trials")
    [line] = lines(found.tables[0])
    assert line["trials"] == 3
    assert line["score"] == pytest.approx(0.5) and line["deviation"] == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert (line["lowest"], line["highest"]) == (0.2, 0.9) and line["performance differential"] == pytest.approx(0.3)
    assert [line[key] for key in ("perplexity", "least", "most")] == pytest.approx([100.0, 10.0, 1000.0])
    marks, *natural = found.charts[0].data
    assert sorted(marks.x) == [10.0, 100.0, 1000.0]
    assert {trace.name: trace.x[0] for trace in natural} == {"gold instructions": 9.6, "test inputs": 30.0}
    assert section(run_of(rows_of(2, (0,))), "Trials") is None  # one seed has no spread
    assert section(run_of(rows_of(20)), "Trials") is None  # over many tasks means say more


def transferred(model: str, task: str = "task-00") -> TransferResult:
    interval = Interval(0.75, 0.5, 1.0)
    rows = (
        MethodRow(model, "gold", Score(interval, 12, 90, 2, 6), 0.96, 0.25, 1000, 90),
        MethodRow(model, "pez", Score(None, 0, 0, 0, 96), 0.4, None, 0, 0),
    )
    answer = AnswerRow(model, "gold", "1", task, 0, 0, "input", "yes", " yes", "yes", False, None, 0.01)
    return TransferResult(rows, {}, Spent(0.25, 0, 0.0), None, (answer,), {})


def test_results_of_a_transfer_stand_beside_the_subjects_scores(run: Run, tmp_path: Path):
    results = (transferred("small"), transferred("lar|ge"))
    page, summary = write_report([run], tmp_path / "r.html", results)
    text = summary.read_text()
    for model in ("small", "lar\\|ge"):
        assert f"| gold | {model} | 0.960 | 0.750 [0.500, 1.000] | 90 | 2 | 6 | 1000 | 90 | \\$0.25 |" in text
        assert f"| pez | {model} | 0.400 | – | 0 | 0 | 96 | 0 | 0 | unknown |" in text
    assert "Transfer to API models" in page.read_text()
    [chart] = section(run, "Transfer to API models", results).charts
    assert [(t.name, list(t.x), list(t.y)) for t in chart.data] == [
        ("small", [0.96], [0.75]),
        ("lar|ge", [0.96], [0.75]),
    ]


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([transferred("small"), transferred("small")], "Two results have gold on small"),
        ([transferred("small", "task-77x")], "tasks that the run run lacks, such as 'task-77x'"),
    ],
)
def test_results_of_other_tasks_or_given_twice_are_refused(run: Run, tmp_path: Path, results: list, said: str):
    with pytest.raises(UserError, match=said):
        write_report([run], tmp_path / "r.html", results)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(("share", "is_said"), [(0.48, True), (0.004, False)])
def test_a_run_whose_words_the_subject_does_not_know_says_so(tmp_path: Path, run_of, share: float, is_said: bool):
    rows = rows_of(4)
    record = replace(record_of(rows), unknown_tokens=share, dropped={"texts that are <too> long": 7})
    for path in write_report([run_of(rows, record)], tmp_path / "r.html"):
        text = path.read_text()
        assert ("unknown to the subject" in text) == is_said
        assert "7 texts that are &lt;too&gt; long" in text


def test_the_map_of_a_few_soft_prompts_in_a_plane_keeps_all_distances():
    random = np.random.default_rng(0)
    plane = random.standard_normal((7, 2)) @ random.standard_normal((2, 20)) + 3
    keys, places, _ = soft_prompt_map({i: vector.reshape(4, 5) for i, vector in enumerate(plane)})
    apart = np.linalg.norm(plane[:, None] - plane[None], axis=-1)
    assert keys == list(range(7))
    assert np.allclose(np.linalg.norm(places[:, None] - places[None], axis=-1), apart)
    assert soft_prompt_map({"one": np.ones((2, 3))})[1].tolist() == [[0, 0]]


def test_the_map_places_every_soft_prompt_also_where_lengths_differ(tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    folder = write_run(tmp_path / "run")
    path = folder / "soft_prompts.safetensors"
    save_file(load_file(path) | {"0/task-00": np.ones((5, 8), "float32")}, path)
    [chart] = section(load_run(folder), "Map of the soft prompts").charts
    names = [name for trace in chart.data for name in trace.hovertext]
    assert len(names) == 24 and all(np.isfinite(trace.x).all() for trace in chart.data)
    assert sorted(name for name in names if "number 3." in name) == [
        f"Instruction number 3. (task-03, seed {seed})" for seed in (0, 1)
    ]


def test_training_curves_are_what_was_logged(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    [chart] = section(load_run(folder), "Training").charts
    curves = {trace.name: (list(trace.x), list(trace.y)) for trace in chart.data}
    assert curves["eval_loss"] == ([40, 80], [1.5, 1.1]) and len(curves["loss"][0]) == 8 and "epoch" not in curves
    (folder / "training.jsonl").unlink()
    assert section(load_run(folder), "Training") is None


# Comparison


def test_a_gain_beyond_chance_is_better_and_everything_else_is_no_clear_change(run: Run, run_of):
    before = run_of(rows_of(shift=-0.2))
    found = {(c.method, c.figure.key): c for c in compare(before, run).changes}
    old, new = per_task(before, "translator", SCORE), per_task(run, "translator", SCORE)
    gain = found["translator", "score"]
    assert gain.difference == mean_interval(np.subtract(list(new.values()), list(old.values())))
    assert gain.verdict == found["translator", "loss"].verdict == "better"
    assert {c.verdict for (method, _), c in found.items() if method != "translator"} == {"no clear change"}
    back = {(c.method, c.figure.key): c for c in compare(run, before).changes}
    assert back["translator", "score"].verdict == back["translator", "loss"].verdict == "worse"


def test_runs_are_compared_over_the_tasks_and_methods_that_both_have(run_of):
    before = run_of([r for r in rows_of(12) if r.method != "pez"])
    comparison = compare(before, run_of(rows_of(8, shift=-0.3)))
    assert comparison.n_tasks == 8 and comparison.only_after == ("pez",)
    assert {c.n_tasks for c in comparison.changes if c.figure is SCORE} == {8}
    assert ("config.n_tasks", "12", "8") in comparison.settings
    losers = [(before, after) for method, _, before, after, *_ in comparison.tasks if method == "translator"]
    assert losers and all(after < before for before, after in losers)


def test_a_handful_of_tasks_decides_nothing(run_of):
    comparison = compare(run_of(rows_of(5, shift=-0.5)), run_of(rows_of(5)))
    assert {c.verdict for c in comparison.changes} == {"too few tasks"}


def test_perplexities_are_compared_by_their_factor(run: Run, run_of):
    after = run_of([replace(row, perplexity=row.perplexity and row.perplexity / 2) for row in rows_of()])
    change = next(c for c in compare(run, after).changes if (c.method, c.figure.key) == ("pez", "perplexity"))
    assert change.difference.value == pytest.approx(0.5) and change.verdict == "better"


def test_runs_without_a_common_task_are_refused(tmp_path: Path, run_of):
    rows = rows_of(12)
    before, after = run_of([r for r in rows if r.task < "task-06"]), run_of([r for r in rows if r.task >= "task-06"])
    with pytest.raises(UserError, match="a and b have no tasks in common"):
        write_report([before, after], tmp_path / "report.html")
    assert not list(tmp_path.glob("report*"))


# The page and the summary


def test_hostile_text_is_neither_markup_nor_the_end_of_the_data(tmp_path: Path):
    rows = [replace(row, prompt=row.prompt and HOSTILE) for row in rows_of(6)]
    rows[-1] = failing(rows[-1], HOSTILE)
    label = f"pez {HOSTILE}"
    rows = [replace(row, method=label) if row.method == "pez" else row for row in rows]
    record = replace(record_of(rows), commit=HOSTILE, config={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE})
    before = load_run(write_run(tmp_path / "before", rows_of(6, shift=-0.3)))
    run = load_run(write_run(tmp_path / HOSTILE.replace("/", "")[:40], rows, record))
    page, summary = write_report([before, run], tmp_path / "report.html")
    text = page.read_text()
    chart_count = text.count('class="chart"')
    ours = re.sub(r"<script>.*?</script>", "<script></script>", text, flags=re.S)  # Plotly's text names elements
    assert len(re.findall(r"<script", ours)) == len(re.findall(r"</script", ours)) == chart_count + 2
    found = Elements(ours)
    assert "img" not in found.names and not any(name.startswith("on") for name in found.attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in ours
    for block in re.findall(r'class="chart">(.*?)</script>', ours, re.S):
        assert "<script" not in json.dumps(json.loads(block))  # labels are escaped for Plotly, too
    assert not re.search(r"(?m)^(?!    ).*<(script|img)", summary.read_text())


def test_the_policy_lets_only_the_pages_own_scripts_run_and_nothing_be_requested(run: Run, tmp_path: Path):
    page, _ = write_report([run], tmp_path / "report.html")
    text = page.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'").split("; ")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy[:2] == ["default-src 'none'", "script-src " + " ".join(f"'sha256-{each}'" for each in hashes)]
    assert {"base-uri 'none'", "form-action 'none'", "img-src data: blob:"} <= set(policy)
    ours = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.search(r"""(src|href)=["'](?!#)""", ours) and "url(" not in ours and "@import" not in ours


def test_the_summary_has_the_table_the_failures_and_the_changes(tmp_path: Path, run_of):
    rows = rows_of()
    rows[-1] = failing(rows[-1], "a | b")
    run = run_of(rows)
    _, summary = write_report([run_of(rows_of(shift=-0.3)), run], tmp_path / "report.html")
    text, line = summary.read_text(), all_figures(run, "pez")
    assert f"| pez | 0 of 24 | {line['Score']} | {line['Recovery']} |" in text
    assert "| translator | 1 | a \\| b |" in text and "| translator | Score | 12 |" in text
    assert "| commit | 0123abc |" in text


@pytest.mark.parametrize("text", ["a\nb", "*b* _c_ `d`", "[x](http://y)", "<b>", "# h", "www.x.org", "| a |"])
def test_text_in_markdown_stays_text(text: str):
    escaped = plain(text)
    assert "\n" not in escaped and "<" not in escaped and "://" not in escaped and "www." not in escaped
    assert not re.search(r"(?<!\\)[*_`\[\]|]|^#", escaped)


# What is refused


def run_command(*arguments: object) -> command_line.Result:
    return command_line.run("report", *arguments)


def test_the_command_writes_page_and_summary_into_the_last_run(tmp_path: Path):
    before, after = (write_run(tmp_path / name, rows_of(6)) for name in ("before", "after"))
    result = run_command(before, after)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(after / "report.html"), str(after / "report.md")]
    assert all(said in result.stderr for said in ("translator", "Recovery", "Explained share"))
    assert "Changes since before" in (after / "report.html").read_text()
    assert not (before / "report.html").exists()


def missing(folder: Path) -> None:
    folder.rename(folder.with_name("gone"))


def no_run(folder: Path) -> None:
    (folder / "run.json").unlink()


def other_run(folder: Path) -> None:
    (folder / "run.json").write_text('{"schema_version": 1, "settings": {}}')


def unfinished(folder: Path) -> None:
    edit_record(folder, seconds=None)


def without_results(folder: Path) -> None:
    (folder / "results.parquet").unlink()


def newer(folder: Path) -> None:
    edit_record(folder, schema_version=99)


def cut_record(folder: Path) -> None:
    (folder / "run.json").write_text('{"schema')


def cut_results(folder: Path) -> None:
    path = folder / "results.parquet"
    path.write_bytes(path.read_bytes()[:200])


def cut_tasks(folder: Path) -> None:
    (folder / "tasks.json").write_text('[{"name": "task-00"}]')


def cut_soft_prompts(folder: Path) -> None:
    (folder / "soft_prompts.safetensors").write_bytes(b"\0" * 20)


def cut_training(folder: Path) -> None:
    (folder / "training.jsonl").write_text('{"step": 1}\n{"st')


def doubled_cell(folder: Path) -> None:
    edit_rows(folder, lambda lines: [*lines, lines[0]])


def unknown_method(folder: Path) -> None:
    edit_rows(folder, lambda lines: [lines[0] | {"method": "other"}, *lines[1:]])


def score_of_two(folder: Path) -> None:
    edit_rows(folder, lambda lines: [lines[0] | {"score": 2.0}, *lines[1:]])


def word_for_kind(folder: Path) -> None:
    edit_rows(folder, lambda lines: [lines[0] | {"kind": "medium"}, *lines[1:]])


def edit_record(folder: Path, **values: object) -> None:
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(document | values))


def edit_rows(folder: Path, change) -> None:
    path = folder / "results.parquet"
    lines = change(pyarrow.parquet.read_table(path).to_pylist())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, "There is no folder"),
        (no_run, "is not a run: there is no run.json"),
        (other_run, "is not of an evaluation"),
        (unfinished, "is unfinished"),
        (without_results, "is unfinished: there is no results.parquet"),
        (newer, "schema version 99; this soft2hard reads up to 1. Update soft2hard"),
        (cut_record, "run.json is damaged"),
        (cut_results, "results.parquet is damaged"),
        (cut_tasks, "tasks.json is damaged: 0.family: Field required"),
        (cut_soft_prompts, "soft_prompts.safetensors is damaged"),
        (cut_training, "training.jsonl is damaged"),
        (doubled_cell, "stands in it 2 times"),
        (unknown_method, "the run knows no method 'other'"),
        (score_of_two, "the score 2.0 is not between 0 and 1"),
        (word_for_kind, "0.kind: Input should be 'hard', 'soft' or 'none'"),
    ],
)
def test_a_run_that_cannot_be_trusted_is_refused_in_one_line(tmp_path: Path, spoil, message: str):
    folder = write_run(tmp_path / "run", rows_of(2))
    spoil(folder)
    result = run_command(folder, "--output", tmp_path / "report.html")
    assert result.exit_code == 2
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*report*"))


@pytest.mark.parametrize("blocked", ["report.html", "report.md"])
def test_where_one_file_cannot_be_written_neither_is(tmp_path: Path, blocked: str):
    folder = write_run(tmp_path / "run", rows_of(2))
    (tmp_path / blocked).mkdir()
    result = run_command(folder, "--output", tmp_path / "report.html")
    assert result.exit_code == 2 and "a folder of that name exists" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if "report" in path.name] == [blocked]


def test_an_output_that_is_no_page_is_refused(tmp_path: Path):
    result = run_command(write_run(tmp_path / "run", rows_of(2)), "--output", tmp_path / "report.pdf")
    assert result.exit_code == 2 and "does not end in .html" in result.stderr
