"""Sections that are experiments: translations over tunings, positions, interpolation, retrieval."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from soft2hard.data_gen.initialisation import START_FILE
from soft2hard.eval.analysis.interpolation import interpolate, pair_up
from soft2hard.eval.analysis.material import Material
from soft2hard.eval.analysis.meaning import Translate, greedy_translation
from soft2hard.eval.analysis.positions_effects import position_effects
from soft2hard.eval.analysis.retrieval_savings import RetrievalPlan, Stored, retrieval_savings
from soft2hard.eval.analysis.section_records import Experiment
from soft2hard.eval.analysis.sections_statistics import Arrays
from soft2hard.eval.analysis.stability import stability
from soft2hard.eval.metrics.text import Encoder, subject_encoder
from soft2hard.softprompt import SoftPrompt

RETRIEVAL_EVAL_EVERY = 5
"""Steps between two looks at the validation loss where steps are counted."""


def stability_section(material: Material) -> tuple[Experiment, Arrays]:
    """Greedy translations of every main prompt, compared within tasks."""
    translator = material.need_translator("stability")
    numbers = [i for i in material.main if material.prompts[i].task is not None]
    texts = greedy_translation(translator)(material.of(numbers))
    instructions = {task.name: task.instruction for task in material.tasks}
    found = stability(
        material.names(numbers), texts, instructions=instructions, encoder=_encoder(material), seed=material.seed
    )
    return _experiment(found.to_json() | {"prompts": numbers, "texts": texts}), {}


def _encoder(material: Material) -> Encoder | None:
    """The subject's own mean hidden states, where it can read a text alone."""
    subject = material.subject
    return None if subject is None or subject.is_encoder_decoder else subject_encoder(subject)


def positions_section(material: Material) -> tuple[Experiment, Arrays]:
    """Positions of one prompt of some tasks masked, left out and permuted."""
    subject = material.need_subject("positions")
    known = set(material.need_tasks("positions"))
    numbers = [i for i in material.first_of_tasks(len(material.tasks)) if i in known][: material.sizes.experiment_tasks]
    found = position_effects(
        subject,
        [material.task_by_name[name] for name in material.names(numbers)],
        material.of(numbers),
        _translate(material),
        n_orders=material.sizes.orders,
        runner=material.runner,
        seed=material.seed,
    )
    return _experiment(found.to_json()), {}


def interpolation_section(material: Material) -> tuple[Experiment, Arrays]:
    """The line between two prompts of one task, and of two tasks."""
    subject = material.need_subject("interpolation")
    numbers = material.need_tasks("interpolation")
    tasks = [material.task_by_name[name] for name in material.names(numbers)]
    found = interpolate(
        subject,
        pair_up(tasks, material.of(numbers), material.seed),
        _translate(material),
        n_points=material.sizes.points,
        runner=material.runner,
        seed=material.seed,
    )
    return _experiment(found.to_json()), {}


def _translate(material: Material) -> Translate | None:
    return None if material.translator is None else greedy_translation(material.translator)


def retrieval_section(material: Material) -> tuple[Experiment, Arrays]:
    """Some tasks tuned anew from stored prompts of the others; one stored prompt a task."""
    subject = material.need_subject("retrieval")
    numbers = material.first_of_tasks(len(material.tasks))
    material.need_tasks("retrieval", 3)
    material.stacked()
    stored = [_stored(material, i) for i in numbers]
    chosen = [material.task_by_name[one.task] for one in stored[: material.sizes.experiment_tasks]]
    # Steps are known no better than the looks are apart, and patience is in looks.
    n_looks = max(1, material.tuning.eval_every // RETRIEVAL_EVAL_EVERY)
    config = replace(
        material.tuning,
        n_tokens=stored[0].soft_prompt.n_tokens,
        eval_every=RETRIEVAL_EVAL_EVERY,
        patience=material.tuning.patience * n_looks,
    )
    plan = RetrievalPlan(early_steps=material.sizes.early_steps, others=_others(material, stored[0].soft_prompt))
    found = retrieval_savings(subject, chosen, stored, config, plan, runner=material.runner)
    return _experiment(found.to_json()), {}


def _stored(material: Material, number: int) -> Stored:
    task = material.prompts[number].task
    return Stored(task, material.family(task), material.soft_prompts[number])


def _others(material: Material, prompt: SoftPrompt) -> tuple[str, ...]:
    """The common start that comes with the subject, if it has one of this length."""
    start = Path(material.subject.name) / START_FILE
    usable = material.tuning.init != "learned" and start.exists()
    return ("learned",) if usable and SoftPrompt.load(start).n_tokens == prompt.n_tokens else ()


def _experiment(result: dict[str, Any]) -> Experiment:
    return Experiment(seconds=0, result=result)
