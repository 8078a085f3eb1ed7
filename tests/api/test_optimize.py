"""Optimising a prompt on an API model: what is asked, what wins, what it costs, and what survives a kill."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from soft2hard.api.asking import Asker
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.transfer.contests import Contest, most_arms
from soft2hard.eval.transfer.optimized import Arm, Optimization
from soft2hard.eval.transfer.optimizing import OptimizeChoices, Optimizer, copied_runs
from soft2hard.eval.transfer.plan import Asking
from soft2hard.eval.transfer.settings import TransferChoices
from tests.command_line import run as run_command
from tests.fault_server import KEY, FaultServer

PRICES = """
schema_version: 1
models:
  - {model: m, input: 1.0, output: 1.0, date: 2026-01-01, source: a test}
"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def task(n: int = 40, name: str = "double", n_test: int = 12) -> Task:
    examples = [Example(f"w{i}", f"w{i}w{i}") for i in range(n)]
    return Task(name, "f", "", (), tuple(examples[n_test:]), (), tuple(examples[:n_test]))


def obeys(good: str, needs_shown: int = 0) -> Callable[[str], str]:
    """A model that does the task where a text says the good word, behind so many demonstrations at least."""

    def answer(text: str) -> str:
        word = text.split("Input:")[-1].split()[0]
        return f" {word}{word}" if good in text and text.count("Output:") > needs_shown else " no idea"

    return answer


def optimizer(server: FaultServer, folder: Path, prices: Path | None = None, **choices: object) -> Optimizer:
    asked = OptimizeChoices(**choices)
    model = ApiModel("m", server.url)
    return Optimizer(Asker(model, folder / "l.sqlite", read_prices(prices), max_cost=asked.max_cost), asked)


def arms(*texts: str) -> dict[str, list[Arm]]:
    return {"double": [Arm(text) for text in texts]}


def test_the_text_that_the_model_follows_wins_and_is_judged_on_examples_that_chose_nothing(tmp_path: Path) -> None:
    with FaultServer(answer=obeys("Double")) as server:
        found = optimizer(server, tmp_path, shots="0").run(arms("Say it.", "Write.", "Double it.", "Again."), [task()])
    [one] = found.tasks
    assert (one.text, one.prompt, one.start) == ("Double it.", "Double it.", "Say it.")
    assert (one.judged.score, one.judged_start.score) == (1.0, 0.0)
    assert found.gain.difference.value == 1.0 and found.gain.n_tasks == 12  # over the examples of the only task
    tested = {example.input for example in task().test}
    choosing = [body for body in server.seen if body["messages"][0]["content"].split()[-2] not in tested]
    assert len(choosing) + 2 * len(tested) == len(server.seen)
    assert sum(stage.calls for stage in one.stages) == len(server.seen)


def test_candidates_of_a_round_are_asked_with_the_same_inputs_and_half_go_on(tmp_path: Path) -> None:
    with FaultServer(answer=obeys("Double")) as server:
        [one] = optimizer(server, tmp_path, shots="0", max_calls=48).run(
            arms("a", "b", "Double c", "d", "e", "f", "g", "h"), [task()]
        ).tasks  # fmt: skip
    rounds = [stage for stage in one.stages if stage.name.startswith("round")]
    assert [stage.arms for stage in rounds] == [8, 4, 2]
    assert [stage.calls for stage in rounds] == [stage.arms * stage.examples for stage in rounds]
    said = [body["messages"][0]["content"] for body in server.seen[: rounds[0].calls]]
    inputs = {text.split("\n")[0]: set() for text in said}
    for text in said:
        inputs[text.split("\n")[0]].add(text.split("Input: ")[1].split("\n")[0])
    assert len(inputs) == 8 and len({frozenset(of) for of in inputs.values()}) == 1


