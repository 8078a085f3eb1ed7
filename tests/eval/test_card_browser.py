"""The card of a translation in a real browser: it fits the screen, runs nothing, and its text can be copied."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from soft2hard import SoftPrompt, Subject
from soft2hard.checkpoints import embedded_path
from soft2hard.eval.report.card import translation_card
from soft2hard.translator.verdict import Parting
from tests.made_translations import judged, translated
from tests.report_runs import HOSTILE

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver
from selenium.webdriver.common.by import By

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium and its driver")
FLAGS = (
    "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,900"
)
TEXT = f"Name the colour. {HOSTILE}"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompt = SoftPrompt.from_pretrained(embedded_path("soft_prompts") / "07-replace.safetensors")
    of = judged(9, 16, partings=[Parting(HOSTILE, "blue " * 200, "", 3.0)])
    translation = translated(of, TEXT, demonstrated=judged(16, 16))
    path = tmp_path_factory.mktemp("card") / "card.html"
    path.write_text(translation_card(translation, prompt, Subject.from_pretrained("embedded")), encoding="utf-8")
    return path


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


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    browser.get(page.as_uri())
    return browser


def test_the_console_is_silent_and_nothing_else_is_requested(opened: webdriver.Chrome) -> None:
    assert opened.get_log("browser") == []
    opened.get_log("performance")
    opened.refresh()
    requests = [e["message"] for e in opened.get_log("performance") if "requestWillBeSent" in e["message"]]
    assert requests and all('"url":"file://' in message for message in requests)


def test_a_click_selects_the_whole_text_as_it_is(opened: webdriver.Chrome) -> None:
    assert opened.title == "colours.safetensors in words"
    opened.find_element(By.CSS_SELECTOR, ".text").click()
    assert opened.execute_script("return String(getSelection())") == TEXT


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_the_page_is_never_wider_than_the_screen(opened: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_cut_off_in_print(opened: webdriver.Chrome) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not opened.find_element(By.CSS_SELECTOR, "nav").is_displayed()
        cut = "return [...document.querySelectorAll('.scroll, pre')].filter((n) => n.scrollHeight > n.clientHeight + 1)"
        assert opened.execute_script(cut) == []
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
