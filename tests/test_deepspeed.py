"""The DeepSpeed configuration of the package trains on two processes, without a GPU."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from soft2hard.translator.deepspeed import NAMED, deepspeed_config
from soft2hard.translator.model import Translator
from tests import tiny_training

ROOT = Path(__file__).parent.parent


def test_each_named_configuration_comes_with_the_package_and_other_names_are_paths() -> None:
    for name in NAMED:
        assert json.loads(Path(deepspeed_config(name)).read_text())["zero_optimization"]["stage"] == int(name[-1])
    assert deepspeed_config("my/zero3.json") == "my/zero3.json"
    assert deepspeed_config(None) is None


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install '.[deepspeed]'")
@pytest.mark.skipif(sys.platform == "win32", reason="DeepSpeed trains on several processes on Linux and macOS only")
def test_two_processes_share_the_optimizer_and_save_one_translator_with_its_best_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.deepspeed_run", str(tmp_path)]
    on_cpus = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=os.environ | on_cpus, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]

    # 18 pairs, two processes of four pairs a step: three steps an epoch.
    steps = tiny_training.logged(tmp_path, "eval_loss")
    assert list(steps) == [3, 6, 9, 12]
    assert steps[12] < 0.95 * steps[3]
    parts = list((tmp_path / "checkpoints" / "checkpoint-12").rglob("zero_pp_rank_*_optim_states.pt"))
    assert len(parts) == 2

    subject = tiny_training.llama_subject()
    made = Translator.from_pretrained(tmp_path / "translator")
    made.check_subject(subject)
    validation = tiny_training.corpora(subject)[1]
    assert tiny_training.loss(made, validation) == pytest.approx(min(steps.values()), rel=1e-3)
