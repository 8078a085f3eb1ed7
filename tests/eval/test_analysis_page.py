"""The page of an analysis holds the records' numbers, says what was not run, and lets no text become markup."""

import json
import re
from html import unescape
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soft2hard.errors import UserError
from soft2hard.eval.analysis.findings import FILE_NAME, NotRun, as_json, load_analysis, load_tables
from soft2hard.eval.analysis.page import TITLES, clustered, listings, shown, tokens_by_position, write_analysis_page
from soft2hard.eval.intervals import Interval
from tests.analysis_folder import FAMILIES, NAMES, PROMPTS, TASKS, planted, transfer_change, write_analysis
from tests.report_runs import HOSTILE

pytestmark = pytest.mark.usefixtures("without_umap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soft2hard.eval.analysis.geometry.UMAP_PACKAGE", "umap_is_not_here")
        return write_analysis(tmp_path_factory.mktemp("analysis"))


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return write_analysis_page(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def charts(text: str) -> dict[str, dict]:
    """By their titles."""
    blocks = re.findall(r'<script type="application/json" class="chart">(.*?)</script>', text, re.DOTALL)
    found = [json.loads(block) for block in blocks]
    return {chart["layout"]["title"]["text"]: chart for chart in found}


def section(text: str, name: str) -> str:
    return text.split(f'<section id="{name}">')[1].split("</section>")[0]


def numbers(packed: dict) -> np.ndarray:
    """A matrix as Plotly packs it."""
    from base64 import b64decode

    shape = [int(n) for n in packed["shape"].split(",")]
    return np.frombuffer(b64decode(packed["bdata"]), packed["dtype"]).reshape(shape)


def test_every_section_is_there_with_its_charts(text: str, charts: dict[str, dict]) -> None:
    assert set(re.findall(r'<section id="(\w+)"', text)) == {*TITLES, "provenance"}
    for name in ("distances", "maps", "difficulty", "transfer", "stability", "positions", "readings"):
        assert 'class="chart"' in section(text, name)
    assert len(charts) == text.count('class="chart"') == 19


def test_heat_maps_hold_the_matrices_and_their_orders_lose_no_row(folder: Path, charts: dict[str, dict]) -> None:
    rows = planted().astype(float)
    chart = charts["Frobenius distance"]
    expected = np.linalg.norm(rows[:, None] - rows[None], axis=(2, 3))
    off = ~np.eye(len(NAMES), dtype=bool)
    np.testing.assert_allclose(numbers(chart["data"][0]["z"])[off], expected[off], rtol=1e-5)
    labels = chart["data"][0]["x"]
    told = [f"{name} ({FAMILIES[int(task[5:7]) // 3]})" for name, (task, _) in zip(NAMES, PROMPTS, strict=True)]
    assert [unescape(label) for label in labels] == told
    orders = [button["args"][0]["xaxis.categoryarray"] for button in chart["layout"]["updatemenus"][0]["buttons"]]
    assert len(orders) == 3 and all(sorted(order) == sorted(labels) for order in orders)
    change = numbers(charts["Change in accuracy (rows: tuned on, columns: used on)"]["data"][0]["z"])
    np.testing.assert_allclose(change, transfer_change(), rtol=1e-5)


def test_clusters_put_planted_tasks_together() -> None:
    rows = planted().reshape(len(PROMPTS), -1)
    order = clustered(np.linalg.norm(rows[:, None] - rows[None], axis=2))
    assert len([task for task, _ in groupby(PROMPTS[i][0] for i in order)]) == len(TASKS)


def test_two_points_or_missing_distances_are_ordered_all_the_same() -> None:
    assert clustered(np.zeros((2, 2))) == [0, 1]
    assert sorted(clustered(np.full((4, 4), np.nan))) == [0, 1, 2, 3]


def test_claims_have_their_readings_and_notes_below_them(folder: Path, text: str) -> None:
    claims = load_analysis(folder).sections["claims"].claims
    found = section(text, "claims")
    assert found.count('<tr class="beside">') == sum(len(claim.beside) for claim in claims) > 5
    for claim in claims:
        assert claim.estimate is None or str(claim.estimate) in found
        assert all(f"<small>{note.replace(chr(39), '&#39;')}</small>" in found for note in claim.notes)
    assert found.count('class="chip undecided"') >= 2


def test_figures_and_reasons_are_on_the_page_as_in_the_records(folder: Path, text: str) -> None:
    figures = load_analysis(folder).sections["distances"].figures
    assert f"vary by {figures['variation_within']} of their mean, those of pure noise" in text
    assert "All tasks have the same value, so there is no order to correlate." in section(text, "transfer")
    assert all("note &lt;/script&gt;" in section(text, name) for name in TITLES if name != "claims")
    measures = load_tables(folder, load_analysis(folder), "distances")["measures"]
    assert all(title in section(text, "distances") for title in measures["title"])


def test_maps_name_task_family_and_translation(charts: dict[str, dict]) -> None:
    chart = next(chart for title, chart in charts.items() if title.startswith("Principal coordinates of Frobenius"))
    assert [unescape(series["name"]) for series in chart["data"]] == list(FAMILIES)
    first = chart["data"][0]
    assert "translation" in first["hovertemplate"] and unescape(first["hovertext"][0]) == NAMES[0]
    assert [unescape(value) for value in first["customdata"][0][:2]] == [TASKS[0], HOSTILE]


def test_soft_prompts_of_one_name_in_several_groups_are_told_apart() -> None:
    rows = [("a #0", "main"), ("a #0", "order varied"), ("a #1", "main")]
    tokens = pd.DataFrame(rows, columns=["prompt", "group"]).assign(
        position=0, rank=1, token="x", cosine=0.5, start=None, stayed=None
    )
    found = tokens_by_position(tokens)
    assert found["prompt"].tolist() == ["a #0, main", "a #0, order varied", "a #1"]
    assert found["nearest"].tolist() == ["x 0.50"] * 3


def test_no_text_becomes_markup_and_nothing_is_fetched(text: str) -> None:
    assert "<script>document.title" not in text and "<img src=x" not in text
    page = text.split("<body>")[1]
    assert len(re.findall(r"<script(?! type)", page)) == 2
    own = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert HOSTILE.split(">")[0] not in own and not re.search(r'(?:src|href)\s*=\s*"(?!#)', own)


def test_labels_of_charts_hold_no_markup_of_a_text(charts: dict[str, dict]) -> None:
    """Plotly takes some markup in labels for its own."""
    for chart in charts.values():
        allowed = {"<br>", "<sub>", "</sub>", "<extra></extra>", "<b>", "</b>", "<extra>", "</extra>"}
        chart["layout"].pop("template")
        assert set(re.findall(r"<[^%=]*?>", json.dumps(chart))) <= allowed


def test_sections_that_were_not_run_say_why(tmp_path: Path) -> None:
    reason = NotRun(reason=f"No translator {HOSTILE}")
    gone = dict.fromkeys(("stability", "positions", "transfer", "claims"), reason)
    text = write_analysis_page(write_analysis(tmp_path / "part", **gone, maps=None)).read_text(encoding="utf-8")
    assert text.count("No translator &lt;/script&gt;") == 4 and "Its section was not run." in text
    assert not re.search(r'<section id="(stability|maps|transfer|claims)"', text)


def test_a_folder_without_an_analysis_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no analysis"):
        write_analysis_page(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_older_analysis_and_damaged_tables_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    old = write_analysis(tmp_path / "old", maps=None)
    record = json.loads((old / FILE_NAME).read_text())
    (old / FILE_NAME).write_text(json.dumps(record | {"schema_version": 2}))
    with pytest.raises(UserError, match="damaged or of another version"):
        write_analysis_page(old)
    (old / FILE_NAME).write_text(json.dumps(record))
    (old / "tables" / "transfer-pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="tables of 'transfer'"):
        write_analysis_page(old)
    assert not list(tmp_path.glob("*/*.html"))


def test_the_json_has_every_table(folder: Path) -> None:
    found = json.loads(as_json(folder, load_analysis(folder)))
    assert {f"{path.stem}" for path in (folder / "tables").iterdir()} == set(found["tables"])
    assert found["tables"]["transfer-pairs"][30]["change"] is None
    assert found["tables"]["extraction-tokens"][0]["token"] == HOSTILE


def test_the_summary_is_of_texts_as_they_are(folder: Path) -> None:
    found = {one.title: one for one in listings(load_analysis(folder), folder, 1)}
    nearest = next(one for title, one in found.items() if title.startswith("Nearest tokens"))
    assert nearest.rows[0] == (NAMES[0], "0", f"{HOSTILE} 0.50, b 0.50, c 0.50", "b")
    assert shown(None) == shown(float("nan")) == "–" and shown(Interval(0.5, None, None)) == "0.500 [–]"
