"""Adapters that PEFT itself has tuned, translated beside soft prompts of our own for the same tasks.

    python benchmarks/peft_adapters.py

PEFT tunes each held-out task in a plain loop (PromptTuningConfig, Adam, linear schedule) from the vectors of a text or
of random tokens, and saves an adapter; soft2hard tunes the same tasks its own way, from the common start that comes
with the subject. All are translated by the embedded translator with the same settings and inputs. Printed with
bootstrap intervals over tasks: accuracy of the soft prompts and of their translations on test examples, the share of
translations that parse to the very task, and the paired differences of PEFT's from ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean
from tempfile import TemporaryDirectory

import peft
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import get_linear_schedule_with_warmup

from soft2hard.checkpoints import embedded_path
from soft2hard.cli.common import AtLeast0, AtLeast1
from soft2hard.data_gen.dods.lexical import LexicalDoD, parse
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.slots import embedding_scale
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.data_gen.world import FINAL_EXAMPLES, FINAL_TUNING, World
from soft2hard.errors import run_script
from soft2hard.eval.intervals import mean_interval, paired_difference
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import TranslateConfig
from soft2hard.translator.translate import translate

IGNORED = -100


@dataclass(frozen=True)
class Outcome:
    """What became of one task's soft prompt."""

    soft: float
    """Accuracy on test examples under the soft prompt."""
    translated: float
    """The same under its translation."""
    exact: float
    """1 where the translation parses to the very task, else 0."""
    text: str


def tuned_by_peft(task: Task, tuning: Tuning, folder: Path, init_text: str | None = World.start_text) -> Path:
    """Tune one task on the embedded subject in PEFT's own way and save the adapter; returns its folder.

    Without `init_text` the virtual tokens start as random ones of the vocabulary.
    """
    subject = Subject.from_pretrained(embedded_path("subject"), dtype=torch.float32)
    start = {"prompt_tuning_init": "SAMPLE_VOCAB"} if init_text is None else {
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": init_text,
        "tokenizer_name_or_path": subject.name,
    }  # fmt: skip
    torch.manual_seed(tuning.seed)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tuning.n_tokens, **start)
    model = peft.get_peft_model(subject.model, config)
    adam = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=tuning.lr * embedding_scale(subject), betas=(0.9, 0.98)
    )
    schedule = get_linear_schedule_with_warmup(adam, tuning.warmup, tuning.steps)
    rng = Random(f"peft/{tuning.seed}/{task.name}")
    for _ in range(tuning.steps):
        adam.zero_grad()
        model(**_batch(subject, rng.sample(list(task.train), min(tuning.batch_size, len(task.train))))).loss.backward()
        adam.step()
        schedule.step()
    model.save_pretrained(str(folder))
    return folder


def _batch(subject: Subject, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Rows as PEFT wants them, padded on the right; the loss is on the outputs alone."""
    bodies = [subject.encode_input(e.input, "soft").body for e in examples]
    outputs = [subject.encode_output(e.output) for e in examples]
    pairs = list(zip(bodies, outputs, strict=True))
    rows = [torch.tensor(body + output) for body, output in pairs]
    labels = [torch.tensor([IGNORED] * len(body) + output) for body, output in pairs]
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def tuned_by_us(subject: Subject, tasks: Sequence[Task], tuning: Tuning) -> list[SoftPrompt]:
    """All tasks at once; in their order."""
    found = {tuned.task.name: tuned.soft_prompt for tuned in Tuner(subject, tuning).tune(tasks)}
    return [found[task.name] for task in tasks]


def outcomes(tasks: Sequence[Task], prompts: Sequence[SoftPrompt], config: TranslateConfig) -> list[Outcome]:
    """Translate each soft prompt with its task's inputs, and score both on the task's test examples."""
    subject = Subject.from_pretrained(embedded_path("subject"), template="plain")  # PEFT's files do not say it
    translator = Translator.from_pretrained(embedded_path("translator"))
    inputs = [[e.input for e in (*task.validation, *task.train)] for task in tasks]
    texts = [found.text for found in translate(prompts, translator, subject, config, inputs=inputs)]
    soft, translated = (_accuracies(subject, of_all, tasks) for of_all in (prompts, texts))
    parsed = [(parse(text), parse(task.instruction)) for text, task in zip(texts, tasks, strict=True)]
    exact = [float(found is not None and found == wanted) for found, wanted in parsed]
    return [Outcome(*of_task) for of_task in zip(soft, translated, exact, texts, strict=True)]


def _accuracies(subject: Subject, prompts: Sequence[Prompt], tasks: Sequence[Task]) -> list[float]:
    """Share of each task's test outputs that greedy search would write; all in shared batches."""
    queries = [Query(p, e.input, e.output) for p, task in zip(prompts, tasks, strict=True) for e in task.test]
    matches = iter(score.greedy_match for score in subject.target_scores(queries))
    return [fmean(next(matches) for _ in task.test) for task in tasks]


def report(tasks: Sequence[Task], found: dict[str, list[Outcome]], ours: str) -> None:
    """A line a way of tuning, and a line for each difference from ours."""
    figures = ("soft", "translated", "exact")
    values = {
        name: {f: {t.name: getattr(o, f) for t, o in zip(tasks, of_all, strict=True)} for f in figures}
        for name, of_all in found.items()
    }
    for name, of_way in values.items():
        print(f"{name:<24}", "  ".join(f"{f} {mean_interval(list(of_way[f].values()))}" for f in figures))
    for name in values.keys() - {ours}:
        for f in figures[1:]:
            print(f"{f}: {name} less {ours}: {paired_difference(values[name][f], values[ours][f])}")


def main(
    *,
    n_tasks: AtLeast1 = 30,
    steps: AtLeast0 = 0,
    candidates: AtLeast1 = 64,
    seed: int = 0,
) -> None:
    """Tune held-out tasks with PEFT and with soft2hard, translate all, and print accuracies with intervals.

    Args:
        n_tasks: Held-out tasks of the lexical world, families in turn.
        steps: Steps of both; 0: those of the embedded recipe's final tuning.
        candidates: Candidates of each translation.
        seed: Of tuning, and of which examples are drawn.
    """
    tasks = [task.record(seed, n_train=FINAL_EXAMPLES) for task in LexicalDoD().draw("test", n_tasks, seed)]
    tuning = replace(FINAL_TUNING, seed=seed, **({"steps": steps} if steps else {}))
    config = TranslateConfig(n_candidates=candidates, seed=seed)
    print(f"peft {peft.__version__}, torch {torch.__version__}; {n_tasks} tasks, {tuning}")
    ours = "soft2hard"
    found = {
        ours: outcomes(tasks, tuned_by_us(Subject.from_pretrained(embedded_path("subject")), tasks, tuning), config)
    }
    for name, text in (("PEFT from a text", World.start_text), ("PEFT from random tokens", None)):
        with TemporaryDirectory() as folder:
            adapters = [tuned_by_peft(task, tuning, Path(folder) / str(i), text) for i, task in enumerate(tasks)]
            found[name] = outcomes(tasks, [SoftPrompt.from_pretrained(adapter) for adapter in adapters], config)
    report(tasks, found, ours)


if __name__ == "__main__":
    run_script(main)
