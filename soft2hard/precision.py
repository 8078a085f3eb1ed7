"""Whether bfloat16 pays on this machine, and subjects loaded in the precision that tunes fastest."""

from pathlib import Path

import torch
from transformers import AutoConfig

from soft2hard.attention import ATTENTION
from soft2hard.subject import Subject


def has_fast_bf16() -> bool:
    """Whether matrix products in bfloat16 run on their own instructions here."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def load_for_tuning(name_or_path: str | Path) -> Subject:
    """A subject as tuning wants it: bfloat16 where that is fast, and attention as matrix products on CPU.

    Weights saved in another precision stay as they are: rounding would make them another subject's, as far
    as its fingerprint tells.
    """
    subject = Subject.from_pretrained(name_or_path)
    saved = getattr(AutoConfig.from_pretrained(name_or_path), "dtype", None)
    if saved == torch.bfloat16 and has_fast_bf16():
        subject.model.to(torch.bfloat16)
    if subject.device.type == "cpu" and subject.embedding.dtype == torch.bfloat16 and not subject.is_encoder_decoder:
        subject.model.set_attn_implementation(ATTENTION)
    return subject
