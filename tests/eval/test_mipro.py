"""MIPROv2 through our doors: on functions as models, and on a model behind an API within the budget and ledger."""

from pathlib import Path

import pytest

pytest.importorskip("dspy", reason="needs dspy: pip install 'soft2hard[optimizers]'")
pytest.importorskip("optuna", reason="needs optuna: pip install 'soft2hard[optimizers]'")

from soft2hard.api.asking import Asker
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel
from soft2hard.api.text_generation import ApiGenerator
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case
from soft2hard.eval.methods.mipro import Mipro, quiet, search
from soft2hard.eval.methods.reflective import NOTHING, Terms
from soft2hard.eval.transfer.optimized import Arm
from soft2hard.eval.transfer.optimizing import OptimizeChoices
from soft2hard.eval.transfer.reflecting import Reflective
from soft2hard.lm.subject import Subject
from tests.fault_server import KEY, FaultServer

EXAMPLES = [Example(f"w{i}", f"w{i}w{i}") for i in range(40)]
TASK = Task("double", "f", "Double it.", (), tuple(EXAMPLES[10:34]), tuple(EXAMPLES[34:]), tuple(EXAMPLES[:10]))
BUDGET = 128


class Model:
    """Does the task where the prompt says Double, or shows enough examples."""

    def __init__(self, n_shown: int = 99):
        self.n_shown, self.asked = n_shown, []

    def __call__(self, prompt: str, examples: list[Example]) -> list[str]:
        self.asked += [(prompt, example.input) for example in examples]
        can = "Double" in prompt or prompt.count("Output:") >= self.n_shown
        return [f"{example.input}{example.input}" if can else "no" for example in examples]


@pytest.mark.parametrize(
    "proposal",
    ["Double the word.", "[[ ## proposed_instruction ## ]]\nDouble the word.\n\n[[ ## completed ## ]]"],
    ids=["a model that names no field", "one that does"],
)
def test_an_instruction_that_the_reflection_model_proposes_is_found(proposal: str) -> None:
    shown: list[str] = []

    def reflect(text: str) -> str:
        shown.append(text)
        return proposal

    model = Model()
    with quiet():
        found = search(TASK, NOTHING, model, reflect, Terms(BUDGET))
    assert (found.text, found.score) == ("Double the word.", 1.0)
    assert found.calls == len(model.asked) <= BUDGET and len(set(model.asked)) == len(model.asked)
    # What it sees are training examples; the model is asked with no test example.
    assert any("w10w10" in text for text in shown)
    tested = {example.input for example in TASK.test}
    assert not tested & {text for _, text in model.asked}
    assert not any(f"'{text}'" in seen for seen in shown for text in tested)


def test_demonstrations_are_found_where_no_instruction_helps_and_none_is_a_validation_example() -> None:
    with quiet():
        found = search(TASK, NOTHING, Model(n_shown=3), lambda text: "Say it.", Terms(BUDGET))
    assert found.score == 1.0 and len(found.shown) >= 3
    assert set(found.shown) <= set(TASK.train)


def test_the_start_is_kept_where_nothing_is_better_and_a_budget_is_never_passed() -> None:
    for budget in (10, 60):
        model = Model()
        with quiet():
            found = search(TASK, "Double.", model, lambda text: "Say no.", Terms(budget))
        assert (found.text, found.shown, found.score) == ("Double.", (), 1.0)
        assert len(model.asked) <= budget


def test_what_the_model_raises_ends_the_search_and_is_no_wrong_answer() -> None:
    def refuses(prompt: str, examples: list[Example]) -> list[str]:
        raise UserError("No key.", "Set one.")

    with quiet(), pytest.raises(UserError, match="No key"):
        search(TASK, NOTHING, refuses, lambda text: "Say.", Terms(BUDGET))


def test_a_meta_prompt_is_all_that_a_model_is_asked_that_does_not_chat() -> None:
    asked: list[str] = []

    def reflect(text: str) -> str:
        asked.append(text)
        return "Double it."

    with quiet():
        found = search(TASK, NOTHING, Model(), reflect, Terms(BUDGET, meta_prompt="{examples}\nTask:"))
    assert found.text == "Double it."
    assert all(text.endswith("\nTask:") and text.count("Input:") == 10 for text in asked)


class Writer:
    """A generator that proposes well."""

    def sample(self, texts: list[str], n: int, seed: int) -> list[list[str]]:
        return [["Keep only the animals."] * n for _ in texts]

    def whole(self, max_new_tokens: int) -> "Writer":
        return self


def test_the_method_of_evaluate_runs_on_the_subject() -> None:
    subject = Subject.from_pretrained("embedded")
    examples = [
        Example(f"{a} {b} {c}", a) for a in ("dog", "lion", "wolf") for b in ("iron", "gold") for c in ("oak", "pine")
    ]
    task = Task(
        "animals", "f", "Keep only the animals.", (), tuple(examples[:6]), tuple(examples[6:9]), tuple(examples[9:])
    )
    with quiet():
        [outcome] = Mipro(max_metric_calls=60).run([Case(task)], Bench(subject, generator=Writer()))
    assert outcome.trace["validation_score"] == 1.0 and outcome.trace["metric_calls"] <= 60
    assert outcome.prompt.startswith(("Keep only the animals.", NOTHING))


def test_on_an_api_model_it_keeps_every_answer_and_is_judged_as_optimize_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def says(text: str) -> str:
        if "[[ ##" in text:
            return "Double it, please."
        word = text.split("Input:")[-1].split()[0]
        return f"{word}{word}" if "Double" in text else "no"

    with FaultServer(answer=says) as server:
        model = ApiModel("m", server.url)

        def run() -> object:
            asker = Asker(model, tmp_path / "l.sqlite", read_prices())
            writer = ApiGenerator(asker)
            how = Reflective(asker, OptimizeChoices(max_calls=BUDGET), writer=writer, from_nothing=True, by="mipro")
            return how.run({"double": [Arm("Say it.")]}, [TASK])

        first = run()
        n = len(server.seen)
        assert run() == first and len(server.seen) == n  # nothing is asked twice
    [one] = first.tasks
    assert (one.text, one.start, one.origin) == ("Double it, please.", NOTHING, "mipro")
    assert one.judged.score == 1.0 and one.judged_start.score == 0.0
    assert one.stages[0].name.startswith("mipro") and 0 < one.stages[0].calls <= BUDGET
