"""Many soft prompts tuned at once by soft2hard, against PEFT prompt tuning of one task after another.

    python benchmarks/tuning_vs_peft.py

Both tune the same tasks on the same subject from the same initial prompts, with the same examples in the same
order, batch size, Adam and learning-rate schedule, and look at the same validation examples as often. PEFT
is given the easier stopping rule: a task is done as soon as its validation loss is within one per cent of the loss
that soft2hard reached for it, or after as many looks without gain, or at the step limit; soft2hard does not
know when it has found its best and continues until its patience runs out. Loading models is not timed; tokenising is.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import peft
import torch
import transformers
from torch import Tensor

from soft2hard.cli.common import AtLeast1
from soft2hard.compute.precision import has_fast_bf16
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.slots import embedding_scale, initial_prompt
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError, run_script
from soft2hard.lm.attention import ATTENTION
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.subject import Subject

IGNORE = -100
TUNING = Tuning(n_tokens=8, steps=60, batch_size=6, lr=1.2, eval_every=20, patience=3, slots=64)
"""As recipes/embedded.yaml tunes most of its corpus."""
CLOSE_ENOUGH = 1.01
"""PEFT is done at this many times the loss that soft2hard reached."""


@dataclass(frozen=True)
class Run:
    """What one way of tuning did."""

    name: str
    seconds: float
    losses: dict[str, float]
    """Validation loss of each task, nats a token."""
    steps: int
    """Optimizer steps over all tasks."""

    @property
    def per_second(self) -> float:
        """Soft prompts a second."""
        return len(self.losses) / self.seconds

    def mean_loss(self, tasks: Sequence[str]) -> float:
        return sum(self.losses[name] for name in tasks) / len(tasks)


# --- soft2hard --------------------------------------------------------------------------------


def tuned_together(subject: Subject, tasks: list[Task], tuning: Tuning, name: str) -> Run:
    """All tasks in one run of the Tuner."""
    started = time.perf_counter()
    results = list(Tuner(subject, tuning).tune(tasks))
    seconds = time.perf_counter() - started
    losses = {result.task.name: result.validation_loss for result in results}
    return Run(name, seconds, losses, sum(result.steps for result in results))


# --- PEFT -------------------------------------------------------------------------------------


def peft_model(subject: Subject, n_tokens: int) -> peft.PeftModel:
    """The subject's model behind a prompt-tuning adapter."""
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=n_tokens,
        prompt_tuning_init="RANDOM",
        # These are derived from names that not every architecture has; the prompt stands before layer 0 alone.
        token_dim=subject.d_model,
        num_layers=1,
        num_attention_heads=1,
    )
    return peft.get_peft_model(subject.model, config)


def padded(examples: Sequence[EncodedExample], device: torch.device) -> dict[str, Tensor]:
    """Examples as PEFT wants them: one row each, padded on the right, labels at the outputs alone."""
    width = max(example.n_read + 1 for example in examples)
    ids, mask, labels = [], [], []
    for example in examples:
        row = example.body + example.output
        padding = width - len(row)
        ids.append(row + [0] * padding)
        mask.append([1] * len(row) + [0] * padding)
        labels.append([IGNORE] * len(example.body) + example.output + [IGNORE] * padding)
    names = ("input_ids", "attention_mask", "labels")
    return {name: torch.tensor(x, device=device) for name, x in zip(names, (ids, mask, labels), strict=True)}


def drawn(examples: list[EncodedExample], n: int, rng: Random) -> Iterator[list[EncodedExample]]:
    """Batches in the Tuner's order: every example once before any a second time."""
    order: list[int] = []
    while True:
        while len(order) < n:
            order += rng.sample(range(len(examples)), len(examples))
        chosen, order = order[:n], order[n:]
        yield [examples[i] for i in chosen]


def tuned_by_peft(
    model: peft.PeftModel, subject: Subject, task: Task, tuning: Tuning, wanted: float
) -> tuple[float, int]:
    """One task; its lowest validation loss and the steps taken."""
    rng = Random(f"{tuning.seed}/{task.name}")
    start = initial_prompt(subject, task, tuning.init, tuning.n_tokens, rng)
    weight = model.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight.copy_(start)
    train, validation = (
        [subject.encode_example(e.input, e.output, "soft") for e in part] for part in (task.train, task.validation)
    )
    adam = torch.optim.Adam([weight], lr=tuning.lr * embedding_scale(subject), betas=(0.9, 0.98), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min(1.0, (step + 1) / tuning.warmup, (tuning.steps - step) / tuning.steps)
    )
    look_at = padded(validation, subject.device)
    batches = drawn(train, tuning.batch_size, rng)
    best, looks_without_gain, step = float("inf"), 0, 0
    while True:
        if step % tuning.eval_every == 0 or step == tuning.steps:
            with torch.no_grad():
                loss = model(**look_at).loss.item()
            best, looks_without_gain = (loss, 0) if loss < best else (best, looks_without_gain + 1)
            done = best <= max(CLOSE_ENOUGH * wanted, tuning.good_enough)
            if done or looks_without_gain >= tuning.patience or step == tuning.steps:
                return best, step
        adam.zero_grad()
        model(**padded(next(batches), subject.device)).loss.backward()
        adam.step()
        schedule.step()
        step += 1


