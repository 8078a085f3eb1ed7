"""A transfer as a task of the Inspect framework, for those who want its providers and its viewer (extra `inspect`).

inspect eval soft2hard/transfer -T prompts=runs/mine --model openai-api/local/NAME
"""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, grouped, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate

from soft2hard.api.requests import ApiModel
from soft2hard.eval.metrics.task_score import compared, grade
from soft2hard.eval.transfer.material import REFERENCES, gather
from soft2hard.eval.transfer.plan import Cell, plan, room_for
from soft2hard.eval.transfer.settings import TransferChoices

_ASKED = ApiModel("inspect")  # Inspect has a model of its own: of this one, only the layout counts


@scorer(metrics=[grouped(mean(), "method"), stderr(cluster="task")])
def task_metric() -> Scorer:
    """Each answer by its task's metric, as `compared` has them; of F1, which no single answer has, its accuracy."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion
        metric = state.metadata["metric"]
        value = grade("label_accuracy" if metric == "f1" else metric, [answer], [target.text])
        return Score(value=value, answer=compared(answer, metric), metadata=dict(state.metadata))

    return score


@task
def transfer(
    prompts: str | None = None,
    tasks: str | None = None,
    methods: str | None = None,
    references: str = ",".join(REFERENCES),
    shots: int = 8,
    examples: int | None = None,
    n_tasks: int = 30,
    seed: int = 0,
    max_tokens: int | None = None,
) -> Task:
    """Prompts on the test examples of their tasks, one user message each, as `soft2hard transfer` sends them.

    Args:
        prompts: As the argument of `soft2hard transfer`: a .jsonl or .csv file, or the folder of a run.
        tasks: Task files or folders of them, with commas between.
        methods: Only these, with commas between.
        references: Reference points, with commas between.
        shots: Examples shown by few-shot.
        examples: Test examples of each task at most.
        n_tasks: Without prompts and tasks: test tasks of the embedded world.
        seed: Of the examples shown, and sent with every request.
        max_tokens: Tokens of an answer at most; if not given, 64, or what the longest output may take.
    """
    choices = TransferChoices(methods=_listed(methods), n_examples=examples, shots=shots, max_tokens=max_tokens)
    material = gather(
        Path(prompts) if prompts else None,
        choices,
        tasks=tuple(map(Path, _listed(tasks))),
        n_tasks=n_tasks,
        references=_listed(references),
        seed=seed,
    )
    cells = plan(material.prompts, material.tasks, [_ASKED], material.choices, seed=seed)
    used = {id(cell.task): cell.task for cell in cells}.values()
    return Task(
        dataset=MemoryDataset([_sample(cell) for cell in cells], name="soft2hard"),
        solver=generate(),
        scorer=task_metric(),
        config=GenerateConfig(temperature=0, max_tokens=max_tokens or max(map(room_for, used)), seed=seed),
    )


def _sample(cell: Cell) -> Sample:
    return Sample(
        id=f"{cell.prompt.id}/{cell.example}",
        input=[ChatMessageUser(content=cell.request.content)],
        target=cell.wanted.output,
        metadata={"method": cell.prompt.method, "task": cell.task.name, "metric": cell.task.scored_by},
    )


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
