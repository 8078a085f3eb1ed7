"""Soft prompts of test tasks, as examples of what a user has."""

import json
from dataclasses import replace
from pathlib import Path

from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.data_gen.world import FINAL_EXAMPLES, FINAL_TUNING
from soft2hard.lm.subject import Subject
from soft2hard.storage.files import atomic_folder


def write_samples(
    subject: Subject, folder: Path, tuning: Tuning = FINAL_TUNING, n_tasks: int = 20, seed: int = 7
) -> None:
    """Tune soft prompts for test tasks, families in turn, and save them as a folder that replaces the one there.

    Beside each lie its task's test and validation examples as a task file; `tasks.json` says what each is.
    """
    tasks = [task.record(seed, n_train=FINAL_EXAMPLES) for task in LexicalDoD().draw("test", n_tasks, seed)]
    found = {tuned.task.name: tuned for tuned in Tuner(subject, tuning).tune(tasks)}
    about = []
    with atomic_folder(folder, overwrite=True) as temporary:
        for number, task in enumerate(tasks):
            tuned, file = found[task.name], f"{number:02d}-{task.family}.safetensors"
            examples = [{"input": example.input, "output": example.output} for example in task.test]
            # A path of this machine means nothing on another: the prompt names its subject by the role.
            replace(tuned.soft_prompt, subject="embedded").save(temporary / file)
            # Inputs enough to choose a text and to judge it; outputs of both splits are no training examples.
            shown = {example.input: example.output for example in (*task.test, *task.validation)}
            lines = "".join(json.dumps({"input": i, "output": o}) + "\n" for i, o in shown.items())
            (temporary / file).with_suffix(".jsonl").write_text(lines)
            about.append(
                {
                    "file": file,
                    "task": task.name,
                    "family": task.family,
                    "instruction": task.instruction,
                    "validation_loss": round(tuned.validation_loss, 5),
                    "steps": tuned.best_step,
                    "examples": examples,
                }
            )
        (temporary / "tasks.json").write_text(json.dumps(about, indent=2))
