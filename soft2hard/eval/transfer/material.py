"""The prompts of a transfer and their tasks: a user's file or a run of `soft2hard evaluate`, and reference points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from soft2hard.data_gen.tables import read_records
from soft2hard.data_gen.tasks import Task, demonstrations
from soft2hard.errors import UserError
from soft2hard.eval.transfer.settings import TransferChoices
from soft2hard.prompts.template import Template, read_template

FIELDS = ("id", "method", "task", "prompt")
REFERENCES = ("none", "gold", "few-shot")
"""Methods that come from the task itself: no prompt, its instruction, solved training examples."""
ALL_SHOTS = "few-shot-all"
"""Another: as many training examples as tuning saw, all of them."""


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


@dataclass(frozen=True)
class SoftScores:
    """Scores of soft prompts, which cannot be sent, on their own subject."""

    values: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """By task and seed."""
    same_examples: bool = True
    """Whether they are over the very examples that are asked; if these are fewer, no difference can be paired."""


@dataclass(frozen=True)
class Material:
    """Prompts and the tasks they are for."""

    prompts: tuple[PromptRow, ...]
    tasks: dict[int, list[Task]]
    """By the seed of their examples."""
    soft_scores: SoftScores = SoftScores()
    choices: TransferChoices = TransferChoices()
    """As they were given, under the template of the run."""


def gather(
    path: Path | None = None,
    choices: TransferChoices = TransferChoices(),
    *,
    tasks: Sequence[Path] = (),
    n_tasks: int = 30,
    references: Sequence[str] = REFERENCES,
    seed: int = 0,
) -> Material:
    """All prompts that are asked for, with their tasks.

    Args:
        path: A .jsonl or .csv file, or the folder of a finished run; None: the reference points alone.
        choices: Methods, numbers of examples.
        tasks: Task files or folders of them; none: the embedded world's test tasks. A run brings its own.
        n_tasks: Of the embedded world's.
        references: Methods of REFERENCES, or ALL_SHOTS, for tasks that lack prompts of these.
        seed: Of the examples that 'few-shot' shows.

    Raises:
        UserError: a file or run cannot be read, a reference point or method is unknown, or a run is given tasks besides
            its own.
    """
    known_names = (*REFERENCES, ALL_SHOTS)
    if unknown := [name for name in references if name not in known_names]:
        raise UserError(f"There is no reference point '{unknown[0]}'.", f"Choose among {', '.join(known_names)}.")
    if path is not None and path.is_dir():
        if tasks:
            raise UserError("A run brings its own tasks, so --tasks cannot be given.", "Leave it out.")
        found = read_evaluated_run(path, choices)
        choices = found.choices
    else:
        rows = [] if path is None else read_prompts(path)
        found = Material(tuple(rows), {0: _tasks(tasks, n_tasks, {row.task for row in rows})})
    known = {(row.method, row.seed, row.task) for row in found.prompts}
    points = [
        point
        for task_seed, some in found.tasks.items()
        for task in some
        for point in reference_points(task, references, choices.shots, task_seed or seed, choices.laid_out)
        if (point.method, task_seed, point.task) not in known
    ]
    prompts = _chosen([*found.prompts, *points], choices.methods)
    cut = {s: [replace(t, test=t.test[: choices.n_examples]) for t in some] for s, some in found.tasks.items()}
    soft = replace(found.soft_scores, same_examples=cut == found.tasks)
    return Material(tuple(prompts), cut, soft, choices)


def _tasks(files: Sequence[Path], n: int, names: set[str]) -> list[Task]:
    """The tasks of files or of the embedded world; where prompts name tasks, only these."""
    from soft2hard.data_gen.dods.lexical import LexicalDoD
    from soft2hard.data_gen.taskfiles import read_tasks

    found = read_tasks(list(files)) if files else list(LexicalDoD().tasks("test", n))
    return [task for task in found if task.name in names] if names else found


def _chosen(rows: Sequence[PromptRow], methods: Sequence[str]) -> list[PromptRow]:
    known = list(dict.fromkeys(row.method for row in rows))
    unknown = [method for method in methods if method not in known]
    if unknown:
        raise UserError(f"No prompt is of the method '{unknown[0]}'.", f"There are {', '.join(known)}.")
    return [row for row in rows if not methods or row.method in methods]


def read_prompts(path: Path) -> list[PromptRow]:
    """The prompts of a JSONL or CSV file with `id`, `method`, `task` and `prompt`; an empty prompt is none.

    A field `subject_score` is read where there is one; others are passed over.
    Raises UserError where the file cannot be read, a field is missing, or an id comes twice.
    """
    rows: dict[str, PromptRow] = {}
    for number, record in read_records(path, (".jsonl", ".csv")):
        row = _row(path, number, record)
        if row.id in rows:
            raise UserError(f"{path}, line {number}: the id '{row.id}' comes twice.", "Give every prompt its own id.")
        rows[row.id] = row
    if not rows:
        raise UserError(f"{path} has no prompts.", f"Write one a line, with {', '.join(FIELDS)}.")
    return list(rows.values())


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


def read_evaluated_run(folder: Path, choices: TransferChoices = TransferChoices()) -> Material:
    """The prompts and tasks of a finished run, and the choices under its template.

    Examples in the prompts of a run under 'chat' are turns of that chat template, which an API writes itself: those
    prompts are left out, and made again as reference points.
    Raises UserError where there is no run, or it has no text prompts, and for choices of another template.
    """
    from soft2hard.eval.cases import drawn_tasks  # these load PyTorch, which nothing else here needs
    from soft2hard.eval.config import Tasks
    from soft2hard.eval.report.reading import load_run

    run = load_run(folder)
    made = run.template
    is_chat = made is not None and read_template(made).template is None
    in_turns = {method.label for method in run.record.methods if is_chat and method.name == "few-shot"}
    tasks = Tasks.model_validate(run.record.config["tasks"])
    prompts = tuple(
        PromptRow(f"{row.method}/{row.seed}/{row.task}", row.method, row.task, row.prompt, row.score, row.seed)
        for row in run.rows
        if row.failure is None and (row.prompt or row.kind == "none") and row.method not in in_turns
    )
    if not prompts:
        raise UserError(f"The run in {folder} has no text prompts.", "Evaluate a method that makes some.")
    drawn = {seed: drawn_tasks(tasks, "test", seed) for seed in run.record.seeds}
    soft = {(row.task, row.seed): row.score for row in run.rows if row.kind == "soft" and row.score is not None}
    return Material(prompts, drawn, SoftScores(soft), choices.under(made))


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
        prompts[ALL_SHOTS] = template.few_shot_text(demonstrations(task, len(task.train), seed))
    return [
        PromptRow(f"{name}/{seed}/{task.name}", name, task.name, prompts[name], seed=seed)
        for name in names
        if name in prompts
    ]
