"""Gradient checkpointing of a frozen model: less memory for the backward pass, for one more forward pass.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174), section 4: what enters a layer
is kept, and the inside of the layer is computed again when its gradient is needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from soft2hard.errors import UserError


@contextmanager
def checkpointing(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within the block, layers of this model keep nothing but their inputs; nothing changes where it is not `wanted`.

    transformers' own switch works in training mode alone, where dropout is on; a frozen subject stays in evaluation
    mode. Raises UserError for an architecture whose layers are not marked as such.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)] if wanted else []
    if wanted and not layers:
        raise UserError(
            f"{type(model).__name__} has no layers that could be checkpointed.", "Leave out --gradient-checkpointing."
        )
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            # Not the reentrant kind, which finds no gradient where parameters take none.
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward
