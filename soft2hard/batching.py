"""Grouping sequences of different lengths into batches, and padding them."""

from collections.abc import Sequence as Rows
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

Side = Literal["left", "right"]

_PADDING_ID = 0  # never read: the mask hides it


def batches_by_length(lengths: Rows[int], batch_tokens: int) -> list[list[int]]:
    """Indices of sequences grouped so that a padded batch holds at most `batch_tokens` tokens.

    Sequences of like length come together, longest first: padding is small, and a batch too large for the
    memory shows at once. A sequence longer than the budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
            width = lengths[index]
        batches[-1].append(index)
    return batches


def pad(
    rows: Rows[Rows[int]], side: Side, device: torch.device
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Token ids padded to the longest row, and a mask that is True at the real tokens."""
    width = max(len(row) for row in rows)
    ids, mask = [], []
    for row in rows:
        padding = width - len(row)
        filler, hidden = [_PADDING_ID] * padding, [False] * padding
        ids.append(filler + list(row) if side == "left" else list(row) + filler)
        mask.append(hidden + [True] * len(row) if side == "left" else [True] * len(row) + hidden)
    return torch.tensor(ids, dtype=torch.long, device=device), torch.tensor(mask, dtype=torch.bool, device=device)


def positions(mask: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Position of each real token within its own sequence; 0 at the padding."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def segment_mask(segment: Int[np.ndarray, "rows length"]) -> Bool[np.ndarray, "rows length length"]:
    """Which keys (last axis) each query (middle axis) of rows of several sequences may attend to.

    Segment 0 is seen by all that follow it in its row, any other segment by itself alone, -1 (padding) by nobody.
    """
    query, key = segment[:, :, None], segment[:, None, :]
    length = segment.shape[1]
    together = (key == query) | (key == 0)
    # Padding positions attend to themselves, or softmax would have nothing to normalise.
    return np.tril(np.ones((length, length), bool)) & together & (key >= 0) | np.eye(length, dtype=bool)
