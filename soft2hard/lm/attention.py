"""Attention as plain batched matrix products.

For the short rows and narrow heads of the embedded world, PyTorch's fused attention in bfloat16 takes two to
four times as long on CPU as plain matrix products, forward and backward; in float32 it is the quicker one
(`benchmarks/attention_cpu.py`). Registered with transformers under the name ATTENTION.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

ATTENTION = "soft2hard_matmul"


def matmul_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    value: Float[Tensor, "batch kv_heads keys width"],
    attention_mask: Float[Tensor, "#batch #heads queries keys"] | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Float[Tensor, " heads"] | None = None,
    **kwargs: object,
) -> tuple[Float[Tensor, "batch queries heads width"], None]:
    """Softmax attention with an additive mask (0 where allowed, very negative elsewhere).

    `softcap` bends scores so that none exceeds it (Gemma 2, arXiv 2408.00118, section 2.2). `s_aux` is the score of
    each head's sink, which takes its share of attention and gives nothing (GPT-OSS, arXiv 2508.10925).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.matmul(query * (scaling or query.shape[-1] ** -0.5), key.transpose(-1, -2))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask
    if s_aux is not None:
        sink = s_aux.to(scores).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink], -1)
    shares = torch.softmax(scores, -1)[..., : key.shape[2]]
    return torch.matmul(shares, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, matmul_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
