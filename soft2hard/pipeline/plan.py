"""The plan of a recipe as text: what `soft2hard run RECIPE --plan` prints."""

import os
from collections.abc import Iterator, Sequence

import torch

from soft2hard.pipeline.layout import Layout
from soft2hard.pipeline.planner import Planner, StagePlan
from soft2hard.pipeline.preflight import check_base, folders_of, models_of
from soft2hard.pipeline.probe import at_hand, device_name
from soft2hard.pipeline.recipe import Recipe
from soft2hard.pipeline.stages import chosen, stages_of

_BF16 = 2
"""Bytes of a parameter, as large models are published."""
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def plan_text(recipe: Recipe, layout: Layout, names: Sequence[str], origin: str) -> str:
    """Stages with what they read and write, disk and time, and what must be fetched first.

    Raises UserError for a stage that there is not, and for a translator's base of the wrong kind.
    """
    stages = chosen(stages_of(recipe, layout), list(names))
    if at_hand(recipe.translator.base or recipe.subject):
        check_base(recipe, local_files_only=True)
    planner = Planner(recipe, layout)
    plans = [planner.plan(stage) for stage in stages]
    blocks = ["\n".join(_stage_lines(plan)) for plan in plans]
    head = f"{origin}: {len(plans)} stage{'s' * (len(plans) > 1)}, in {layout.folder}"
    missing = list(_missing(recipe, [stage.name for stage in stages]))
    return "\n\n".join([head, *blocks, "\n".join(_total_lines(plans)), *(["\n".join(missing)] if missing else [])])


def _stage_lines(plan: StagePlan) -> Iterator[str]:
    yield f"{plan.stage.name}: {plan.size}"
    yield f"  reads   {', '.join(plan.stage.reads)}"
    yield f"  writes  {', '.join(map(str, plan.stage.writes))}; about {_size(plan.n_bytes)}"
    if plan.operations:
        yield f"  takes   at most {_time(plan.seconds)}; {plan.operations:.2g} floating-point operations"
    for line in plan.how:
        yield f"          {line}"


def _total_lines(plans: Sequence[StagePlan]) -> Iterator[str]:
    known = [plan.seconds for plan in plans if plan.seconds is not None]
    n_bytes, operations = sum(plan.n_bytes for plan in plans), sum(plan.operations for plan in plans)
    some = "" if all(plan.seconds is not None or not plan.operations for plan in plans) else " for what is known"
    time = _time(sum(known)) if known else "unknown time"
    yield f"all: at most {time}{some} on {device_name()}; {operations:.2g} operations; about {_size(n_bytes)} of disk"


def _missing(recipe: Recipe, stages: Sequence[str]) -> Iterator[str]:
    """What must be fetched before the run can begin."""
    for folder in dict.fromkeys(folder for _, folder in folders_of(recipe, stages)):
        if not folder.exists():
            yield f"missing: {folder} (docs/datasets.md says where its files are to be had)"
    for role, name in dict.fromkeys(models_of(recipe, stages)):
        if not at_hand(name):
            size = recipe.sizes.get(name)
            about = f", about {_size(size.parameters * _BF16)}" if size else ""
            gated = ", gated: accept its licence on the hub and log in first" if size and size.gated else ""
            yield f"missing: {name}, the {role}{about}{gated}"
    if "transfer" in stages and recipe.transfer is not None:
        for model in recipe.transfer.api_models:
            if not os.environ.get(model.key_env):
                yield f"missing: the key of {model.name}, in the environment variable {model.key_env}"


def _time(seconds: float | None) -> str:
    """In hours of a GPU where there is one, else of this machine's cores as they are used."""
    if seconds is None:
        return "unknown time"
    if torch.cuda.is_available():
        return f"{seconds / 3600:.3g} GPU-hours"
    wall = f"{seconds / 3600:.3g} hours" if seconds >= 3600 else f"{seconds / 60:.3g} minutes"
    return f"{wall} ({seconds * torch.get_num_threads() / 3600:.3g} CPU-hours)"


def _size(n_bytes: float) -> str:
    """Bytes in the unit that leaves the fewest digits, of 1000."""
    unit = 0
    while n_bytes >= 1000 and unit < len(_UNITS) - 1:
        n_bytes, unit = n_bytes / 1000, unit + 1
    return f"{n_bytes:.3g} {_UNITS[unit]}"
