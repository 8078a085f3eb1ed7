"""Texts proposed and scored a second by a translator in its subject's precision, over the same in float32.

    python benchmarks/proposing.py --subject smollm2

A translator of random adapters reads random soft prompts; as many candidates are proposed for each, and
scored. The obvious way is weights in float32, and nuclei by a sort of the whole vocabulary, as transformers has them.
Where bfloat16 is slow, both compute in float32.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from transformers import TopPLogitsWarper

from soft2hard.cli.common import AtLeast1
from soft2hard.compute.precision import has_fast_bf16
from soft2hard.errors import run_script
from soft2hard.lm.loading import Loading
from soft2hard.lm.precision import load_for_tuning
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator import candidates, causal
from soft2hard.translator.candidates import Reading, propose
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design


def seconds(translator: Translator, soft_prompts: list[SoftPrompt], n: int) -> tuple[float, float]:
    """To propose `n` texts for each soft prompt, and to score them."""
    propose(translator, soft_prompts[:1], n)
    started = time.perf_counter()
    proposed = propose(translator, soft_prompts, n)
    between = time.perf_counter()
    for soft_prompt, texts in zip(soft_prompts, proposed, strict=True):
        Reading(translator, soft_prompt).log_probs(texts)
    return between - started, time.perf_counter() - between


def main(subject: str = "smollm2", prompts: AtLeast1 = 8, n: AtLeast1 = 16, rank: AtLeast1 = 32) -> None:
    """Print both ratios.

    Args:
        subject: A causal language model, as in soft2hard tune; it runs on the CPU.
        prompts: Soft prompts.
        n: Candidates for each.
        rank: Of the adapters.
    """
    lm = load_for_tuning(subject, Loading(device="cpu"))
    torch.manual_seed(0)
    random = [SoftPrompt(torch.randn(8, lm.d_model) * lm.embedding.float().std()) for _ in range(prompts)]
    design = Design("causal-lora", lora_rank=rank, dropout=0.0, instruction_tokens=24)
    with TemporaryDirectory() as folder:
        saved = Path(folder) / "translator"
        Translator.for_subject(lm, design).save_pretrained(saved)
        ours = seconds(Translator.from_pretrained(saved, subject=lm), random, n)
        with ExitStack() as stack:
            stack.enter_context(patch.object(causal, "has_fast_bf16", lambda device: False))
            stack.enter_context(patch.object(candidates, "Nucleus", TopPLogitsWarper))
            obvious = seconds(Translator.from_pretrained(saved, subject=lm), random, n)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, fast bfloat16: {has_fast_bf16()}")
    for what, quick, slow in zip(("proposing", "scoring"), ours, obvious, strict=True):
        print(f"{what}: {quick:.1f} s, the obvious way {slow:.1f} s: {slow / quick:.1f} times")


if __name__ == "__main__":
    run_script(main)
