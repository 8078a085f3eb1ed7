"""How much of what models read is padding, on published tasks: tuning, scoring and translator training.

    python benchmarks/padding.py --data FOLDER

FOLDER holds instruction_induction/ and function_vectors/. Every batch that reaches a model is measured, so the share is
that of real runs: all tasks of both collections tuned for a few steps, their examples scored under their instructions,
and a translator trained for an epoch on their instructions and paraphrases.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import torch
from torch import Tensor, nn

from soft2hard.cli.common import AtLeast1
from soft2hard.compute import metering
from soft2hard.data_gen.corpus.rows import corpus_features
from soft2hard.data_gen.dods.registry import FOLDER_DODS
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import run_script
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from soft2hard.translator.data import IGNORE
from soft2hard.translator.model import Translator
from soft2hard.translator.network import Memory
from soft2hard.translator.settings import TranslatorTraining
from soft2hard.translator.training import train_translator

COLLECTIONS = {"instruction-induction": "instruction_induction", "function-vectors": "function_vectors"}


@dataclass
class Passed:
    """Places in the batches that went through a model."""

    places: int = 0
    real: int = 0

    def __str__(self) -> str:
        return f"{1 - self.real / self.places:6.1%} of {self.places:,} places are padding"


@contextmanager
def watched(subject: Subject) -> Iterator[Passed]:
    """Counts all places that the subject's backbone reads in the block; real ones are those that metering hears of."""
    passed = Passed()

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        passed.places += kwargs["inputs_embeds"].shape[:2].numel()

    hook = subject.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    with metering.listening() as heard:
        yield passed
    hook.remove()
    passed.real = heard.total.tokens


@contextmanager
def watched_training(translator: Translator) -> Iterator[Passed]:
    """The same for a translator in training: places of instructions, run after run."""
    passed, logits = Passed(), translator.model.logits

    def counted(memory: Memory, labels: Tensor) -> Tensor:
        if translator.model.training:
            passed.places += labels.numel()
            passed.real += int((labels != IGNORE).sum())
        return logits(memory, labels)

    translator.model.logits = counted
    yield passed
    del translator.model.logits


def corpus_of(tasks: list[Task], subject: Subject, n_tokens: int, copies: int) -> datasets.Dataset:
    """A corpus with random soft prompts: only its lengths matter here."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "task": task.name,
            "family": task.family,
            "instruction": task.instruction,
            "paraphrases": list(task.paraphrases),
            "inputs": [],
            "outputs": [],
            "step": copy,
            "is_best": copy == 0,
            "validation_loss": 0.0,
            "initial_loss": 0.0,
            "embeddings": torch.randn(n_tokens, subject.d_model, generator=generator).numpy(),
        }
        for task in tasks
        for copy in range(copies)
    ]
    features = corpus_features(n_tokens, subject.d_model)
    return datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def main(
    *,
    data: Path,
    subject: str = "embedded",
    steps: AtLeast1 = 10,
    slots: AtLeast1 = 32,
    batch_size: AtLeast1 = TranslatorTraining.batch_size,
) -> None:
    """Print the share of padding of each stage.

    Args:
        data: Folder with instruction_induction/ and function_vectors/.
        subject: The subject whose tokens are counted: 'embedded', or any other.
        steps: Tuning steps a task.
        slots: Prompts tuned at once.
        batch_size: Pairs a step of the translator.
    """
    torch.manual_seed(0)
    lm = Subject.from_pretrained(subject)
    tasks = [task for name, place in COLLECTIONS.items() for task in FOLDER_DODS[name](data / place).tasks("test")]
    tuning = Tuning(steps=steps, eval_every=steps, slots=slots)
    print(f"{len(tasks)} tasks, subject {subject}, {slots} slots of {tuning.batch_size} examples")
    with watched(lm) as passed:
        list(Tuner(lm, tuning).tune(tasks))
    print(f"tuning               {passed}")
    queries = [Query(task.instruction, e.input, e.output) for task in tasks for e in task.validation]
    with watched(lm) as passed:
        lm.target_scores(queries)
    print(f"scoring              {passed}")
    with watched(lm) as passed:
        lm.generate(queries)
    print(f"generation           {passed} (and rows that wait for others to end)")
    translator = Translator.for_subject(lm)
    halves = [corpus_of(tasks[i::2], lm, tuning.n_tokens, copies=16) for i in (0, 1)]
    with TemporaryDirectory() as folder, watched_training(translator) as passed:
        train_translator(translator, *halves, TranslatorTraining(epochs=1.0, batch_size=batch_size), folder)
    print(f"translator training  {passed}, of those for instructions")


if __name__ == "__main__":
    run_script(main)
