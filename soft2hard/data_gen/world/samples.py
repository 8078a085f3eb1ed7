"""Soft prompts of test tasks, as examples of what a user has."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.data_gen.world import FINAL_EXAMPLES, FINAL_TUNING
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.run_folders import write_json


def write_samples(
    subject: Subject, folder: Path, tuning: Tuning = FINAL_TUNING, n_tasks: int = 20, seed: int = 7
) -> None:
    """Tune soft prompts for test tasks, families in turn, and save them as `save_samples` does."""
    tasks = [task.record(seed, n_train=FINAL_EXAMPLES) for task in LexicalDoD().draw("test", n_tasks, seed)]
    found = {tuned.task.name: tuned for tuned in Tuner(subject, tuning).tune(tasks)}
    in_order = [found[task.name] for task in tasks]
    samples = [
        (one.task, one.soft_prompt, {"validation_loss": round(one.validation_loss, 5), "steps": one.best_step})
        for one in in_order
    ]
    # A path of this machine means nothing on another: the prompts name their subject by the role.
    save_samples(samples, "embedded", folder)


def save_samples(samples: Sequence[tuple[Task, SoftPrompt, Mapping[str, object]]], subject: str, folder: Path) -> None:
    """Save soft prompts with their tasks, and what else is known of each, as a folder that replaces the one there.

    Beside each prompt, which names its subject as `subject`, lie its task's test and validation examples as a task
    file; `tasks.json` says what each is.
    """
    about = []
    with atomic_folder(folder, overwrite=True) as temporary:
        for number, (task, soft_prompt, more) in enumerate(samples):
            file = _save_prompt(soft_prompt, task, subject, temporary, number)
            # Inputs enough to choose a text and to judge it; outputs of both splits are no training examples.
            shown = {example.input: example.output for example in (*task.test, *task.validation)}
            lines = "".join(json.dumps({"input": i, "output": o}, ensure_ascii=False) + "\n" for i, o in shown.items())
            (temporary / file).with_suffix(".jsonl").write_text(lines, encoding="utf-8")
            examples = [{"input": example.input, "output": example.output} for example in task.test]
            about.append(_about(file, task) | {**more, "examples": examples})
        write_json(temporary / "tasks.json", about)


def save_inputs(
    samples: Sequence[tuple[Task, SoftPrompt]], inputs: Mapping[str, Sequence[str]], subject: str, folder: Path
) -> None:
    """As `save_samples` for tasks whose examples are not ours to pass on: beside each prompt lie `inputs` of its task,
    one a line, and `tasks.json` says what each is and no more."""
    about = []
    with atomic_folder(folder, overwrite=True) as temporary:
        for number, (task, soft_prompt) in enumerate(samples):
            file = _save_prompt(soft_prompt, task, subject, temporary, number)
            (temporary / file).with_suffix(".txt").write_text("\n".join(inputs[task.name]) + "\n", encoding="utf-8")
            about.append(_about(file, task))
        write_json(temporary / "tasks.json", about)


def _save_prompt(soft_prompt: SoftPrompt, task: Task, subject: str, folder: Path, number: int) -> str:
    file = f"{number:02d}-{task.family}.safetensors"
    replace(soft_prompt, subject=subject).save(folder / file)
    return file


def _about(file: str, task: Task) -> dict[str, object]:
    return {"file": file, "task": task.name, "family": task.family, "instruction": task.instruction}
