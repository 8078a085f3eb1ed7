"""The report of evaluation runs: its figures, its comparisons, what it refuses, and what it makes of hostile text."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import typer
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner, Result

from soft2hard.api.ledger import Spent
from soft2hard.cli.app import _Commands
from soft2hard.cli.report import report
from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval, difference_interval, mean_interval, ratio_interval
from soft2hard.eval.records import ReferencePerplexity, ResultRow
from soft2hard.eval.report import load_run, write_report
from soft2hard.eval.report.calibration import discriminations, reliability
from soft2hard.eval.report.comparison import compare
from soft2hard.eval.report.differences import differences, neighbours, ranked
from soft2hard.eval.report.figures import SCORE, per_task
from soft2hard.eval.report.markdown import plain
from soft2hard.eval.report.soft_prompt_map import principal_components
from soft2hard.eval.report.tables import costs, failures, family_cells, main_table, verdict_lines
from soft2hard.eval.transfer.results import AnswerRow, MethodRow, Score, TransferResult
from tests.report_runs import HOSTILE, record_of, rows_of, write_run


def page_data(page: Path) -> dict:
    """The JSON that the page's scripts work with."""
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    return json.loads(block)


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


def column(table: dict, key: str, **where: object) -> list:
    """The values of a column in the rows that have these other values."""
    at = table["columns"].index
    return [row[at(key)] for row in table["rows"] if all(row[at(k)] == v for k, v in where.items())]


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


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path):
    rows = rows_of()
    run = load_run(write_run(tmp_path / "run", rows))
    assert list(run.rows) == rows
    assert run.record == record_of(rows)
    assert [task.examples for task in run.tasks][0] == (("input 0", "yes"),)
    assert len(run.soft_prompts) == 24 and run.soft_prompts[0, "task-00"].shape == (3, 8)


