"""SoftPrompt: the vectors of a soft prompt, the subject they belong to, and where they come from.

Files, adapters and the hub are read by what stands in `prompts.files` and `prompts.adapters`, imported when asked for.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.prompts.template import Place, Template

if TYPE_CHECKING:
    from peft import PeftModel


# Compared and hashed by identity: tensors do not compare to a single truth value.
@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """A soft prompt (Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning").

    Its vectors stand where the embeddings of a prompt's tokens would stand in the subject's input.
    Other floating-point types and devices are converted, and the vectors copied, on construction.

    Raises:
        UserError: the vectors are not a finite floating-point matrix of at least one token.
    """

    embeddings: Float[Tensor, "n_tokens d_model"]
    """One row a virtual token: float32, on the CPU, finite, no gradient."""
    subject: str | None = None
    """Name or path of the subject it was tuned on, None when unknown."""
    fingerprint: str | None = None
    """`Subject.fingerprint` of that subject, None when unknown."""
    template: Template | None = None
    """The template it was tuned under, with the place of its vectors; None when unknown."""
    place: Place | None = None
    """Where its file implies that its vectors stand (PEFT has them first), where `template` is unknown."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Free-text facts: source file, its format and metadata, task, tuning steps and so on."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "embeddings", as_matrix(self.embeddings, "The soft prompt"))
        object.__setattr__(self, "provenance", dict(self.provenance))

    @property
    def origin(self) -> str:
        """Where it comes from, for messages."""
        return self.provenance.get("source", "The soft prompt")

    @property
    def n_tokens(self) -> int:
        """Number of virtual tokens."""
        return self.embeddings.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the subject's input embeddings."""
        return self.embeddings.shape[1]

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str]) -> "SoftPrompt":
        """Read a soft prompt from a file or a PEFT adapter folder, or by its name from the local cache or the hub.

        Files: .safetensors, .npy, .npz, and .pt, .pth or .bin of torch.save. They hold either the
        matrix alone, or other tensors beside it and it under the name `prompt_embeddings`. Folders:
        prompt-tuning and p-tuning adapters (or one of their own files, for the folder). A
        leading axis of one is dropped. Nothing in a file is run. A name is that of a repository with one
        soft prompt, or organisation/name/file.safetensors.

        Raises:
            UserError: no soft prompt can be read there; says why, and what to do.
        """
        from soft2hard.prompts.files import read_soft_prompt

        return read_soft_prompt(name_or_path)

    @classmethod
    def from_peft(cls, model: "PeftModel", adapter_name: str | None = None) -> "SoftPrompt":
        """The soft prompt of a PEFT model in memory, tuned by prompt tuning or p-tuning.

        `adapter_name` is that of the active adapter where it is not given.

        Raises:
            UserError: the adapter is of another kind.
        """
        from soft2hard.prompts.adapters import of_model

        return of_model(model, adapter_name)

    load, save_peft = from_pretrained, property(lambda self: self.save_pretrained)  # SHIM

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file from which `from_pretrained` returns the same soft prompt, bit for bit.

        Raises:
            UserError: another suffix, or the file cannot be written.
        """
        from soft2hard.prompts.files import write_soft_prompt

        write_soft_prompt(self, path)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        base_model: str | None = None,
        bos_embedding: Float[Tensor, " d_model"] | None = None,
        task_type: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM"] = "CAUSAL_LM",
    ) -> None:
        """Write a PEFT prompt-tuning adapter, for peft.PeftModel.from_pretrained(model, folder).

        `from_pretrained` returns this soft prompt from it, without `bos_embedding`.

        Args:
            folder: New, empty, or an adapter to be replaced.
            base_model: Name or path of the subject, recorded in the adapter; None: `subject`.
            bos_embedding: Written before the soft prompt as one more virtual token. PEFT puts the
                virtual tokens first and our template puts BOS first: for a subject whose tokenizer
                adds BOS, give its embedding here and tokenize without special tokens under PEFT.
            task_type: PEFT's name for decoder-only or encoder-decoder subjects.

        Raises:
            UserError: no base model is known, `bos_embedding` has another width, or the folder cannot be written.
        """
        from soft2hard.prompts.adapters import write_adapter

        write_adapter(self, folder, base_model=base_model, bos_embedding=bos_embedding, task_type=task_type)


Prompt = SoftPrompt | str | None
"""The prompt before the input: a soft prompt, a hard prompt, or nothing."""


def as_matrix(tensor: Tensor, name: str) -> Float[Tensor, "n_tokens d_model"]:
    """Return a copy of a soft prompt as a float32 matrix on the CPU, without a leading axis of one.

    Raises:
        UserError: not floating point, not a matrix, no tokens, no width, or a value that is not
            finite in float32. The message calls the tensor `name`.
    """
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        raise UserError(
            f"{name} holds {dtype_name(tensor)} values, not floating-point ones.",
            "Give the embedding vectors of the virtual tokens, not token ids.",
        )
    if not is_matrix(tensor):
        raise UserError(f"{name} has shape {shape}, not (n_tokens, d_model).", "Save it as one matrix, a row a token.")
    matrix = tensor.reshape(shape[-2:]).detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
    if matrix.numel() == 0:
        raise UserError(f"{name} is empty: its shape is {shape}.", "Tune a soft prompt of at least one virtual token.")
    if not matrix.isfinite().all():
        row = int((~matrix.isfinite()).any(dim=1).nonzero()[0])
        raise UserError(
            f"{name} holds NaN or infinite values (first in row {row}).",
            "Its tuning diverged: tune it again with a lower learning rate or in bfloat16.",
        )
    return matrix


def is_matrix(tensor: Tensor) -> bool:
    """Two axes, or a batch of one matrix."""
    return tensor.dim() == 2 or (tensor.dim() == 3 and tensor.shape[0] == 1)


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def __getattr__(name):  # SHIM
    if name == "find_soft_prompts":
        from soft2hard.prompts.files import find_soft_prompts

        return find_soft_prompts
    raise AttributeError(name)
