"""The page of an analysis in a real browser: it draws, sorts, describes, gives its numbers, and runs no text."""

import csv
from pathlib import Path

import pytest

from soft2hard.eval.report.analysis_page import write_analysis_page
from tests.analysis_folder import NAMES, TASKS, matrices, transfer_change, write_analysis
from tests.report_runs import HOSTILE

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.eval.test_report_browser import (  # noqa: F401
    CONTRASTS,
    browser,
    click,
    eventually,
    find,
    folder,
    pytestmark,
    resize,
    texts,
)


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:  # noqa: F811
    return write_analysis_page(write_analysis(folder / "analysis"))


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:  # noqa: F811
    browser.get(page.as_uri())
    eventually(lambda: len(find(browser, ".chart > svg")) == len(find(browser, ".chart")))
    eventually(lambda: len(find(browser, ".heatmap .key rect")) == 48 * len(find(browser, ".heatmap")))
    return browser


def select(opened: webdriver.Chrome, heat: str) -> Select:
    return Select(find(opened, f'[data-heat="{heat}"] select')[0])


def keys(opened: webdriver.Chrome, heat: str, *pressed: str) -> str:
    """The tip after keys pressed on a heat map."""
    canvas = find(opened, f'[data-heat="{heat}"] canvas')[0]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", canvas)
    canvas.send_keys(*pressed)
    return find(opened, "#tip")[0].text


def test_everything_is_drawn_nothing_is_requested_and_the_console_is_silent(opened) -> None:
    assert len(find(opened, ".heatmap canvas")) == 6
    assert len(find(opened, '[data-chart="map pca_frobenius"] svg[role=img] .mark')) == len(NAMES)
    assert [entry for entry in opened.get_log("browser")] == []
    opened.get_log("performance")
    opened.refresh()
    eventually(lambda: len(find(opened, ".heatmap .key rect")) == 48 * 6)
    requests = [e["message"] for e in opened.get_log("performance") if "requestWillBeSent" in e["message"]]
    assert requests and all('"url":"file://' in message for message in requests)


def test_scripts_in_texts_are_shown_and_not_run(opened) -> None:
    assert opened.title == f"Analysis of {len(NAMES)} soft prompts"
    assert not find(opened, "img") and len(find(opened, "script")) == 2
    assert HOSTILE in texts(opened, "[data-tokens] td")


def test_a_cell_tells_its_pair_and_its_number_in_the_order_chosen(opened) -> None:
    """One by one down the first column, against the matrix."""
    select(opened, "frobenius").select_by_visible_text("as analysed")
    lines = keys(opened, "frobenius", Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT).split("\n")
    value = matrices()["frobenius"][1, 1]
    assert lines[:3] == [NAMES[1], f"and: {NAMES[1]}", f"distance: {value:.0f}"]
    lines = keys(opened, "frobenius", Keys.ARROW_RIGHT).split("\n")
    assert lines[1] == f"and: {NAMES[2]}"
    assert float(lines[2].split(": ")[1]) == pytest.approx(matrices()["frobenius"][1, 2], abs=0.0005)
    keys(opened, "frobenius", Keys.ESCAPE)
    assert not find(opened, "#tip")[0].is_displayed()


def test_enter_sorts_by_the_row_nearest_first(opened) -> None:
    select(opened, "frobenius").select_by_visible_text("as analysed")
    keys(opened, "frobenius", Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    chosen = select(opened, "frobenius").first_selected_option.text
    nearest = NAMES[matrices()["frobenius"][1].argsort()[1]]
    first = keys(opened, "frobenius", Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).split("\n")
    assert chosen == "by the row pressed last" and first[:2] == [NAMES[1], f"and: {nearest}"]


def point(opened) -> list[str]:
    """What is told where the pointer is over the second cell of the transfer matrix's first row."""
    opened.execute_script("""
        const canvas = document.querySelector('[data-heat="transfer"] canvas');
        const box = canvas.getBoundingClientRect();
        const cell = (box.height - 10) / 6;
        const at = { clientX: box.right - 4.5 * cell, clientY: box.top + 10 + 0.5 * cell, bubbles: true };
        canvas.dispatchEvent(new PointerEvent("pointermove", at));
    """)
    return find(opened, "#tip")[0].text.split("\n")


def test_the_pointer_finds_the_cell_under_it(opened) -> None:
    select(opened, "transfer").select_by_visible_text("as analysed")
    canvas = find(opened, '[data-heat="transfer"] canvas')[0]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    eventually(lambda: point(opened) != [""])  # scrolling, which takes a moment, ends what is told
    lines = point(opened)
    assert lines[:2] == [TASKS[0], f"used on: {TASKS[1]}"]
    assert lines[2] == f"change: {transfer_change()[0, 1]:.3f}"


def test_the_numbers_behind_a_heat_map_are_downloaded(opened, folder: Path) -> None:  # noqa: F811
    click(opened, '[data-heat="frobenius"] .csv')
    path = folder / "downloads" / "measure-frobenius.csv"
    eventually(path.exists)
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0][1:] == list(NAMES) and [row[0] for row in rows[1:]] == list(NAMES)
    assert [[float(v) for v in row[1:]] for row in rows[1:]] == matrices()["frobenius"].tolist()


def test_every_figure_has_its_numbers_to_download(opened) -> None:
    charts = len(find(opened, ".chart"))
    assert charts and len(find(opened, ".panel .tools .csv")) == charts + len(find(opened, ".heatmap"))


def test_marks_of_a_map_tell_task_family_and_translation(opened) -> None:
    chart = find(opened, '[data-chart="map pca_frobenius"] svg[role=img]')[0]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", chart)
    chart.send_keys(Keys.ARROW_RIGHT)
    tip = find(opened, "#tip")[0].text
    assert "task: task 0" in tip and "family: " in tip and "translation: " in tip


def test_nearest_tokens_are_of_the_soft_prompt_chosen(opened) -> None:
    chooser = Select(find(opened, "[data-tokens] select")[0])
    assert [option.text for option in chooser.options] == list(NAMES)
    chooser.select_by_visible_text(NAMES[3])
    assert len(find(opened, "[data-tokens] tbody tr")) == 4


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_never_wider_than_the_screen(opened, width: int) -> None:
    resize(opened, width)
    try:
        wide = "return Math.max(...[...document.querySelectorAll('.heatmap canvas')].map((c) => c.clientWidth))"
        eventually(lambda: opened.execute_script(wide) < width)
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened, scheme: str) -> None:
    """WCAG 2.1, success criterion 1.4.3: a contrast of 4.5 to 1."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    try:
        pairs = opened.execute_script(CONTRASTS)
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(pairs) > 15 and [pair for pair in pairs if pair[0] < 4.5] == []
