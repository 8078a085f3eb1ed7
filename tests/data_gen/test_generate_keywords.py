"""Keyword-classification tasks from a teacher: what is kept, what is rejected, what is paid for, what can be read."""

import json
import multiprocessing
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from soft2hard.data_gen.dods.keyword_classification import KeywordClassification, split_of
from soft2hard.data_gen.dods.keyword_classification_generation import Category, Sentences, accept_categories
from soft2hard.data_gen.dods.registry import FOLDER_DODS
from soft2hard.data_gen.tasks import SPLITS
from soft2hard.data_gen.teacher import names, normal_form
from soft2hard.errors import UserError
from tests.command_line import Result, run
from tests.fault_server import KEY, FaultServer
from tests.teachers import categories, good, sentences, word

SPORTS = Category("sport", ("chess", "ice hockey", "sailing", "judo", "golf"))
PRICES = """
schema_version: 1
models: [{model: m, input: 1, output: 1000, date: 2026-01-01, source: a test}]
"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Result]:
    """Generate into a folder of the test's own, with its ledger."""

    def generate(url: str, *more: object, n: int = 3, output: str = "kc") -> Result:
        fixed = ["--model", "m", "--base-url", url, "--ledger", tmp_path / "ledger.sqlite", "--attempts", 4]
        wanted = ["--n-categories", n, "--n-sentences", 4, "-o", tmp_path / output]
        return run("generate", "keyword-classification", *fixed, *wanted, *more)

    return generate


def as_json(field: str, items: list) -> str:
    return json.dumps({field: items})


def reasons(rejected: list) -> Counter[str]:
    return Counter(item.reason for item in rejected)


# --- filters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"), [("The dogs ran!", "dog RAN"), ("Skiing, daily", "skis daily"), ("it’s", "its"), ("A b", "b")]
)
def test_copies_have_one_normal_form(one: str, other: str):
    assert normal_form(one) == normal_form(other) != ""


def test_a_name_is_found_as_whole_words_in_any_form():
    assert names("They play ICE-hockey.", "ice hockey") and names("Two dogs bark.", "dog")
    assert not names("Doggerel is not hockey on ice.", "dog") and not names("hockey, ice", "ice hockey")
    assert not names("nothing", "!?")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"category": "sport", "classes": ["chess", "golf", "judo", "rugby"]}, "not 5 classes"),
        ({"category": "sport"}, "no category with classes"),
        ("sport", "no category with classes"),
        ({"category": "", "classes": list("vwxyz")}, "a name that is empty, too long or not in plain letters"),
        ({"category": "sp/ort", "classes": list("vwxyz")}, "a name that is empty, too long or not in plain letters"),
        ({"category": "x", "classes": ["b", "c", "d", "e", "!"]},
         "a class that is empty, too long or not in plain letters"),
        ({"category": "x", "classes": ["b", "c", "d", "e", "one two three four"]},
         "a class that is empty, too long or not in plain letters"),
        ({"category": "x", "classes": ["b", "c", "d", "tennis", "Table Tennis"]}, "a class that names another"),
        ({"category": "x", "classes": ["b", "c", "d", "dog", "dogs"]}, "a class that names another"),
        ({"category": "A Colour", "classes": ["v", "w", "x", "y", "z"]}, "a category that is there already"),
        ({"category": "paint", "classes": ["Red", "blues", "x", "y", "z"]}, "classes that another category has"),
    ],
)  # fmt: skip
def test_a_category_that_cannot_be_used_is_rejected_with_the_reason(item: object, reason: str):
    colours = {"category": "colour", "classes": ["red", "blue", "green", "white", "black"]}
    accepted, rejected = accept_categories([as_json("categories", [colours, item])])
    assert accepted == [Category("colour", ("red", "blue", "green", "white", "black"))]
    assert [(r.kind, r.reason) for r in rejected] == [("category", reason)]


def test_later_answers_do_not_change_what_is_accepted_of_earlier_ones():
    answers = [as_json("categories", categories(text)) for text in ("a", "b", "a")]
    two, three = accept_categories(answers[:2])[0], accept_categories(answers)
    assert three[0] == two and len(two) == 20
    assert reasons(three[1]) == {"a category that is there already": 10}