def test_whole_numbers_and_truth_values_survive_a_column_that_became_floating_point(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    frame = pyarrow.parquet.read_table(folder / "results.parquet").to_pandas()
    frame["exact_task"] = frame["exact_task"].astype("float")
    frame["tokens"] = frame["tokens"].astype("float")
    frame.to_parquet(folder / "results.parquet")
    assert list(load_run(folder).rows) == rows_of()


def test_the_main_table_averages_seeds_first_and_bootstraps_tasks(tmp_path: Path):
    rows = rows_of()
    run = load_run(write_run(tmp_path / "run", rows))
    page, _ = write_report([run], tmp_path / "report.html")
    table = page_data(page)["tables"]["main"]
    for method in run.methods:
        scores = seed_means(rows, method, "score")
        expected = mean_interval(list(scores.values()))
        shown = [column(table, f"score{end}", method=method)[0] for end in ("", " low", " high")]
        assert shown == pytest.approx([expected.value, expected.low, expected.high])
        ratio = ratio_interval(list(scores.values()), list(seed_means(rows, "soft_prompt", "score").values()))
        assert column(table, "recovery", method=method) == [pytest.approx(ratio.value)]
        value = f"{expected.value:.3f}<small>{expected.low:.3f} – {expected.high:.3f}</small>"
        assert value in page.read_text()


def test_perplexities_are_averaged_geometrically(tmp_path: Path):
    rows = rows_of()
    line = next(x for x in main_table(load_run(write_run(tmp_path / "run", rows))) if x.method == "pez")
    logs = [np.log(row.perplexity) for row in of_method(rows, "pez")]
    assert line.figures["perplexity"].interval.value == pytest.approx(np.exp(np.mean(logs)))


def test_failed_cells_count_as_zero_in_shares_and_are_left_out_of_what_has_no_worst_value(tmp_path: Path):
    rows = rows_of()
    first = next(i for i, row in enumerate(rows) if row.method == "pez")
    rows[first] = failing(rows[first])
    run = load_run(write_run(tmp_path / "run", rows))
    line = next(x for x in main_table(run) if x.method == "pez")
    scores = [row.score or 0.0 for row in of_method(rows, "pez")]
    losses = {t: v for t, v in seed_means(rows[first + 1 :], "pez", "loss").items()}
    assert line.n_failed == 1
    assert line.figures["score"].interval.value == pytest.approx(np.mean(scores))
    assert line.figures["rougeL"].interval.value == pytest.approx(np.mean(scores) / 2)
    assert line.figures["loss"].interval.value == pytest.approx(np.mean(list(losses.values())))
    assert [(f.method, f.reason, f.n, f.cells) for f in failures(run)] == [
        ("pez", "out of memory", 1, ((rows[first].task, 0),))
    ]


def test_a_method_that_always_fails_scores_zero_and_gets_no_text_figures(tmp_path: Path):
    rows = [failing(row) if row.method == "pez" else row for row in rows_of()]
    line = next(x for x in main_table(load_run(write_run(tmp_path / "run", rows))) if x.method == "pez")
    assert line.figures["score"].interval.value == 0 and line.figures["rougeL"] is None


def test_cells_without_a_row_are_said(tmp_path: Path):
    rows = rows_of()
    run = load_run(write_run(tmp_path / "run", rows[:-1], record_of(rows)))
    page, summary = write_report([run], tmp_path / "report.html")
    assert "translator: 1 cells have no row" in page.read_text()
    assert "translator has no row for 1 cells" in summary.read_text()


def test_costs_are_means_and_sums_over_all_cells(tmp_path: Path):
    rows = rows_of()
    line = costs(load_run(write_run(tmp_path / "run", rows)))[-1]
    seconds = [row.seconds for row in of_method(rows, "translator")]
    assert (line.mean["seconds"], line.total["seconds"]) == pytest.approx((np.mean(seconds), np.sum(seconds)))
    assert line.total["model_calls"] == sum(row.model_calls for row in of_method(rows, "translator"))


def test_recovery_of_a_family_is_the_ratio_of_mean_scores_over_its_tasks(tmp_path: Path):
    rows = rows_of()
    run = load_run(write_run(tmp_path / "run", rows))
    found = {(c.method, c.family): c for c in family_cells(run)}
    own = [row.score for row in rows if row.method == "pez" and row.family == "pick"]
    soft = [row.score for row in rows if row.method == "soft_prompt" and row.family == "pick"]
    assert found["pez", "pick"].recovery == pytest.approx(np.mean(own) / np.mean(soft))
    assert found["pez", "pick"].n_tasks == 3 and not any(method == "soft_prompt" for method, _ in found)


def test_without_soft_prompts_there_is_no_recovery_and_the_page_says_so(tmp_path: Path):
    rows = [row for row in rows_of() if row.method != "soft_prompt"]
    folder = write_run(tmp_path / "run", rows)
    (folder / "soft_prompts.safetensors").unlink()
    page, _ = write_report([load_run(folder)], tmp_path / "report.html")
    text, data = page.read_text(), page_data(page)
    assert "so there is no recovery" in text and "Map of the soft prompts" not in text
    assert "recovery" not in data["tables"]["main"]["columns"]


def test_reliability_bins_and_their_error_follow_the_definition():
    curve = reliability([0.05, 0.1, 0.15, 1.0, 0.9], [0, 1, 0, 1, 0.5])
    assert [(b.n, b.confidence, b.outcome) for b in curve.bins] == [
        (1, 0.05, 0.0),
        (2, pytest.approx(0.125), 0.5),
        (2, pytest.approx(0.95), 0.75),
    ]
    assert curve.error == pytest.approx((0.05 + 2 * 0.375 + 2 * 0.2) / 5)


def test_a_confidence_that_is_no_share_is_left_out_and_said(tmp_path: Path):
    rows = [replace(row, confidence=180.0) if row.method == "pez" else row for row in rows_of()]
    page, _ = write_report([load_run(write_run(tmp_path / "run", rows))], tmp_path / "report.html")
    assert "The confidence of pez leaves the range" in page.read_text()
    assert set(column(page_data(page)["tables"]["calibration score"], "method")) == {"translator"}


def test_confidence_is_judged_by_whether_a_prompt_does_nine_tenths_of_its_soft_prompts_work(tmp_path: Path):
    rows = rows_of()
    run = load_run(write_run(tmp_path / "run", rows))
    soft = {(r.task, r.seed): r.score for r in of_method(rows, "soft_prompt")}
    own = of_method(rows, "translator")
    # A soft prompt that scores nothing is nothing to fall short of.
    rows = [
        replace(r, score=0.0) if r.task == "task-00" and r.method in ("soft_prompt", "translator") else r for r in rows
    ]
    run = load_run(write_run(tmp_path / "zero", rows))
    assert next(iter(discriminations(run).values())).n_left_out == 2
    own = [r for r in own if r.task != "task-00"]
    success = np.array([r.score >= 0.9 * soft[r.task, r.seed] for r in own])
    confidence = np.array([r.confidence for r in own])
    (found,) = discriminations(run).values()
    assert (found.n, found.success) == (len(own), success.mean())
    assert found.auroc == pytest.approx(roc_auc_score(success, confidence))
    kept = confidence >= found.kept.threshold
    assert kept.mean() == found.kept.share and success[kept].mean() >= 0.95


def test_verdicts_are_set_against_the_soft_prompts_they_were_given_for(tmp_path: Path):
    rows = rows_of()
    soft = {(r.task, r.seed): r.score for r in of_method(rows, "soft_prompt")}
    lines = verdict_lines(load_run(write_run(tmp_path / "run", rows)))
    assert [(line.method, line.verdict) for line in lines] == [("translator", "faithful"), ("translator", "doubtful")]
    for line in lines:
        part = [r for r in of_method(rows, "translator") if r.verdict == line.verdict]
        assert (line.n, line.score) == (len(part), pytest.approx(np.mean([r.score for r in part])))
        base = sum(soft[r.task, r.seed] for r in part)
        assert line.recovery == pytest.approx(sum(r.score for r in part) / base)


def test_methods_are_ranked_and_every_pair_is_compared_on_its_common_tasks(tmp_path: Path):
    rows = rows_of()
    run = load_run(write_run(tmp_path / "run", rows))
    means = {m: np.mean([r.score for r in of_method(rows, m)]) for m in run.methods}
    order = ranked(run)
    assert [means[m] for m in order] == sorted(means.values(), reverse=True)
    found = differences(run)
    assert len(found) == 6 * 5 / 2
    assert all(d.paired.difference.value == pytest.approx(means[d.first] - means[d.second]) for d in found)
    assert [(d.first, d.second) for d in neighbours(run, found)] == list(zip(order, order[1:], strict=False))
    by_pair = {(d.first, d.second): d for d in found}
    assert by_pair["gold", "none"].clear and by_pair["gold", "none"].paired.p_value < 0.001
    noise = [replace(r, score=0.5 + 0.1 * (i % 2)) for i, r in enumerate(rows)]
    same = differences(load_run(write_run(tmp_path / "noise", noise)))
    assert not any(d.clear for d in same)


def test_the_perplexity_of_gold_instructions_stands_beside_that_of_prompts(tmp_path: Path):
    record = replace(record_of(rows_of()), reference_perplexity=ReferencePerplexity(9.6, 471.0, 12))
    run = load_run(write_run(tmp_path / "run", record=record))
    assert run.record.reference_perplexity == record.reference_perplexity
    page, summary = write_report([run], tmp_path / "report.html")
    for path in (page, summary):
        text = " ".join(path.read_text().split())
        assert "gold instructions themselves have" in text and "9.600" in text and "shuffled 471.0" in text


def transferred(model: str, task: str = "task-00") -> TransferResult:
    interval = Interval(0.75, 0.5, 1.0)
    rows = (
        MethodRow(model, "gold", Score(interval, 12, 90, 2, 6), 0.96, 0.25, 1000, 90),
        MethodRow(model, "pez", Score(None, 0, 0, 0, 96), 0.4, None, 0, 0),
    )
    answer = AnswerRow(model, "gold", "1", task, 0, 0, "input", "yes", " yes", "yes", False, None, 0.01)
    return TransferResult(rows, {}, Spent(0.25, 0, 0.0), None, (answer,), {})


def test_results_of_a_transfer_stand_beside_the_subjects_scores(tmp_path: Path):
    run = load_run(write_run(tmp_path / "run"))
    page, summary = write_report([run], tmp_path / "r.html", [transferred("small"), transferred("lar|ge")])
    text = summary.read_text()
    assert "| method | on the subject | small | lar\\|ge | cost, small | cost, lar\\|ge | not to be had |" in text
    score = "0.750 [0.500, 1.000]"
    assert f"| gold | 0.960 | {score} | {score} | \\$0.25 | \\$0.25 | 12 |" in text
    assert "| pez | 0.400 | – | – | unknown | unknown | 192 |" in text
    table = page_data(page)["tables"]["transfer"]
    assert column(table, "score", model="small", method="gold") == [0.75]
    assert column(table, "missing", model="lar|ge", method="pez") == [96]
    assert column(table, "price", model="small", method="pez") == [None]
    assert "Transfer to models behind an API" in page.read_text()


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([transferred("small"), transferred("small")], "Two results have gold on small"),
        ([transferred("small", "task-77x")], "tasks that the run run lacks, such as 'task-77x'"),
    ],
)
def test_results_of_other_tasks_or_given_twice_are_refused(tmp_path: Path, results: list, said: str):
    run = load_run(write_run(tmp_path / "run"))
    with pytest.raises(UserError, match=said):
        write_report([run], tmp_path / "r.html", results)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(("share", "is_said"), [(0.48, True), (0.004, False)])
