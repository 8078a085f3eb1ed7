"""Weights and checkpoints that DeepSpeed keeps in parts, one a process.

A checkpoint made by one number of processes is read by another through DeepSpeed's universal format (Lian et al., arXiv
2406.18820), to which it is converted on the spot.
"""

import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from torch import nn

from soft2hard.translator.deepspeed import deepspeed_config
from soft2hard.translator.processes import is_first, n_processes

_MARK = "latest_universal"
"""DeepSpeed writes it last, so where it is the converted checkpoint is whole."""


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """All processes must enter the block, and each has all weights within it; nothing to do where they are whole."""
    parts = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts):
        yield


def splits_weights(name_or_path: str | None) -> bool:
    """Whether a configuration shares out the parameters among processes (ZeRO's stage 3)."""
    if name_or_path is None:
        return False
    values = json.loads(Path(deepspeed_config(name_or_path)).read_text(encoding="utf-8"))
    return values.get("zero_optimization", {}).get("stage") == 3


def needs_conversion(checkpoint: Path) -> bool:
    """Whether a checkpoint was made by another number of processes than there are now."""
    return n_parts(checkpoint) not in (0, n_processes())


def n_parts(checkpoint: Path) -> int:
    """Processes that made a checkpoint; 0 where it is none of DeepSpeed's."""
    return len(list(checkpoint.glob("global_step*[0-9]/*zero_pp_rank_*_optim_states.pt")))


def config_to_resume(name_or_path: str, checkpoint: Path | None) -> str | dict[str, Any]:
    """The configuration by its path, or its values where it must read a converted checkpoint."""
    path = deepspeed_config(name_or_path)
    if checkpoint is None or not needs_conversion(checkpoint):
        return path
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    return values | {"checkpoint": values.get("checkpoint", {}) | {"load_universal": True}}


def convert(checkpoint: Path) -> None:
    """Put a universal checkpoint beside the parts, unless it is there; the first process does it, others must wait."""
    if not is_first() or (checkpoint / _MARK).exists():
        return
    from deepspeed.checkpoint import ds_to_universal

    parts = next(checkpoint.glob("global_step*[0-9]"))
    whole = parts.with_name(f"{parts.name}_universal")
    shutil.rmtree(whole, ignore_errors=True)  # what a killed conversion left
    asked = {"input_folder": str(parts), "output_folder": str(whole), "num_extract_workers": 1, "num_merge_workers": 1}
    with redirect_stdout(sys.stderr):
        ds_to_universal.main(Namespace(**asked, keep_temp_folder=False, strict=True, inject_missing_state=True))