def test_sentences_are_distinct_name_no_class_and_belong_to_one_class():
    good_one, other = "They fought each other on the mat.", "A quiet game that lasts for hours."
    answers = {
        "judo": [
            as_json("sentences", [good_one, "they fought each other on mat", "Judo is done on a mat.", "Too short."]),
            "{'sentences': broken",
            as_json("sentences", ["The wind filled what they were golfing with.", 7, "two\nlines of one sentence"]),
        ],
        "chess": [as_json("sentences", [other, " ".join(["word"] * 41), "Nobody moved for a long while."])],
        "golf": [as_json("sentences", [other.upper()])],
    }
    found = Sentences(SPORTS)
    for label, texts in answers.items():
        for text in texts:
            found.take(label, text)
    by_class, rejected = found.result()
    assert by_class == {
        "chess": ["Nobody moved for a long while."], "ice hockey": [], "sailing": [], "judo": [good_one], "golf": [],
    }  # fmt: skip
    assert reasons(rejected) == {
        "a repeated sentence": 1, "names a class": 2, "too short or too long": 2, "empty or several lines": 1,
        "not a text": 1, "not the JSON that was asked for": 1, "written for several classes": 2,
    }  # fmt: skip
    assert {r.of for r in rejected if r.reason == "names a class"} == {"sport: judo"}


def test_the_split_is_a_fixed_hash_of_the_category_and_near_eight_one_one():
    # Written down once, so that no later version moves a task: the first 8 bytes of SHA-256 over 2^64.
    found = [split_of(name) for name in ("sport", "Sport", "colour", "kind of weather")]
    assert found == ["test", "test", "validation", "train"]
    counts = Counter(split_of(f"category {i}") for i in range(4000))
    assert all(abs(counts[split] / 4000 - share) < 0.02 for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True))


# --- the command ----------------------------------------------------------------------------------


