"""The lines that docs/cluster.md gives for training by several processes, run as they stand on two CPU processes."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.command_line import run
from tests.paths import ROOT

SECTION = re.search(
    r"## Several GPUs: training\n\n```console\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.S
)[1]
LINES = [line.removeprefix("$ ") for line in SECTION.splitlines()]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the launchers are for other systems")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/corpus and runs/validation, of a few tasks of the embedded subject."""
    folder = tmp_path_factory.mktemp("launch")
    for split, name, n in (("train", "corpus", 6), ("validation", "validation", 3)):
        made = run(
            "tune", "--dod", "lexical", "--split", split, "--n-tasks", n, "--steps", 2, "--eval-every", 2,
            "-o", folder / "runs" / name,
        )  # fmt: skip
        assert made.exit_code == 0, made.output
    return folder


def test_the_section_has_a_line_for_each_launcher_with_and_without_deepspeed() -> None:
    assert {line.split()[0] for line in LINES} == {"torchrun", "deepspeed"}
    assert {"--deepspeed" in line for line in LINES} == {True, False}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_docs_trains_on_two_processes(line: str, runs: Path, tmp_path: Path) -> None:
    if "deepspeed" in line and find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed (pip install '.[deepspeed]')")
    words = line.replace(" 4 ", " 2 ").split()
    words[words.index("-o") + 1] = str(tmp_path / "translator")
    small = ["--epochs", "1", "--batch-size", "4", "--calibration-tasks", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [*words, *small], cwd=runs, env=environment, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    step = json.loads((tmp_path / "translator" / "checkpoints" / "step.json").read_text())
    assert step["pairs"] == 2 * 4  # two processes of four pairs each, not one
    assert (tmp_path / "translator" / "translator" / "soft2hard.json").exists()


def test_deepspeed_without_a_launcher_is_a_group_of_one(runs: Path, tmp_path: Path) -> None:
    if find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed (pip install '.[deepspeed]')")
    words = [sys.executable, "-m", "soft2hard", "train", "runs/corpus", "--validation", "runs/validation"]
    words += ["-o", str(tmp_path / "t"), "--deepspeed", "zero2", "--epochs", "1", "--calibration-tasks", "0"]
    unset = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    done = subprocess.run(
        words, cwd=runs, env=unset | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]


def test_accelerate_on_cpus_says_that_it_begins_one_process(runs: Path, tmp_path: Path) -> None:
    words = ["accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "soft2hard", "train", "runs/corpus"]
    words += ["--validation", "runs/validation", "-o", str(tmp_path / "t"), "--epochs", "1", "--calibration-tasks", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(words, cwd=runs, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "torchrun --nproc_per_node 2" in done.stderr
