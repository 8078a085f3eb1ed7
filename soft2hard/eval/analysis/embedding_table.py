"""Nearest tokens of soft prompts whose subject is not at hand: its table of embeddings is enough."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.eval.analysis.extraction import Extraction, Neighbour, Position
from soft2hard.eval.methods.nearest_token import nearest_rows
from soft2hard.prompts.files import as_matrix, read_tensors
from soft2hard.prompts.soft_prompt import SoftPrompt

_NAMES = ("shared.weight", "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""How architectures end the name of their input embeddings, in the order in which they are looked for: of models with
an encoder and a decoder, `shared` is the one that both read."""


def read_embedding_table(path: Path) -> Float[Tensor, "vocab d_model"]:
    """The table of input embeddings in a file of a model's weights, or in one that holds it alone.

    Files are those that soft prompts are read from (.safetensors, .npy, .npz, .pt, .pth, .bin). Where a model scales
    what it looks up (Gemma), this is not in its table; it changes no cosine. Raises UserError where there is no such
    table.
    """
    tensors, _ = read_tensors(path)
    named = (name for ending in _NAMES for name in sorted(tensors) if f".{name}".endswith(f".{ending}"))
    name = next(named, next(iter(tensors)) if len(tensors) == 1 else None)
    if name is None:
        raise UserError(
            f"{path} has no table of input embeddings among its {len(tensors)} tensors.",
            f"Give the file of a model's weights with {' or '.join(_NAMES)}, or one that holds the table alone.",
        )
    return as_matrix(tensors[name], str(path))


def extract_by_table(
    table: Float[Tensor, "vocab d_model"], prompts: Sequence[SoftPrompt], k: int = 3
) -> list[Extraction]:
    """The `k` nearest rows by cosine of every position of every soft prompt, as `extract` gives the nearest tokens.

    A row has no text but its number, such as <17>. Raises UserError for a soft prompt of another width, and for more
    neighbours than rows.
    """
    for number, prompt in enumerate(prompts, 1):
        if prompt.d_model != table.shape[1]:
            raise UserError(
                f"Soft prompt {number} is {prompt.d_model} wide and the table of embeddings {table.shape[1]}.",
                "Give the table of the subject that it was tuned on.",
            )
    if not 1 <= k <= len(table):
        raise UserError(f"There are no {k} nearest of {len(table)} tokens.", "Ask for fewer, and for at least one.")
    found = nearest_rows([prompt.embeddings for prompt in prompts], table, k) if prompts else []
    return [
        Extraction(
            tuple(
                Position(tuple(Neighbour(i, f"<{i}>", (), 1 - d) for i, d in zip(*position, strict=True)))
                for position in zip(ids.tolist(), distances.tolist(), strict=True)
            )
        )
        for ids, distances in found
    ]
