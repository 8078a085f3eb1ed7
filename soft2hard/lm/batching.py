"""Sequences of tokens, grouped by length into batches, and padded."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Side = Literal["left", "right"]

MOST_PADDING = 0.08
"""Padding that a batch may have, as a share of its tokens."""
_SMALL_BATCH = 256
"""Tokens up to which another batch would cost more than the padding that it spares."""

_PADDING_ID = 0  # never read: the mask hides it


@dataclass(frozen=True)
class EncodedExample:
    """An example as token ids."""

    body: list[int]
    """Separator, input and output prefix, as they stand after a prompt."""
    output: list[int]
    """The output's tokens, EOS included; the one token that a masked LM fills in."""
    before: list[int] = field(default_factory=list)
    """What stands before the prompt and is this example's own: all up to the input, where that comes first."""
    after: list[int] | None = None
    """What a masked LM reads after the output; None for models that read it from the left."""

    @property
    def n_input(self) -> int:
        """Number of tokens that are read whatever the output, the prompt's apart."""
        return len(self.before) + len(self.body) + len(self.after or ())

    @property
    def n_read(self) -> int:
        """Number of tokens read to score the output: its last one is not among them, but for masks in its place."""
        return self.n_input + len(self.output) - (self.after is None)


def batches_by_length(
    lengths: Rows[int], batch_tokens: int | None = None, n_new: int = 0, boundary: int | None = None
) -> list[list[int]]:
    """Indices of sequences grouped so that a padded batch holds at most `batch_tokens` tokens, if there is a limit.

    `n_new` are tokens that each sequence will grow by, over and above its length. Sequences up to `boundary`, beyond
    it, and those that will grow across it (each length apart) share no batch.
    Sequences of like length come together, longest first, so that a batch too large for the memory shows at once; no
    batch but a small one has more padding than MOST_PADDING. A sequence longer than the budget gets a batch of its
    own. What is in a batch depends on the lengths alone.
    """
    batches: list[list[int]] = []
    width = real = 0
    sides = [_side(length, n_new, boundary) for length in lengths]
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        real += lengths[index]
        n_rows = len(batches[-1]) + 1 if batches else 1
        places = n_rows * width
        too_many = batch_tokens is not None and n_rows * (width + n_new) > batch_tokens
        too_loose = places > _SMALL_BATCH and real < (1 - MOST_PADDING) * places
        if not batches or too_many or too_loose or sides[index] != sides[batches[-1][0]]:
            batches.append([])
            width = real = lengths[index]
        batches[-1].append(index)
    return batches


def _side(length: int, n_new: int, boundary: int | None) -> int:
    """0 and -1 for lengths that stay below and above the boundary, else the length itself."""
    if boundary is None or length + n_new <= boundary:
        return 0
    return -1 if length > boundary else length


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


def pad_rows(
    rows: Rows[Float[Tensor, "_length d_model"]], side: Side
) -> tuple[Float[Tensor, "batch length d_model"], Bool[Tensor, "batch length"]]:
    """Embedded sequences padded to the longest one, and a mask that is True at the real positions."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    place = torch.arange(int(lengths.max()), device=rows[0].device)
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_side=side)
    mask = place < lengths[:, None] if side == "right" else place >= place.numel() - lengths[:, None]
    return padded, mask


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
