"""The decoder blocks of any language model, with what enters them read or replaced.

*Layer l* is the hidden state that **enters** block l, for l = 0 ... n - 1 with n blocks: layer 0 is what the model
makes of its input embeddings before the first block (learned position embeddings, projections and norms included),
layer l what block l - 1 has left. Blocks are found by what they do, not by the name of the architecture.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from soft2hard.errors import UserError
from soft2hard.lm.frozen_model import FrozenModel


@dataclass(frozen=True)
class Patch:
    """Hidden states that take the place of others at one layer."""

    layer: int
    rows: Int[Tensor, " n"]
    """Row of the batch, for each state."""
    columns: Int[Tensor, " n"]
    """Position within what the model reads in this pass (a cached prefix not counted)."""
    states: Float[Tensor, "n d_hidden"]


class _Reached(Exception):
    """The first block was reached, and nothing after it is wanted."""


class Blocks:
    """The blocks of a decoder-only language model.

    Raises UserError for an encoder-decoder model, and where the blocks cannot be told.
    """

    def __init__(self, lm: FrozenModel) -> None:
        self._blocks = _find(lm)

    def __len__(self) -> int:
        return len(self._blocks)

    @contextmanager
    def reading(self) -> Iterator[list[Float[Tensor, "batch length d_hidden"]]]:
        """A list that grows by what enters each block, in order, while the model runs within."""
        found: list[Tensor] = []
        with _hooked(self._blocks, [lambda hidden: found.append(hidden)] * len(self)):
            yield found

    @contextmanager
    def replacing(self, patches: Sequence[Patch]) -> Iterator[None]:
        """Each patch takes its place in every pass that the model makes within."""

        def patched(patch: Patch) -> Callable[[Tensor], Tensor]:
            return lambda hidden: hidden.index_put((patch.rows, patch.columns), patch.states.to(hidden))

        with _hooked([self._blocks[patch.layer] for patch in patches], [patched(patch) for patch in patches]):
            yield

    def entering_first(self, run: Callable[[], Any]) -> Float[Tensor, "batch length d_hidden"]:
        """What `run` would send into the first block; it is stopped there."""
        found: list[Tensor] = []

        def stop(hidden: Tensor) -> None:
            found.append(hidden)
            raise _Reached

        with _hooked(self._blocks[:1], [stop]):
            with suppress(_Reached):
                run()
        return found[0]


@contextmanager
def _hooked(blocks: Sequence[nn.Module], hooks: Sequence[Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """While within, each hook sees what enters its block, and replaces it unless it returns None."""

    def as_torch_hook(see: Callable[[Tensor], Tensor | None]) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            new = see(args[0] if args else kwargs["hidden_states"])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        return hook

    with ExitStack() as stack:
        for block, see in zip(blocks, hooks, strict=True):
            handle = block.register_forward_pre_hook(as_torch_hook(see), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _find(lm: FrozenModel) -> list[nn.Module]:
    """The first list of modules, one a layer, that a pass runs through in order and with hidden states."""
    if lm.is_encoder_decoder:
        raise UserError(
            "Hidden states can be patched in decoder-only subjects alone.",
            "Use a subject such as Llama, Qwen, GPT-2, OPT or BLOOM for this method.",
        )
    lists = [module for module in lm.model.base_model.modules() if isinstance(module, nn.ModuleList)]
    for blocks in lists:
        if len(blocks) == lm.config.num_hidden_layers and _runs_through(lm, list(blocks)):
            return list(blocks)
    raise UserError(
        f"The decoder blocks of subjects of type '{lm.config.model_type}' could not be found.",
        "Choose a subject whose blocks stand in one list, such as Llama, Qwen, GPT-2, OPT or BLOOM.",
    )


@torch.no_grad()
def _runs_through(lm: FrozenModel, blocks: list[nn.Module]) -> bool:
    """Whether a pass over two tokens enters each of the blocks once, in order, with one state a token."""
    order: list[int] = []

    def seen(number: int) -> Callable[[Tensor], None]:
        return lambda hidden: order.append(number if hidden.shape[:2] == (1, 2) and hidden.ndim == 3 else -1)

    ids = torch.zeros(1, 2, dtype=torch.long, device=lm.device)
    try:
        with _hooked(blocks, [seen(number) for number in range(len(blocks))]):
            lm.backbone(lm.embed(ids))
    except (AttributeError, KeyError):  # a list of modules that are not called with hidden states
        return False
    return order == list(range(len(blocks)))
