"""Whether bfloat16 pays on this machine."""

import torch


def has_fast_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether matrix products in bfloat16 run on instructions of their own on this device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
