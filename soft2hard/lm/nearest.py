"""The rows of an embedding table that lie nearest to vectors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_ENTRIES_AT_ONCE = 2**28  # of the matrix of virtual tokens and vocabulary: 1 GB in float32


def nearest_rows(
    prompts: Sequence[Float[Tensor, "_n d_model"]],
    table: Float[Tensor, "n_rows d_model"],
    k: int,
    distance: str = "cosine",
) -> list[tuple[Int[Tensor, "_n k"], Float[Tensor, "_n k"]]]:
    """Numbers of the `k` rows of a table that lie nearest to each vector, nearest first, and their distances.

    Everything is compared in float32 where the table is, in one product cut to a bounded size; results are on the CPU.
    """
    table = table.float()
    vectors = torch.cat(list(prompts)).to(table)
    rows, found = [], []
    for part in vectors.split(max(1, _ENTRIES_AT_ONCE // len(table))):
        nearest = _distances(part, table, distance).topk(k, dim=1, largest=False)
        rows.append(nearest.indices.cpu())
        found.append(nearest.values.cpu())
    sizes = [len(prompt) for prompt in prompts]
    return list(zip(torch.cat(rows).split(sizes), torch.cat(found).split(sizes), strict=True))


def _distances(
    rows: Float[Tensor, "n d_model"], table: Float[Tensor, "m d_model"], distance: str
) -> Float[Tensor, "n m"]:
    if distance == "cosine":
        return 1 - F.normalize(rows, dim=1) @ F.normalize(table, dim=1).T
    squares = rows.square().sum(1)[:, None] + table.square().sum(1)[None]
    return (squares - 2 * rows @ table.T).clamp(min=0).sqrt()
