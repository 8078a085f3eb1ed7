"""The recipe tiny-ci as a user runs it: killed in mid-run, begun again, to the report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from soft2hard.checkpoints.install import install_real
from soft2hard.errors import UserError
from soft2hard.eval import certificate
from soft2hard.eval.report import load_run
from soft2hard.eval.transfer.results import TransferResult
from soft2hard.eval.transfer.serving import can_serve
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.model import Translator
from tests.command_line import run
from tests.paths import ROOT
from tests.pipeline_runs import files_of

RECIPE = ROOT / "recipes" / "tiny-ci.yaml"
SECONDS = 900
"""Most that the first shard may take on a machine with other work."""


def begin(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "soft2hard", "run", str(RECIPE), "-o", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory):
    """The finished run, the files of its first shard when it was killed, and what the second sitting said."""
    folder = tmp_path_factory.mktemp("tiny-ci") / "run"
    shard = folder / "corpora" / "train" / "shards" / "00000"
    first, deadline = begin(folder), time.monotonic() + SECONDS
    while not shard.exists():
        assert first.poll() is None and time.monotonic() < deadline, first.stdout.read()
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = files_of(shard)
    second = run("run", RECIPE, "-o", folder)
    assert second.exit_code == 0, second.output
    return folder, kept, second.output


def test_a_killed_run_goes_on_with_the_shard_after_the_last(resumed) -> None:
    folder, kept, said = resumed
    assert kept and files_of(folder / "corpora" / "train" / "shards" / "00000") == kept
    assert "corpus train: shard 1 of 2" not in said and "corpus train: shard 2 of 2" in said


def test_it_ends_in_a_report_whose_soft_prompts_and_gold_texts_work(resumed) -> None:
    folder, _, said = resumed
    assert said.strip().endswith("report.html") and (folder / "report.html").stat().st_size > 10_000
    loaded = load_run(folder / "evaluation")
    failed = {row.method for row in loaded.rows if row.failure}
    assert failed <= {"greedy", "nothing read"}, "so poor a translator may write nothing"
    rows = loaded.by_method
    scores = {name: np.mean([row.score for row in of if not row.failure]) for name, of in rows.items()}
    assert scores["gold"] > 0.8 and scores["soft"] > 0.6 and scores["none"] < 0.4
    assert {"few-shot", "nearest-token", "greedy", "translated"} <= scores.keys()


def test_a_translator_that_reads_nothing_writes_the_same_for_every_task(resumed) -> None:
    folder, _, _ = resumed
    texts = {row.prompt for row in load_run(folder / "evaluation").by_method["nothing read"]}
    assert len(texts) == 1


def test_its_translator_is_shipped_with_soft_prompts_of_the_test_tasks_that_inputs_were_written_for(
    resumed, tmp_path: Path
) -> None:
    folder, _, _ = resumed
    names = [task.name for task in load_run(folder / "evaluation").tasks]
    written = [*names[::2], "a task of another evaluation"]
    inputs = tmp_path / "inputs.yaml"
    inputs.write_text(json.dumps({"a task of another evaluation": ["of no use"]}))
    with pytest.raises(UserError, match="no task of"):
        install_real(folder, tmp_path / "none", inputs)
    inputs.write_text(json.dumps({name: [f"of {name}", "another"] for name in written}))
    install_real(folder, tmp_path, inputs)
    about = json.loads((tmp_path / "soft_prompts" / "tasks.json").read_text())
    assert [one["task"] for one in about] == names[::2]
    translator = Translator.from_pretrained(tmp_path / "translator")
    for one in about:
        path = tmp_path / "soft_prompts" / one["file"]
        translator.check(SoftPrompt.from_pretrained(path))
        assert path.with_suffix(".txt").read_text().splitlines() == [f"of {one['task']}", "another"]
        assert "examples" not in one, "collections of others are not passed on"
    assert str(translator.card.training["train_pairs"]) in (tmp_path / "translator" / "README.md").read_text()


def test_the_certificate_stands_in_the_report_beside_what_else_was_read(resumed) -> None:
    folder, _, said = resumed
    found = certificate.load(folder / "evaluation")
    assert {certificate.MATCHED, certificate.OTHER, certificate.NOISE, certificate.RIVALS["nothing"]} <= set(
        found.reads
    )
    assert len(found.values(certificate.MATCHED, "nll")) == 6 and len(found.wayward) == 2
    assert "Does it read the vectors?" in (folder / "report.md").read_text()
    assert all(f"certificate: {sentence}" in said for sentence in found.sentences())


def test_the_translator_has_learnt_something(resumed) -> None:
    folder, _, _ = resumed
    log = [json.loads(line) for line in (folder / "translator" / "log.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.skipif(not can_serve(), reason="needs pip install soft2hard[serving]")
def test_its_prompts_are_asked_of_the_api_side_model(resumed) -> None:
    folder, _, _ = resumed
    result = TransferResult.load(folder / "transfer" / "transfer.json")
    assert {row.method for row in result.rows} == {"gold", "few-shot", "translated"}
    # Under the texts of a translator that has hardly begun, a model may have nothing to say.
    faults = [answer.fault for answer in result.answers if answer.answer is None]
    assert set(faults) <= {"no text"} and len(faults) < len(result.answers) / 4
    assert "API-side model" in (folder / "report.md").read_text()
