"""Translator architectures on the same corpus, steps and tasks: which reads soft prompts best?

Each variant is trained from each seed on the first tasks of a corpus, for the same number of pairs, and judged on
validation tasks, whose soft prompts nothing was trained on: the loss of the reference instruction, whether the greedy
text names the very task, and the task's accuracy under the greedy and the verified text divided by that under the soft
prompt. Intervals are over tasks. Trainings are kept in the output folder, and go on where they stopped.

python benchmarks/architectures.py --corpus runs/embedded/corpus/common --validation runs/embedded/corpus/validation
"""

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import datasets
import torch
from cyclopts import Parameter
from torch.utils.data import DataLoader

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.corpus.rows import load_corpus, soft_prompt_of
from soft2hard.data_gen.dods.lexical import LexicalDoD, same_task
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import run_script
from soft2hard.eval.intervals import Interval, by_task, mean_interval, paired_difference, ratio_interval
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import propose
from soft2hard.translator.data import IGNORE, CorpusPairs, PairCollator
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design, TranslatorTraining
from soft2hard.translator.training import train_translator
from soft2hard.translator.translate import translate


@dataclass(frozen=True)
class Variant:
    """An architecture, and the learning rate that was best for it in short trials (docs/experiments.md)."""

    design: Design
    lr: float
    pretrain_pairs: int = 0


VARIANTS = {
    "encoder-decoder": Variant(Design("encoder-decoder"), 2e-3, 16_000),
    "encoder-decoder, hidden states": Variant(Design("encoder-decoder", hidden_layers=(2, 4)), 2e-3, 16_000),
    "causal LM, LoRA": Variant(Design("causal-lora"), 2e-3, 16_000),
    "causal LM, LoRA, hidden states": Variant(Design("causal-lora", hidden_layers=(2, 4)), 2e-3, 16_000),
}


@dataclass(frozen=True)
class Judged:
    """One number a validation task under one variant and seed."""

    loss: dict[str, float]
    """Of the reference instruction, nats a token."""
    exact: dict[str, float]
    """Whether the greedy text names the very task."""
    soft: dict[str, float]
    """Accuracy under the soft prompt."""
    greedy: dict[str, float]
    verified: dict[str, float]
    """Accuracy under the verified text, for the first tasks only."""
    seconds: float
    """Of training, on this machine."""


def main(
    *,
    corpus: Path,
    validation: Path,
    output: Path = Path("runs/architectures"),
    variant: Annotated[tuple[str, ...], Parameter(help=f"Variants to compare: {'; '.join(VARIANTS)}.")] = (*VARIANTS,),
    n_tasks: int = 2048,
    epochs: float = 6.0,
    n_verified: int = 64,
    seed: tuple[int, ...] = (0, 1),
    threads: int = 1,
) -> None:
    """Train every variant from every seed, and print the table.

    Args:
        corpus: Corpus of training tasks of the lexical DoD.
        validation: Corpus of its validation tasks.
        output: Folder for trainings and figures.
        n_tasks: Training tasks, the first of the corpus.
        epochs: Passes over their pairs.
        n_verified: Validation tasks whose translation is verified as well.
        seed: Seeds of starting weights and of training.
        threads: Threads.
    """
    torch.set_num_threads(threads)
    pairs = _first_tasks(load_corpus(corpus), n_tasks)
    held_out = load_corpus(validation, snapshots=False)
    subject = Subject.from_pretrained(str(embedded_path("subject")))
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {threads} threads")
    print(f"{n_tasks} tasks, {len(pairs)} pairs, {epochs:g} epochs; {len(held_out)} validation tasks, seeds {seed}")
    found = {}
    for name in variant:
        for number in seed:
            folder = output / f"{name.replace(', ', '_').replace(' ', '-')}-{number}"
            training = TranslatorTraining(
                epochs=epochs,
                lr=VARIANTS[name].lr,
                paraphrase_share=0.25,
                pretrain_pairs=VARIANTS[name].pretrain_pairs,
                patience=100,
                seed=number,
            )
            found[name, number] = _judged(folder, VARIANTS[name].design, training, pairs, held_out, subject, n_verified)
            print(f"{name}, seed {number}: loss {mean_interval(list(found[name, number].loss.values()))}", flush=True)
    print(_table(found, variant, seed))


def _judged(
    folder: Path,
    design: Design,
    training: TranslatorTraining,
    pairs: datasets.Dataset,
    held_out: datasets.Dataset,
    subject: Subject,
    n_verified: int,
) -> Judged:
    path = folder / "judged.json"
    if path.exists():
        return Judged(**json.loads(path.read_text()))
    torch.manual_seed(training.seed)
    translator = Translator.for_subject(subject, design)
    started = time.monotonic()
    train_translator(translator, pairs, held_out, training, folder, subject=subject)
    seconds = time.monotonic() - started
    translator.model.eval()
    judged = Judged(_losses(translator, held_out), *_behaviour(translator, held_out, n_verified), seconds)
    path.write_text(json.dumps(vars(judged)))
    return judged


