"""Whether bfloat16 pays on this machine, and subjects loaded in the precision that tunes fastest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from soft2hard.compute.precision import has_fast_bf16
from soft2hard.lm.attention import ATTENTION
from soft2hard.lm.loading import Loading, round_weights, saved_dtype
from soft2hard.lm.subject import Subject


def load_for_tuning(name_or_path: str | Path, loading: Loading = Loading()) -> Subject:
    """A subject as tuning wants it: bfloat16 where that is fast, and attention as matrix products on CPU.

    Settings other than 'auto' are followed. Weights saved in another precision stay as they are:
    unasked, nothing is rounded. Raises UserError as `Subject.from_pretrained` does.
    """
    subject = Subject.from_pretrained(name_or_path, loading=loading)
    plain = loading.dtype == "auto" and loading.quantization == "none"
    if plain and has_fast_bf16(subject.device) and saved_dtype(subject.model.name_or_path) == torch.bfloat16:
        round_weights(subject.model, torch.bfloat16)
    on_cpu_in_bf16 = subject.device.type == "cpu" and subject.embedding.dtype == torch.bfloat16
    if on_cpu_in_bf16 and subject.continues_text and loading.attention == "auto":
        subject.model.set_attn_implementation(ATTENTION)
    return subject


def rounding_of(loading: Mapping[str, Any]) -> dict[str, Any]:
    """What of a `Loading`'s fields makes the subject's numbers others; the rest may differ from machine to machine."""
    return Loading(**loading).rounding