@pytest.mark.parametrize("max_calls", [8, 31, 128])
def test_choosing_never_takes_more_requests_than_were_allowed(tmp_path: Path, max_calls: int) -> None:
    with FaultServer(answer=obeys("Double")) as server:
        [one] = optimizer(server, tmp_path, max_calls=max_calls).run(
            arms(*(f"text {i}" for i in range(9))), [task()]
        ).tasks  # fmt: skip
    assert sum(stage.calls for stage in one.stages if stage.name != "judging") <= max_calls


def test_demonstrations_win_where_the_model_needs_them_and_none_of_them_chooses(tmp_path: Path) -> None:
    with FaultServer(answer=obeys("Double", needs_shown=4)) as server:
        [one] = optimizer(server, tmp_path, shots="0,4").run(arms("Double.", "Say."), [task()]).tasks
    assert one.text == "Double." and len(one.shown) == 4
    asked = {body["messages"][0]["content"].split("Input: ")[-1].split("\n")[0] for body in server.seen}
    assert not asked & {input for input, _ in one.shown}
    assert one.prompt.count("Output:") == 4


def test_the_same_command_again_asks_for_nothing_and_finds_the_same(tmp_path: Path) -> None:
    candidates = arms("Say it.", "Double it.", "Again.")
    with FaultServer(answer=obeys("Double")) as server:
        first = optimizer(server, tmp_path).run(candidates, [task()])
        n = len(server.seen)
        again = optimizer(server, tmp_path).run(candidates, [task()])
        assert len(server.seen) == n
    assert again == first


def test_faults_that_pass_change_nothing_of_what_wins(tmp_path: Path) -> None:
    with FaultServer(answer=obeys("Double"), script=["500", "429", "ok", "reset"]) as server:
        [one] = optimizer(server, tmp_path, shots="0").run(arms("Say.", "Double."), [task()]).tasks
    assert one.text == "Double." and not any(stage.missing for stage in one.stages)


