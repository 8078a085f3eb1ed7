"""Which positions of soft prompts carry the meaning: what the subject does, and what the translator writes, when
positions are masked, left out or put in another order.

All variants of all soft prompts are measured in shared batches, and translated in shared batches. Intervals are 95 %
bootstrap intervals over tasks; several soft prompts of one task are averaged first.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.meaning import Translate, says_the_same, translate_rows
from soft2hard.eval.analysis.positions import (
    Variant,
    mask_all_but_each,
    mask_each,
    mean_embedding,
    permute_randomly,
    remove_each,
)
from soft2hard.eval.intervals import Interval, by_task, mean_interval
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.lm.shared_prefix import Runner
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt

Change = Literal["mean", "zeros", "removed", "alone", "permuted"]
"""'mean' and 'zeros': the position is replaced by the mean of the subject's embeddings, or by zeros. 'removed': it is
left out. 'alone': all others are replaced by the mean. 'permuted': all positions in a random order."""


@dataclass(frozen=True)
class VariantResult:
    """A changed soft prompt beside the one it was made of."""

    task: str
    prompt: int
    """Its number among the soft prompts given."""
    change: Change
    position: int | None
    """The position that was changed, or that was left alone; None for other orders."""
    score: float
    """By the task's metric on its test examples, 0 to 1."""
    score_lost: float
    """Score of the soft prompt less this one."""
    text: str | None
    """The translation; None where nothing was translated."""
    meaning_changed: bool | None
    """Whether it says something else than the soft prompt's translation (`meaning`)."""


@dataclass(frozen=True)
class Effect:
    """What a change does, mean over tasks."""

    change: Change
    position: int | None
    """None: mean over all positions, or over orders."""
    score_lost: Interval
    meaning_changed: Interval | None
    """Share of translations; None where nothing was translated."""
    n_tasks: int
    """Tasks whose soft prompts have the position."""


@dataclass(frozen=True)
class PositionEffects:
    """All changes to all soft prompts."""

    score: Interval
    """Of the soft prompts as they are."""
    effects: tuple[Effect, ...]
    variants: tuple[VariantResult, ...]
    n_left_out: int
    """Soft prompts for which the subject's context has no room."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def position_effects(
    subject: Subject,
    tasks: Sequence[Task],
    prompts: Sequence[SoftPrompt],
    translate: Translate | None = None,
    *,
    n_orders: int = 5,
    runner: Runner | None = None,
    seed: int = 0,
) -> PositionEffects:
    """Change every position of every soft prompt; `prompts[i]` was tuned for `tasks[i]`, and tasks may repeat.

    `n_orders` random orders are tried of each. Soft prompts of one position are neither permuted nor left without it.

    Raises UserError where there are no soft prompts or not one task each, where none fits the subject's context, and as
    `measure` does.
    """
    if not prompts or len(tasks) != len(prompts):
        raise UserError(f"There are {len(prompts)} soft prompts and {len(tasks)} tasks.", "Give one task each.")
    filler = mean_embedding(subject)
    changed = [_variants(prompt, filler, n_orders, seed) for prompt in prompts]
    rows = [(prompt, *(v.soft_prompt for _, _, v in own)) for prompt, own in zip(prompts, changed, strict=True)]
    measured = measure(subject, [Comparison(t, row) for t, row in zip(tasks, rows, strict=True)], runner)
    scores = [[None if m is None else m.score for m in row] for row in measured]
    texts = translate_rows(translate, rows)
    kept = [i for i, row in enumerate(scores) if row[0] is not None]
    if not kept:
        raise UserError("No soft prompt fits the subject's context with its task.", "Use shorter examples.")
    found = [
        result
        for i in kept
        for result in _results(tasks[i].name, i, changed[i], scores[i], None if texts is None else texts[i])
    ]
    own = by_task((tasks[i].name, scores[i][0]) for i in kept)
    score = mean_interval(list(own.values()), seed=seed)
    return PositionEffects(score, tuple(_effects(found, seed)), tuple(found), len(prompts) - len(kept))


def _variants(
    prompt: SoftPrompt, filler: torch.Tensor, n_orders: int, seed: int
) -> list[tuple[Change, int | None, Variant]]:
    zeros = torch.zeros_like(filler)
    several = prompt.n_tokens > 1
    made: list[tuple[Change, Iterable[Variant]]] = [
        ("mean", mask_each(prompt, filler)),
        ("zeros", mask_each(prompt, zeros)),
        ("removed", remove_each(prompt) if several else ()),
        ("alone", mask_all_but_each(prompt, filler) if several else ()),
    ]
    positions = [(change, i, variant) for change, variants in made for i, variant in enumerate(variants)]
    return positions + [("permuted", None, variant) for variant in permute_randomly(prompt, n_orders, seed)]


def _results(
    task: str,
    number: int,
    changed: Sequence[tuple[Change, int | None, Variant]],
    scores: Sequence[float | None],
    texts: Sequence[str] | None,
) -> list[VariantResult]:
    """A variant is never longer than its soft prompt, so it fits wherever that does."""
    return [
        VariantResult(
            task=task,
            prompt=number,
            change=change,
            position=position,
            score=scores[i],
            score_lost=scores[0] - scores[i],
            text=None if texts is None else texts[i],
            meaning_changed=None if texts is None else not says_the_same(texts[0], texts[i]),
        )
        for i, (change, position, _) in enumerate(changed, 1)
    ]


def _effects(found: Sequence[VariantResult], seed: int) -> list[Effect]:
    """For each change its mean over positions, then each position."""
    made = []
    for change in dict.fromkeys(result.change for result in found):
        of_change = [result for result in found if result.change == change]
        positions = sorted({r.position for r in of_change if r.position is not None})
        made.append(_effect(change, None, of_change, seed))
        made += [_effect(change, p, [r for r in of_change if r.position == p], seed) for p in positions]
    return made


def _effect(change: Change, position: int | None, results: Sequence[VariantResult], seed: int) -> Effect:
    def mean(value: Callable[[VariantResult], float]) -> Interval:
        return mean_interval(list(by_task((r.task, value(r)) for r in results).values()), seed=seed)

    translated = results[0].meaning_changed is not None
    return Effect(
        change=change,
        position=position,
        score_lost=mean(lambda r: r.score_lost),
        meaning_changed=mean(lambda r: r.meaning_changed) if translated else None,
        n_tasks=len({r.task for r in results}),
    )
