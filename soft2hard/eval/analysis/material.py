"""What an analysis works on, and what of it is there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.errors import UserError
from soft2hard.eval.analysis.comparable import stacked
from soft2hard.eval.analysis.given import GIVEN
from soft2hard.eval.analysis.records import GroupRow, PromptRow
from soft2hard.eval.analysis.settings import Sizes
from soft2hard.eval.analysis.tunings import COMMON, MAIN
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.lm.shared_prefix import Runner
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.model import Translator
from soft2hard.workers.subject_workers import SubjectWorkers


@dataclass(frozen=True)
class Table:
    """A table of input embeddings whose tokens have no texts."""

    name: str
    rows: Float[Tensor, "vocab d_model"]


@dataclass(frozen=True)
class Material:
    """Soft prompts with their tasks, and the models that there are."""

    prompts: tuple[PromptRow, ...]
    soft_prompts: tuple[SoftPrompt, ...]
    """One for each row."""
    tasks: tuple[Task, ...] = ()
    """Those whose examples are known."""
    subject: Subject | None = None
    translator: Translator | None = None
    table: Subject | Table | None = None
    """Where nearest tokens are looked up, if not in the subject."""
    groups: tuple[GroupRow, ...] = ()
    tuning: Tuning = Tuning()
    """How new tasks are tuned."""
    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    workers: SubjectWorkers | None = None
    """Who share out the work on the subject; None: this process alone."""

    @cached_property
    def main(self) -> tuple[int, ...]:
        """Numbers of the prompts that are compared with each other, those of a task together."""
        chosen = [i for i, row in enumerate(self.prompts) if row.group in (MAIN, GIVEN)]
        order = {task: i for i, task in enumerate(dict.fromkeys(self.prompts[i].task for i in chosen))}
        return tuple(sorted(chosen, key=lambda i: order[self.prompts[i].task]))

    @cached_property
    def experimental(self) -> tuple[int, ...]:
        """Numbers of the prompts that experiments change: those from the common start, where there are any, since a
        translator was trained on such; else the main ones."""
        chosen = [i for i, row in enumerate(self.prompts) if row.group == COMMON]
        return tuple(chosen) or self.main

    @cached_property
    def task_by_name(self) -> dict[str, Task]:
        return {task.name: task for task in self.tasks}

    @cached_property
    def crew(self) -> SubjectWorkers:
        """The workers, or this process alone."""
        return self.workers or SubjectWorkers(self.need_subject("this"))

    @property
    def runner(self) -> Runner:
        return self.crew.runner

    def family(self, task: str) -> str:
        """Empty where the task's examples are not known."""
        return self.task_by_name[task].family if task in self.task_by_name else ""

    def names(self, numbers: Sequence[int]) -> list[str]:
        """Tasks of these prompts."""
        return [self.prompts[i].task or "" for i in numbers]

    def of(self, numbers: Iterable[int]) -> list[SoftPrompt]:
        return [self.soft_prompts[i] for i in numbers]

    def stacked(self, at_least: int = 2) -> Float[np.ndarray, "n_main n_tokens d_model"]:
        """The main prompts; raises UserError as `comparable.stacked` does."""
        return stacked(self.of(self.main), at_least)

    def first_of_tasks(self, numbers: Iterable[int]) -> list[int]:
        """The first of these prompts of each task whose examples are known."""
        first: dict[str, int] = {}
        for i in numbers:
            if self.prompts[i].task in self.task_by_name:
                first.setdefault(self.prompts[i].task, i)
        return list(first.values())

    def need_subject(self, what: str) -> Subject:
        if self.subject is None:
            raise UserError(
                f"No subject was given, and {what} needs the model that the soft prompts were tuned on.",
                "Give --subject; statistics, distances and maps can be had without, and extraction with --table.",
            )
        return self.subject

    def need_translator(self, what: str) -> Translator:
        if self.translator is None:
            raise UserError(
                f"No translator was given, and {what} needs one.", "Give --translator; all else can be had without."
            )
        return self.translator

    def need_tasks(self, what: str, numbers: Iterable[int], at_least: int = 1) -> list[int]:
        """Those of these prompts whose task has test examples. Raises UserError where there are too few such tasks."""
        found = [i for i in numbers if getattr(self.task_by_name.get(self.prompts[i].task), "test", ())]
        n = len(set(self.names(found)))
        if n < at_least:
            raise UserError(
                f"Examples are known of {n} tasks of the soft prompts, and {what} needs {at_least}.",
                "Give --examples, task files named like the soft prompts' tasks, with 20 inputs or more each.",
            )
        return found

    def scored(self) -> tuple["Material", dict[str, float]]:
        """The same with the score of every prompt on its own task, by its metric, and every task's without a prompt.

        Nothing is scored where there is no subject, no examples, or no room for a task's longest one.
        """
        tested = {task.name: task for task in self.tasks if task.test}
        if self.subject is None or not tested:
            return self, {}
        numbers = {name: [i for i, row in enumerate(self.prompts) if row.task == name] for name in tested}
        comparisons = [Comparison(task, (None, *self.of(numbers[name]))) for name, task in tested.items()]
        measured = measure(self.subject, comparisons, self.runner)
        rows = list(self.prompts)
        baseline = {}
        for name, found in zip(tested, measured, strict=True):
            if found[0] is not None:
                baseline[name] = found[0].score
            for i, one in zip(numbers[name], found[1:], strict=True):
                rows[i] = rows[i].model_copy(update={"score": None if one is None else one.score})
        return replace(self, prompts=tuple(rows)), baseline
