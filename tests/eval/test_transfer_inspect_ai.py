"""The export to the Inspect framework asks what a transfer asks and scores as it does."""

import json
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="needs pip install soft2hard[inspect]")

from inspect_ai import eval as inspect_eval
from inspect_ai.model import get_model

from soft2hard.eval.transfer.inspect_ai_task import transfer
from tests.fault_server import KEY, FaultServer


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Half of the outputs are the input."""
    rows = [f"word{i},{f'word{i}' if i % 2 else 'no'}" for i in range(24)]
    (tmp_path / "half.csv").write_text("# instruction: repeat it\ninput,output\n" + "\n".join(rows) + "\n")
    return tmp_path / "half.csv"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"id": "1", "method": "mine", "task": "half", "prompt": "Say it."}))
    return path


def test_samples_are_single_user_messages_with_the_text_that_a_transfer_sends(tasks: Path, prompts: Path) -> None:
    found = transfer(prompts=str(prompts), tasks=str(tasks), references="none", examples=2)
    asked = [(sample.metadata["method"], sample.input) for sample in found.dataset]
    assert [method for method, _ in asked] == ["mine"] * 2 + ["none"] * 2
    for method, messages in asked:
        [message] = messages
        assert message.role == "user"
        assert message.text.startswith("Say it.\nInput: word") == (method == "mine")
        assert message.text.endswith("\nOutput:")


def test_an_evaluation_over_the_openai_api_provider_scores_by_the_tasks_metric(
    tasks: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_API_KEY", KEY)
    with FaultServer(key=KEY) as server:
        monkeypatch.setenv("LOCAL_BASE_URL", server.url)
        task = transfer(prompts=str(prompts), tasks=str(tasks), references="gold")
        [log] = inspect_eval(
            task, model=get_model("openai-api/local/m"), log_dir=str(tmp_path / "logs"), display="none"
        )
    assert log.status == "success", log.error
    asked = sorted(body["messages"][0]["content"] for body in server.seen)
    assert asked == sorted(sample.input[0].text for sample in task.dataset)
    assert all(len(body["messages"]) == 1 and body["temperature"] == 0 for body in server.seen)
    right = sum(sample.target == sample.input[0].text.split("Input: ")[-1].split("\n")[0] for sample in task.dataset)
    metrics = {name: metric.value for score in log.results.scores for name, metric in score.metrics.items()}
    assert metrics["all"] == pytest.approx(right / len(task.dataset))
    assert {"mine", "gold"} <= metrics.keys()
