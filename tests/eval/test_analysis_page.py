"""The page of an analysis holds the records' numbers, says what was not run, and lets no text become markup."""

import json
import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from soft2hard.errors import UserError
from soft2hard.eval.analysis.records import Analysis, PromptRow, load_analysis, load_arrays
from soft2hard.eval.analysis.retrieval_savings import RetrievalSavings
from soft2hard.eval.analysis.section_records import Experiment, NotRun
from soft2hard.eval.report.analysis_data import clustered, labels_of
from soft2hard.eval.report.analysis_experiments import mean_curves, result_of
from soft2hard.eval.report.analysis_figures import draw_analysis
from soft2hard.eval.report.analysis_page import TITLES, write_analysis_page
from tests.analysis_folder import HOSTILE, NAMES, PROMPTS, TASKS, matrices, transfer_change, write_analysis


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_analysis(tmp_path_factory.mktemp("analysis"))


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return write_analysis_page(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(text: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_every_section_is_there_and_every_table_and_chart_that_is_named(text, data) -> None:
    assert set(re.findall(r'<section id="(\w+)"', text)) == {*TITLES, "provenance"}
    for kind, known in (("chart", data["charts"]), ("heat", data["heats"]), ("table", data["tables"])):
        named = set(re.findall(rf'data-{kind}="([^"]+)"', text))
        assert named <= set(known) and (kind == "table" or named == set(known))


def test_heat_maps_hold_the_matrices_and_their_orders_lose_no_row(data) -> None:
    for name, matrix in matrices().items():
        heat = data["heats"][name]
        np.testing.assert_allclose(heat["values"], matrix)
        assert heat["names"] == list(NAMES)
        assert all(sorted(order) == list(range(len(NAMES))) for order in heat["orders"].values())
    change = data["heats"]["transfer"]["values"]
    assert change[5][0] is None and change[0][1] == 0.3 and np.isnan(transfer_change()[5, 0])


def test_clusters_put_planted_tasks_together() -> None:
    order = clustered(matrices()["frobenius"])
    assert len([task for task, _ in groupby(PROMPTS[i][0] for i in order)]) == len(TASKS)


def test_claims_have_their_readings_and_notes_below_them(text) -> None:
    section = text.split('<section id="claims">')[1].split("</section>")[0]
    assert section.count('<tr class="beside">') == 3 and section.count(">undecided</span>") == 3
    assert section.count("<small>note &lt;/script&gt;") == 3
    assert section.count("<small>0.400 – 0.600</small>") == 2  # an estimate without an interval has none


def test_what_has_no_correlation_what_was_left_out_and_what_is_moved_is_said(text, data) -> None:
    assert "steps with mean_distance, given error (spearman): &lt;/script&gt;" in text
    assert "context together: &lt;/script&gt;" in text
    assert data["tables"]["distances"]["rows"][-1][0] == "Measure share_moved"
    assert "vary by 0.500 [0.400, 0.600] of their mean, those of pure noise" in text


def test_two_points_or_missing_distances_are_ordered_all_the_same() -> None:
    assert clustered(np.zeros((2, 2))) == [0, 1]
    assert sorted(clustered(np.full((4, 4), np.nan))) == [0, 1, 2, 3]


def test_maps_name_task_family_and_translation(data) -> None:
    table = data["tables"]["map pca_frobenius"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [row["task"] for row in rows] == [task for task, _ in PROMPTS]
    assert [row["translation"] for row in rows[:2]] == [HOSTILE, "do task 00"]
    assert {row["family"] for row in rows} == {"sort", "count"}


def test_soft_prompts_of_one_name_in_several_groups_are_told_apart() -> None:
    rows = [
        PromptRow(name=name, task="a", group=group, tuning=0, n_tokens=4, d_model=16)
        for name, group in (("a #0", "main"), ("a #0", "order varied"), ("a #1", "main"))
    ]
    analysis = Analysis(created="", settings={}, versions={}, subject=None, prompts=tuple(rows), tasks=())
    assert labels_of(analysis) == ["a #0, main", "a #0, order varied", "a #1"]


def test_curves_of_starts_are_the_lowest_loss_so_far_mean_over_tasks(folder) -> None:
    result = load_analysis(folder).sections.retrieval.result
    rows = mean_curves(result_of(RetrievalSavings, result))
    own = [row[1:] for row in rows if row[0] == "vocabulary"]
    np.testing.assert_allclose(own, [[0, 2.0], [5, 0.8], [10, 0.8], [15, 0.5]])


def test_no_text_becomes_markup_and_nothing_is_fetched(text) -> None:
    assert "<script>document.title" not in text and "<img" not in text
    assert text.count("<script") == 2 and HOSTILE.split(">")[0] not in text.split("<body>")[1].split('id="data"')[0]
    assert not re.search(r'(?:src|href)\s*=\s*"(?!#)', text.split("<script>")[0])


def test_the_summary_holds_the_claims_and_the_numbers_of_the_page(folder, text, data) -> None:
    summary = (folder / "analysis.md").read_text(encoding="utf-8")
    analysis = load_analysis(folder)
    for claim in analysis.sections.claims.claims:
        assert f"| {claim.verdict} |" in summary
    titles = [line for line in summary.splitlines() if line.startswith("## positions")]
    assert titles == ["## positions", "## positions score lost"], "one table of two charts stands once"
    place = {name: i for i, name in enumerate(data["tables"]["retrieval"]["columns"])}
    for row in data["tables"]["retrieval"]["rows"]:
        numbers = [f"{row[place[f'saved{part}']]:.3f}" for part in ("", " low", " high")]
        assert "{} \\[{}, {}\\]".format(*numbers) in next(
            line for line in summary.splitlines() if line.startswith(f"| {row[0]} |")
        )


def test_no_text_of_the_summary_becomes_markup(folder, text) -> None:
    summary = (folder / "analysis.md").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in summary and "<" not in summary
    for table in summary.split("\n\n")[2::2]:
        cells = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(cells) == 1, "a text has cut a row in two"


def test_sections_that_were_not_run_say_why(tmp_path) -> None:
    reason = NotRun(reason=f"No translator {HOSTILE}")
    gone = {name: reason for name in ("stability", "positions", "interpolation", "retrieval", "transfer", "claims")}
    text = write_analysis_page(write_analysis(tmp_path / "part", **gone, maps=None)).read_text(encoding="utf-8")
    assert text.count("No translator &lt;/script&gt;") == 6 and "not run yet" in text
    assert not re.search(r'<section id="(stability|maps|transfer|claims)"', text)


def test_pictures_are_drawn_of_the_sections_that_there_are(folder, tmp_path) -> None:
    drawn = draw_analysis(folder, tmp_path / "figures")
    names = ("distances", "maps", "difficulty", "transfer", "positions", "interpolation", "retrieval")
    assert [path.name for path in drawn] == [f"understanding-{name}.png" for name in names]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in drawn)
    part = write_analysis(tmp_path / "part", maps=NotRun(reason="x"), retrieval=None)
    assert [path.stem for path in draw_analysis(part, tmp_path)] == [
        f"understanding-{name}" for name in names if name not in ("maps", "retrieval")
    ]


def test_a_folder_without_an_analysis_leaves_nothing(tmp_path) -> None:
    with pytest.raises(UserError, match="holds no analysis"):
        write_analysis_page(tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_results_and_arrays_are_refused_before_anything_is_written(tmp_path) -> None:
    old = write_analysis(tmp_path / "old", stability=Experiment(seconds=1, result={"tasks": []}))
    with pytest.raises(UserError, match="Stability of another version"):
        write_analysis_page(old)
    bare = write_analysis(tmp_path / "bare")
    (bare / "arrays" / "maps.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="arrays of 'maps'"):
        write_analysis_page(bare)
    assert not list(tmp_path.glob("*/*.html"))
    assert load_arrays(bare, "distances").keys() == matrices().keys()
