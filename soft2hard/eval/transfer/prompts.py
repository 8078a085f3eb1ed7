"""Prompts to be compared: a user's file, or a run of `soft2hard evaluate`, and the reference points of each task."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soft2hard.data_gen.tables import read_text
from soft2hard.data_gen.tasks import Task, demonstrations
from soft2hard.errors import UserError
from soft2hard.lm.template import Template

FIELDS = ("id", "method", "task", "prompt")
REFERENCES = ("none", "gold", "few-shot")
"""Methods that come from the task itself: no prompt, its instruction, solved training examples."""


@dataclass(frozen=True)
class PromptRow:
    """A prompt for one task."""

    id: str
    """Unique in its file."""
    method: str
    task: str
    prompt: str | None
    """None: no prompt."""
    subject_score: float | None = None
    """The same prompt's score on the subject, where it is known."""
    seed: int = 0
    """Which of several drawings of the task's examples it is to be scored on."""


def read_prompts(path: Path) -> list[PromptRow]:
    """The prompts of a JSONL or CSV file with `id`, `method`, `task` and `prompt`; an empty prompt is none.

    A field `subject_score` is read where there is one; others are passed over.
    Raises UserError where the file cannot be read, a field is missing, or an id comes twice.
    """
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise UserError(f"{path} is neither .jsonl nor .csv.", f"Give a file with {', '.join(FIELDS)}.")
    text = read_text(path)
    records = _json_lines(path, text) if path.suffix.lower() == ".jsonl" else _csv_lines(path, text)
    rows: dict[str, PromptRow] = {}
    for number, record in records:
        row = _row(path, number, record)
        if row.id in rows:
            raise UserError(f"{path}, line {number}: the id '{row.id}' comes twice.", "Give every prompt its own id.")
        rows[row.id] = row
    if not rows:
        raise UserError(f"{path} has no prompts.", f"Write one a line, with {', '.join(FIELDS)}.")
    return list(rows.values())


@dataclass(frozen=True)
class EvaluatedRun:
    """What a finished run of `soft2hard evaluate` gives to a transfer."""

    prompts: tuple[PromptRow, ...]
    """Its text prompts, with their scores on the subject."""
    tasks: dict[int, list[Task]]
    """Its tasks by seed, with the same test examples."""
    soft_scores: tuple[float, ...]
    """Of the soft prompts, which cannot be sent, on their own subject: one a task and seed."""


def read_evaluated_run(folder: Path) -> EvaluatedRun:
    """The prompts and tasks of a finished run. Raises UserError where there is none, or it has no text prompts."""
    from soft2hard.eval.cases import drawn_tasks  # these load PyTorch, which nothing else here needs
    from soft2hard.eval.config import Tasks
    from soft2hard.eval.report.reading import load_run

    run = load_run(folder)
    tasks = Tasks.model_validate(run.record.config["tasks"])
    prompts = tuple(
        PromptRow(f"{row.method}/{row.seed}/{row.task}", row.method, row.task, row.prompt, row.score, row.seed)
        for row in run.rows
        if row.failure is None and (row.prompt or row.kind == "none")
    )
    if not prompts:
        raise UserError(f"The run in {folder} has no text prompts.", "Evaluate a method that makes some.")
    drawn = {seed: drawn_tasks(tasks, "test", seed) for seed in run.record.seeds}
    soft = tuple(row.score for row in run.rows if row.kind == "soft" and row.score is not None)
    return EvaluatedRun(prompts, drawn, soft)


def reference_points(
    task: Task, names: Sequence[str], shots: int = 8, seed: int = 0, template: Template = Template()
) -> list[PromptRow]:
    """The reference points of a task by their names; those that it lacks the means for are left out.

    The examples of 'few-shot' are drawn as the method of that name draws them for the subject.
    """
    prompts: dict[str, str | None] = {"none": None}
    if task.instruction:
        prompts["gold"] = task.instruction
    if shown := demonstrations(task, shots, seed):
        prompts["few-shot"] = template.few_shot_text(shown)
    return [
        PromptRow(f"{name}/{seed}/{task.name}", name, task.name, prompts[name], seed=seed)
        for name in names
        if name in prompts
    ]


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON.", "Write one object a line.") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: JSON, but not an object.", "Write one object a line.")
        yield number, record


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}).", "Check its double quotes.") from error


def _row(path: Path, number: int, record: dict) -> PromptRow:
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise UserError(
            f"{path}, line {number}: no {missing[0]}.", f"Every prompt needs {', '.join(FIELDS[:-1])} and {FIELDS[-1]}."
        )
    prompt = record["prompt"]
    wrong = [name for name in FIELDS[:-1] if not isinstance(record[name], str | int) or not str(record[name]).strip()]
    if wrong or not isinstance(prompt, str | None):
        raise UserError(f"{path}, line {number}: {wrong[0] if wrong else 'prompt'} is not a text.", "Write a text.")
    score = record.get("subject_score")
    try:
        score = None if score in (None, "") else float(score)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}, line {number}: subject_score is not a number.", "Give one, or none.") from error
    return PromptRow(*(str(record[name]).strip() for name in FIELDS[:-1]), prompt or None, score)