def test_a_limit_on_cost_ends_the_search_and_what_was_paid_is_kept(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    with FaultServer(answer=obeys("Double")) as server:
        stopped = optimizer(server, tmp_path, prices, max_cost=0.0004, shots="0").run(arms("Say.", "Double."), [task()])
        n = len(server.seen)
        assert stopped.tasks[0].stopped and "raise --max-cost" in stopped.text()
        whole = optimizer(server, tmp_path, prices, max_cost=1.0, shots="0").run(arms("Say.", "Double."), [task()])
    assert n > 0 and max(server.paid.values()) == 1
    assert not whole.tasks[0].stopped and whole.tasks[0].text == "Double."


@pytest.mark.parametrize(
    ("choices", "of", "says"),
    [
        ({"max_cost": 1e-6}, task(), "above --max-cost"),
        ({}, task(n_test=0), "left to judge on"),
        ({}, Task("double", "f", "", (), (), (), (Example("a", "b"),)), "to choose on"),
        ({}, task(name="other"), "no candidate for the task 'other'"),
    ],
)
def test_what_cannot_come_to_an_end_is_refused_before_anything_is_sent(
    tmp_path: Path, choices: dict, of: Task, says: str
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    with FaultServer() as server, pytest.raises(UserError, match=says):
        optimizer(server, tmp_path, prices, **choices).run(arms("a", "b"), [of])
    assert not server.seen


def test_an_unknown_price_with_a_limit_on_cost_is_refused(tmp_path: Path) -> None:
    with FaultServer() as server, pytest.raises(UserError, match="price of 'm' is unknown"):
        optimizer(server, tmp_path, max_cost=1.0).run(arms("a"), [task()])
    assert not server.seen


def contest_of(arms: list[Arm], name: str = "double") -> Contest:
    return Contest(task(name=name), arms, [], Asking(ApiModel("m"), task(), TransferChoices(), {}))


def test_of_equals_the_likelier_texts_go_on_with_any_number_of_demonstrations() -> None:
    """Of four equal texts with three numbers of demonstrations six arms go on: the first two texts, all of them."""
    shown = [tuple(Example(f"w{i}", "x") for i in range(n)) for n in (0, 4, 8)]
    arms = [Arm(f"text {j}", some) for some in shown for j in range(4)]
    left = []
    for i in range(200):
        contest = contest_of(arms, f"t{i}")
        contest.keep_half(seed=0)
        assert {arms[arm].text for arm in contest.left} == {"text 0", "text 1"}
        contest.keep_half(seed=1)  # one text with all three
        contest.keep_half(seed=2)
        left += contest.left
    n = [sum(len(arms[arm].shown) == k for arm in left) for k in (0, 4, 8)]
    assert sum(n) == 400 and all(abs(one - 400 / 3) < 40 for one in n)  # four standard errors


def test_a_task_is_optimised_alike_whatever_stands_beside_it(tmp_path: Path) -> None:
    many, few = [Arm(f"text {i}") for i in range(8)], [Arm("Say."), Arm("Double.")]
    with FaultServer(answer=obeys("Double")) as server:
        how = optimizer(server, tmp_path)
        [alone] = how.run({"few": few}, [task(name="few")]).tasks
        both = how.run({"many": many, "few": few}, [task(name="many"), task(name="few")]).tasks
    assert both[1] == alone


def test_every_candidate_is_asked_and_one_is_left_however_few_requests_there_are(tmp_path: Path) -> None:
    with FaultServer(answer=obeys("Double")) as server:
        for max_calls in (2, 20, 64):
            [one] = optimizer(server, tmp_path, max_calls=max_calls, texts=64).run(
                arms(*(f"text {i}" for i in range(64))), [task(400)]
            ).tasks  # fmt: skip
            rounds = [stage for stage in one.stages if stage.name.startswith("round")]
            assert all(stage.examples for stage in rounds) and rounds[-1].arms == 2
    assert [most_arms(n) for n in (1, 2, 8, 24, 128)] == [1, 2, 4, 8, 25]


def test_silence_is_a_wrong_answer_while_choosing(tmp_path: Path) -> None:
    """One text gets no words on most inputs, the other is nearly always right."""

    def answer(text: str) -> str:
        word = text.split("Input:")[-1].split()[0]
        if "Quiet" in text:
            return f"{word}{word}" if int(word[1:]) % 5 == 0 else ""
        return "no" if int(word[1:]) % 10 == 0 else f"{word}{word}"

    with FaultServer(answer=answer) as server:
        found = optimizer(server, tmp_path, shots="0").run(arms("Quiet.", "Loud."), [task()])
    [one] = found.tasks
    assert one.text == "Loud." and one.judged_start.missing == sum(i % 5 != 0 for i in range(12))
    # Both have words on three test inputs (0, 5, 10), and there the quiet one is right every time.
    assert found.gain.n_tasks == 3 and found.gain.difference.value == pytest.approx(-2 / 3)


def test_a_prompt_that_the_model_does_not_take_loses_and_takes_no_other_with_it(tmp_path: Path) -> None:
    def reject(body: dict) -> str | None:
        return "too_long" if "Long" in body["messages"][0]["content"] else None

    with FaultServer(answer=obeys("Double"), reject=reject) as server:
        found = optimizer(server, tmp_path, shots="0").run(arms("A Long Double.", "Double.", "Say."), [task()])
    [one] = found.tasks
    assert one.text == "Double." and one.judged.score == 1.0 and one.judged_start.missing == 12
    assert found.faults == {"too_long": sum(found.faults.values())} and "were given up (too long)" in found.text()


def test_a_model_that_takes_no_request_is_asked_once(tmp_path: Path) -> None:
    with FaultServer(script=["400"] * 500) as server, pytest.raises(UserError, match="rejects the request"):
        optimizer(server, tmp_path).run(arms("Say.", "Double."), [task()])
    assert len(server.seen) == 1


def test_a_limit_counts_what_the_ledger_has_cost_before(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    with FaultServer(answer=obeys("Double")) as server:
        optimizer(server, tmp_path, prices, max_cost=1.0, shots="0").run(arms("Say.", "Double."), [task()])
        with pytest.raises(UserError, match="of this ledger so far"):
            optimizer(server, tmp_path, prices, max_cost=0.0004, shots="0").run(arms("Other.", "Double."), [task()])


def test_more_paraphrases_than_there_are_requests_for_are_refused(tmp_path: Path) -> None:
    with FaultServer() as server, pytest.raises(UserError, match="leave no room for a text"):
        optimizer(server, tmp_path, paraphrases=50, max_calls=8).run(arms("Say."), [task()])
    assert not server.seen


def test_a_limit_on_tokens_of_ones_own_goes_for_paraphrases_too(tmp_path: Path) -> None:
    with FaultServer(answer=obeys("Double")) as server:
        how = replace(
            optimizer(server, tmp_path, shots="0", paraphrases=2), parameters={"max_completion_tokens": 50}
        )  # fmt: skip
        how.run(arms("Write it double."), [task()])
    assert all("max_tokens" not in body and body["max_completion_tokens"] == 50 for body in server.seen)


def test_candidates_without_words_or_tasks_are_refused(tmp_path: Path) -> None:
    with FaultServer() as server:
        with pytest.raises(UserError, match="no candidate for the task 'double'"):
            optimizer(server, tmp_path).run(arms(" ", "\n"), [task()])
        with pytest.raises(UserError, match="no task"):
            optimizer(server, tmp_path).run({}, [])
    assert not server.seen


@pytest.mark.parametrize("flag", ["--reflection-url", "--reflection-parameter", "--meta-prompt"])
def test_flags_of_rivals_are_refused_without_one(tmp_path: Path, flag: str) -> None:
    found = run_command("optimize", tmp_path, "--model", "m", flag, "a={examples}", "-o", tmp_path / "b.json")
    assert found.exit_code == 2 and f"{flag} is for rivals" in found.stderr


def test_runs_of_five_words_that_stand_in_training_examples_are_named() -> None:
    examples = [Example("the quick brown fox jumps over it", "yes")]
    assert list(copied_runs("Say: The quick brown fox jumps!", examples)) == []
    assert list(copied_runs("Say the quick brown fox jumps today", examples)) == ["the quick brown fox jumps"]


def test_paraphrases_by_the_model_compete_and_count_as_requests(tmp_path: Path) -> None:
    def answer(text: str) -> str:
        if text.startswith("Write the instruction below"):
            return "Please write Double of it."
        return obeys("Please")(text)

    with FaultServer(answer=answer) as server:
        [one] = optimizer(server, tmp_path, shots="0", paraphrases=2).run(arms("Write it double."), [task()]).tasks
    assert (one.text, one.origin) == ("Please write Double of it.", "paraphrase")
    assert one.stages[0].name == "paraphrases" and one.stages[0].calls == 2


def test_from_a_translation_to_the_best_prompt_on_the_command_line(tmp_path: Path) -> None:
    rows = "".join(f"w{i},w{i}w{i}\n" for i in range(40))
    (tmp_path / "double.csv").write_text("input,output\n" + rows)
    translations = [{"soft_prompt": "prompts/double.safetensors", "text": "Say.", "candidates": [{"text": "Double."}]}]
    (tmp_path / "t.json").write_text(json.dumps({"schema_version": 2, "translations": translations}))
    asked = ["--tasks", tmp_path / "double.csv", "--model", "m", "--ledger", tmp_path / "l.sqlite"]
    asked += ["-o", tmp_path / "best.json", "--max-calls", 100]
    with FaultServer(answer=obeys("Double")) as server:
        planned = run_command("optimize", tmp_path / "t.json", *asked, "--base-url", server.url, "--dry-run")
        assert planned.exit_code == 0 and not server.seen and not (tmp_path / "best.json").exists(), planned.stderr
        # A fifth of 40 inputs are judged on, under the best text and the first.
        assert planned.stdout == "Tasks: 1. 116 requests at most; price at most: unknown. Nothing was sent.\n"
        rows = "schema_version: 1\nmodels: [{model: m, input: 0, output: 10000, date: 2026-01-01, source: x}]"
        (tmp_path / "prices.yaml").write_text(rows)  # a cent a token of output, of which there are 64 at most
        priced = ("--base-url", server.url, "--dry-run", "--prices", tmp_path / "prices.yaml")
        assert (
            f"price at most: ${116 * 0.64:.2f}." in run_command("optimize", tmp_path / "t.json", *asked, *priced).stdout
        )
        found = run_command("optimize", tmp_path / "t.json", *asked, "--base-url", server.url)
        assert len(server.seen) <= 116
    assert found.exit_code == 0, found.stderr
    assert "Gain: 1.000" in found.stdout
    assert Optimization.load(tmp_path / "best.json").tasks[0].text == "Double."


def test_the_template_that_a_translation_was_made_under_is_kept_to_and_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "double.csv").write_text("input,output\n" + "".join(f"w{i},w{i}w{i}\n" for i in range(40)))
    made = json.dumps({"input_prefix": "Q: ", "output_prefix": "\nInput: A:"})
    translations = [{"soft_prompt": "double.npy", "text": "Double.", "candidates": [{"text": "Say."}]}]
    (tmp_path / "t.json").write_text(json.dumps({"template": made, "translations": translations}))
    asked = ["--tasks", tmp_path / "double.csv", "--model", "m", "--ledger", tmp_path / "l.sqlite"]
    asked += ["-o", tmp_path / "b.json"]
    with FaultServer(answer=lambda text: text.split("Q: ")[-1].split()[0] * 2) as server:
        found = run_command("optimize", tmp_path / "t.json", *asked, "--base-url", server.url)
        assert found.exit_code == 0, found.stderr
        assert all("Q: w" in body["messages"][0]["content"] for body in server.seen)
    assert run_command("export", tmp_path / "b.json", "--to", "text", "-o", tmp_path / "p.txt").exit_code == 0
    assert "Q: {input}\nInput: A:" in (tmp_path / "p.txt").read_text()
    other = run_command("optimize", tmp_path / "t.json", *asked, "--template", "X {input} Y ")
    assert other.exit_code == 2 and "were made under the template" in other.stderr


def test_some_of_the_tasks_are_optimised_and_candidates_of_the_others_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("input,output\n" + "".join(f"w{i},w{i}w{i}\n" for i in range(40)))
    rows = [f'{{"id": "{name}", "method": "mine", "task": "{name}", "prompt": "Double."}}\n' for name in "abc"]
    (tmp_path / "p.jsonl").write_text("".join(rows))
    asked = ["--tasks", tmp_path / "a.csv", "--tasks", tmp_path / "b.csv", "--n-tasks", 1, "--model", "m"]
    asked += ["--ledger", tmp_path / "l.sqlite", "-o", tmp_path / "b.json"]
    with FaultServer(answer=obeys("Double")) as server:
        found = run_command("optimize", tmp_path / "p.jsonl", *asked, "--base-url", server.url)
    assert found.exit_code == 0, found.stderr
    assert [one.task for one in Optimization.load(tmp_path / "b.json").tasks] == ["a"]
    assert "2 candidates are for none of the tasks" in found.stderr


def test_candidates_of_other_tasks_and_files_that_hold_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "double.csv").write_text("input,output\n" + "".join(f"w{i},x{i}\n" for i in range(40)))
    (tmp_path / "other.csv").write_text("input,output\n" + "".join(f"w{i},x{i}\n" for i in range(40)))
    (tmp_path / "t.json").write_text(json.dumps({"translations": [{"soft_prompt": "cat.npy", "text": "a"}]}))
    (tmp_path / "bad.json").write_text("[]")
    for name, says in (("t.json", "no candidate for the task 'double'"), ("bad.json", "no translations")):
        found = run_command(
            "optimize", tmp_path / name, "--tasks", tmp_path, "--model", "m", "-o", tmp_path / "out" / "best.json"
        )  # fmt: skip
        assert found.exit_code == 2 and says in found.stderr and len(found.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()
