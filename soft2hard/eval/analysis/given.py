"""Soft prompts of a folder, and the tasks that they are of."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from soft2hard.data_gen.tables import read_table
from soft2hard.errors import UserError
from soft2hard.eval.analysis.passes import is_pass, load_pass
from soft2hard.eval.analysis.records import PromptRow
from soft2hard.eval.analysis.task_names import tasks_of_names
from soft2hard.prompts.soft_prompt import SoftPrompt, find_soft_prompts

GIVEN = "given"
"""The group of prompts that were read."""


def read_given(
    paths: Sequence[Path], mapping: Path | None = None, known: Collection[str] = ()
) -> tuple[tuple[PromptRow, ...], tuple[SoftPrompt, ...]]:
    """The soft prompts at `paths` (`find_soft_prompts`), in order, each with its task.

    Files of passes that an analysis has tuned stand for all their prompts. `mapping` is a .csv or .jsonl file with
    columns `file` and `task`; a file is named by its name, or as much of its path as tells it apart. Without an entry
    the task is what the file itself says ('task' in its metadata), else what its name says beside all others
    (`tasks_of_names`; `known` are names of tasks that there are). Raises UserError for a path without soft prompts, for
    files that cannot be read, and for a mapping of a file that there is not, or of one file twice.
    """
    found = find_soft_prompts(paths)
    by_mapping = {} if mapping is None else _mapped(found, mapping)
    by_name = dict(zip(found, tasks_of_names(found, known), strict=True))
    numbers: dict[str, int] = {}
    rows, prompts = [], []
    for path, name in zip(found, _names(found), strict=True):
        for label, prompt in _within(path, name):
            task = by_mapping.get(path) or prompt.provenance.get("task") or by_name[path]
            numbers[task] = numbers.get(task, -1) + 1
            rows.append(_row(label, task, numbers[task], prompt))
            prompts.append(prompt)
    return _grouped(rows), tuple(prompts)


def _grouped(rows: Sequence[PromptRow]) -> tuple[PromptRow, ...]:
    """Tunings of an analysis as it had them apart: those of the commonest start with both seeds moved together are the
    ones that are compared; where nothing is known of starts and seeds, all are."""
    known = [row.init for row in rows if None not in (row.init, row.init_seed, row.order_seed)]
    if len(known) < len(rows):
        return tuple(rows)
    ((init, _),) = Counter(known).most_common(1)
    groups = {True: GIVEN, False: f"from {init}, one seed moved"}
    return tuple(
        row.model_copy(
            update={"group": groups[row.init_seed == row.order_seed] if row.init == init else f"from {row.init}"}
        )
        for row in rows
    )


def _within(path: Path, name: str) -> list[tuple[str, SoftPrompt]]:
    """The soft prompts of a file, each by the file's name and, where there are several, its task."""
    if not is_pass(path):
        return [(name, SoftPrompt.load(path))]
    return [(f"{name} {prompt.provenance['task']}", prompt) for prompt in load_pass(path)]


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


def _mapped(found: Sequence[Path], mapping: Path) -> dict[Path, str]:
    tasks: dict[Path, str] = {}
    for row in read_table(mapping, ("file", "task")).rows:
        parts = Path(row["file"]).parts
        places = [path for path in found if path.parts[-len(parts) :] == parts]
        if len(places) != 1:
            said = "no soft prompt" if not places else f"{len(places)} soft prompts"
            raise UserError(f"{mapping} names '{row['file']}', which is {said} here.", "Name each file by its path.")
        if tasks.get(places[0], row["task"]) != row["task"]:
            raise UserError(f"{mapping} gives '{row['file']}' two tasks.", "Leave one row for each file.")
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
