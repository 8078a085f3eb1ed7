"""Arithmetic a second in training a translator, over that of tuning soft prompts, on one subject and machine.

    python benchmarks/translator_training.py --subject smollm2

Both are work on the same subject: tuning runs many prompts' examples beside each other, a LoRA translator reads a soft
prompt and writes an instruction. Operations are counted by PyTorch (`FlopCounterMode`) in the very steps that are timed
next; the ratio of the two rates says how much of the speed that tuning reaches on this machine training reaches too.
"""

import time
from collections.abc import Callable
from itertools import count

import datasets
import torch
from torch.utils.flop_counter import FlopCounterMode

from soft2hard.cli.common import AtLeast1
from soft2hard.compute.precision import has_fast_bf16
from soft2hard.data_gen.corpus.rows import corpus_features
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import run_script
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from soft2hard.translator.data import CorpusPairs, PairCollator
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design, TranslatorTraining
from soft2hard.translator.training import quick_attention


def rate(work: Callable[[], object]) -> float:
    """Operations a second of a work that is done three times: once untimed, once counted, once timed."""
    work()
    with FlopCounterMode(display=False) as counter:
        work()
    started = time.perf_counter()
    work()
    return counter.get_total_flops() / (time.perf_counter() - started)


def tuning_rate(subject: Subject, tasks: list[Task]) -> float:
    """Of three steps of all tasks at once."""
    tuner = Tuner(subject, Tuning(steps=3, eval_every=100, init="vocabulary"))
    return rate(lambda: list(tuner.tune(tasks)))


def training_rate(subject: Subject, tasks: list[Task], batch_size: int, rank: int) -> float:
    """Of one step, optimizer left out, on random soft prompts: only lengths matter here."""
    translator = Translator.for_subject(subject, Design("causal-lora", lora_rank=rank, dropout=0.0))
    rows = [
        {
            "task": task.name, "family": task.family, "instruction": task.instruction,
            "paraphrases": list(task.paraphrases), "inputs": [], "outputs": [], "step": 0, "is_best": True,
            "validation_loss": 0.0, "initial_loss": 0.0, "embeddings": torch.randn(8, subject.d_model).numpy(),
        }
        for task in tasks
    ]  # fmt: skip
    features = corpus_features(8, subject.d_model)
    corpus = datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)
    pairs, collate = CorpusPairs(corpus, paraphrase_share=0.7), PairCollator(translator.encode_instruction)
    numbers, model = count(), translator.model.train()

    def step() -> None:
        batch = collate([pairs[next(numbers) % len(pairs)] for _ in range(batch_size)])
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
            loss = model(**batch).loss
        loss.backward()
        model.zero_grad()

    with quick_attention(translator, TranslatorTraining()):
        return rate(step)


def main(subject: str = "smollm2", tasks: AtLeast1 = 64, batch_size: AtLeast1 = 64, rank: AtLeast1 = 32) -> None:
    """Print both rates and their ratio.

    Args:
        subject: A causal language model, as in soft2hard tune; it runs on the CPU.
        tasks: Lexical tasks that are tuned at once.
        batch_size: Pairs of a training step.
        rank: Of the adapters.
    """
    drawn = list(LexicalDoD(for_translator=True).tasks("train", tasks))
    tuning = tuning_rate(load_for_tuning(subject), drawn)
    training = training_rate(Subject.from_pretrained(subject), drawn, batch_size, rank)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, fast bfloat16: {has_fast_bf16()}")
    print(f"tuning: {tuning / 1e9:.0f} GFLOP/s; training: {training / 1e9:.0f} GFLOP/s; ratio {training / tuning:.2f}")


if __name__ == "__main__":
    run_script(main)