def test_a_collection_is_made_can_be_read_and_says_where_it_comes_from(go: Callable[..., Result], tmp_path: Path):
    with FaultServer(["429", "html"], answer=good, key=KEY) as server:
        done = go(server.url, "--licence", "CC0", n=12)
        n = len(server.seen)
        again = go(server.url, "--licence", "CC0", n=12)
        other = go(server.url, n=11)
    assert done.exit_code == again.exit_code == 0, done.stderr
    assert len(server.seen) == n == 2 + 2 + 12 * 5, "two lists of categories, one of sentences a class, faults"
    assert "made earlier" in again.stdout and other.exit_code == 2 and "other settings" in other.stderr
    assert "| categories | 2 |" in done.stderr and "| sentences | 60 |" in done.stderr, "the price comes first"
    dod = FOLDER_DODS["keyword-classification"](tmp_path / "kc")
    assert dod.licence == "CC0" and "m at " in dod.source and "2605.27642" in dod.source
    by_split = {split: list(dod.tasks(split)) for split in SPLITS}
    tasks = [task for some in by_split.values() for task in some]
    assert len({task.name for task in tasks}) == 12
    for split, some in by_split.items():
        assert all(split_of(task.name) == split for task in some)
    for task in tasks:
        assert len(task.labels) == 5 and all(label in task.instruction for label in task.labels)
        parts = [{e.input for e in part} for part in (task.train, task.validation, task.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 20 and all(parts)
        assert {e.output for part in (task.train, task.validation, task.test) for e in part} == set(task.labels)
    sent = {json.dumps(body, sort_keys=True) for body in server.seen}
    saved = [json.loads(line) for line in (tmp_path / "kc" / "prompts.jsonl").read_text().splitlines()]
    assert {json.dumps(line["body"], sort_keys=True) for line in saved} == sent


def test_the_seed_draws_examples_and_leaves_the_tasks_in_their_order(go: Callable[..., Result], tmp_path: Path):
    with FaultServer(answer=good) as server:
        go(server.url, n=12)
    one, two = (list(KeywordClassification(tmp_path / "kc").tasks("train", 3, seed)) for seed in (0, 1))
    assert [t.name for t in one] == [t.name for t in two] and one[0].train != two[0].train


def test_a_larger_collection_has_the_smaller_ones_tasks_and_pays_for_the_new_ones_alone(
    go: Callable[..., Result], tmp_path: Path
):
    with FaultServer(answer=good) as server:
        go(server.url, n=2, output="small")
        go(server.url, n=9, output="large")
    assert set(server.paid.values()) == {1} and len(server.seen) == 2 + 9 * 5
    small, large = ((tmp_path / name / "tasks.jsonl").read_text().splitlines() for name in ("small", "large"))
    assert large[:2] == small and len(large) == 9


def test_a_plan_sends_and_writes_nothing_and_needs_no_key(
    go: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "prices.yaml").write_text(PRICES)
    with FaultServer(answer=good) as server:
        monkeypatch.delenv("OPENAI_API_KEY")
        planned = go(server.url, "--plan", "--prices", tmp_path / "prices.yaml", "--parameter", "max_tokens=10")
        assert not server.seen and [path.name for path in tmp_path.iterdir()] == ["prices.yaml"]
        go(server.url, "--parameter", "max_tokens=10")
    assert "| categories | 1 | 0 |" in planned.stdout and "| sentences | 15 | 0 |" in planned.stdout
    # 16 answers of at most 10 tokens at 0.1 cents each, and an input of next to nothing.
    assert re.search(r"Price of all: \$0\.16\d?\.", planned.stdout), planned.stdout
    assert json.loads(planned.stdout.split(":\n")[1].split("\n\nThe first")[0]) in server.seen


def test_a_limit_on_cost_is_kept_and_what_was_paid_for_is_used_afterwards(go: Callable[..., Result], tmp_path: Path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    options = ["--prices", tmp_path / "prices.yaml", "--parameter", "max_tokens=10"]
    with FaultServer(answer=good) as server:
        unpriced = go(server.url, "--max-cost", 1)
        assert unpriced.exit_code == 2 and "price of 'm' is unknown" in unpriced.stderr and not server.seen
        # An answer may cost 1 cent and a little, and costs a fifth of that: ten leave no room for another.
        stopped = go(server.url, *options, "--max-cost", 0.03)
        assert stopped.exit_code == 2 and "--max-cost" in stopped.stderr and not (tmp_path / "kc").exists()
        n = len(server.seen)
        assert go(server.url, *options).exit_code == 0
    assert 8 <= n <= 10 and len(server.seen) == 16 and set(server.paid.values()) == {1}


def test_what_comes_short_is_asked_for_again_and_what_stays_short_is_left_out(
    go: Callable[..., Result], tmp_path: Path
):
    """Every second sentence names its class; the first category never has sentences."""
    cursed: list[str] = []

    def poor(text: str) -> str:
        if text.startswith("Propose"):
            items = categories(text)
            cursed.append(items[0]["category"])
            return as_json("categories", [items[0], *items])
        label = re.search(r"about this (.*): (\w+)\.", text)
        if label[1] in cursed:
            return "Sorry, I cannot."
        return as_json("sentences", [f"{s} {label[2]}" if i % 2 else s for i, s in enumerate(sentences(text))])

    with FaultServer(answer=poor) as server:
        done = go(server.url, n=2)
    assert done.exit_code == 0, done.stderr
    # Asked for 5 and given 3 usable ones of 4 wanted: once more. Of the cursed one's classes each is asked three times.
    assert len(server.seen) == 1 + 2 * 5 * 2 + 5 * 3
    rejected = [json.loads(line) for line in (tmp_path / "kc" / "rejected.jsonl").read_text().splitlines()]
    counts = Counter((line["kind"], line["reason"]) for line in rejected)
    assert counts == {
        ("category", "a category that is there already"): 1, ("category", "too few sentences"): 1,
        ("answer", "not the JSON that was asked for"): 15, ("sentence", "names a class"): 2 * 5 * 2 * 2,
    }  # fmt: skip
    assert "rejected: 40 x sentence, names a class" in done.stderr
    about = json.loads((tmp_path / "kc" / "dod.json").read_text())
    assert about["rejected"]["sentence: names a class"] == 40 and about["counts"]["tasks"] == 2
    task = next(t for split in SPLITS for t in KeywordClassification(tmp_path / "kc").tasks(split))
    assert not any(names(e.input, label) for e in task.train for label in task.labels)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(lambda text: "I would rather not.", "None of 2 answers of 'm' has a usable category; the first is 'I would"),
     (lambda text: good("Propose"), "10 usable categories in 8 lists, not 12. Ask for fewer (--n-categories 10)")],
)  # fmt: skip
def test_a_teacher_that_is_of_no_use_is_said_in_one_line(
    answer: Callable[[str], str], said: str, go: Callable[..., Result], tmp_path: Path
):
    """The second repeats ten categories for ever, but writes sentences well."""
    with FaultServer(answer=lambda text: answer(text) if "Propose" in text else good(text)) as server:
        done = go(server.url, n=12)
    assert done.exit_code == 2 and not (tmp_path / "kc").exists()
    assert said in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("fault", "said"), [("401", "refuses the key"), ("404", "knows no model 'm'"), ("400", "--parameter")]
)
def test_a_wrong_key_or_model_is_one_line_and_leaves_no_folder(
    fault: str, said: str, go: Callable[..., Result], tmp_path: Path
):
    with FaultServer([fault] * 99, answer=good) as server:
        done = go(server.url)
    assert done.exit_code == 2 and said in done.stderr and KEY not in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == "" and not (tmp_path / "kc").exists()


