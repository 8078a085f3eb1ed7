"""Cases of an evaluation: tasks with examples drawn for a seed, and soft prompts tuned on them, kept on disk."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.dods.registry import FOLDER_DODS
from soft2hard.data_gen.taskfiles import read_tasks
from soft2hard.data_gen.tasks import Split, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.eval.config import Tasks
from soft2hard.eval.methods.base import Case
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_write

_EXAMPLES_SEED = 100
"""Keeps the examples of evaluations apart from those of corpora, whose seeds are small."""


def drawn_tasks(choice: Tasks, split: Split, seed: int, dropped: Counter[str] | None = None) -> list[Task]:
    """The tasks of an evaluation with the examples of a seed; the tasks themselves are the same for every seed.

    What a published collection leaves out is added to `dropped`, with the reason.
    Raises UserError where a task file has no test examples.
    """
    if choice.dod == "lexical":
        n = choice.n if split == "test" else choice.n_validation
        drawn = LexicalDoD(for_translator=split != "test").draw(split, n, choice.seed)
        return [task.record(_EXAMPLES_SEED + seed, n_train=choice.n_train) for task in drawn]
    if choice.dod is not None:
        dod = FOLDER_DODS[choice.dod](choice.folder)
        tasks = list(dod.tasks(split, choice.n if split == "test" else choice.n_validation, seed))
        if dropped is not None:
            dropped.update(dod.dropped)
        return tasks
    if split != "test":
        return []
    tasks = read_tasks(list(choice.files), seed)[: choice.n]
    untested = [task.name for task in tasks if not task.test]
    if untested:
        raise UserError(
            f"{len(untested)} task files have too few examples to set some aside for testing, such as '{untested[0]}'.",
            "Give them at least 20 distinct inputs.",
        )
    return tasks


class SoftPromptStore:
    """Soft prompts of one seed and split in a file, tuned in batches of tasks; what is there is not tuned again."""

    def __init__(self, path: Path, subject: Subject, tuning: Tuning, batch: int = 64):
        self.path, self.subject, self.tuning, self.batch = path, subject, tuning, batch
        self.losses_path = path.with_suffix(".losses.json")

    def cases(self, tasks: Sequence[Task], log: Callable[[str], None] = lambda message: None) -> Iterator[Case]:
        """Each task with its soft prompt, in order."""
        found, losses = self._load(), self.losses()
        missing = [task for task in tasks if task.name not in found]
        for start in range(0, len(missing), self.batch):
            log(f"seed {self.tuning.seed}: {start} of {len(missing)} soft prompts are tuned")
            tuner = Tuner(self.subject, self.tuning)
            for tuned in tuner.tune(missing[start : start + self.batch]):
                found[tuned.task.name] = tuned.soft_prompt.embeddings
                losses[tuned.task.name] = list(tuned.losses)
            with atomic_write(self.losses_path) as temporary:
                temporary.write_text(json.dumps(losses), encoding="utf-8")
            with atomic_write(self.path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in found.items()}, temporary)
        for task in tasks:
            yield Case(task, self._soft_prompt(found[task.name], task))

    def losses(self) -> dict[str, list[tuple[int, float]]]:
        """Validation losses of each task's tuning, nats a token, with their steps."""
        if not self.losses_path.exists():
            return {}
        found = json.loads(self.losses_path.read_text(encoding="utf-8"))
        return {task: [(step, loss) for step, loss in of_task] for task, of_task in found.items()}

    def _load(self) -> dict[str, torch.Tensor]:
        return load_file(self.path) if self.path.exists() else {}

    def _soft_prompt(self, embeddings: torch.Tensor, task: Task) -> SoftPrompt:
        provenance = {"task": task.name, "seed": str(self.tuning.seed)}
        return SoftPrompt(embeddings, self.subject.name, self.subject.fingerprint, provenance)
