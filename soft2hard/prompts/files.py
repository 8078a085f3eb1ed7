"""Soft prompts in files: safetensors, NumPy and PyTorch. Nothing is read by running it.

A reader opens one format and returns its named tensors; `read_file` picks the one that is the soft
prompt. The facts that go with a soft prompt stand in the metadata of our own safetensors files, as JSON.
"""

import errno
import json
import os
import pickle
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.prompts.matrix import dtype_name, is_matrix
from soft2hard.prompts.template import Template
from soft2hard.settings import checked
from soft2hard.storage.files import atomic_write
from soft2hard.storage.hub import local_file

MATRIX_NAME = "prompt_embeddings"
"""Name of the soft prompt among the tensors of a file: PEFT's, and ours."""
FORMAT = "soft2hard soft prompt"
SCHEMA_VERSION = 2
"""2 records the template; soft prompts of version 1 were tuned under the plain one."""
ADAPTER_CONFIG = "adapter_config.json"
"""The file by which a PEFT adapter folder is known."""
_NAMED_AT_MOST = 5


Fields = dict[str, Any]
"""The fields of a `SoftPrompt`, by name; `embeddings` as stored: any type, and perhaps a leading axis of one."""


def check_is_file(path: Path) -> None:
    """Raise a UserError unless `path` is a file with something in it."""
    with reading(path):
        if not path.exists():
            raise UserError(f"No such file or folder: {path}.", "Check the path; soft prompts are read from disk only.")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file.", "Give a soft prompt file or a PEFT adapter folder.")
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty (0 bytes).", "Save or copy it again: the disk may have been full.")


@contextmanager
def reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn the operating system's errors, and a format's own `errors`, into a UserError about `path`."""
    try:
        yield
    except UserError:
        raise
    except (OSError, *errors) as error:
        # An invalid argument is a place outside the file, to which damaged contents pointed.
        if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:
            raise UserError(f"Cannot read {path}: {error.strerror}.", "Check the path and its permissions.") from error
        detail = textwrap.shorten(f"{type(error).__name__}: {error}", 100, placeholder=" ...")
        raise UserError(
            f"{path} is damaged, cut short, or not a {path.suffix or path.name} file ({detail}).",
            "Save or copy it again.",
        ) from error


def read_file(path: Path) -> Fields:
    """Read the soft prompt of a file, in the format its suffix names.

    Raises:
        UserError: missing, empty, damaged, of an unknown suffix, or without one obvious soft prompt.
    """
    tensors, metadata = read_tensors(path)
    matrix = pick_matrix(tensors, path)
    if metadata.get("format") == FORMAT:
        return {"embeddings": matrix, **decode_metadata(metadata, path)}
    provenance = foreign_provenance(path, path.suffix.lower().lstrip("."), metadata)
    return {"embeddings": matrix, "provenance": provenance}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file by name, and its metadata, in the format its suffix names.

    Raises:
        UserError: missing, empty, damaged, or of an unknown suffix.
    """
    check_is_file(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path} has an unknown suffix{f' {path.suffix}' if path.suffix else ''}.",
            f"Save the soft prompt as one of {', '.join(SUFFIXES)}, or as a PEFT prompt-tuning folder.",
        )
    return reader(path)


def foreign_provenance(path: Path, source_format: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Where a soft prompt of another program was read, and the metadata found with it."""
    facts = {f"metadata.{name}": value for name, value in sorted(metadata.items())}
    return {"source": str(path), "source_format": source_format} | facts


def pick_matrix(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    """Return the tensor that is the soft prompt: the one named `prompt_embeddings`, else the only matrix.

    Raises:
        UserError: no tensor, or several candidates, which are named with their shapes.
    """
    if MATRIX_NAME in tensors:
        return tensors[MATRIX_NAME]
    matrices = {name: t for name, t in tensors.items() if t.is_floating_point() and is_matrix(t)}
    flat = {name: t for name, t in matrices.items() if t.dim() == 2} or matrices
    if len(flat) == 1:
        return next(iter(flat.values()))
    if len(tensors) == 1:
        return next(iter(tensors.values()))  # its type or shape is wrong, and as_matrix says how
    remedy = f"Save the soft prompt alone, or under the name {MATRIX_NAME}."
    if not tensors:
        raise UserError(f"{path} holds no tensor.", remedy)
    found = f"{len(matrices)} matrices that could be the soft prompt" if matrices else "no floating-point matrix"
    raise UserError(f"{path} holds {found}: {_listing(matrices or tensors)}.", remedy)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file."""
    with reading(path, SafetensorError), safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file written by torch.save, nested ones by dotted names; no code is run."""
    with _reading_untrusted(path, "unsupported", "torch.save(tensor, path)"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols, in files that are then refused
        content = torch.load(path, map_location="cpu", weights_only=True)
    return dict(_flat_tensors(content)), {}


@contextmanager
def _reading_untrusted(path: Path, sign: str, how_to_save: str) -> Iterator[None]:
    """Turn whatever NumPy or PyTorch raises into a UserError.

    Both parse Python syntax or bytecode, where damaged or hostile bytes can raise anything. That
    they met Python objects and refused to make them shows in `sign`, a word of their message.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError | ValueError) and sign in str(error).lower():
            raise UserError(
                f"{path} is damaged, or holds Python objects that could run code when read; nothing was run.",
                f"Where you trust it, load it yourself and save the numbers alone: {how_to_save}.",
            ) from error
        with reading(path, Exception):
            raise


