"""GEPA through its adapter interface: on the subject, and on a model behind an API within the budget and ledger."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gepa", reason="needs gepa: pip install 'soft2hard[optimizers]'")

from soft2hard.api.asking import Asker
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel
from soft2hard.api.text_generation import ApiGenerator
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case
from soft2hard.eval.methods.gepa import Gepa, search
from soft2hard.eval.methods.reflective import NOTHING, OutOfBudget, Terms
from soft2hard.eval.transfer.optimized import Arm
from soft2hard.eval.transfer.optimizing import OptimizeChoices
from soft2hard.eval.transfer.reflecting import Reflective
from soft2hard.lm.subject import Subject
from tests.command_line import Result
from tests.command_line import run as run_command
from tests.fault_server import KEY, FaultServer

EXAMPLES = [Example(f"w{i}", f"w{i}w{i}") for i in range(30)]
TASK = Task("double", "f", "Double it.", (), tuple(EXAMPLES[10:24]), tuple(EXAMPLES[24:]), tuple(EXAMPLES[:10]))


def answers(prompt: str, examples: list[Example]) -> list[str]:
    """A model that does the task where the prompt says Double."""
    return [example.output if "Double" in prompt else "no" for example in examples]


def test_a_search_takes_over_what_reflection_proposes_and_says_what_it_took() -> None:
    shown: list[str] = []

    def reflect(prompt: str) -> str:
        shown.append(prompt)
        return "The instruction:\n```\nDouble the word.\n```"

    found = search(TASK, NOTHING, answers, reflect, Terms(60))
    assert found.text == "Double the word." and found.score == 1.0
    assert found.calls <= 60 + len(TASK.validation) and found.tried == 2
    # Reflection sees wrong answers with what was wanted, and no test example.
    assert "The answer should have been: w" in shown[0]
    assert not any(f"{example.input}\n" in shown[0] for example in TASK.test)


def test_no_better_prompt_leaves_the_start() -> None:
    found = search(TASK, "Double.", answers, lambda prompt: "```\nSay no.\n```", Terms(40))
    assert (found.text, found.score) == ("Double.", 1.0)


class Writer:
    """A generator that reflects well."""

    def sample(self, texts: list[str], n: int, seed: int) -> list[list[str]]:
        return [["```\nKeep only the animals.\n```"] * n for _ in texts]

    def whole(self, max_new_tokens: int) -> "Writer":
        return self


def test_the_method_of_evaluate_runs_on_the_subject_and_scores_validation_examples_alone() -> None:
    subject = Subject.from_pretrained("embedded")
    examples = [
        Example(f"{a} {b} {c}", a) for a in ("dog", "lion", "wolf") for b in ("iron", "gold") for c in ("oak", "pine")
    ]
    task = Task(
        "animals", "f", "Keep only the animals.", (), tuple(examples[:6]), tuple(examples[6:9]), tuple(examples[9:])
    )
    [outcome] = Gepa(max_metric_calls=30).run([Case(task)], Bench(subject, generator=Writer()))
    assert outcome.prompt == "Keep only the animals."
    assert outcome.trace["start"] == NOTHING and outcome.trace["validation_score"] == 1.0
    assert 0 < outcome.trace["metric_calls"] <= 30 + len(task.validation) and outcome.cost.model_calls > 0


def test_on_an_api_model_it_keeps_every_answer_and_is_judged_as_optimize_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def says(text: str) -> str:
        if "I provided an assistant" in text:
            return "```\nDouble it, please.\n```"
        word = text.split("Input:")[-1].split()[0]
        return f"{word}{word}" if "Double" in text else "no"

    with FaultServer(answer=says) as server:
        model = ApiModel("m", server.url)

        def run() -> object:
            asker = Asker(model, tmp_path / "l.sqlite", read_prices())
            writer = ApiGenerator(asker)
            how = Reflective(asker, OptimizeChoices(max_calls=60), writer=writer, from_nothing=True)
            return how.run({"double": [Arm("Say it.")]}, [TASK])

        first = run()
        n = len(server.seen)
        assert run() == first and len(server.seen) == n  # nothing is asked twice
    [one] = first.tasks
    assert (one.prompt, one.start, one.origin) == ("Double it, please.", NOTHING, "gepa")
    assert one.judged.score == 1.0 and one.judged_start.score == 0.0
    assert one.stages[0].name.startswith("gepa") and 0 < one.stages[0].calls <= 60 + len(TASK.validation)


def test_a_meta_prompt_shows_the_pairs_that_were_tried_among_training_examples_and_a_line_is_taken() -> None:
    asked: list[str] = []

    def reflect(prompt: str) -> str:
        asked.append(prompt)
        return "Double it."

    found = search(TASK, NOTHING, answers, reflect, Terms(60, meta_prompt="{examples}\nTask:"))
    assert (found.text, found.score) == ("Double it.", 1.0)
    shown = [line.split(": ")[1] for line in asked[0].splitlines() if line.startswith("Input: ")]
    assert len(shown) == len(set(shown)) == 10 and asked[0].endswith("\nTask:")
    assert set(shown) <= {example.input for example in TASK.train}


def test_a_meta_prompt_without_a_place_for_examples_is_refused() -> None:
    with pytest.raises(UserError, match="no place for examples"):
        Gepa(meta_prompt="What is the task?")


def test_a_reflection_model_that_fails_ends_the_search_and_is_no_wrong_answer() -> None:
    def reflect(prompt: str) -> str:
        raise UserError("No quota.", "Raise it.")

    with pytest.raises(UserError, match="No quota"):
        search(TASK, NOTHING, answers, reflect, Terms(60))


def test_the_best_so_far_is_kept_where_the_budget_ends() -> None:
    n = 0

    def until_spent(prompt: str, examples: list[Example]) -> list[str]:
        nonlocal n
        n += len(examples)
        if n > 40:
            raise OutOfBudget
        return answers(prompt, examples)

    found = search(TASK, NOTHING, until_spent, lambda prompt: "```\nDouble the word.\n```", Terms(500))
    assert (found.text, found.score, found.stopped) == ("Double the word.", 1.0, True)


def rival(server: FaultServer, folder: Path, prices: str | None = None, **choices: object) -> Reflective:
    model = ApiModel("m", server.url)
    table = read_prices(folder / prices if prices else None)
    asked = OptimizeChoices(**{"max_calls": 60, **choices})
    asker = Asker(model, folder / "l.sqlite", table, asked.concurrency, max_cost=asked.max_cost)
    return Reflective(asker, asked, writer=ApiGenerator(asker))


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_what_reflection_costs_stands_in_the_table_by_the_users_own_prices(tmp_path: Path, key: None) -> None:
    (tmp_path / "p.yaml").write_text(
        "schema_version: 1\nmodels:\n"
        "  - {model: m, input: 1.0, output: 1.0, date: 2026-01-01, source: a test}\n"
    )  # fmt: skip
    with FaultServer(answer=lambda text: "```\nDouble it.\n```" if "I provided" in text else "no") as server:
        [one] = rival(server, tmp_path, "p.yaml", max_cost=1.0).run({"double": [Arm("Say.")]}, [TASK]).tasks
    by_name = {stage.name: stage for stage in one.stages}
    assert by_name["reflections"].calls > 0 and by_name["reflections"].price > 0 and by_name["gepa"].price > 0


def test_a_reflection_model_that_says_nothing_is_refused(tmp_path: Path, key: None) -> None:
    with (
        FaultServer(answer=lambda text: "" if "I provided" in text else "no") as server,
        pytest.raises(UserError, match="answered none of"),
    ):
        rival(server, tmp_path).run({"double": [Arm("Say.")]}, [TASK])


def test_no_more_requests_are_out_at_once_than_were_allowed(tmp_path: Path, key: None) -> None:
    def says(text: str) -> str:
        return "```\nDouble it.\n```" if "I provided" in text else "no"

    tasks = [replace(TASK, name=f"t{i}") for i in range(4)]
    with FaultServer(answer=says, latency=0.02) as server:
        rival(server, tmp_path, max_calls=30, concurrency=2).run({t.name: [Arm("Say.")] for t in tasks}, tasks)
        assert server.most_active <= 2


def by_gepa(server: FaultServer, folder: Path, *more: object) -> Result:
    (folder / "double.csv").write_text("input,output\n" + "".join(f"w{i},w{i}w{i}\n" for i in range(40)))
    (folder / "p.jsonl").write_text('{"id": "a", "method": "mine", "task": "double", "prompt": "Say it."}\n')
    asked = ["--tasks", folder / "double.csv", "--model", "m", "--base-url", server.url, "--by", "gepa"]
    asked += ["--ledger", folder / "l.sqlite", "--max-calls", 40, "-o", folder / "b.json"]
    return run_command("optimize", folder / "p.jsonl", *asked, *more)


def test_a_model_of_plain_text_reflects_in_plain_text_and_may_be_given_another_layout(
    tmp_path: Path, key: None
) -> None:
    with FaultServer(answer=lambda text: "```\nDouble.\n```" if "I provided" in text else "no") as server:
        for more, layouts in (((), {"prompt"}), (("--reflection-layout", "chat"), {"prompt", "messages"})):
            server.seen.clear()
            (tmp_path / "l.sqlite").unlink(missing_ok=True)
            found = by_gepa(server, tmp_path, "--layout", "completion", *more)
            assert found.exit_code == 0, found.stderr
            assert {"prompt" if "prompt" in body else "messages" for body in server.seen} == layouts
            assert "double: " in found.stdout  # what won is shown


def test_a_reflection_model_that_does_not_answer_is_one_line_however_well_the_model_answers(
    tmp_path: Path, key: None
) -> None:
    with FaultServer(answer=lambda text: "no") as server:
        assert by_gepa(server, tmp_path, "--layout", "completion", "--meta-prompt", "{examples}").exit_code == 0
        server.reject = lambda body: "400" if "messages" in body else None
        found = by_gepa(server, tmp_path, "--layout", "completion", "--reflection-layout", "chat")
    assert found.exit_code == 2 and "--reflection-parameter" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
