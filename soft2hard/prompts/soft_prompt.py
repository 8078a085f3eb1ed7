"""SoftPrompt: the vectors of a soft prompt, the subject they belong to, and where they come from.

Files, adapters and the hub are read by what stands in `prompts.files` and `prompts.adapters`, imported when asked for.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.prompts.matrix import as_matrix
from soft2hard.prompts.template import Place, Template

if TYPE_CHECKING:
    from peft import PeftModel


# Compared and hashed by identity: tensors do not compare to a single truth value.
@dataclass(frozen=True, eq=False, repr=False)
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
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Free-text facts: source file, its format and metadata, task, tuning steps and so on."""
    template: Template | None = None
    """The template it was tuned under, with the place of its vectors; None when unknown."""
    place: Place | None = None
    """Where its file implies that its vectors stand (PEFT has them first), where `template` is unknown."""
    scale: float | None = None
    """The factor of the subject's embeddings that the vectors include (Gemma multiplies its table's rows by one); 1
    where there is none, None when unknown."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "embeddings", as_matrix(self.embeddings, "The soft prompt"))
        object.__setattr__(self, "provenance", dict(self.provenance))

    def __repr__(self) -> str:
        of = f", tuned on '{self.subject}'" if self.subject else ""
        source = f" '{self.provenance['source']}'" if "source" in self.provenance else ""
        return f"<SoftPrompt{source}: {self.n_tokens} virtual tokens of width {self.d_model}{of}>"

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
        from soft2hard.prompts.adapters import read_any

        return cls(**read_any(name_or_path))

    @classmethod
    def from_peft(cls, model: "PeftModel", adapter_name: str | None = None) -> "SoftPrompt":
        """The soft prompt of a PEFT model in memory, tuned by prompt tuning or p-tuning.

        `adapter_name` is that of the active adapter where it is not given.

        Raises:
            UserError: the adapter is of another kind.
        """
        from soft2hard.prompts.adapters import of_model

        return cls(**of_model(model, adapter_name))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file from which `from_pretrained` returns the same soft prompt, bit for bit.

        Raises:
            UserError: another suffix, or the file cannot be written.
        """
        from soft2hard.prompts.files import write_file

        write_file(Path(path), vars(self))

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

        base_model = base_model or self.subject
        if base_model is None:
            raise UserError("The soft prompt does not say which subject it belongs to.", "Give base_model, its name.")
        write_adapter(Path(folder), vars(self), base_model, task_type, bos_embedding)


Prompt = SoftPrompt | str | None
"""The prompt before the input: a soft prompt, a hard prompt, or nothing."""