def _first_tasks(corpus: datasets.Dataset, n_tasks: int) -> datasets.Dataset:
    names = corpus["task"]
    kept = set(list(dict.fromkeys(names))[:n_tasks])
    return corpus.select([i for i, name in enumerate(names) if name in kept])


@torch.no_grad()
def _losses(translator: Translator, held_out: datasets.Dataset) -> dict[str, float]:
    """Mean cross-entropy of each task's reference instruction, nats a token."""
    collator = PairCollator(translator.encode_instruction)
    losses = []
    for batch in DataLoader(CorpusPairs(held_out), batch_size=128, collate_fn=collator):
        logits = translator.model(**batch).logits.float()
        of_token = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), batch["labels"], ignore_index=IGNORE, reduction="none"
        )
        losses += (of_token.sum(1) / (batch["labels"] != IGNORE).sum(1)).tolist()
    return dict(zip(held_out["task"], losses, strict=True))


def _behaviour(
    translator: Translator, held_out: datasets.Dataset, n_verified: int
) -> tuple[dict[str, float], dict[str, float], dict[str, float], dict[str, float]]:
    """Exact task of the greedy texts; accuracy under soft prompts, greedy and verified texts."""
    subject = load_for_tuning(str(embedded_path("subject")))
    translator.bind(subject)
    by_name = {task.name: task for task in LexicalDoD(for_translator=True).tasks("validation", len(held_out))}
    tasks = [by_name[name] for name in held_out["task"]]
    prompts = [soft_prompt_of(row, subject.fingerprint) for row in held_out]
    greedy = [texts[0] if texts else "" for texts in propose(translator, prompts, 1)]
    exact = {task.name: float(same_task(text, task.instruction)) for task, text in zip(tasks, greedy, strict=True)}
    verified = _verified(translator, subject, tasks[:n_verified], prompts[:n_verified])
    texts = [(g, v) if v is not None else (g,) for g, v in zip(greedy, _padded(verified, len(greedy)), strict=True)]
    comparisons = [
        Comparison(task, (soft, *of_task)) for task, soft, of_task in zip(tasks, prompts, texts, strict=True)
    ]
    measured = measure(subject, comparisons)
    scores = [[m.score if m else 0.0 for m in of_task] for of_task in measured]  # one that does not fit does nothing
    names = [task.name for task in tasks]
    columns = [{name: s[i] for name, s in zip(names, scores, strict=True) if len(s) > i} for i in range(3)]
    return exact, *columns


def _verified(
    translator: Translator, subject: Subject, tasks: Sequence[Task], prompts: Sequence[SoftPrompt]
) -> list[str]:
    inputs = [[example.input for example in (*task.validation, *task.train)] for task in tasks]
    return [found.text for found in translate(prompts, translator, subject, inputs=inputs)] if tasks else []


def _padded(texts: list[str], n: int) -> list[str | None]:
    return [*texts, *[None] * (n - len(texts))]


def _table(found: dict[tuple[str, int], Judged], variants: Sequence[str], seeds: Sequence[int]) -> str:
    """One line a variant: means over seeds and tasks with intervals over tasks, and the loss against the first."""
    columns = "loss | exact, greedy | recovery, greedy | recovery, verified | loss less the first's | seconds"
    lines = [f"| variant | {columns} |", "|" + "---|" * 7]
    first = _over_seeds(found, variants[0], seeds, "loss")
    for name in variants:
        loss, exact = (_over_seeds(found, name, seeds, field) for field in ("loss", "exact"))
        seconds = sum(found[name, number].seconds for number in seeds) / len(seeds)
        cells = [
            mean_interval(list(loss.values())),
            mean_interval(list(exact.values())),
            _recovery(found, name, seeds, "greedy"),
            _recovery(found, name, seeds, "verified"),
            "–" if name == variants[0] else paired_difference(loss, first).difference,
            f"{seconds:.0f}",
        ]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _over_seeds(found: dict[tuple[str, int], Judged], name: str, seeds: Sequence[int], field: str) -> dict[str, float]:
    return by_task(item for number in seeds for item in getattr(found[name, number], field).items())


def _recovery(found: dict[tuple[str, int], Judged], name: str, seeds: Sequence[int], field: str) -> Interval | str:
    scores, soft = _over_seeds(found, name, seeds, field), _over_seeds(found, name, seeds, "soft")
    return ratio_interval(list(scores.values()), [soft[task] for task in scores]) if scores else "–"


if __name__ == "__main__":
    run_script(main)
