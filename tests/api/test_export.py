"""Exported prompts ask what was measured, and are read by the programs that they are for."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from soft2hard.api.requests import ApiModel, make_request
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.transfer.exporting import Prompt, export, file_name, read_exported
from soft2hard.eval.transfer.optimized import Optimization, Optimized
from soft2hard.prompts.template import Template
from tests.command_line import run
from tests.fault_server import KEY, FaultServer

SHOWN = (("lion", "animal"), ("oak {tall}", 'a "tree"'))
TEXT = "Say the kind, {name} or not: {{input}}."
PROMPT = Template().few_shot_text([Example(*pair) for pair in SHOWN], TEXT)
TASK = Task("kinds", "f", "", (), (), (), (Example("rose", "flower"), Example('say "it" {{x}}', "no\\ne")))


@pytest.fixture
def best(tmp_path: Path) -> Path:
    one = Optimized("kinds", PROMPT, TEXT, SHOWN, "translation", TEXT, (), None, None)
    Optimization(ApiModel("gpt-x"), None, (one,)).save(tmp_path / "best.json")
    return tmp_path / "best.json"


def message(input: str) -> str:
    """What optimize and transfer send for an input."""
    return make_request(ApiModel("gpt-x"), PROMPT, input, {}).content


def test_text_and_a_chat_completion_are_the_message_that_was_measured(best: Path, tmp_path: Path) -> None:
    prompts = read_exported(best)
    [path] = export(prompts, "text", tmp_path / "p.txt")
    assert path.read_text().removesuffix("\n") == message("{input}")
    [path] = export(prompts, "openai", tmp_path / "p.json")
    body = json.loads(path.read_text())
    assert body["model"] == "gpt-x" and body["messages"] == [{"role": "user", "content": message("{input}")}]


def test_a_model_of_plain_text_at_an_address_of_its_own_is_exported_as_it_was_asked(tmp_path: Path) -> None:
    model = ApiModel("mine", "http://127.0.0.1:9/v1", "completion", "MY_KEY")
    prompt = Prompt("kinds", TEXT, SHOWN, PROMPT, model=model)
    [path] = export([prompt], "openai", tmp_path / "p.json")
    body = json.loads(path.read_text())
    assert body["prompt"] == message("{input}") and "messages" not in body and body["stop"] == ["\n"]
    [path] = export([prompt], "promptfoo", tmp_path / "p.yaml")
    [provider] = yaml.safe_load(path.read_text())["providers"]
    assert provider["id"] == "openai:completion:mine"
    assert (provider["config"]["apiBaseUrl"], provider["config"]["apiKeyEnvar"]) == (model.base_url, "MY_KEY")


def test_a_translation_is_exported_too_with_the_demonstrations_of_the_soft_prompt(tmp_path: Path) -> None:
    one = {"soft_prompt": "a/kinds.npy", "text": "Say it.", "demonstrated": {"text": "Say it.\nInput: a\nOutput: b"}}
    (tmp_path / "t.json").write_text(json.dumps({"translations": [one, {"soft_prompt": "b.npy", "text": "Other."}]}))
    paths = export(read_exported(tmp_path / "t.json"), "text", tmp_path / "out")
    assert {path.name for path in paths} == {"kinds.txt", "b.txt"}
    assert (tmp_path / "out" / "kinds.txt").read_text().startswith("Say it.\nInput: a\nOutput: b\nInput: {input}")


def test_a_dspy_program_cannot_hold_demonstrations_that_are_text_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DSPy"):
        export([Prompt("kinds", "Say.", prompt="Say.\nInput: a\nOutput: b")], "dspy", tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()


def test_dspy_loads_instruction_and_demonstrations(best: Path, tmp_path: Path) -> None:
    dspy = pytest.importorskip("dspy", reason="needs dspy: pip install 'soft2hard[exports]'")
    [path] = export(read_exported(best), "dspy", tmp_path / "p.json")
    program = dspy.Predict("input -> output")
    program.load(str(path))
    assert program.signature.instructions == TEXT
    assert [(demo["input"], demo["output"]) for demo in program.demos] == list(SHOWN)


def test_gepa_takes_the_seed_and_asks_with_it_as_system_prompt(best: Path, tmp_path: Path) -> None:
    gepa = pytest.importorskip("gepa", reason="needs gepa: pip install 'soft2hard[exports]'")
    [path] = export(read_exported(best), "gepa", tmp_path / "p.json")
    asked: list[list[dict]] = []

    def lm(messages: list[dict]) -> str:
        asked.append(messages)
        return "flower"

    example = {"input": "rose", "additional_context": {}, "answer": "flower"}
    found = gepa.optimize(
        json.loads(path.read_text()), [example], task_lm=lm, reflection_lm=lambda prompt: "```\nx\n```",
        max_metric_calls=1,
    )  # fmt: skip
    assert found.best_candidate == {"system_prompt": PROMPT}
    assert asked[0][0] == {"role": "system", "content": PROMPT}


def test_inspect_asks_what_was_measured_and_scores_it(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect_ai = pytest.importorskip("inspect_ai", reason="needs inspect-ai: pip install 'soft2hard[inspect]'")
    from inspect_ai.model import get_model

    [path] = export(read_exported(best), "inspect", tmp_path / "kinds.py", [TASK])
    spec = importlib.util.spec_from_file_location("kinds_task", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("LOCAL_API_KEY", KEY)
    with FaultServer(key=KEY, answer=lambda text: "flower" if "rose" in text else "what?") as server:
        monkeypatch.setenv("LOCAL_BASE_URL", server.url)
        model = get_model("openai-api/local/m")
        [log] = inspect_ai.eval(module.kinds(), model=model, display="none", log_dir=str(tmp_path / "logs"))
    assert log.status == "success", log.error
    sent = sorted(body["messages"][0]["content"] for body in server.seen)
    assert sent == sorted(message(example.input) for example in TASK.test)
    assert log.results.scores[0].metrics["mean"].value == 0.5


def test_an_inspect_task_without_examples_is_refused(best: Path, tmp_path: Path) -> None:
    found = run("export", best, "--to", "inspect", "-o", tmp_path / "x.py")
    assert found.exit_code == 2 and "--tasks" in found.stderr and not (tmp_path / "x.py").exists()


def test_promptfoo_reads_the_configuration_and_fills_the_input_alone(best: Path, tmp_path: Path) -> None:
    [path] = export(read_exported(best), "promptfoo", tmp_path / "promptfooconfig.yaml", [TASK])
    found = yaml.safe_load(path.read_text())
    assert found["providers"][0]["id"] == "openai:chat:gpt-x"
    assert [test["vars"]["input"] for test in found["tests"]] == [example.input for example in TASK.test]
    jinja = pytest.importorskip("jinja2").Environment(keep_trailing_newline=True)  # Nunjucks has its raw and {{ }}
    assert jinja.from_string(found["prompts"][0]).render(input="rose") == message("rose")


@pytest.mark.skipif(shutil.which("promptfoo") is None, reason="needs promptfoo: npm install -g promptfoo")
def test_promptfoo_itself_finds_the_configuration_valid(best: Path, tmp_path: Path) -> None:
    export(read_exported(best), "promptfoo", tmp_path / "promptfooconfig.yaml", [TASK])
    done = subprocess.run(["promptfoo", "validate"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_that_hold_no_prompts_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    for path in (tmp_path / "x.json", tmp_path / "none.json"):
        found = run("export", path, "-o", tmp_path / "out.txt")
        assert found.exit_code == 2 and len(found.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.txt").exists()


def test_names_of_tasks_become_names_of_files_and_of_functions() -> None:
    assert file_name("instruction-induction/antonyms") == "instruction-induction_antonyms"
    assert file_name("3 words") == "task_3_words" and file_name("") == "prompt"
