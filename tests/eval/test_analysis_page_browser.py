"""The page of an analysis in a real browser: it draws, sorts, requests nothing, and runs no text."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from soft2hard.eval.analysis.page import write_analysis_page
from tests.analysis_folder import NAMES, write_analysis

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver
from selenium.webdriver.common.by import By

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium and its driver")
FLAGS = (
    "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,900"
)
DRAWN = (
    "return [...document.querySelectorAll('div.plot')].every((plot) => plot.querySelector('.cartesianlayer .subplot'))"
)
LABELS = "return document.querySelector('.heatmaplayer').closest('div.plot')._fullLayout.xaxis._categories.slice(0, 4)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soft2hard.eval.analysis.geometry.UMAP_PACKAGE", "umap_is_not_here")
        return write_analysis_page(write_analysis(tmp_path_factory.mktemp("analysis")))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    own = ["--no-sandbox"] if os.geteuid() == 0 else []
    for flag in [*FLAGS.split(), *own, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def find(browser: webdriver.Chrome, selector: str) -> list:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def eventually(holds: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.1)


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    browser.get(page.as_uri())
    eventually(lambda: browser.execute_script(DRAWN))
    return browser


def test_everything_is_drawn_nothing_is_requested_and_the_console_is_silent(opened: webdriver.Chrome) -> None:
    assert len(find(opened, "div.plot")) == 19 and len(find(opened, ".heatmaplayer image")) == 6
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []
    opened.get_log("performance")
    opened.refresh()
    eventually(lambda: len(find(opened, ".heatmaplayer image")) == 6)
    requests = [e["message"] for e in opened.get_log("performance") if "requestWillBeSent" in e["message"]]
    assert requests and not any('"url":"http' in message for message in requests)


def test_scripts_in_texts_are_shown_and_not_run(opened: webdriver.Chrome) -> None:
    assert opened.title == f"Analysis of {len(NAMES)} soft prompts"
    assert not find(opened, 'img[src="x"]')


def test_a_heat_map_is_sorted_by_its_buttons(opened: webdriver.Chrome) -> None:
    before = opened.execute_script(LABELS)
    button = find(opened, ".updatemenu-button")[2]
    opened.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", button)
    eventually(lambda: opened.execute_script(LABELS) != before)


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_never_wider_than_the_screen(opened: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        eventually(lambda: opened.execute_script("return document.documentElement.scrollWidth") <= width)
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