def tuned_in_turn(
    subject: Subject, tasks: list[Task], tuning: Tuning, reached: dict[str, float], limit_seconds: float, name: str
) -> Run:
    """One task after another, until all are done or the time is up."""
    model = peft_model(subject, tuning.n_tokens)
    tuned_by_peft(model, subject, tasks[0], replace(tuning, steps=2), 0.0)  # not timed: first passes are slow
    losses, steps = {}, 0
    started = time.perf_counter()
    for task in tasks:
        losses[task.name], taken = tuned_by_peft(model, subject, task, tuning, reached[task.name])
        steps += taken
        if time.perf_counter() - started > limit_seconds:
            break
    return Run(name, time.perf_counter() - started, losses, steps)


# --- report -----------------------------------------------------------------------------------


def load(path: str, dtype: torch.dtype, device: str) -> Subject:
    subject = Subject.from_pretrained(path, device=device, dtype=dtype)
    if subject.is_encoder_decoder or len(subject.prompt_embeddings(None)):
        raise UserError(
            "This benchmark compares decoder-only subjects without a BOS token.",
            "Give another --subject: PEFT would put its prompt before BOS, soft2hard puts it behind.",
        )
    return subject


def report(ours: Run, others: list[Run], n_tasks: int) -> None:
    """A table, and for each PEFT run the ratio and the losses over the tasks that both finished."""
    print(f"\n{'':<28} prompts  seconds  prompts/s  steps/prompt")
    for run in (ours, *others):
        n = len(run.losses)
        print(f"{run.name:<28} {n:7d}  {run.seconds:7.1f}  {run.per_second:9.2f}  {run.steps / n:12.1f}")
    for other in others:
        both = list(other.losses)
        print(
            f"\n{ours.name} against {other.name}: {ours.per_second / other.per_second:.1f} times as many prompts a"
            f" second; mean validation loss {ours.mean_loss(both):.4f} against {other.mean_loss(both):.4f} nats a token"
            f" over the {len(both)} tasks that both tuned."
        )
        if len(both) < n_tasks:
            print(
                f"  {other.name} was stopped by --limit-seconds after {len(both)} of {n_tasks} tasks: its prompts a"
                " second are measured on these, and extrapolated to the rest."
            )


def main(
    *,
    subject: str = "embedded",
    n_tasks: AtLeast1 = 64,
    init: str = "auto",
    steps: AtLeast1 = TUNING.steps,
    slots: AtLeast1 = TUNING.slots,
    limit_seconds: float = 600.0,
    device: str = "cpu",
) -> None:
    """Tune soft prompts both ways in one run and print prompts a second, their ratio, and the losses reached.

    Args:
        subject: Subject: 'embedded', or a name or path of a decoder-only model.
        n_tasks: Training tasks of the lexical world to tune.
        init: Initial prompts of both: see `soft2hard tune --help`.
        steps: Step limit of both.
        slots: Prompts that soft2hard tunes at once.
        limit_seconds: Time after which PEFT starts no further task, in each dtype.
        device: Device of both, such as cpu or cuda.
    """
    path = subject
    tuning = replace(TUNING, init=init, steps=steps, slots=slots)
    tasks = list(LexicalDoD().tasks("train", n_tasks))
    place = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    libraries = ", ".join(f"{library.__name__} {library.__version__}" for library in (torch, transformers, peft))
    print(f"{libraries}; {device}, {place}")
    print(f"subject {Path(path).name}, {len(tasks)} tasks, {tuning}")

    # As `load_for_tuning` holds it: in bfloat16 where this machine has instructions for it.
    ours_in = "bfloat16" if has_fast_bf16(device) else "float32"
    quick = load(path, getattr(torch, ours_in), device)
    if quick.device.type == "cpu" and ours_in == "bfloat16":
        quick.model.set_attn_implementation(ATTENTION)
    few = tasks[: min(4, len(tasks))]
    tuned_together(quick, few, replace(tuning, steps=2), "warm-up")
    ours = tuned_together(quick, tasks, tuning, f"soft2hard, {ours_in}")
    others = [
        tuned_in_turn(load(path, dtype, device), tasks, tuning, ours.losses, limit_seconds, f"PEFT one by one, {name}")
        for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16"))
    ]
    report(ours, others, len(tasks))


if __name__ == "__main__":
    run_script(main)
