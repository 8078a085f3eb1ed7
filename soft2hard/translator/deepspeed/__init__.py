"""DeepSpeed configurations that come with the package.

`zero2`: optimizer states and gradients are shared out among the processes (ZeRO stage 2, Rajbhandari et al.
2020). Batch sizes, clipping and precision follow the training's own settings. The optimizer is PyTorch's
AdamW, so nothing is compiled, and it runs on CPUs (over gloo) as on GPUs. For example

    accelerate launch --num_processes 2 -m soft2hard train CORPUS --validation CORPUS -o RUN --deepspeed zero2
"""

from pathlib import Path

NAMED = ("zero2",)


def deepspeed_config(name_or_path: str | None) -> str | None:
    """Path of a configuration: one that comes with the package by its name, any other by its path."""
    return str(Path(__file__).parent / f"{name_or_path}.json") if name_or_path in NAMED else name_or_path