def test_a_run_whose_words_the_subject_does_not_know_says_so(tmp_path: Path, share: float, is_said: bool):
    record = replace(record_of(rows_of()), unknown_tokens=share, dropped={"texts that are <too> long": 7})
    for path in write_report([load_run(write_run(tmp_path / "run", record=record))], tmp_path / "r.html"):
        text = path.read_text()
        assert ("unknown to the subject" in text) == is_said
        assert "7 texts that are &lt;too&gt; long" in text


def test_principal_components_keep_all_distances_of_points_in_a_plane():
    random = np.random.default_rng(0)
    plane = random.standard_normal((7, 2)) @ random.standard_normal((2, 20)) + 3
    places = principal_components(plane, 2)
    apart = np.linalg.norm(plane[:, None] - plane[None], axis=-1)
    assert np.allclose(np.linalg.norm(places[:, None] - places[None], axis=-1), apart)


def test_the_map_places_every_soft_prompt_also_where_lengths_differ(tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    folder = write_run(tmp_path / "run")
    path = folder / "soft_prompts.safetensors"
    save_file(load_file(path) | {"0/task-00": np.ones((5, 8), "float32")}, path)
    page, _ = write_report([load_run(folder)], tmp_path / "report.html")
    table = page_data(page)["tables"]["map"]
    assert len(table["rows"]) == 24 and np.isfinite(column(table, "x")).all()
    assert column(table, "instruction", task="task-03") == ["Instruction number 3."] * 2


def test_training_curves_are_what_was_logged(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    page, _ = write_report([load_run(folder)], tmp_path / "report.html")
    table = page_data(page)["tables"]["training"]
    assert column(table, "value", curve="eval_loss") == [1.5, 1.1] and column(table, "step", curve="eval_loss") == [
        40,
        80,
    ]
    (folder / "training.jsonl").unlink()
    page, _ = write_report([load_run(folder)], tmp_path / "report.html")
    assert "training" not in page_data(page)["charts"]


# Comparison


def test_a_gain_beyond_chance_is_better_and_everything_else_is_no_clear_change(tmp_path: Path):
    before = load_run(write_run(tmp_path / "before", rows_of(shift=-0.2)))
    after = load_run(write_run(tmp_path / "after", rows_of()))
    found = {(c.method, c.figure.key): c for c in compare(before, after).changes}
    old, new = per_task(before, "translator", SCORE), per_task(after, "translator", SCORE)
    gain = found["translator", "score"]
    assert gain.difference == difference_interval(list(new.values()), list(old.values()))
    assert gain.verdict == found["translator", "loss"].verdict == "better"
    assert {c.verdict for (method, _), c in found.items() if method != "translator"} == {"no clear change"}
    back = {(c.method, c.figure.key): c for c in compare(after, before).changes}
    assert back["translator", "score"].verdict == back["translator", "loss"].verdict == "worse"


def test_runs_are_compared_over_the_tasks_and_methods_that_both_have(tmp_path: Path):
    before = load_run(write_run(tmp_path / "before", [r for r in rows_of(12) if r.method != "pez"]))
    after = load_run(write_run(tmp_path / "after", rows_of(8, shift=-0.3)))
    comparison = compare(before, after)
    assert comparison.n_tasks == 8 and comparison.only_after == ("pez",)
    assert {c.n_tasks for c in comparison.changes if c.figure is SCORE} == {8}
    assert ("config.n_tasks", "12", "8") in comparison.settings
    losers = [t for t in comparison.tasks if t.method == "translator"]
    assert losers and all(t.after < t.before for t in losers)


def test_a_handful_of_tasks_decides_nothing(tmp_path: Path):
    before = load_run(write_run(tmp_path / "before", rows_of(5, shift=-0.5)))
    comparison = compare(before, load_run(write_run(tmp_path / "after", rows_of(5))))
    assert {c.verdict for c in comparison.changes} == {"too few tasks"}


def test_perplexities_are_compared_by_their_factor(tmp_path: Path):
    rows = rows_of()
    halved = [replace(row, perplexity=row.perplexity and row.perplexity / 2) for row in rows]
    before, after = load_run(write_run(tmp_path / "a", rows)), load_run(write_run(tmp_path / "b", halved))
    change = next(c for c in compare(before, after).changes if (c.method, c.figure.key) == ("pez", "perplexity"))
    assert change.difference.value == pytest.approx(0.5) and change.verdict == "better"


def test_runs_without_a_common_task_are_refused(tmp_path: Path):
    rows = rows_of(12)
    before = load_run(write_run(tmp_path / "a", [row for row in rows if row.task < "task-06"]))
    after = load_run(write_run(tmp_path / "b", [row for row in rows if row.task >= "task-06"]))
    with pytest.raises(UserError, match="a and b have no tasks in common"):
        write_report([before, after], tmp_path / "report.html")
    assert not list(tmp_path.glob("report*"))


# The page and the summary


def test_hostile_text_is_neither_markup_nor_the_end_of_the_data(tmp_path: Path):
    rows = [replace(row, prompt=row.prompt and HOSTILE) for row in rows_of(6)]
    rows[-1] = failing(rows[-1], HOSTILE)
    record = replace(record_of(rows), commit=HOSTILE, config={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE})
    before = load_run(write_run(tmp_path / "before", rows_of(6, shift=-0.3)))
    run = load_run(write_run(tmp_path / HOSTILE.replace("/", "")[:40], rows, record))
    page, summary = write_report([before, run], tmp_path / "report.html")
    text = page.read_text()
    assert len(re.findall(r"<script", text)) == len(re.findall(r"</script", text)) == 2
    found = Elements(text)
    assert "img" not in found.names and not any(name.startswith("on") for name in found.attributes)
    prompts = {cell["prompt"] for t in page_data(page)["tasks"] for cell in t["cells"]["pez"]}
    assert prompts == {HOSTILE}
    assert not re.search(r"(?m)^(?!    ).*<(script|img)", summary.read_text())


def test_the_policy_lets_only_the_pages_own_script_and_style_take_effect(tmp_path: Path):
    page, _ = write_report([load_run(write_run(tmp_path / "run"))], tmp_path / "report.html")
    text = page.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    hashes = {
        kind: base64.b64encode(hashlib.sha256(re.search(pattern, text, re.S)[1].encode()).digest()).decode()
        for kind, pattern in (("script", r"<script>(.*?)</script>"), ("style", r"<style>(.*?)</style>"))
    }
    assert policy.split("; ")[:3] == [
        "default-src 'none'",
        f"script-src 'sha256-{hashes['script']}'",
        f"style-src 'sha256-{hashes['style']}'",
    ]
    assert not re.search(r"""(src|href)=["'](?!#)""", text.split('id="data"')[0])


def test_the_summary_has_the_table_the_failures_and_the_changes(tmp_path: Path):
    rows = rows_of()
    rows[-1] = failing(rows[-1], "a | b")
    before = load_run(write_run(tmp_path / "before", rows_of(shift=-0.3)))
    run = load_run(write_run(tmp_path / "after", rows))
    _, summary = write_report([before, run], tmp_path / "report.html")
    text = summary.read_text()
    line = next(x for x in main_table(run) if x.method == "pez")
    assert f"| pez | 0 of 24 | {line.figures['score']} | {line.figures['recovery']} |" in text
    assert "| translator | 1 | a \\| b |" in text and "| translator | Score | 12 |" in text and "commit 0123abc" in text


@pytest.mark.parametrize("text", ["a\nb", "*b* _c_ `d`", "[x](http://y)", "<b>", "# h", "www.x.org", "| a |"])
def test_text_in_markdown_stays_text(text: str):
    escaped = plain(text)
    assert "\n" not in escaped and "<" not in escaped and "://" not in escaped and "www." not in escaped
    assert not re.search(r"(?<!\\)[*_`\[\]|]|^#", escaped)


# What is refused


def run_command(*arguments: object) -> Result:
    app = typer.Typer(cls=_Commands)
    app.command()(report)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_command_writes_page_and_summary_into_the_last_run(tmp_path: Path):
    before, after = (write_run(tmp_path / name, rows_of(6)) for name in ("before", "after"))
    result = run_command(before, after)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(after / "report.html"), str(after / "report.md")]
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
        (cut_tasks, "tasks.json is damaged: there is no 'examples'"),
        (cut_soft_prompts, "soft_prompts.safetensors is damaged"),
        (cut_training, "training.jsonl is damaged"),
        (doubled_cell, "stands in it 2 times"),
        (unknown_method, "the run knows no method 'other'"),
        (score_of_two, "the score 2.0 is not between 0 and 1"),
        (word_for_kind, "kind is 'medium'"),
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
