"""Candidate prompts for an API model, as translations, evaluations and people leave them, by task."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soft2hard.data_gen.tables import read_text
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.transfer.material import read_prompts
from soft2hard.eval.transfer.optimizing import Arm

Candidates = Mapping[str, Sequence[Arm]]
"""By the names of tasks, the likeliest first."""


def read_candidates(path: Path, tasks: Sequence[Task], method: str = "translated") -> tuple[Candidates, list[Task]]:
    """The candidates in a file or run, and the tasks that they are for.

    Args:
        path: What `soft2hard translate --json -o` wrote; a .jsonl or .csv file of prompts (id, method, task, prompt);
            or the folder of a run of evaluate, which brings its tasks.
        tasks: Of the first two. A translation is for the task of its soft prompt's name; the only one is for the only
            task.
        method: Of a run, whose texts and other candidates are taken.

    Raises:
        UserError: the file cannot be read, names no task that there is, or a run lacks the method.
    """
    if path.is_dir():
        if tasks:
            raise UserError("A run brings its own tasks, so --tasks cannot be given.", "Leave it out.")
        return _of_run(path, method)
    if not tasks:
        raise UserError("Candidates of a file need their tasks.", "Give task files with --tasks.")
    found = _of_translations(path, tasks) if path.suffix.lower() == ".json" else _of_prompts(path)
    wanted = [task for task in tasks if task.name in found]
    if not wanted:
        names = ", ".join(list(found)[:3])
        raise UserError(
            f"{path} has candidates for {names}, which are none of the tasks ({', '.join(t.name for t in tasks[:3])}).",
            "Name tasks as their files do.",
        )
    return found, wanted


def _of_translations(path: Path, tasks: Sequence[Task]) -> dict[str, list[Arm]]:
    try:
        translations = json.loads(read_text(path))["translations"]
        of_prompt = {Path(str(t["soft_prompt"])).stem: _arms_of(t) for t in translations}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no translations.", "Write them with soft2hard translate --json -o FILE."
        ) from error
    if len(of_prompt) == len(tasks) == 1:
        return {tasks[0].name: next(iter(of_prompt.values()))}
    return of_prompt


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


def _of_run(folder: Path, method: str) -> tuple[dict[str, list[Arm]], list[Task]]:
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
    return found, [task for task in drawn if task.name in found]
