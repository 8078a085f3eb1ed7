"""DeepSpeed on CPU processes: the curve of one process without it, one translator, resumed by any number of processes.

The oracle is a training by one process with PyTorch's AdamW and no DeepSpeed.
"""

import multiprocessing
import shutil
import socket
import sys
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.translator import training
from soft2hard.translator.model import Translator
from soft2hard.translator.processes import NAMED, Share, config_to_resume, deepspeed_config, n_parts, share_of_step
from tests import deepspeed_process, tiny_training
from tests.deepspeed_process import PLAIN

STAGES = ("zero2", "zero3")
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None or sys.platform == "win32",
    reason="DeepSpeed is not installed (pip install '.[deepspeed]'), or does not share out work on this system",
)


def test_each_named_configuration_comes_with_the_package_and_other_names_are_paths(tmp_path: Path) -> None:
    for name in NAMED:
        zero = deepspeed_config(name)["zero_optimization"]
        assert zero["stage"] == int(name[4])
        assert ("offload_optimizer" in zero) == name.endswith("-offload")
        assert ("offload_param" in zero) == (name == "zero3-offload")
        assert zero.get("stage3_gather_16bit_weights_on_model_save", False) == (zero["stage"] == 3)
    own = tmp_path / "zero3.json"
    own.write_text('{"zero_optimization": {"stage": 1}}')
    assert deepspeed_config(str(own)) == {"zero_optimization": {"stage": 1}}
    own.write_text("{")
    for name in (str(own), str(tmp_path / "nowhere.json"), "zero4"):
        with pytest.raises(UserError, match="is no DeepSpeed configuration"):
            deepspeed_config(name)


def test_fewer_or_more_processes_share_out_the_step_that_a_training_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, expected in [(4, Share(6, 1)), (2, Share(6, 2)), (1, Share(6, 4)), (8, Share(3, 1)), (3, Share(8, 1))]:
        monkeypatch.setenv("WORLD_SIZE", str(n))
        share = share_of_step(tmp_path, batch_size=6)
        assert share == expected and share.pairs * share.passes * n == 24
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(UserError, match="5 processes cannot share the steps of 24 pairs"):
        share_of_step(tmp_path, batch_size=6)


def test_only_a_checkpoint_of_another_number_of_processes_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "checkpoint-9" / "global_step9"
    parts.mkdir(parents=True)
    for rank in range(2):
        (parts / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    assert n_parts(tmp_path / "checkpoint-9") == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert config_to_resume("zero3", tmp_path / "checkpoint-9") == deepspeed_config("zero3")
    assert config_to_resume("zero3", None) == deepspeed_config("zero3")
    monkeypatch.setenv("WORLD_SIZE", "1")
    changed = config_to_resume("zero3", tmp_path / "checkpoint-9")
    assert changed.pop("checkpoint") == {"load_universal": True}
    assert changed == deepspeed_config("zero3")


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Starts processes as copies of one in which everything is imported, which takes longer than their trainings."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.deepspeed_process"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return context


def run_processes(context: multiprocessing.context.ForkServerContext, n: int, folder: Path) -> None:
    """Train under each of `STAGES` by `n` processes, told of each other as torchrun does it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(n)}
    started = []
    for rank in range(n):
        env = group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(n)}
        log = folder.parent / f"{folder.name}-{n}-{rank}.log"
        process = context.Process(target=deepspeed_process.main, args=(folder, STAGES, env, log))
        process.start()
        started.append((process, log))
    try:
        for process, log in started:
            process.join(timeout=900)
            errors = log.read_text()
            assert process.exitcode == 0, errors[-3000:]
            assert "destroy_process_group" not in errors, "PyTorch complains of a group that was not ended"
    finally:
        for process, _ in started:
            process.kill()


@pytest.fixture(scope="module")
def by_two(processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings by two processes."""
    folder = tmp_path_factory.mktemp("two")
    run_processes(processes, 2, folder)
    return folder


@pytest.fixture(scope="module")
def by_one_later(processes, by_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, ended by one process from the last epoch but one, as if the two had been killed after it."""
    folder = tmp_path_factory.mktemp("one") / "later"
    shutil.copytree(by_two, folder)
    for name in STAGES:
        shutil.rmtree(folder / name / "translator")
        shutil.rmtree(folder / name / "checkpoints" / "checkpoint-12")
        (folder / name / "log.jsonl").rename(folder / name / "first.jsonl")
    run_processes(processes, 1, folder)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Validation loss by step of one process that takes all pairs of a step at once, by AdamW without DeepSpeed."""
    folder = tmp_path_factory.mktemp("alone")
    subject = tiny_training.llama_subject()
    corpus, validation = tiny_training.corpora(subject)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training, "MuonWithAdamW", lambda m, lr, _: torch.optim.AdamW(m.parameters(), lr, weight_decay=0.0)
        )
        config = tiny_training.config(**PLAIN | {"batch_size": 2 * PLAIN["batch_size"]})
        training.train_translator(
            tiny_training.translator(subject, dropout=0.0), corpus, validation, config, folder, subject=subject
        )
    return tiny_training.logged(folder, "eval_loss")


@needs_deepspeed
@pytest.mark.parametrize("name", STAGES)
def test_two_processes_learn_as_one_without_deepspeed_does(name: str, by_two: Path, alone: dict[int, float]) -> None:
    curve = tiny_training.logged(by_two / name, "eval_loss")
    assert list(curve) == list(alone) == [3, 6, 9, 12]
    # The last step of an epoch has two pairs of eight, which two processes fill up with pairs of the first steps.
    assert list(curve.values()) == pytest.approx(list(alone.values()), rel=4e-3)
    assert curve[12] < 0.92 * curve[3], "it learns"
    assert n_parts(by_two / name / "checkpoints" / "checkpoint-12") == 2, "the optimizer was shared out"


@needs_deepspeed
@pytest.mark.parametrize("name", STAGES)
def test_one_process_ends_what_two_have_begun(
    name: str, by_one_later: Path, by_two: Path, alone: dict[int, float]
) -> None:
    curve = tiny_training.logged(by_one_later / name, "eval_loss")
    assert list(curve) == [12], "it resumed, and did not start again"
    assert curve[12] == pytest.approx(alone[12], rel=2e-3)
    assert n_parts(by_one_later / name / "checkpoints" / "checkpoint-12") == 1


@needs_deepspeed
@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("ended_by", ["by_two", "by_one_later"])
def test_one_translator_of_whole_weights_is_saved_and_it_is_the_best(
    name: str, ended_by: str, alone: dict[int, float], request: pytest.FixtureRequest
) -> None:
    subject = tiny_training.llama_subject()
    made = Translator.from_pretrained(request.getfixturevalue(ended_by) / name / "translator")
    made.bind(subject)
    validation = tiny_training.corpora(subject)[1]
    assert tiny_training.loss(made, validation) == pytest.approx(min(alone.values()), rel=2e-3)
