"""A transfer as a user meets it: dry run, run, rerun, table; one line and exit code 2 for what cannot work."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest

from soft2hard.api.answers import Answer
from soft2hard.api.ledger import SCHEMA_VERSION, Spent
from soft2hard.api.requests import ApiModel
from soft2hard.data_gen.taskfiles import read_tasks
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval
from soft2hard.eval.transfer.material import PromptRow, read_prompts
from soft2hard.eval.transfer.plan import JUDGE_PROMPT, Judge, judge_cells, plan
from soft2hard.eval.transfer.results import MethodRow, PairedTest, Score, TransferResult, verdicts
from tests import command_line
from tests.command_line import Result
from tests.fault_server import KEY, ODD, FaultServer


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks, of 4 and 5 test examples: say the word, and say it or 'no'."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, n in (("say", 20), ("half", 25)):
        rows = [f"{name}{i},{f'{name}{i}' if name == 'say' or i % 2 else 'no'}" for i in range(n)]
        (folder / f"{name}.csv").write_text(f"# instruction: {name} it\ninput,output\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [
        {"id": "1", "method": "mine", "task": "say", "prompt": "Repeat.", "subject_score": 0.5},
        {"id": "2", "method": "mine", "task": "half", "prompt": "Odd ones.", "subject_score": 1},
        {"id": "3", "method": "other", "task": "say", "prompt": "Repeat."},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def go(tmp_path: Path, tasks: Path, prompts: Path) -> Callable[..., Result]:
    """Run the command on the fixtures; further arguments follow, and may name other prompts."""

    def run(url: str, *more: object, source: Path | None = prompts) -> Result:
        fixed = ["--base-url", url, "--tasks", tasks, "--ledger", tmp_path / "ledger.sqlite", "--attempts", 4]
        arguments = ["transfer", *([source] if source else []), *fixed, *more]
        if "--model" not in more and "--models-file" not in more:
            arguments += ["--model", "m"]
        return command_line.run(*arguments)

    return run


PRICES = """
schema_version: 1
models: [{model: m, input: 1000, output: 10000, batch: 0.5, date: 2026-01-01, source: a test}]
"""


def test_a_run_scores_every_method_and_a_rerun_sends_nothing(go: Callable[..., Result], tmp_path: Path):
    with FaultServer(["429", "html", "no_choices"], key=KEY) as server:
        first = go(server.url, "-o", tmp_path / "out.json", "--references", "none,gold")
        n = len(server.seen)
        second = go(server.url, "--references", "none,gold")
    assert first.exit_code == second.exit_code == 0, first.stderr
    # 9 test examples under 3 prompts, a fourth prompt asked alike (paid once), and three faults.
    assert n == 9 * 3 + 3 == len(server.seen)
    assert first.stdout == second.stdout
    result = TransferResult.load(tmp_path / "out.json")
    rows = {row.method: row for row in result.rows}
    assert list(rows) == ["mine", "other", "none", "gold"]
    assert rows["mine"].subject_score == 0.75 and rows["other"].subject_score is None
    assert rows["other"].score.interval is not None and rows["other"].score.interval.value == 1.0
    half = [a for a in result.answers if a.task == "half" and a.method == "mine"]
    right = sum(a.wanted == a.input for a in half) / len(half)
    assert rows["mine"].score.interval is not None
    assert rows["mine"].score.interval.value == pytest.approx((1 + right) / 2)
    assert rows["mine"].price is None and "unknown" in first.stdout and "$0.00" not in first.stdout
    assert {a.answer for a in half} == {f" {a.input}" for a in half}, "raw answers are kept"


def test_a_dry_run_sends_nothing_shows_a_request_as_sent_and_its_price(go: Callable[..., Result], tmp_path: Path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    with FaultServer() as server:
        priced = go(server.url, "--dry-run", "--prices", tmp_path / "prices.yaml", "--max-tokens", 10)
        unpriced = go(server.url, "--dry-run")
        assert not server.seen and not (tmp_path / "ledger.sqlite").exists()
        go(server.url, "--max-tokens", 10)
    shown = json.loads(priced.stdout[priced.stdout.index("{") :])
    assert shown in server.seen
    # 9 x (mine, none, gold, few-shot) distinct requests of at most 10 output tokens at 1 cent each.
    assert "| m | 36 | 0 |" in priced.stdout and "| 360 |" in priced.stdout
    assert "2026-01-01, a test" in priced.stdout and "unknown" not in priced.stdout
    assert "Price of all: unknown." in unpriced.stdout


def test_methods_and_examples_can_be_chosen(go: Callable[..., Result], tmp_path: Path):
    with FaultServer(key=KEY) as server:
        done = go(server.url, "--method", "mine", "--method", "none", "--examples", 2, "-o", tmp_path / "out.json")
        n = len(server.seen)
        refused = go(server.url, "--method", "mein")
    assert done.exit_code == 0, done.stderr
    result = TransferResult.load(tmp_path / "out.json")
    assert {row.method: row.score.n_answers for row in result.rows} == {"mine": 4, "none": 4} and n == 8
    assert refused.exit_code == 2 and "no prompt is of the method 'mein'" in refused.stderr.lower()
    assert "mine, other, none, gold, few-shot" in refused.stderr and len(server.seen) == n


def says(text: str) -> str:
    """A model that repeats the input, and a judge that compares, and sometimes mumbles."""
    if "Reply with" not in text:
        return " " + text.split("Input:")[-1].split()[0]
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    if lines["Input"].endswith("3"):
        return "Hard to say."
    return "Yes." if lines["Answer"] == lines["Reference answer"] else " no, it is not"


def test_a_judge_is_asked_about_every_answer_once_and_its_prompt_is_kept(go: Callable[..., Result], tmp_path: Path):
    with FaultServer(key=KEY, answer=says) as server:
        arguments = (server.url, "--references", "gold", "--judge", "wise", "-o", tmp_path / "out.json")
        done = go(*arguments)
        n = len(server.seen)
        again = go(*arguments)
    assert done.exit_code == again.exit_code == 0, done.stderr
    assert len(server.seen) == n, "judgements are kept in the ledger"
    result = TransferResult.load(tmp_path / "out.json")
    assert result.judged is not None and result.judged.prompt == JUDGE_PROMPT
    for row in result.judged.rows:
        of_task: dict[str, list[bool]] = {}
        answers = [a for a in result.answers if a.method == row.method]
        clear = [a for a in answers if not a.input.endswith("3")]
        for a in clear:
            of_task.setdefault(a.task, []).append(a.normalised == a.wanted)
        expected = sum(sum(right) / len(right) for right in of_task.values()) / len(of_task)
        assert row.share is not None and row.share.value == pytest.approx(expected)
        assert (row.n_judged, row.n_unclear, row.n_missing) == (len(clear), len(answers) - len(clear), 0)
        assert f"| {row.method} | m | {row.share} | {row.n_judged} | {row.n_unclear} | 0 |" in done.stdout


def test_an_answer_cannot_pass_for_a_part_of_the_judges_prompt():
    cell = next(iter(plan([PromptRow("1", "mine", "t", "p")], {0: [ONE]}, [ApiModel("m")])))
    stored = {cell.request.key: Answer(" {reference} {input}", False, "stop", 1, 1)}
    [asked] = judge_cells([cell], stored, Judge(ApiModel("wise")))
    assert asked is not None and "Answer: {reference} {input}\n" in asked.request.content
    assert asked.request.content.count("secret") == 1
    refused = {cell.request.key: Answer("no", True, "stop", 1, 1)}
    assert (
        judge_cells([cell], refused, Judge(ApiModel("wise"))) == [None] == judge_cells([cell], {}, Judge(ApiModel("w")))
    )


ONE = Task("t", "f", "Do it.", (), (), (), (Example("x", "secret"),))


def test_a_judges_prompt_without_the_answer_is_refused(go: Callable[..., Result], tmp_path: Path):
    (tmp_path / "judge.txt").write_text("Is {input} right?")
    bad = go("http://127.0.0.1:9", "--judge", "wise", "--judge-prompt", tmp_path / "judge.txt")
    assert bad.exit_code == 2 and "no place for the answer" in bad.stderr
    alone = go("http://127.0.0.1:9", "--judge-prompt", tmp_path / "judge.txt")
    assert alone.exit_code == 2 and "no --judge" in alone.stderr


def test_repeats_have_seeds_of_their_own_and_parameters_are_sent(go: Callable[..., Result]):
    with FaultServer() as server:
        options = ["--repeats", 2, "--seed", 7, "--references", "", "--layout", "completion"]
        done = go(server.url, *options, "--parameter", "temperature=0.5", "--parameter", "max_tokens=null")
    assert done.exit_code == 0, done.stderr
    assert {body["seed"] for body in server.seen} == {7, 8}
    assert {tuple(body) for body in server.seen} == {("model", "prompt", "seed", "temperature", "stop")}
    assert {body["temperature"] for body in server.seen} == {0.5} and server.seen[0]["stop"] == ["\n"]


def test_several_models_of_a_file_run_at_once_each_with_its_own_settings(go: Callable[..., Result], tmp_path: Path):
    with FaultServer() as one, FaultServer(answer=lambda text: "wrong") as other:
        models = [{"name": "a", "base_url": one.url}, {"name": "b", "base_url": other.url, "layout": "completion"}]
        (tmp_path / "models.yaml").write_text(json.dumps(models))
        done = go("http://unused", "--models-file", tmp_path / "models.yaml", "--references", "")
    assert done.exit_code == 0, done.stderr
    assert len(one.seen) == len(other.seen) == 9 and "prompt" in other.seen[0]
    assert "| other |  | 1.000 [1.000, 1.000] | 0.000 [0.000, 0.000] |" in done.stdout


def test_max_cost_stops_before_it_is_passed_and_a_higher_one_goes_on(go: Callable[..., Result], tmp_path: Path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    options = ["--prices", tmp_path / "prices.yaml", "--references", "", "--max-tokens", 10]
    with FaultServer() as server:
        stopped = go(server.url, *options, "--max-cost", 0.3)
        spent = len(server.seen) * (10 * 1000 + 2 * 10000) / 1e6  # what the server counts, at our prices
        done = go(server.url, *options, "--max-cost", 100)
    assert stopped.exit_code == 0 and "Stopped before --max-cost 0.3" in stopped.stderr
    assert 0 < spent <= 0.3 and f"${spent:.2g}" in stopped.stdout
    assert done.exit_code == 0 and len(server.seen) == 9
    refused = go("http://127.0.0.1:1/v1", "--max-cost", 1)
    assert refused.exit_code == 2 and "price of 'm' is unknown" in refused.stderr


def test_the_batch_flag_gives_the_same_table(go: Callable[..., Result], tmp_path: Path):
    with FaultServer() as server:
        batched = go(server.url, "--batch", "--poll-seconds", 0.05)
        assert len(server.batches) == 1 and len(server.seen) == 1, "one probe, then a batch"
        os.rename(tmp_path / "ledger.sqlite", tmp_path / "batched.sqlite")
        online = go(server.url)
    assert batched.exit_code == online.exit_code == 0, batched.stderr
    assert batched.stdout == online.stdout


@pytest.mark.parametrize(
    ("script", "says"),
    [(["401"] * 9, "refuses the key in OPENAI_API_KEY"), (["404"] * 9, "knows no model 'm'"),
     (["quota"] * 9, "no quota left"), (["400"] * 9, "rejects the request"),
     (["too_long"] * 9, "too long for the context"),
     (["500"] * 9, "gives no answer: server error")],
)  # fmt: skip
def test_what_the_probe_finds_is_one_line_and_exit_code_2(go: Callable[..., Result], script: list[str], says: str):
    with FaultServer(script) as server:
        result = go(server.url)
        n = len(server.seen)
        assert go(server.url, "--dry-run").exit_code == 0, "the ledger is intact"
    assert result.exit_code == 2 and says in result.stderr and KEY not in result.output
    assert result.stderr.count("\n") == 1 and not result.stdout
    assert n == (4 if script[0] == "500" else 1)


def test_no_server_and_no_key_are_one_line_and_exit_code_2(go: Callable[..., Result], monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = go(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
    assert result.exit_code == 2 and "Cannot reach" in result.stderr and result.stderr.count("\n") == 1
    monkeypatch.delenv("OPENAI_API_KEY")
    result = go("https://api.example.com/v1")
    assert result.exit_code == 2 and "OPENAI_API_KEY is not set" in result.stderr


def test_quota_that_ends_in_mid_run_stops_the_run_keeps_the_answers_and_says_so(go: Callable[..., Result]):
    with FaultServer(["ok"] * 5 + ["quota"] * 50) as server:
        stopped = go(server.url, "--concurrency", 1)
        assert len(server.seen) == 6 and server.outcomes.count("quota") == 1
        server.script = []
        done = go(server.url)
    assert stopped.exit_code == 2 and "no quota left" in stopped.stderr and "| mine |" in stopped.stdout
    assert done.exit_code == 0 and set(server.paid.values()) == {1}


def test_an_answer_ends_at_the_stop_that_was_sent_even_where_the_server_writes_on(
    go: Callable[..., Result], tmp_path: Path
):
    def answer(text: str) -> str:
        return f" {text.split('Input: ')[-1].split()[0]}\nInput: say1\nOutput: say1"

    with FaultServer(answer=answer) as server:
        done = go(server.url, "--references", "", "--layout", "completion", "-o", tmp_path / "out.json")
    assert done.exit_code == 0, done.stderr
    result = TransferResult.load(tmp_path / "out.json")
    assert next(row for row in result.rows if row.method == "other").score.interval.value == 1.0
    assert all("\nInput" in row.answer and row.normalised == row.input for row in result.answers), "raw ones are kept"


def test_answers_that_cannot_be_had_are_counted_apart(go: Callable[..., Result], tmp_path: Path):
    with FaultServer(["ok", "400", "400", "policy"]) as server:
        done = go(server.url, "--references", "", "--concurrency", 1, "-o", tmp_path / "out.json")
    rows = {row.method: row.score for row in TransferResult.load(tmp_path / "out.json").rows}
    assert done.exit_code == 0 and "2 requests were given up (rejected)" in done.stderr
    assert rows["mine"].n_missing == 2 and rows["mine"].n_answers == 7 and rows["mine"].n_refused == 1


def test_replies_without_an_answer_are_counted_under_their_names_and_thinking_is_taken_off(
    go: Callable[..., Result], tmp_path: Path
):
    texts = iter(["<think>hm</think> w", "<think>never ends", "", *["x"] * 99])
    with FaultServer(answer=lambda text: next(texts)) as server:
        first = go(server.url, "--references", "", "--concurrency", 1, "-o", tmp_path / "out.json")
        n_asked = len(server.seen)
        again = go(server.url, "--references", "", "--keep-thinking", "-o", tmp_path / "kept.json")
        assert first.exit_code == again.exit_code == 0 and n_asked == len(server.seen)
    off, kept = (TransferResult.load(tmp_path / name) for name in ("out.json", "kept.json"))
    for result, texts in ((off, {"w", "x", None}), (kept, {"<think>hm</think> w", "<think>never ends", "x", None})):
        assert {row.answer for row in result.answers} == texts
        n_lacking = [row.fault for row in result.answers if row.answer is None].count("no text")
        assert (
            n_lacking == sum(row.score.n_no_text for row in result.rows) == sum(s.score.n_missing for s in result.rows)
        )
    assert " no text) |" in first.stdout


def test_of_a_thousand_requests_a_third_of_odd_replies_changes_no_score_and_each_is_counted_under_its_name(
    tmp_path: Path,
):
    (folder := tmp_path / "tasks").mkdir()
    for name in "abcde":
        rows = [f"{name}{i},{f'{name}{i}' if i % 2 else 'no'}" for i in range(1000)]
        (folder / f"{name}.csv").write_text("# instruction: Say it\ninput,output\n" + "\n".join(rows) + "\n")
    passing, odd = ["choice_error", "no_usage", "500"], list(ODD)
    with FaultServer(fault_rate=0.3, kinds=[*passing, *odd], seed=1) as server:
        arguments = ("--model", "m", "--base-url", server.url, "--tasks", folder, "--references", "gold")
        out = ("--ledger", tmp_path / "l.sqlite", "-o", tmp_path / "out.json", "--attempts", 12)
        done = command_line.run("transfer", *arguments, *out)
        seen = Counter(server.outcomes)
    assert done.exit_code == 0, done.stderr
    result = TransferResult.load(tmp_path / "out.json")
    [row] = result.rows
    cut_off = seen["reasoned_to_the_limit"] + seen["thinking_to_the_limit"]
    no_text = seen["reasoning_alone"] + seen["thinking_part_alone"] + seen["tool_call"]
    assert len(result.answers) == 1000 and min(seen[kind] for kind in (*passing, *odd)) > 10
    assert (row.score.n_cut_off, row.score.n_no_text, row.score.n_refused) == (cut_off, no_text, seen["refusal"])
    assert row.score.n_missing == cut_off + no_text
    # Of what was answered in words, the right share is that of the inputs alone; a refusal is wrong.
    shares = []
    for name in "abcde":
        answered = [one for one in result.answers if one.task == name and (one.answer is not None or one.refused)]
        shares.append(fmean(one.wanted == one.input and not one.refused for one in answered))
    assert row.score.interval.value == pytest.approx(fmean(shares))


def test_the_key_is_nowhere_on_disk_or_in_the_output(go: Callable[..., Result], tmp_path: Path):
    with FaultServer(["500", "401"], answer=lambda text: f"{KEY} {text}") as server:
        outputs = [go(server.url, "-o", tmp_path / "out.json").output]
        server.script = []
        outputs.append(go(server.url, "-o", tmp_path / "out.json").output)
    assert all(KEY not in output for output in outputs)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4 and not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [("p.jsonl", '{"id": 1, "method": "a", "task": "say"}', "line 1: no prompt"),
     ("p.jsonl", '{"id": 1, "method": "a", "task": "say", "prompt": "x"}\n' * 2, "line 2: the id '1' comes twice"),
     ("p.jsonl", "{", "line 1: not JSON"), ("p.jsonl", "", "has no prompts"),
     ("p.txt", "x", "none of .jsonl, .csv"),
     ("p.csv", "id,method,task\n1,a,say\n", "line 2: no prompt"),
     ("p.jsonl", '{"id": 1, "method": "a", "task": "unheard of", "prompt": "x"}', "not among the")],
)  # fmt: skip
def test_a_prompts_file_with_mistakes_is_one_line_and_exit_code_2(
    go: Callable[..., Result], tmp_path: Path, name: str, text: str, says: str
):
    (tmp_path / name).write_text(text)
    result = go("http://127.0.0.1:1/v1", source=tmp_path / name)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1


def test_csv_prompts_may_hold_lines_and_an_empty_one_is_no_prompt(tmp_path: Path):
    (tmp_path / "p.csv").write_text('id,method,task,prompt,subject_score\n1,a,t,"two\nlines",0.5\n2,b,t,,\n')
    rows = read_prompts(tmp_path / "p.csv")
    assert [(r.id, r.prompt, r.subject_score) for r in rows] == [("1", "two\nlines", 0.5), ("2", None, None)]


def test_a_ledger_of_a_newer_version_is_one_line_and_exit_code_2(go: Callable[..., Result], tmp_path: Path):
    import sqlite3

    with FaultServer() as server:
        assert go(server.url).exit_code == 0
        with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        database.close()
        result = go(server.url)
    assert result.exit_code == 2 and "newer version" in result.stderr and result.stderr.count("\n") == 1


def test_an_interrupt_waits_for_the_answers_that_are_out(go: Callable[..., Result], tmp_path: Path):
    with FaultServer(latency=0.4) as server:

        def interrupt() -> None:
            deadline = time.monotonic() + 60
            while server.most_active < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        result = go(server.url, "--concurrency", 2)
        thread.join()
        n = len(server.seen)
        server.latency = 0
        assert go(server.url).exit_code == 0
    assert result.exit_code == 130 and "Interrupted" in result.stderr
    assert n < 36 and set(server.paid.values()) == {1} and len(server.paid) == 36


def test_help_names_the_units_and_loads_no_client():
    code = "import sys; from soft2hard.cli.transfer import transfer; print('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_results_that_are_damaged_are_refused(tmp_path: Path):
    for text in ("{", "{}", '{"schema_version": 2}'):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(UserError):
            TransferResult.load(tmp_path / "r.json")


def test_comparisons_are_said_in_words_and_every_training_example_may_be_shown(
    go: Callable[..., Result], tmp_path: Path
):
    with FaultServer() as server:
        found = go(server.url, "--references", "none,few-shot-all", "--output", tmp_path / "r.json")
    assert found.exit_code == 0, found.stderr
    shown = [body["messages"][0]["content"].count("Output:") for body in server.seen]
    assert max(shown) == 1 + max(len(task.train) for task in read_tasks([tmp_path / "tasks"]))
    said = verdicts(TransferResult.load(tmp_path / "r.json"))
    assert {line.split(",")[0] for line in said} == {
        f"m: {method} against {rival}" for method in ("mine", "other") for rival in ("none", "few-shot-all")
    }
    assert all(line in found.stdout for line in said)
    # The server repeats each word whatever it is told: no method differs from any other.
    assert all("no clear difference" in line for line in said if line.startswith("m: mine"))


def test_a_method_that_is_worse_than_a_rival_is_said_to_be_worse():
    def row(method: str, right: float) -> MethodRow:
        return MethodRow("m", method, Score(Interval(right, right, right), 9, 9, 0, 0), None, None, None, None)

    test = PairedTest("few-shot", "translated", Interval(0.2, 0.1, 0.3), 0.01, 9, "tasks")
    rows, soft = (row("few-shot", 0.8), row("translated", 0.6)), Interval(0.8, 0.7, 0.9)
    result = TransferResult(rows, {"m": (test,)}, Spent(0.0, 0, 0.0), soft, (), {})
    first, second = verdicts(result)
    assert first == "m: translated against few-shot, worse: -0.200 [-0.300, -0.100] (p = 0.01)."
    assert second == "m: translated keeps 0.75 of the score that the soft prompts have on their own subject."
