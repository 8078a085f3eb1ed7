"""Soft prompts of a folder, and the tasks that they are of."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from soft2hard.data_gen.exampletable import read_table
from soft2hard.errors import UserError
from soft2hard.eval.analysis.records import PromptRow
from soft2hard.softprompt import SoftPrompt, find_soft_prompts

GIVEN = "given"
"""The group of prompts that were read."""
_NUMBER = re.compile(r"([-_. #]+|([-_. ]+|^)(seed|run|tuning)[-_. #]*)\d+$", re.IGNORECASE)


def read_given(
    paths: Sequence[Path], mapping: Path | None = None
) -> tuple[tuple[PromptRow, ...], tuple[SoftPrompt, ...]]:
    """The soft prompts at `paths` (`find_soft_prompts`), in order, each with its task.

    `mapping` is a .csv or .jsonl file with columns `file` and `task`; a file is named by its name, or as much of its
    path as tells it apart. Without an entry the task is what the file itself says ('task' in its metadata), else
    `task_of_name`. Raises UserError for a path without soft prompts, for files that cannot be read, for a mapping of a
    file that there is not, and for one that leaves a file's task open.
    """
    found = find_soft_prompts(paths)
    prompts = tuple(SoftPrompt.load(path) for path in found)
    named = {} if mapping is None else _mapped(found, mapping)
    tasks = [
        named.get(path) or p.provenance.get("task") or task_of_name(path)
        for path, p in zip(found, prompts, strict=True)
    ]
    numbers: dict[str, int] = {}
    rows = []
    for name, task, prompt in zip(_names(found), tasks, prompts, strict=True):
        numbers[task] = numbers.get(task, -1) + 1
        rows.append(_row(name, task, numbers[task], prompt))
    return tuple(rows), prompts


def _names(found: Sequence[Path]) -> list[str]:
    """Paths below the folder that all have in common."""
    above = os.path.commonpath([path.resolve().parent for path in found])
    return [path.resolve().relative_to(above).as_posix() for path in found]


def content_hash_of(prompts: Sequence[SoftPrompt]) -> str:
    """SHA-256, in hexadecimal, of the vectors of all prompts in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(f"{tuple(prompt.embeddings.shape)}".encode() + prompt.embeddings.numpy().tobytes())
    return digest.hexdigest()


def task_of_name(path: Path) -> str:
    """The task by the name of a file or adapter folder: without its suffix, and without the number, or word and number
    (seed, run, tuning), that it ends in: 'rte-2.safetensors' and 'rte_seed0.npy' are of 'rte'."""
    name = path.name if path.is_dir() else path.stem
    return _NUMBER.sub("", name) or name


def _mapped(found: Sequence[Path], mapping: Path) -> dict[Path, str]:
    tasks: dict[Path, str] = {}
    for row in read_table(mapping, ("file", "task")).rows:
        parts = Path(row["file"]).parts
        places = [path for path in found if path.parts[-len(parts) :] == parts]
        if len(places) != 1:
            said = "no soft prompt" if not places else f"{len(places)} soft prompts"
            raise UserError(f"{mapping} names '{row['file']}', which is {said} here.", "Name each file by its path.")
        tasks[places[0]] = row["task"]
    return tasks


def _row(name: str, task: str, number: int, prompt: SoftPrompt) -> PromptRow:
    facts = prompt.provenance
    return PromptRow(
        name=name,
        task=task,
        group=GIVEN,
        tuning=number,
        n_tokens=prompt.n_tokens,
        d_model=prompt.d_model,
        init=facts.get("init"),
        init_seed=_whole(facts.get("init_seed", facts.get("seed"))),
        order_seed=_whole(facts.get("order_seed", facts.get("seed"))),
        validation_loss=_number(facts.get("validation_loss")),
        steps=_whole(facts.get("steps")),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,18}", text) else None


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d+(\.\d+)?(e[-+]?\d{1,3})?", text) else None
