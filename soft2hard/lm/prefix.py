"""Keys and values of a text that many rows begin with, computed once."""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from soft2hard.lm.frozen_model import FrozenModel

ROOM = 16
"""Tokens that there is room for behind a row at first, and whenever its keys and values move."""


class Prefix:
    """The keys and values of a text, as vectors; of none where it is empty."""

    def __init__(self, model: FrozenModel, before: Float[Tensor, "n d_model"]) -> None:
        self.length = len(before)
        self._cache = model.decode(before[None], None, None, use_cache=True)[1] if self.length else None

    def repeated(self, n_rows: int, room: int) -> Cache | None:
        """A cache of its own for each row of a batch, with room for `room` more tokens.

        Layers that are more than keys and values of all tokens (sliding windows) grow as they always do.
        """
        return None if self._cache is None else roomy(self._cache, torch.zeros(n_rows, dtype=torch.long), room)

    def positions(self, embeddings: Float[Tensor, "rows width d_model"]) -> Int[Tensor, "rows width"]:
        """Positions of what comes next."""
        n_rows, width = embeddings.shape[:2]
        return (self.length + torch.arange(width, device=embeddings.device)).expand(n_rows, -1)


def roomy(cache: Cache, rows: Int[Tensor, " kept"], room: int) -> Cache:
    """A cache of its own with these rows of another, each as often as it is named, and room for `room` more tokens.

    Layers that are more than keys and values of all tokens (sliding windows) grow as they always do.
    """
    found = copy.copy(cache)
    found.layers = []
    for layer in cache.layers:
        if type(layer) is DynamicLayer and layer.is_initialized:
            found.layers.append(_RoomyLayer(layer, rows.to(layer.keys.device), room))
        else:
            found.layers.append(copy.deepcopy(layer))
            found.layers[-1].reorder_cache(rows)  # an index_select on every kind of layer
    return found


class _RoomyLayer(DynamicLayer):
    """Keys and values of one layer, with room behind each row, into which a token is written.

    transformers' own layer is copied whole for every token that is added, which took 2.8 times the processor time (16
    soft prompts and 25 pairs of the embedded subject). `keys` and `values` are what has been written so far.
    """

    def __init__(self, common: DynamicLayer, rows: Int[Tensor, " kept"], room: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = common.dtype, common.device, True
        self._move(common.keys[rows], common.values[rows], room)

    def update(
        self,
        key_states: Float[Tensor, "rows heads new width"],
        value_states: Float[Tensor, "rows heads new width_v"],
        *args: object,
        **kwargs: object,
    ) -> tuple[Float[Tensor, "rows heads seen width"], Float[Tensor, "rows heads seen width_v"]]:
        """Write what is new behind what is there."""
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if end > self._keys.shape[2]:
            self._move(self.keys, self.values, end - start + ROOM)
        self._keys[:, :, start:end], self._values[:, :, start:end] = key_states, value_states
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Int[Tensor, " kept"]) -> None:
        """Keep these rows."""
        rows = beam_idx.to(self.keys.device)
        self._move(self.keys[rows], self.values[rows], ROOM)

    def _move(
        self, keys: Float[Tensor, "rows heads seen width"], values: Float[Tensor, "rows heads seen width_v"], room: int
    ) -> None:
        length = keys.shape[2]
        self._keys, self._values = (x.new_empty(*x.shape[:2], length + room, x.shape[3]) for x in (keys, values))
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]
        self.keys.copy_(keys)
        self.values.copy_(values)