def _flat_tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the dense tensors in nested dictionaries; other values (token counts, texts) are of no use here."""
    if isinstance(content, Tensor) and content.layout == torch.strided and not content.is_quantized:
        yield prefix or "tensor", content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _flat_tensors(value, f"{prefix}.{name}" if prefix else str(name))


def _read_npy(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _reading_untrusted(path, "pickle", "np.save(path, array)"):
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive of arrays, whose suffix is .npz")
    return dict(_array_tensors({"array": array})), {}


def _read_npz(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _reading_untrusted(path, "pickle", "np.savez(path, array)"):
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single array, whose suffix is .npy")
        with archive:
            # Members that are no arrays come as bytes.
            arrays = {name: value for name, value in archive.items() if isinstance(value, np.ndarray)}
    return dict(_array_tensors(arrays)), {}


def _array_tensors(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays of numbers as tensors. Wide or byte-swapped types, which torch lacks, are converted."""
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # an infinity is reported later, by row
                yield name, torch.from_numpy(array.astype(np.float32))
        elif array.dtype.kind in "iu":
            yield name, torch.from_numpy(array.astype(np.int64))
        elif array.dtype.kind in "bc":
            yield name, torch.from_numpy(np.array(array))


_READERS: dict[str, Callable[[Path], tuple[dict[str, Tensor], dict[str, str]]]] = {
    ".safetensors": read_safetensors,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": read_torch,
    ".pth": read_torch,
    ".bin": read_torch,
}
SUFFIXES: tuple[str, ...] = tuple(_READERS)
"""Suffixes of the files that `read_file` reads."""


def write_file(path: Path, fields: Fields) -> None:
    """See `SoftPrompt.save`."""
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"Soft prompts are saved as safetensors, not as {path.name}.", "End the name in .safetensors.")
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_bytes(fields["embeddings"], encode_metadata(fields)))


def to_bytes(embeddings: Float[Tensor, "n_tokens d_model"], metadata: dict[str, str]) -> bytes:
    """Return the content of a safetensors file (written by us, so that a full disk is an OSError)."""
    return safetensors.torch.save({MATRIX_NAME: embeddings}, metadata)


def encode_metadata(fields: Fields) -> dict[str, str]:
    """The facts that go with a soft prompt as safetensors metadata: strings, each value in JSON."""
    return {
        "format": FORMAT,
        "schema_version": str(SCHEMA_VERSION),
        "subject": json.dumps(fields["subject"]),
        "fingerprint": json.dumps(fields["fingerprint"]),
        "template": fields["template"].to_json() if fields["template"] else "null",
        "place": json.dumps(fields["place"]),
        "scale": json.dumps(fields["scale"]),
        "provenance": json.dumps(dict(fields["provenance"])),
    }


def decode_metadata(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The fields of a `SoftPrompt` beside its embeddings: the inverse of `encode_metadata`.

    Raises:
        UserError: written by a newer version, or not what `encode_metadata` makes.
    """
    version = metadata.get("schema_version", "")
    if version.isdigit() and int(version) > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}; this program reads up to {SCHEMA_VERSION}.", "Upgrade soft2hard."
        )
    try:
        names = ("subject", "fingerprint", "provenance", *(("template", "place", "scale") if int(version) > 1 else ()))
        values = {name: json.loads(metadata[name]) for name in names}
    except (KeyError, ValueError, RecursionError):
        values = {}
    if not _is_metadata(values):
        raise UserError(f"The metadata of {path} is damaged.", "Save it again, or save its matrix alone as .npy.")
    # Version 1 knew the plain template alone; without a fingerprint it came from elsewhere and nothing is known.
    template = values.get("template", {} if values["fingerprint"] and int(version) == 1 else None)
    return values | {"template": None if template is None else checked(Template, template, f"The template of {path}")}


def _is_metadata(values: Mapping[str, Any]) -> bool:
    provenance = values.get("provenance")
    return (
        isinstance(provenance, dict)
        and all(isinstance(value, str) for value in provenance.values())
        and all(isinstance(values[name], str | None) for name in ("subject", "fingerprint"))
        and isinstance(values.get("template"), dict | None)
        and values.get("place") in (None, "after", "first")
        and isinstance(values.get("scale"), int | float | None)
    )


def _listing(tensors: Mapping[str, Tensor]) -> str:
    named = [f"{name} {dtype_name(t)} {tuple(t.shape)}" for name, t in list(tensors.items())[:_NAMED_AT_MOST]]
    return ", ".join(named) + (f" and {len(tensors) - len(named)} more" if len(tensors) > len(named) else "")


def find_soft_prompts(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the soft prompts at `paths`, in order and each once, for `SoftPrompt.from_pretrained`.

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


def on_disk(path: Path) -> Path:
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


def is_adapter(folder: Path) -> bool:
    """Whether a folder is a PEFT adapter, of whatever kind."""
    return (folder / ADAPTER_CONFIG).is_file()
