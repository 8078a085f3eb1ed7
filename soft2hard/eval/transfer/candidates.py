"""Candidate prompts for an API model, as translations, evaluations and people leave them, by task."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from more_itertools import duplicates_everseen

from soft2hard.data_gen.tables import read_text
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.transfer.material import read_prompts
from soft2hard.eval.transfer.optimized import Arm

_PROMPT_FILES = (".safetensors", ".npy", ".npz", ".pt", ".pth", ".bin")
"""`prompts.files.SUFFIXES`, which cannot be read without PyTorch."""
Candidates = Mapping[str, Sequence[Arm]]
"""By the names of tasks, the likeliest first."""


def read_candidates(
    path: Path, tasks: Sequence[Task], method: str = "translated", log: Callable[[str], None] = lambda line: None
) -> tuple[Candidates, list[Task], str | None]:
    """The candidates in a file or run, the tasks that they are for, and the template that they were made under, where
    that is known.

    Args:
        path: What `soft2hard translate --json -o` wrote; a .jsonl or .csv file of prompts (id, method, task, prompt);
            or the folder of a run of evaluate, which brings its tasks.
        tasks: Of the first two. A translation is for the task of its soft prompt's name; the only one is for the only
            task.
        method: Of a run, whose texts and other candidates are taken.
        log: Hears where a translation's name is not that of the task that it is taken for.

    Raises:
        UserError: the file cannot be read, two of its translations have one name, it lacks candidates of a task, or a
            run lacks the method.
    """
    if path.is_dir():
        if tasks:
            raise UserError("A run brings its own tasks, so --tasks cannot be given.", "Leave it out.")
        return _of_run(path, method)
    if not tasks:
        raise UserError("Candidates of a file need their tasks.", "Give task files with --tasks.")
    made_under = None
    if path.suffix.lower() == ".json":
        found, made_under = _of_translations(path, tasks, log)
    else:
        found = _of_prompts(path)
    if without := [task.name for task in tasks if task.name not in found]:
        raise UserError(
            f"{path} has no candidate for the task '{without[0]}'; it has some for {', '.join(list(found)[:3])}.",
            "Name tasks as their files do, or leave the task out.",
        )
    return found, list(tasks), made_under


def _of_translations(
    path: Path, tasks: Sequence[Task], log: Callable[[str], None]
) -> tuple[dict[str, list[Arm]], str | None]:
    try:
        value = json.loads(read_text(path))
        named = [(name_of_prompt(t), _arms_of(t)) for t in value["translations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no translations.", "Write them with soft2hard translate --json -o FILE."
        ) from error
    if twice := list(duplicates_everseen(name for name, _ in named)):
        raise UserError(f"{path} has two translations of the name '{twice[0]}'.", "Name the soft prompts otherwise.")
    if len(named) == len(tasks) == 1 and named[0][0] != tasks[0].name:
        log(f"The translation of '{named[0][0]}' is taken for the task '{tasks[0].name}'.")
        named = [(tasks[0].name, named[0][1])]
    return dict(named), value.get("template")


def name_of_prompt(translation: Mapping[str, Any]) -> str:
    """The name of a translation's soft prompt: that of its file without a known ending, or of its folder."""
    path = Path(str(translation["soft_prompt"]))
    return path.stem if path.suffix.lower() in _PROMPT_FILES else path.name


def _arms_of(translation: Mapping[str, Any]) -> list[Arm]:
    """The verified text, the text with demonstrations that the soft prompt wrote, and the other candidates."""
    arms = [Arm(translation["text"])]
    if demonstrated := translation.get("demonstrated"):
        arms.append(Arm(demonstrated["text"], origin="translation with the soft prompt's demonstrations"))
    return [*arms, *(Arm(one["text"]) for one in translation.get("candidates") or ())]


def _of_prompts(path: Path) -> dict[str, list[Arm]]:
    found: dict[str, list[Arm]] = {}
    for row in read_prompts(path):
        if row.prompt:
            found.setdefault(row.task, []).append(Arm(row.prompt, origin=row.method))
    return found


def _of_run(folder: Path, method: str) -> tuple[dict[str, list[Arm]], list[Task], str | None]:
    from soft2hard.eval.cases import drawn_tasks  # these load PyTorch, which nothing else here needs
    from soft2hard.eval.config import Tasks
    from soft2hard.eval.report.reading import load_run

    run = load_run(folder)
    if method not in run.by_method:
        raise UserError(f"The run in {folder} has no method '{method}'.", f"There are {', '.join(run.methods)}.")
    seed = run.record.seeds[0]
    found = {
        row.task: _arms_of({"text": row.prompt, "candidates": row.trace.get("candidates")})
        for row in run.by_method[method]
        if row.seed == seed and row.prompt
    }
    drawn = drawn_tasks(Tasks.model_validate(run.record.config["tasks"]), "test", seed)
    return found, [task for task in drawn if task.name in found], run.template
