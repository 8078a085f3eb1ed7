"""Attention as plain matrix products against PyTorch's fused attention, forward and backward on the CPU.

    python benchmarks/attention_cpu.py

Both see the same tensors and the same additive mask, and take turns, so that a busy machine slows both.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from soft2hard.cli.common import AtLeast0, AtLeast1
from soft2hard.errors import run_script
from soft2hard.lm.attention import matmul_attention

SHAPES = [(32, 3, length, 64) for length in (64, 96, 128, 160)]
"""Rows, heads, tokens a row and width of a head, as in training and tuning on the embedded subject."""


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """`(rows, tokens, heads, width)`, laid out as `matmul_attention` returns it."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).contiguous()


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """`(rows, tokens, heads, width)`."""
    return matmul_attention(torch.nn.Identity(), query, key, value, mask)[0]


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """Query, key and value that take gradients, and a causal mask with one row a batch row."""
    rows, _, length, _ = shape
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    causal = torch.full((length, length), -30000.0).triu(1).to(dtype)
    return [*tensors, causal.expand(rows, 1, length, length).contiguous()]


def forward_backward(attention: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of query, key and value under a fixed outer gradient."""
    output = attention(*tensors)
    return [output, *torch.autograd.grad(output, tensors[:3], torch.ones_like(output))]


def seconds(attention: Callable[..., Tensor], tensors: list[Tensor]) -> float:
    started = time.perf_counter()
    forward_backward(attention, tensors)
    return time.perf_counter() - started


def main(
    *,
    repeats: AtLeast1 = 20,
    threads: AtLeast0 = 0,
) -> None:
    """Compare both kinds of attention for each shape in bfloat16 and float32.

    Args:
        repeats: Timed passes of each kind for each shape; the median counts.
        threads: Threads; 0: as many as PyTorch takes by itself.
    """
    if threads:
        torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {repeats} passes, milliseconds")
    print("rows x heads x tokens x width  dtype     fused  plain  fused/plain")
    for shape in SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            tensors = inputs(shape, dtype)
            results = [forward_backward(attention, tensors) for attention in (fused, plain)]  # also warms up
            tolerance = 1e-4 if dtype == torch.float32 else 0.1
            for one, other in zip(*results, strict=True):
                torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
            times: dict[Callable[..., Tensor], list[float]] = {fused: [], plain: []}
            for _ in range(repeats):
                for attention, found in times.items():
                    found.append(seconds(attention, tensors))
            slow, quick = (1000 * statistics.median(times[attention]) for attention in (fused, plain))
            name = str(dtype).removeprefix("torch.")
            print(f"{' x '.join(map(str, shape)):<29}  {name:<8}  {slow:5.1f}  {quick:5.1f}  {slow / quick:.2f}")


if __name__ == "__main__":
    run_script(main)
