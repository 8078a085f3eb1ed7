"""Training by several processes: what each takes of a step, and DeepSpeed's configurations and checkpoints.

A step is over the same number of pairs for the whole of a training, whatever number of processes resumes it: the
first sitting decides (`batch_size` pairs a process), and later ones share that number out, over several passes
(gradient accumulation) where they are fewer.

ZeRO (Rajbhandari et al., arXiv 1910.02054) shares out among the processes, stage by stage: the optimizer's states
(`zero1`), the gradients too (`zero2`), the parameters too (`zero3`). With `-offload` (arXiv 2101.06840, 2104.07857) the
optimizer's states, and at stage 3 the parameters, lie in the memory of the CPU. Batch sizes, clipping and precision
follow the training's own settings. The optimizer is PyTorch's AdamW, so nothing is compiled, and it runs on CPUs (over
gloo) as on GPUs. docs/cluster.md says which to take. A checkpoint made by one number of processes is read by another
through DeepSpeed's universal format (Lian et al., arXiv 2406.18820), to which it is converted on the spot.
"""

import json
import os
import shutil
import socket
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_write

if TYPE_CHECKING:
    from torch import nn

NAMED = ("zero1", "zero2", "zero3", "zero2-offload", "zero3-offload")
"""DeepSpeed's configurations that come with the package."""

_STEP_FILE = Path("checkpoints") / "step.json"
_CONVERTED = "latest_universal"
"""DeepSpeed writes it last, so where it is the converted checkpoint is whole."""
_BUCKET = 50_000_000


@dataclass(frozen=True)
class Share:
    """The part of each step that one process does."""

    pairs: int
    """Pairs a pass."""
    passes: int
    """Passes whose gradients are added up."""

    def smaller(self) -> "Share | None":
        """The same pairs in passes of half as many, or of fewer where they must be equal; None for passes of one."""
        sizes = [size for size in range(1, self.pairs // 2 + 1) if self.pairs % size == 0]
        return Share(sizes[-1], self.passes * (self.pairs // sizes[-1])) if sizes else None


def n_processes() -> int:
    """Processes of this training, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """True in the process that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def share_of_step(folder: Path, batch_size: int) -> Share:
    """This process's share of a training's steps; the first sitting in a folder leaves their size there.

    Raises UserError for a number of processes that cannot share a step evenly.
    """
    path, n = folder / _STEP_FILE, n_processes()
    try:
        pairs = int(json.loads(path.read_text())["pairs"]) if path.exists() else batch_size * n
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged.", "Train in another folder.") from error
    if is_first() and not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"pairs": pairs}))
    if pairs % n:
        raise UserError(
            f"{n} processes cannot share the steps of {pairs} pairs that the training in '{folder}' was begun with.",
            f"Resume with a number of processes that divides {pairs}.",
        )
    each = pairs // n
    passes = max(1, each // batch_size) if each % batch_size == 0 else 1
    return Share(each // passes, passes)


@contextmanager
def process_group_ended() -> Iterator[None]:
    """End the group of processes, if one was begun within the block: ZeRO-3 hangs or complains at exit otherwise."""
    try:
        yield
    finally:
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


# --- DeepSpeed ----------------------------------------------------------------------------------


def deepspeed_config(name_or_path: str) -> dict[str, Any]:
    """The values of a configuration: one of `NAMED`, or a JSON file. Raises UserError for one that cannot be read."""
    if name_or_path in NAMED:
        return _zero(int(name_or_path[len("zero")]), offloads=name_or_path.endswith("-offload"))
    try:
        return json.loads(Path(name_or_path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{name_or_path}' is no DeepSpeed configuration: {error}.", f"Give {', '.join(NAMED)} or a JSON file."
        ) from error


def _zero(stage: int, offloads: bool) -> dict[str, Any]:
    fetched = "allgather_bucket_size" if stage < 3 else "stage3_prefetch_bucket_size"
    zero = {"stage": stage, "contiguous_gradients": True, "overlap_comm": True}
    zero |= {"reduce_bucket_size": _BUCKET, fetched: _BUCKET}
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": 100_000, "stage3_gather_16bit_weights_on_model_save": True}
    for part in ("optimizer", "param")[: (stage - 1) * offloads]:
        zero[f"offload_{part}"] = {"device": "cpu", "pin_memory": True}
    automatic = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    values = dict.fromkeys((*automatic, "gradient_clipping"), "auto") | {"bf16": {"enabled": "auto"}}
    return values | ({"zero_force_ds_cpu_optimizer": False} if offloads else {}) | {"zero_optimization": zero}


def check_deepspeed(config: str | None) -> None:
    """Raise UserError where a configuration is asked for that cannot be used here.

    A process that no launcher has begun is made a group of one: DeepSpeed would look for MPI otherwise.
    """
    if config is None:
        return
    if find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed.", "Run pip install 'soft2hard[deepspeed]', or leave it out.")
    deepspeed_config(config)
    if "WORLD_SIZE" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone | {"MASTER_PORT": str(_free_port())})


def one_process_remark() -> str:
    """What to say where `accelerate launch` has begun one process on a CPU, as it always does; else nothing."""
    import torch

    is_accelerate = any(name.startswith("ACCELERATE_") for name in os.environ) and "WORLD_SIZE" not in os.environ
    if not is_accelerate or torch.accelerator.is_available():
        return ""
    return (
        "accelerate launch begins one process on CPUs, whatever --num_processes says; for several: "
        "torchrun --nproc_per_node 2 -m soft2hard train ..."
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def splits_weights(config: str | None) -> bool:
    """True for a configuration that shares out the parameters among processes (ZeRO's stage 3)."""
    return config is not None and deepspeed_config(config).get("zero_optimization", {}).get("stage") == 3


@contextmanager
def gathered(model: "nn.Module") -> Iterator[None]:
    """All processes must enter the block, and each has all weights within it; nothing to do where they are whole."""
    parts = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts):
        yield


def n_parts(checkpoint: Path) -> int:
    """Processes that made a checkpoint; 0 where it is none of DeepSpeed's."""
    return len(list(checkpoint.glob("global_step*[0-9]/*zero_pp_rank_*_optim_states.pt")))


def needs_conversion(checkpoint: Path) -> bool:
    """True for a checkpoint that was made by another number of processes than there are now."""
    return n_parts(checkpoint) not in (0, n_processes())


def config_to_resume(name_or_path: str, checkpoint: Path | None) -> dict[str, Any]:
    """The values of a configuration, with a word to DeepSpeed where it must read a converted checkpoint."""
    values = deepspeed_config(name_or_path)
    if checkpoint is None or not needs_conversion(checkpoint):
        return values
    return values | {"checkpoint": values.get("checkpoint", {}) | {"load_universal": True}}


def convert(checkpoint: Path) -> None:
    """Put a universal checkpoint beside the parts, unless it is there; the first process does it, others must wait."""
    if not is_first() or (checkpoint / _CONVERTED).exists():
        return
    from deepspeed.checkpoint import ds_to_universal

    parts = next(checkpoint.glob("global_step*[0-9]"))
    whole = parts.with_name(f"{parts.name}_universal")
    shutil.rmtree(whole, ignore_errors=True)  # what a killed conversion left
    asked = {"input_folder": str(parts), "output_folder": str(whole), "num_extract_workers": 1, "num_merge_workers": 1}
    with redirect_stdout(sys.stderr):
        ds_to_universal.main(Namespace(**asked, keep_temp_folder=False, strict=True, inject_missing_state=True))
