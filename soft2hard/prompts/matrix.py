"""The matrix of a soft prompt: a row a virtual token, finite and float32."""

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.errors import UserError


def as_matrix(tensor: Tensor, name: str) -> Float[Tensor, "n_tokens d_model"]:
    """Return a copy of a soft prompt as a float32 matrix on the CPU, without further axes of one.

    Raises:
        UserError: not floating point, not a matrix, no tokens, no width, or a value that is not
            finite in float32. The message calls the tensor `name`.
    """
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        raise UserError(
            f"{name} holds {dtype_name(tensor)} values, not floating-point ones.",
            "Give the embedding vectors of the virtual tokens, not token ids.",
        )
    if tensor.numel() == 0:
        raise _empty(name, shape)
    if not is_matrix(tensor):
        raise UserError(f"{name} has shape {shape}, not (n_tokens, d_model).", "Save it as one matrix, a row a token.")
    matrix = tensor.reshape(-1, shape[-1]).detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
    if not matrix.isfinite().all():
        row = int((~matrix.isfinite()).any(dim=1).nonzero()[0])
        raise UserError(
            f"{name} holds NaN or infinite values (first in row {row}).",
            "Its tuning diverged: tune it again with a lower learning rate or in bfloat16.",
        )
    return matrix


def is_matrix(tensor: Tensor) -> bool:
    """Two axes, and others of one entry: a batch of one matrix, or rows that are batches of one."""
    return tensor.dim() >= 2 and sum(n > 1 for n in tensor.shape[:-1]) <= 1


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _empty(name: str, shape: tuple[int, ...]) -> UserError:
    return UserError(
        f"{name} is empty: its shape is {shape}.",
        "Tune a soft prompt of at least one virtual token; under DeepSpeed ZeRO-3, gather it before it is saved "
        "(stage3_gather_16bit_weights_on_model_save).",
    )