def test_a_missing_key_and_a_path_in_use_are_found_before_anything_is_sent(
    go: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "kc").mkdir()
    (tmp_path / "kc" / "mine.txt").write_text("mine")
    with FaultServer(answer=good) as server:
        in_use = go(server.url)
        odd = go(server.url, "--parameter", "temperature", output="x")
    monkeypatch.delenv("OPENAI_API_KEY")
    missing = go("https://api.example.com/v1", output="new")
    assert [r.exit_code for r in (in_use, odd, missing)] == [2, 2, 2] and not server.seen
    assert "is in use" in in_use.stderr and "NAME=VALUE" in odd.stderr and "OPENAI_API_KEY is not set" in missing.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kc"]


def test_a_run_that_is_killed_goes_on_where_it_was_and_pays_twice_at_most_for_what_was_in_flight(tmp_path: Path):
    sizes = ["--n-categories", 6, "--n-sentences", 4, "--concurrency", 4, "-o", tmp_path / "kc"]
    with FaultServer(answer=good, latency=0.1) as server:
        where = [
            "--model",
            "m",
            "--base-url",
            server.url,
            "--ledger",
            tmp_path / "ledger.sqlite",
            "-o",
            tmp_path / "kc",
        ]
        command = ["generate", "keyword-classification", *sizes, *where]
        process = multiprocessing.get_context("fork").Process(target=run, args=command)
        process.start()
        while sum(server.paid.values()) < 10 and process.is_alive():
            time.sleep(0.01)
        in_flight = server.active
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and not (tmp_path / "kc").exists()
        server.latency = 0.0
        done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert sum(n - 1 for n in server.paid.values()) <= max(in_flight, 4) and len(server.paid) == 1 + 6 * 5
    assert len((tmp_path / "kc" / "tasks.jsonl").read_text().splitlines()) == 6


# --- reading --------------------------------------------------------------------------------------


def test_a_folder_that_is_none_or_damaged_is_one_line(go: Callable[..., Result], tmp_path: Path):
    with pytest.raises(UserError, match="holds no keyword-classification tasks"):
        list(KeywordClassification(tmp_path).tasks("train"))
    with FaultServer(answer=good) as server:
        go(server.url, n=2)
    path = tmp_path / "kc" / "tasks.jsonl"
    lines = path.read_text().splitlines()
    for damaged, said in (
        ([lines[0], "{"], "line 2: not JSON"),
        ([lines[0], lines[0]], "twice"),
        ([json.dumps({"category": word(0), "sentences": {"a": ["b"]}})], "line 1: .*give 5 classes"),
    ):
        path.write_text("\n".join(damaged))
        with pytest.raises(UserError, match=said):
            list(KeywordClassification(tmp_path / "kc").tasks("train"))
