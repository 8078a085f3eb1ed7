"""How fast this machine goes through a recipe's models: measured where they are at hand, else estimated."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import nn

from soft2hard.compute.metering import listening
from soft2hard.compute.precision import has_fast_bf16
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.lm.subject import Query, Subject
from soft2hard.pipeline.workload import Lengths, tuning_step
from soft2hard.storage.names import located
from soft2hard.translator.data import PairCollator
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import TranslatorTraining

SHARE_OF_PEAK = 0.35
"""Assumed of a large model: the share of the speed of large matrix products that tuning, training and running reach."""
FLOPS_A_PASS = 2.0
"""Floating-point operations a parameter and token pass."""

_STEPS = 5
_MOST_SLOTS = 64
"""More soft prompts at once make a step longer, and each of them hardly cheaper."""
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Rate:
    """The speed of one kind of work."""

    seconds: float
    """A token pass."""
    how: str
    """'measured' or 'estimated', and from what, for people."""


def at_hand(name: str) -> bool:
    """Whether a model can be loaded without the network: a folder, or in the local cache."""
    if Path(located(name, "subject")).is_dir():
        return True
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in _WEIGHTS)
    except HFValidationError:
        return False  # the path of a folder that is not there


def device_name() -> str:
    """This machine, as figures about it name it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    n = torch.get_num_threads()
    return f"CPU, {n} thread{'s' * (n > 1)} of {os.cpu_count()} cores"


def estimated(parameters: float, flops: float) -> Rate:
    """The rate of a model that is not here, from its size and the speed of matrix products, in operations a second."""
    speed = f"{SHARE_OF_PEAK:.0%} of the {flops / 1e12:.3g} TFLOP/s that matrix products reach here"
    how = f"estimated from {parameters:.3g} parameters and {speed}"
    return Rate(FLOPS_A_PASS * parameters / (SHARE_OF_PEAK * flops), how)


def matrix_flops(seconds: float = 0.5) -> float:
    """Floating-point operations a second of large matrix products here, in the precision that models run in."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    dtype = torch.bfloat16 if has_fast_bf16() else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    _wait()
    n, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        a @ b
        _wait()
        n += 1
    return n * 2 * size**3 / spent


def measured_slots(tuning: Tuning) -> int:
    """How many soft prompts at once a measurement tunes: as many as the recipe, but few enough to be quick."""
    return min(tuning.slots or _MOST_SLOTS, _MOST_SLOTS)


def tuning_rate(
    subject: Subject, tuning: Tuning, tasks: Sequence[Task], lengths: Lengths, most_seconds: float = 60.0
) -> Rate:
    """From a few steps of some soft prompts at once (`measured_slots`); two at least, however long these take."""
    steps: list[tuple[float, int]] = []
    started = time.perf_counter()

    def on_step(n_slots: int) -> None:
        _wait()
        steps.append((time.perf_counter(), n_slots))
        if len(steps) > 1 and steps[-1][0] - started > most_seconds:
            raise _EnoughError

    n = measured_slots(tuning)
    few = replace(tuning, steps=_STEPS, eval_every=_STEPS, warmup=1, good_enough=0.0, slots=n)
    with suppress(_EnoughError):
        for _ in Tuner(subject, few, on_step=on_step).tune(tasks[:n]):
            pass
    each = median((later - earlier) / n for (earlier, _), (later, n) in pairwise(steps))
    how = f"measured: {len(steps)} tuning steps of {steps[-1][1]} soft prompts at once"
    return Rate(each / tuning_step(tuning, lengths), how)


class _EnoughError(Exception):
    """There are steps enough to tell how fast they go."""


def training_rate(
    translator: Translator, n_tokens: int, training: TranslatorTraining, tasks: Sequence[Task], pair: float
) -> Rate:
    """From a few training steps on random soft prompts and the tasks' instructions; `pair`: token passes of a pair."""
    model, size = translator.model.train(), training.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    texts = [tasks[i % len(tasks)].instruction for i in range(size)]
    prompts = torch.randn(size, n_tokens, translator.card.d_subject)
    pairs = list(zip(prompts, texts, strict=True))
    batch = PairCollator(translator.encode_instruction)(pairs)
    batch = {name: tensor.to(translator.device) for name, tensor in batch.items()}

    def step() -> None:
        with torch.autocast(translator.device.type, torch.bfloat16, enabled=training.bf16 and has_fast_bf16()):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds = _timed(step)
    return Rate(seconds / (size * pair), f"measured: {_STEPS} training steps of {size} pairs")


def running_rate(subject: Subject, tasks: Sequence[Task]) -> Rate:
    """From outputs written under the tasks' own instructions."""
    queries = [Query(task.instruction, example.input) for task in tasks for example in task.validation[:8]]
    subject.generate(queries[:1])
    started = time.perf_counter()
    with listening() as heard:
        subject.generate(queries)
    _wait()
    seconds = time.perf_counter() - started
    return Rate(seconds / max(1, heard.total.tokens), f"measured: {len(queries)} outputs written")


def n_parameters(model: nn.Module) -> int:
    """Each counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _timed(step: Callable[[], None]) -> float:
    """Median seconds of a step; the first does not count."""
    times = []
    for _ in range(_STEPS):
        step()
        _wait()
        times.append(time.perf_counter())
    return _median_gap(times)


def _median_gap(times: Sequence[float]) -> float:
    return median(later - earlier for earlier, later in pairwise(times))


def _wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
