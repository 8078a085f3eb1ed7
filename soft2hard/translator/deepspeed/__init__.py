"""DeepSpeed configurations that come with the package.

ZeRO (Rajbhandari et al., arXiv 1910.02054) shares out among the processes, stage by stage: the optimizer's states
(`zero1`), the gradients too (`zero2`), the parameters too (`zero3`). With `-offload` (arXiv 2101.06840, 2104.07857) the
optimizer's states, and at stage 3 the parameters, lie in the memory of the CPU. Batch sizes, clipping and precision
follow the training's own settings. The optimizer is PyTorch's AdamW, so nothing is compiled, and it runs on CPUs (over
gloo) as on GPUs. For example

    accelerate launch --num_processes 2 -m soft2hard train CORPUS --validation CORPUS -o RUN --deepspeed zero2

docs/cluster.md says which to take.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from soft2hard.errors import UserError

NAMED = ("zero1", "zero2", "zero3", "zero2-offload", "zero3-offload")


def deepspeed_config(name_or_path: str | None) -> str | None:
    """Path of a configuration: one that comes with the package by its name, any other by its path."""
    return str(Path(__file__).parent / f"{name_or_path}.json") if name_or_path in NAMED else name_or_path


def check_deepspeed(config: str | None) -> None:
    """Raise UserError where a configuration is asked for that cannot be used here."""
    if config is None:
        return
    if find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed.", "Run pip install 'soft2hard[deepspeed]', or leave it out.")
    check_configuration(config)


def check_configuration(config: str) -> None:
    """Raise UserError for a configuration that there is not, or that is no JSON."""
    try:
        json.loads(Path(deepspeed_config(config)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{config}' is no DeepSpeed configuration: {error}.", f"Give {', '.join(NAMED)} or a JSON file."
        ) from error
