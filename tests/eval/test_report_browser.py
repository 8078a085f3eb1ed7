"""The report in a real browser: it draws, sorts, filters, gives its numbers, and runs nothing that a model wrote."""

import csv
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
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium and its driver")
N_TASKS = 24
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
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    browser.get(page.as_uri())
    eventually(lambda: len(find(browser, ".chart > svg")) == len(find(browser, ".chart")))
    return browser


def find(browser: webdriver.Chrome, selector: str) -> list:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [element.text for element in find(browser, selector)]


def click(browser: webdriver.Chrome, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something holds; fail when it does not come to hold."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)


def shown_tasks(browser: webdriver.Chrome) -> list[str]:
    return [text.split(" ")[0] for text in texts(browser, "#browser .family")]


def resize(browser: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def test_everything_is_drawn_nothing_is_requested_and_the_console_is_silent(opened: webdriver.Chrome):
    drawn = {chart.get_attribute("data-chart") for chart in find(opened, ".chart")}
    assert drawn == {
        *("score", "perplexity", "kl", "agreement", "calibration score", "calibration agreement"),
        *("cost", "training", "map"),
    }
    assert len(find(opened, "[data-chart=score] .mark")) == len(METHODS)
    assert len(find(opened, "[data-chart=map] svg[role=img] .mark")) == 2 * N_TASKS
    assert [entry for entry in opened.get_log("browser")] == []
    opened.get_log("performance")
    opened.refresh()
    eventually(lambda: len(find(opened, ".chart > svg")) == len(drawn))
    requests = [entry["message"] for entry in opened.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert requests and all('"url":"file://' in message for message in requests)


def test_a_script_in_a_prompt_is_shown_and_not_run(opened: webdriver.Chrome):
    assert HOSTILE in texts(opened, "#browser td .prompt")
    assert opened.title == "Evaluation after"
    assert not find(opened, "img") and len(find(opened, "script")) == 2
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
    def order() -> list[str]:
        return texts(opened, "#main-table tbody th")

    assert order() == list(METHODS)
    perplexity = "#main-table thead th:nth-of-type(7) .sort"
    click(opened, perplexity)
    assert order()[:4] == ["nearest_token", "pez", "translator", "gold"] and set(order()[4:]) == {"none", "soft_prompt"}
    click(opened, perplexity)
    assert order()[:4] == ["gold", "translator", "pez", "nearest_token"] and set(order()[4:]) == {"none", "soft_prompt"}
    assert find(opened, "#main-table th[aria-sort=ascending]")[0].text.startswith("Perplexity")


def test_all_figures_come_on_demand(opened: webdriver.Chrome):
    loss = find(opened, '#main-table td[data-figure="loss"]')[0]
    assert not loss.is_displayed()
    click(opened, "#all-figures")
    assert loss.is_displayed()


def test_tasks_sort_by_a_methods_score(opened: webdriver.Chrome, rows: list[ResultRow]):
    own = [row for row in rows if row.method == "pez"]
    mean = {t: sum(r.score for r in own if r.task == t) / 2 for t in dict.fromkeys(r.task for r in own)}
    best_first = sorted(mean, key=lambda task: -mean[task])
    column = 2 + list(METHODS).index("pez")
    heading = f"#browser thead th:nth-child({column}) .sort"
    click(opened, heading)
    assert shown_tasks(opened) == best_first[:20]
    click(opened, heading)
    assert shown_tasks(opened) == best_first[::-1][:20]


def test_tasks_are_searched_filtered_and_paged(opened: webdriver.Chrome):
    assert len(shown_tasks(opened)) == 20 and texts(opened, "#browser .count") == [f"{N_TASKS} of {N_TASKS} tasks"]
    click(opened, "#browser .pages button:last-child")
    assert shown_tasks(opened) == [f"task-{i}" for i in range(20, 24)]
    family, state = (Select(element) for element in find(opened, "#browser select")[:2])
    family.select_by_visible_text("count")
    assert shown_tasks(opened) == [f"task-{i:02}" for i in range(3, 24, 4)]
    state.select_by_visible_text("with a failure")
    assert (
        shown_tasks(opened) == ["task-23"]
        and "failed: no memory </script>" in find(opened, "#browser td .failure")[0].text
    )
    family.select_by_visible_text("all families")
    state.select_by_visible_text("all tasks")
    search = find(opened, "#browser input[type=search]")[0]
    search.send_keys("ONERROR alert")
    assert shown_tasks(opened) == ["task-00", "task-23"]
    search.send_keys(" memory")
    assert shown_tasks(opened) == ["task-23"]


def test_methods_can_be_left_out_of_the_table_and_of_the_search(opened: webdriver.Chrome):
    boxes = find(opened, "#method-filter input")
    for box, method in zip(boxes, METHODS, strict=True):
        if method != "gold":
            opened.execute_script("arguments[0].click()", box)
    assert [text.strip("↕↑↓ ") for text in texts(opened, "#browser thead th")] == ["Task", "gold"]
    find(opened, "#browser input[type=search]")[0].send_keys("onerror")
    assert shown_tasks(opened) == []


def test_examples_and_all_figures_of_a_task_open_on_demand(opened: webdriver.Chrome):
    click(opened, "#browser .more")
    eventually(lambda: len(find(opened, "#browser .detail table")) == 2)
    assert "input 0" in texts(opened, "#browser .detail")[0]


def test_marks_are_reached_by_keyboard_and_described(opened: webdriver.Chrome):
    chart = find(opened, "[data-chart=map] svg[role=img]")[0]
    opened.execute_script("arguments[0].scrollIntoView(); arguments[0].focus()", chart)
    chart.send_keys(Keys.ARROW_RIGHT)
    tip = find(opened, "#tip")[0]
    first = tip.text
    assert first.startswith("Instruction number ") and "family: " in first and "seed: " in first
    chart.send_keys(Keys.ARROW_RIGHT)
    assert tip.text != first
    chart.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_everything_that_is_clicked_can_be_focused(opened: webdriver.Chrome):
    unreachable = opened.execute_script("""
        return [...document.querySelectorAll("button, a, select, input, summary, .scroll, .chart > svg")]
            .filter((node) => node.tabIndex < 0).map((node) => node.outerHTML);
    """)
    assert unreachable == []


def test_the_numbers_behind_a_figure_are_downloaded_and_shown(opened: webdriver.Chrome, folder: Path):
    click(opened, '[data-table="kl"] .csv')
    path = folder / "downloads" / "score-against-kl.csv"
    eventually(path.exists)
    lines = list(csv.DictReader(path.read_text().splitlines()))
    in_page = opened.execute_script("return data.tables.kl.rows")
    assert [line["method"] for line in lines] == list(METHODS)
    assert [float(line["kl"]) for line in lines] == [row[1] for row in in_page]
    click(opened, '[data-table="kl"] button')
    assert len(find(opened, '[data-table="kl"] tbody tr')) == len(METHODS)


def test_downloads_disarm_formulas_and_quote_what_needs_it(opened: webdriver.Chrome):
    text = opened.execute_script('return csv({columns: ["a", "b"], rows: [["=1+1", -1], [\'x "y", z\', null]]})')
    assert text == 'a,b\r\n\'=1+1,-1\r\n"x ""y"", z",\r\n'


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_the_page_is_never_wider_than_the_screen(opened: webdriver.Chrome, width: int):
    resize(opened, width)
    try:
        eventually(
            lambda: opened.execute_script("return document.querySelector('.chart > svg').viewBox.baseVal.width") < width
        )
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened: webdriver.Chrome, scheme: str):
    """WCAG 2.1, success criterion 1.4.3: a contrast of 4.5 to 1."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    try:
        pairs = opened.execute_script(CONTRASTS)
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
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
const row = document.querySelector(".heat tbody tr");
const heat = [...Array(row ? 11 : 0).keys()].map((level) => {
  const cell = document.createElement("td");
  cell.className = "h" + level;
  row.append(cell);
  return cell;
});
const kinds = "p, small, a, summary, .note, .better, .worse, .failure, .chip, .caption, thead th";
const others = document.querySelectorAll(kinds);
return [...heat, ...others].map((node) => {
  const [a, b] = [light(parse(getComputedStyle(node).color).slice(0, 3)), light(ground(node))];
  return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.className || node.tagName];
});
"""
