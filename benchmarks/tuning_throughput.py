"""Throughput of tuning by the number of soft prompts at once, on a subject of a given shape with random weights.

    python benchmarks/tuning_throughput.py --shape llama-3.2-1b --device cuda --dtype bfloat16

Nothing is downloaded: the subject has the shape of a published model and random weights, which take as long as trained
ones, and reads the lexical tasks through the embedded subject's tokenizer. Every way takes the same number of steps,
with the same examples a step, and early stopping off; PEFT tunes one prompt after another. Steps are timed after a few
that are not. 'Share of peak' is of the rate at which this device multiplies large square matrices in the same precision
in the same run, not of a data sheet. Counted are the matrix products of the layers, forward and, for the gradients of
the activations alone, backward: 4 operations a weight and token; attention, head and optimizer are not.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import transformers
from cyclopts import Parameter
from cyclopts.validators import Number
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from tuning_vs_peft import padded, peft_model

from soft2hard.checkpoints import embedded_path
from soft2hard.cli.common import AtLeast1
from soft2hard.compute import metering
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.slots import embedding_scale, encode_examples
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError, run_script
from soft2hard.lm.subject import Subject

SHAPES = {
    "llama-3.2-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 1024,
    },
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
UNTIMED = 2  # steps before the clock starts
PEAK_SIZE = {"cpu": 1024, "cuda": 8192}  # of the square matrices that the peak is measured with


@dataclass(frozen=True)
class Rate:
    """What one way of tuning does in a second."""

    name: str
    prompts: int
    """Tuned at once."""
    prompt_steps: float
    """Steps of single soft prompts a second."""
    tokens: float
    """Tokens read a second, padding left out."""


def random_subject(shape: str, dtype: torch.dtype, device: str) -> Subject:
    """A Llama of this shape with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_path("subject"))
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = LlamaConfig(**SHAPES[shape] | ids | {"tie_word_embeddings": True})
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(dtype)
    return Subject(model, tokenizer, name=shape)


def measured_peak(dtype: torch.dtype, device: str) -> float:
    """Operations a second in products of large square matrices."""
    n = PEAK_SIZE["cpu" if device == "cpu" else "cuda"]
    a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(3):
        started = _now(device)
        for _ in range(10):
            a @ b
        best = max(best, 10 * 2 * n**3 / (_now(device) - started))
    return best


def together(subject: Subject, tasks: Sequence[Task], tuning: Tuning, device: str) -> Rate:
    """All tasks at once by the Tuner; the first steps and the looks at validation are not timed."""
    clock: list[tuple[float, int]] = []
    with metering.listening() as heard:

        def on_step(n: int) -> None:
            clock.append((_now(device), heard.total.tokens))

        list(Tuner(subject, replace(tuning, slots=len(tasks)), on_step=on_step).tune(tasks))
    (start, before), (end, after) = clock[UNTIMED - 1], clock[-1]
    n_steps = len(clock) - UNTIMED
    return Rate("soft2hard", len(tasks), n_steps * len(tasks) / (end - start), (after - before) / (end - start))


def one_by_one(subject: Subject, task: Task, tuning: Tuning, device: str) -> Rate:
    """Steps of PEFT prompt tuning on one task."""
    model = peft_model(subject, tuning.n_tokens)
    adam = torch.optim.Adam([model.prompt_encoder["default"].embedding.weight], lr=tuning.lr * embedding_scale(subject))
    examples = encode_examples(subject, task, "train")[: tuning.batch_size]
    batch = padded(examples, subject.device)
    n_tokens = sum(example.n_read + tuning.n_tokens for example in examples)
    for step in range(tuning.steps):
        if step == UNTIMED:
            started = _now(device)
        adam.zero_grad()
        model(**batch).loss.backward()
        adam.step()
    seconds = _now(device) - started
    n_steps = tuning.steps - UNTIMED
    return Rate("PEFT, one by one", 1, n_steps / seconds, n_steps * n_tokens / seconds)


def _now(device: str) -> float:
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def main(
    *,
    shape: Annotated[str, Parameter(help=f"Shape of the subject: {', '.join(SHAPES)}.")] = "llama-3.2-1b",
    at_once: tuple[int, ...] = (64, 128, 256, 512),
    n_tokens: AtLeast1 = 20,
    batch_size: AtLeast1 = 8,
    steps: Annotated[
        int, Parameter(help=f"Steps of each, of which {UNTIMED} are not timed.", validator=Number(gte=UNTIMED + 1))
    ] = 12,
    device: str = "cpu",
    dtype: Annotated[str, Parameter(help=f"Precision of the subject: {', '.join(DTYPES)}.")] = "float32",
) -> None:
    """Print steps of single soft prompts and tokens a second, share of peak, and the ratio to PEFT.

    Args:
        at_once: Soft prompts tuned at once; repeatable.
        n_tokens: Virtual tokens of each.
        batch_size: Examples a step of each.
        device: Device of all, such as cpu or cuda.
    """
    if shape not in SHAPES or dtype not in DTYPES:
        raise UserError(f"There is no shape '{shape}' in '{dtype}'.", f"Choose of {[*SHAPES]} and {[*DTYPES]}.")
    subject = random_subject(shape, DTYPES[dtype], device)
    tuning = Tuning(n_tokens, "vocabulary", steps, batch_size, eval_every=steps + 1, patience=steps, good_enough=-1.0)
    place = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    n_weights = sum(p.numel() for p in subject.model.parameters()) - subject.embedding.numel()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; {place}, {dtype}")
    print(f"{shape}: {n_weights / 1e6:.1f} M weights in its layers; {n_tokens} tokens, {batch_size} examples a step")
    peak = measured_peak(DTYPES[dtype], device)
    print(f"Large matrix products run at {peak / 1e12:.2f} TFLOP/s here.\n")
    tasks = list(LexicalDoD().tasks("train", max(at_once)))
    rates = [together(subject, tasks[:n], tuning, device) for n in at_once]
    rates.append(one_by_one(subject, tasks[0], tuning, device))
    print(f"{'':<18} at once  prompt steps/s  tokens/s  share of peak  against PEFT")
    for rate in rates:
        share, ratio = rate.tokens * 4 * n_weights / peak, rate.prompt_steps / rates[-1].prompt_steps
        speed = f"{rate.prompt_steps:14.2f}  {rate.tokens:8.0f}  {share:13.1%}  {ratio:11.1f}x"
        print(f"{rate.name:<18} {rate.prompts:7d}  {speed}")


if __name__ == "__main__":
    run_script(main)
