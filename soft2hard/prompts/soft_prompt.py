"""SoftPrompt: the vectors of a soft prompt, the subject they belong to, and where they come from."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.prompts.adapters import adapter_of, is_adapter, read_adapter, write_adapter
from soft2hard.prompts.files import SUFFIXES, as_matrix, encode_metadata, read_file, reading, write_safetensors
from soft2hard.storage.hub import local_file


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
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Free-text facts: source file, its format and metadata, task, tuning steps and so on."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "embeddings", as_matrix(self.embeddings, "The soft prompt"))
        object.__setattr__(self, "provenance", dict(self.provenance))

    @property
    def n_tokens(self) -> int:
        """Number of virtual tokens."""
        return self.embeddings.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the subject's input embeddings."""
        return self.embeddings.shape[1]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SoftPrompt":
        """Read a soft prompt from a file or a PEFT adapter folder, or by its name from the local cache or the hub.

        Files: .safetensors, .npy, .npz, and .pt, .pth or .bin of torch.save. They hold either the
        matrix alone, or other tensors beside it and it under the name `prompt_embeddings`. Folders:
        prompt-tuning and p-tuning adapters (or one of their own files, for the folder). A
        leading axis of one is dropped. Nothing in a file is run. A name is that of a repository with one
        soft prompt, or organisation/name/file.safetensors.

        Raises:
            UserError: no soft prompt can be read there; says why, and what to do.
        """
        path = _on_disk(Path(path))
        with reading(path):
            folder = adapter_of(path)
            stored = read_file(path) if folder is None else read_adapter(folder)
        return cls(as_matrix(stored.embeddings, str(path)), stored.subject, stored.fingerprint, stored.provenance)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file from which `load` returns the same soft prompt, bit for bit.

        Raises:
            UserError: another suffix, or the file cannot be written.
        """
        metadata = encode_metadata(self.subject, self.fingerprint, self.provenance)
        write_safetensors(Path(path), self.embeddings, metadata)

    def save_peft(
        self,
        folder: str | os.PathLike[str],
        *,
        base_model: str,
        bos_embedding: Float[Tensor, " d_model"] | None = None,
        task_type: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM"] = "CAUSAL_LM",
    ) -> None:
        """Write a PEFT prompt-tuning adapter, for peft.PeftModel.from_pretrained(model, folder).

        `load` returns this soft prompt from it, without `bos_embedding`.

        Args:
            folder: New, empty, or an adapter to be replaced.
            base_model: Name or path of the subject, recorded in the adapter.
            bos_embedding: Written before the soft prompt as one more virtual token. PEFT puts the
                virtual tokens first and our template puts BOS first: for a subject whose tokenizer
                adds BOS, give its embedding here and tokenize without special tokens under PEFT.
            task_type: PEFT's name for decoder-only or encoder-decoder subjects.

        Raises:
            UserError: `bos_embedding` has another width, or the folder cannot be written.
        """
        rows = self.embeddings
        if bos_embedding is not None:
            rows = torch.cat([self._bos_row(bos_embedding), rows])
        write_adapter(
            Path(folder),
            rows,
            encode_metadata(self.subject, self.fingerprint, self.provenance),
            begins_with_bos=bos_embedding is not None,
            base_model=base_model,
            task_type=task_type,
        )

    def _bos_row(self, bos_embedding: Float[Tensor, " d_model"]) -> Float[Tensor, "1 d_model"]:
        if len(bos_embedding) != self.d_model:
            raise UserError(
                f"The BOS embedding has width {len(bos_embedding)}, the soft prompt {self.d_model}.",
                "Take it from the subject the soft prompt was tuned on.",
            )
        return as_matrix(bos_embedding[None], "The BOS embedding")


Prompt = SoftPrompt | str | None
"""What stands before the input: a soft prompt, a hard prompt, or nothing."""


def find_soft_prompts(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the soft prompts at `paths`, in order and each once, for `SoftPrompt.load`.

    Names of repositories are fetched from the hub.

    Files and adapter folders stand for themselves. Any other folder stands for the adapter folders
    and the files of a readable suffix within it, at any depth, sorted; hidden ones and the inside
    of adapter folders (their checkpoints) are left out. Nothing is opened.

    Raises:
        UserError: a path does not exist, or a folder has no soft prompt.
    """
    found: dict[Path, Path] = {}
    for path in (local_file(path, "soft-prompts") for path in paths):
        with reading(path):
            for one in _expand(path):
                found.setdefault(one.resolve(), one)  # however a path is written, it is one soft prompt
    return list(found.values())


def _on_disk(path: Path) -> Path:
    """`path`, or the one soft prompt of a repository of that name."""
    found = local_file(path, "soft-prompts")
    if path.exists() or not found.is_dir() or is_adapter(found):
        return found
    within = _expand(found)
    if len(within) > 1:
        names = ", ".join(str(path / one.relative_to(found)) for one in within[:3])
        raise UserError(f"'{path}' on the hub has {len(within)} soft prompts.", f"Name one of them, such as {names}.")
    return within[0]


def _expand(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"No such file or folder: {path}.", "Check the path; soft prompts are read from disk only.")
    if not path.is_dir():
        return [path]
    within = sorted(_walk(path))
    if not within:
        raise UserError(
            f"{path} has no soft prompts: no PEFT adapter folder, no file ending in {', '.join(SUFFIXES)}.",
            "Give a folder of soft prompts, an adapter folder, or a file.",
        )
    return within


def _walk(folder: Path) -> Iterator[Path]:
    """Yield adapter folders and soft prompt files; links to folders are not followed, as they may go round."""
    if is_adapter(folder):
        yield folder
        return
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink() or is_adapter(entry):
                yield from _walk(entry)
        elif entry.suffix.lower() in SUFFIXES:
            yield entry
