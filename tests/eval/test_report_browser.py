"""The report in a real browser: it draws, sorts, filters, and runs nothing that a model wrote."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from soft2hard.eval.report import load_run, write_report
from soft2hard.eval.run_records import ResultRow
from tests.report_runs import HOSTILE, METHODS, rows_of, write_run

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium and its driver")
N_TASKS = 8
N_CHARTS = 12
"""Scores, differences, three trade-offs, families, two reliability diagrams, cost, training, searches by step, map."""
FLAGS = (
    "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,900"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def rows() -> list[ResultRow]:
    """One cell holds a script, another failed."""
    rows = rows_of(N_TASKS)
    hostile = next(i for i, row in enumerate(rows) if row.method == "pez")
    rows[hostile] = replace(rows[hostile], prompt=HOSTILE)
    last = rows[-1]
    rows[-1] = ResultRow(last.method, last.task, last.family, last.seed, "none", failure=f"no memory {HOSTILE}")
    return rows


@pytest.fixture(scope="module")
def page(folder: Path, rows: list[ResultRow]) -> Path:
    before = load_run(write_run(folder / "before", rows_of(N_TASKS, shift=-0.3)))
    after = load_run(write_run(folder / "after", rows))
    return write_report([before, after], folder / "report.html")[0]


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    for flag in [*FLAGS.split(), *as_root, f"--user-data-dir={folder / 'profile'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    browser.get(page.as_uri())
    eventually(lambda: len(find(browser, ".plot .main-svg .xlines-above")) >= N_CHARTS)
    return browser


def find(browser: webdriver.Chrome, selector: str) -> list:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    """The words of elements, in sight or not."""
    return [element.get_attribute("textContent").strip() for element in find(browser, selector)]


def click(browser: webdriver.Chrome, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something holds; fail when it does not come to hold."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)


def shown_tasks(browser: webdriver.Chrome) -> list[str]:
    return [text.split(" ")[0] for text in texts(browser, ".task:not([hidden]) summary small")]


def choose(browser: webdriver.Chrome, name: str, text: str) -> None:
    Select(find(browser, f"[name={name}]")[0]).select_by_visible_text(text)


def test_everything_is_drawn_nothing_is_requested_and_the_console_is_silent(opened: webdriver.Chrome):
    assert len(find(opened, ".plot")) == N_CHARTS
    assert len(find(opened, "#section-2 .plot .errorbar")) == len(METHODS)
    assert [entry for entry in opened.get_log("browser")] == []
    opened.get_log("performance")
    opened.refresh()
    eventually(lambda: len(find(opened, ".plot .main-svg .xlines-above")) >= N_CHARTS)
    requests = [entry["message"] for entry in opened.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert requests and all('"url":"file://' in message for message in requests)
    assert not find(opened, "[data-title*=Share], [data-title*=loud]")  # no button sends a chart anywhere


def test_a_script_in_a_prompt_is_shown_and_not_run(opened: webdriver.Chrome):
    assert HOSTILE in texts(opened, "#tasks .prompt")
    assert opened.title == "Evaluation after"
    assert not find(opened, "img") and len(find(opened, "script")) == N_CHARTS + 2
    # Were markup to get in all the same, the policy would keep it from running.
    opened.execute_script("""
        const script = document.createElement("script");
        script.textContent = 'document.title = "run"';
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", '<img src="https://127.0.0.1/x" onerror="document.title = 1">');
    """)
    eventually(lambda: len([e for e in opened.get_log("browser") if "Content Security Policy" in e["message"]]) >= 2)
    assert opened.title == "Evaluation after"


def test_the_main_table_sorts_both_ways_with_gaps_last(opened: webdriver.Chrome):
    table = "#section-2 .scroll:not(.folded)"

    def order() -> list[str]:
        return texts(opened, f"{table} tbody th")

    assert order() == list(METHODS)
    perplexity = f"{table} thead th:nth-of-type(8) button"
    click(opened, perplexity)
    assert order()[:4] == ["nearest_token", "pez", "translator", "gold"] and set(order()[4:]) == {"none", "soft_prompt"}
    click(opened, perplexity)
    assert order()[:4] == ["gold", "translator", "pez", "nearest_token"] and set(order()[4:]) == {"none", "soft_prompt"}
    assert texts(opened, f"{table} th[aria-sort=ascending]") == ["Perplexity"]
    click(opened, f"{table} thead th:nth-of-type(1) button")
    assert order() == sorted(METHODS)


def test_all_figures_come_on_demand(opened: webdriver.Chrome):
    [folded] = [node for node in find(opened, "#section-2 summary") if node.text == "All figures"]
    [loss, _] = [node for node in find(opened, "#section-2 th") if "Loss" in node.get_attribute("textContent")]
    assert not loss.is_displayed()
    folded.click()
    assert loss.is_displayed()


def test_tasks_are_ordered_by_a_methods_score(opened: webdriver.Chrome, rows: list[ResultRow]):
    own = [row for row in rows if row.method == "pez"]
    mean = {t: sum(r.score for r in own if r.task == t) / 2 for t in dict.fromkeys(r.task for r in own)}
    best_first = sorted(mean, key=lambda task: -mean[task])
    choose(opened, "method", "pez")
    choose(opened, "order", "highest score first")
    assert shown_tasks(opened) == best_first
    choose(opened, "order", "lowest score first")
    assert shown_tasks(opened) == best_first[::-1]
    choose(opened, "order", "of the run")
    assert shown_tasks(opened) == sorted(mean)


def test_tasks_are_searched_and_filtered(opened: webdriver.Chrome):
    assert texts(opened, "#tasks output") == [f"{N_TASKS} of {N_TASKS} tasks"]
    choose(opened, "family", "count")
    assert shown_tasks(opened) == ["task-03", "task-07"]
    click(opened, "[name=failed]")
    assert shown_tasks(opened) == ["task-07"] and texts(opened, "#tasks output") == [f"1 of {N_TASKS} tasks"]
    assert texts(opened, ".failure")[0].startswith("failed: no memory </script>")
    choose(opened, "family", "all families")
    click(opened, "[name=failed]")
    search = find(opened, "[type=search]")[0]
    search.send_keys("ONERROR alert")
    assert shown_tasks(opened) == ["task-00", "task-07"]
    search.send_keys(" memory")
    assert shown_tasks(opened) == ["task-07"]


def test_a_chosen_method_alone_is_shown_and_searched(opened: webdriver.Chrome):
    choose(opened, "method", "gold")
    click(opened, "[name=open]")
    shown = [node.text for node in find(opened, "#tasks [data-method] th") if node.is_displayed()]
    assert shown == ["gold"] * 2 * N_TASKS
    find(opened, "[type=search]")[0].send_keys("onerror")
    assert shown_tasks(opened) == []


def test_prompts_examples_and_all_figures_of_a_task_open_on_demand(opened: webdriver.Chrome):
    [first, *_] = find(opened, ".task")
    assert "input 0" not in first.text
    find(opened, ".task summary")[0].click()
    assert "input 0" in first.text and "translator says" in first.text and "Model calls 100" not in first.text
    find(opened, "#tasks [data-method=translator] summary")[0].click()
    assert "Model calls 100" in first.text


def test_everything_that_is_clicked_can_be_focused(opened: webdriver.Chrome):
    unreachable = opened.execute_script("""
        return [...document.querySelectorAll("button, a[href], select, input, summary, .scroll")]
            .filter((node) => node.tabIndex < 0).map((node) => node.outerHTML);
    """)
    assert unreachable == []


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_the_page_is_never_wider_than_the_screen(opened: webdriver.Chrome, width: int):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        eventually(lambda: opened.execute_script("return document.documentElement.scrollWidth") <= width)
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_text_stands_out_from_its_ground(opened: webdriver.Chrome):
    """WCAG 2.1, success criterion 1.4.3: a contrast of 4.5 to 1."""
    pairs = opened.execute_script(CONTRASTS)
    assert len(pairs) > 15
    assert [pair for pair in pairs if pair[0] < 4.5] == []


CONTRASTS = """
const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = (top, ground) => [0, 1, 2].map((i) => top[i] * top[3] + ground[i] * (1 - top[3]));
const light = (rgb) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  const own = parse(getComputedStyle(node).backgroundColor);
  return own[3] === 1 || !node.parentElement ? own.slice(0, 3) : over(own, ground(node.parentElement));
};
return [...document.querySelectorAll("p, small, a[href], summary, .note, .failure, thead th, label")].map((node) => {
  const [a, b] = [light(parse(getComputedStyle(node).color).slice(0, 3)), light(ground(node))];
  return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.className || node.tagName];
});
"""
