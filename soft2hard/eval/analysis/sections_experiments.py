"""Sections that are experiments: translations over tunings, positions, interpolation, retrieval."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from soft2hard.eval.analysis.comparable import check_comparable
from soft2hard.eval.analysis.interpolation import interpolate, pair_up
from soft2hard.eval.analysis.material import Material
from soft2hard.eval.analysis.meaning import Translate, greedy_translation
from soft2hard.eval.analysis.positions_effects import position_effects
from soft2hard.eval.analysis.retrieval_savings import RetrievalPlan, Stored, retrieval_savings
from soft2hard.eval.analysis.section_records import Experiment
from soft2hard.eval.analysis.sections_statistics import Arrays
from soft2hard.eval.analysis.stability import Stability, stability
from soft2hard.eval.analysis.tunings import has_common_start
from soft2hard.eval.metrics.scrutability import subject_encoder
from soft2hard.eval.metrics.text import Encoder
from soft2hard.prompts.soft_prompt import SoftPrompt

RETRIEVAL_EVAL_EVERY = 5
"""Steps between two looks at the validation loss where steps are counted."""


def stability_section(material: Material) -> tuple[Experiment, Arrays]:
    """Greedy translations of every prompt with a task, compared within tasks: of the main prompts, and in `by_group` a
    summary of every group of tunings."""
    translator = material.need_translator("stability")
    numbers = [i for i, row in enumerate(material.prompts) if row.task is not None]
    texts = dict(zip(numbers, greedy_translation(translator)(material.of(numbers)), strict=True))
    main = [i for i in material.main if i in texts]
    result = _stability(material, main, texts).to_json()
    result |= {"prompts": main, "texts": [texts[i] for i in main]}
    if material.groups:
        result["by_group"] = [
            _group_stability(material, group.name, texts) for group in material.groups if group.n_tunings > 1
        ]
    return _experiment(result), {}


def _stability(material: Material, numbers: Sequence[int], texts: Mapping[int, str]) -> Stability:
    instructions = {task.name: task.instruction for task in material.tasks}
    own = [texts[i] for i in numbers]
    names = material.names(numbers)
    return stability(
        names,
        own,
        instructions=instructions,
        families={name: material.family(name) for name in names},
        encoder=_encoder(material),
        seed=material.seed,
    )


def _group_stability(material: Material, group: str, texts: Mapping[int, str]) -> dict[str, Any]:
    numbers = [i for i in texts if material.prompts[i].group == group]
    found = _stability(material, numbers, texts).to_json()
    kept = {name: value for name, value in found.items() if name not in ("tasks", "n_single")}
    return {"group": group, "n_tasks": len(found["tasks"])} | kept


def _encoder(material: Material) -> Encoder | None:
    """The subject's own hidden states at the last token, where it can read a text alone."""
    subject = material.subject
    return None if subject is None or subject.is_encoder_decoder else subject_encoder(subject, unread=True)


def positions_section(material: Material) -> tuple[Experiment, Arrays]:
    """Positions of one prompt of some tasks masked, left out and permuted."""
    subject = material.need_subject("positions")
    known = material.need_tasks("positions", material.experimental)
    numbers = material.first_of_tasks(known)[: material.sizes.experiment_tasks]
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
    numbers = material.need_tasks("interpolation", material.experimental)
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
    material.need_subject("retrieval")
    known = material.need_tasks("retrieval", material.main, 3)
    # A start has as many tokens as the prompt that is tuned from it: those of the commonest length are compared.
    ((length, _),) = Counter(material.prompts[i].n_tokens for i in known).most_common(1)
    known = [i for i in known if material.prompts[i].n_tokens == length]
    numbers = material.first_of_tasks(material.need_tasks("retrieval", known, 3))
    check_comparable(material.of(numbers))
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
    found = retrieval_savings(material.crew, chosen, stored, config, plan)
    return _experiment(found.to_json()), {}


def _stored(material: Material, number: int) -> Stored:
    task = material.prompts[number].task
    return Stored(task, material.family(task), material.soft_prompts[number])


def _others(material: Material, prompt: SoftPrompt) -> tuple[str, ...]:
    """The common start that comes with the subject, if it has one of this length."""
    usable = material.tuning.init != "learned" and has_common_start(material.subject, prompt.n_tokens)
    return ("learned",) if usable else ()


def _experiment(result: dict[str, Any]) -> Experiment:
    return Experiment(seconds=0, result=result)
