"""How a subject is held in memory, and what stands around prompts and inputs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeInt

from soft2hard.errors import UserError
from soft2hard.settings import settings

if TYPE_CHECKING:
    import torch


@settings
class Loading:
    """How a subject is held in memory and spoken to. All but `ROUNDING` changes no result."""

    template: str | None = None
    """Text around input and output: 'plain', 'chat' (the tokenizer's chat template), a file, or a string such as
    'Tweet text : {input} Label : '; ':first' or ':after' behind the first two says where virtual tokens stand. Soft
    prompts tuned by soft2hard know theirs. See docs/templates.md."""
    stop: tuple[str, ...] = ()
    """A text that ends an output, as EOS and the template's own endings do; may be given several times."""
    embedding_scale: Literal["included", "left-out"] | None = None
    """Of soft prompts for Gemma 1 and 2 that do not say it: whether their vectors hold the factor by which these models
    multiply embeddings ('included': tuned with transformers 5.4 or later; 'left-out': tuned before)."""
    dtype: Literal["auto", "saved", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; 'saved': as in its files; 'auto': as saved on a GPU, on a CPU as saved where that is
    fast there, else float32."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Weights of the subject's linear layers in 8 or 4 bits (bitsandbytes, on a GPU only)."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """'sdpa' (PyTorch's), 'eager', 'flash_attention_2' (its package on a GPU; a prompt's examples then no longer
    share a row) or 'auto': sdpa, or plain matrix products where a CPU is quicker at them."""
    gradient_checkpointing: bool = False
    """While tuning, compute the inside of each layer again in the backward pass: much less memory, a third more
    time."""
    device: str = "auto"
    """Where the subject runs: 'cpu', 'cuda', 'cuda:1', ..., or 'auto': the GPU if there is one."""
    batch_tokens: NonNegativeInt = 16384
    """Tokens, padding included, in one batch of scoring or generating; 0: as many as a trial finds memory for."""

    @property
    def torch_device(self) -> "torch.device":
        """The device. Raises UserError for one that this machine does not have."""
        import torch

        if self.device == "auto":
            return _first_choice()
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise UserError(f"There is no device '{self.device}'.", "Choose auto, cpu, cuda, cuda:1, ...") from error
        known = {"cpu", "cuda"} | ({found.type} if (found := torch.accelerator.current_accelerator()) else set())
        if device.type not in known or (device.type == "cpu" and device.index):
            raise UserError(
                f"There is no device '{self.device}' here.", f"Choose auto, {', '.join(sorted(known))}, ..."
            )
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"There is no GPU for --device {self.device}: PyTorch sees {torch.cuda.device_count()}.",
                "Use --device auto, or install a PyTorch that was built for the GPU.",
            )
        return device

    @property
    def torch_dtype(self) -> "torch.dtype | None":
        """The dtype asked for by name; None for that of the saved weights."""
        import torch

        if self.dtype == "auto" and self.quantization == "none" and self.torch_device.type == "cpu":
            return torch.float32
        return None if self.dtype in ("auto", "saved") else getattr(torch, self.dtype)

    @property
    def rounding(self) -> dict[str, Any]:
        """The choices that change the subject's numbers, where they are not the usual ones; a file by its content."""
        found = {name: getattr(self, name) for name in ROUNDING if getattr(self, name) != getattr(Loading, name)}
        if self.template and Path(self.template).is_file():
            found["template"] = Path(self.template).read_text(encoding="utf-8")
        return found


ROUNDING = ("dtype", "quantization", "template", "stop", "embedding_scale")
"""Fields of `Loading` that change a subject's numbers; the others may differ from machine to machine."""


def _first_choice() -> "torch.device":
    """The GPU, of several the one that the launcher of several processes gave this one; else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK", "")
    return torch.device(f"cuda:{rank}" if rank.isdigit() and int(rank) < torch.cuda.device_count() else "cuda")
