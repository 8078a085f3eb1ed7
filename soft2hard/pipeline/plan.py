"""The plan of a recipe: what `soft2hard run RECIPE --plan` prints, with one short measurement of tuning."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig

from soft2hard.data_gen.corpus.maker import corpus_tasks
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from soft2hard.pipeline.recipe import Recipe
from soft2hard.pipeline.stages import Layout, Stage, at_hand, models_of, stages_of

_STEPS, _MOST_SLOTS, _MOST_SECONDS = 5, 64, 60.0
"""Of the measurement. More soft prompts at once make a step longer, and each of them hardly cheaper."""
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_FLOAT, _BF16 = 4, 2
"""Bytes of a number of a soft prompt, and of a parameter as large models are published."""
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Speed:
    """How fast this machine tunes soft prompts on the subject."""

    seconds: float
    """One example through the subject, there and back, for one soft prompt; a look at an example takes half of it."""
    n_validation: float
    """Validation examples of a task."""
    how: str
    """How it was measured, for people."""

    def seconds_for(self, tuning: Tuning, n: int) -> float:
        """The most that `n` soft prompts take: all their steps, and a look every so many of them."""
        looks = 1 + tuning.steps // tuning.eval_every
        return n * self.seconds * (tuning.steps * tuning.batch_size + looks * self.n_validation / 2)


def plan_text(recipe: Recipe, layout: Layout, names: Sequence[str], origin: str) -> str:
    """Stages with what they read, write and amount to, the time of tuning, and what must be fetched first.

    Raises UserError for a stage that does not exist, and for a translator's base of the wrong kind.
    """
    stages = stages_of(recipe, layout, names)
    for stage in stages:
        if stage.name == "translator" and model_at_hand(recipe.translator.base or _subject(stage)):
            stage.check(local_files_only=True)
    tuning = [stage for stage in stages if stage.prompts()]
    speed = measured_speed(tuning[0]) if tuning else None
    blocks = ["\n".join(_stage_lines(stage, speed)) for stage in stages]
    missing = "\n".join(_missing(recipe, stages))
    how = [speed.how] if speed else []
    head = f"{origin}: {len(stages)} stage{'s' * (len(stages) > 1)}, in {layout.folder}"
    return "\n\n".join([head, *blocks, *how, *([missing] if missing else [])])


def measured_speed(stage: Stage) -> Speed | None:
    """From a few steps of some soft prompts of the first train corpus; None where subject or tasks are not here."""
    recipe, path = stage.recipe, _subject(stage)
    name, corpus = next(iter(recipe.of_split("train").items()))
    if not (model_at_hand(path) and at_hand(corpus.dod, corpus.folder)):
        return None
    tuning = recipe.corpus_tuning(name)
    few = replace(corpus, n_tasks=min(tuning.slots or _MOST_SLOTS, _MOST_SLOTS, corpus.n_tasks))
    subject = load_for_tuning(path, recipe.held)
    return tuning_speed(subject, tuning, list(corpus_tasks(few).dod.tasks(few.split, few.n_tasks, few.task_seed)))


def tuning_speed(subject: Subject, tuning: Tuning, tasks: Sequence[Task], most_seconds: float = _MOST_SECONDS) -> Speed:
    """From a few steps of all these tasks at once; two at least, however long these take."""
    steps: list[tuple[float, int]] = []
    started = time.perf_counter()

    def on_step(n_slots: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        steps.append((time.perf_counter(), n_slots))
        if len(steps) > 1 and steps[-1][0] - started > most_seconds:
            raise _EnoughError

    few = replace(tuning, steps=_STEPS, eval_every=_STEPS, warmup=1, good_enough=0.0, slots=len(tasks))
    with suppress(_EnoughError):
        for _ in Tuner(subject, few, on_step=on_step).tune(tasks):
            pass
    each = median((later - earlier) / n for (earlier, _), (later, n) in pairwise(steps))
    n_validation = fmean(len(task.validation) for task in tasks)
    how = f"measured: {len(steps)} tuning steps of {steps[-1][1]} soft prompts at once on {_device()}"
    return Speed(each / tuning.batch_size, n_validation, how)


class _EnoughError(Exception):
    """There are steps enough to tell how fast they go."""


def _subject(stage: Stage) -> str:
    return stage.path_of("subject", stage.recipe.subject)


def _stage_lines(stage: Stage, speed: Speed | None) -> Iterator[str]:
    models = [f"{role} {name}" for role, name in stage.models()]
    prompts = stage.prompts()
    n_numbers = sum(tuning.n_tokens * n * copies for tuning, n, copies in prompts)
    width = _width(stage) if prompts else None
    disk = f"; about {_size(float(n_numbers * width * _FLOAT))} of soft prompts" if width else ""
    yield f"{stage.name}: {stage.size()}"
    yield f"  reads   {', '.join([*models, *stage.inputs()])}"
    yield f"  writes  {', '.join(map(str, stage.writes()))}{disk}"
    if prompts:
        n = sum(n for _, n, _ in prompts)
        yield f"  tunes   {n:,} soft prompts, {_time(prompts, speed)}"


def _missing(recipe: Recipe, stages: Sequence[Stage]) -> Iterator[str]:
    """What must be fetched before the run can begin."""
    for folder in dict.fromkeys(folder for stage in stages for _, folder in stage.folders()):
        if not folder.exists():
            yield f"missing: {folder} (docs/datasets.md says where its files are available)"
    for role, name, path in models_of(stages):
        if not model_at_hand(path):
            size = recipe.sizes.get(name)
            about = f", about {_size(size.parameters * _BF16)}" if size else ""
            gated = ", gated: accept its licence on the hub and log in first" if size and size.gated else ""
            yield f"missing: {name}, the {role}{about}{gated}"
    if recipe.transfer is not None and any(stage.name == "transfer" for stage in stages):
        for model in recipe.transfer.api_models:
            if not os.environ.get(model.key_env):
                yield f"missing: the key of {model.name}, in the environment variable {model.key_env}"


def model_at_hand(name: str) -> bool:
    """True if a model can be loaded without the network: from a folder, or from the local cache."""
    if Path(name).is_dir():
        return True
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in _WEIGHTS)
    except HFValidationError:
        return False  # the path of a folder that is not there


def _width(stage: Stage) -> int | None:
    """Of the subject's input embeddings; None where neither the subject nor its size is known."""
    recipe, path = stage.recipe, _subject(stage)
    if recipe.world is not None:
        return recipe.world.subject.width
    if recipe.subject in recipe.sizes:
        return recipe.sizes[recipe.subject].width
    if not model_at_hand(path):
        return None
    return AutoConfig.from_pretrained(path, local_files_only=True).get_text_config().hidden_size


def _time(prompts: Sequence[tuple[Tuning, int, int]], speed: Speed | None) -> str:
    """In hours of a GPU where there is one, else of this machine's cores as they are used."""
    if speed is None:
        return "in an unknown time: the subject or its tasks are not here to be measured"
    seconds = sum(speed.seconds_for(tuning, n) for tuning, n, _ in prompts)
    if torch.cuda.is_available():
        return f"at most {seconds / 3600:.3g} GPU-hours"
    wall = f"{seconds / 3600:.3g} hours" if seconds >= 3600 else f"{seconds / 60:.3g} minutes"
    return f"at most {wall} ({seconds * torch.get_num_threads() / 3600:.3g} CPU-hours)"


def _device() -> str:
    n = torch.get_num_threads()
    cpu = f"CPU, {n} thread{'s' * (n > 1)} of {os.cpu_count()} cores"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu


def _size(n_bytes: float) -> str:
    """Bytes in the unit that leaves the fewest digits, of 1000."""
    unit = 0
    while n_bytes >= 1000 and unit < len(_UNITS) - 1:
        n_bytes, unit = n_bytes / 1000, unit + 1
    return f"{n_bytes:.3g} {_UNITS[unit]}"
