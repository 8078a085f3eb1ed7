"""What is to be asked: every prompt on every test example of its task, of every model, and what that may cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soft2hard.api.estimates import Estimate, estimate
from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import PriceTable
from soft2hard.api.requests import OUTPUT_LIMITS, ApiModel, Layout, Request, make_request
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.metrics.task_score import check_metric
from soft2hard.eval.transfer.prompts import PromptRow
from soft2hard.prompts.template import Template


@dataclass(frozen=True)
class Asking:
    """How questions are put; greedy and once unless said otherwise."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every request, over the defaults (`default_parameters`); a value of None takes one out."""
    max_tokens: int = 64
    """Tokens of an answer at most."""
    repeats: int = 1
    """Askings of each question, under seeds of their own."""
    seed: int = 0
    template: Template = Template()

    def default_parameters(self, layout: Layout, task: Task) -> dict[str, Any]:
        """Greedy decoding and a bound on the answer; plain completions also end where the next block would begin."""
        defaults: dict[str, Any] = {"temperature": 0}
        if not any(self.parameters.get(name) for name in OUTPUT_LIMITS):
            defaults["max_tokens"] = self.max_tokens
        if layout == "completion":
            has_lines = any("\n" in e.output for e in (*task.train, *task.test))
            defaults["stop"] = [f"\n{self.template.input_prefix.strip()}" if has_lines else "\n"]
        return defaults


@dataclass(frozen=True)
class Cell:
    """One prompt on one example, of one model, once."""

    model: ApiModel
    prompt: PromptRow
    task: Task
    example: int
    """Index among the task's test examples."""
    request: Request

    @property
    def wanted(self) -> Example:
        return self.task.test[self.example]


def plan(
    prompts: Sequence[PromptRow],
    tasks: Mapping[int, Sequence[Task]],
    models: Sequence[ApiModel],
    asking: Asking = Asking(),
) -> list[Cell]:
    """All cells; `tasks` are by the seed of their examples.

    Raises UserError for prompts of unknown tasks, tasks that cannot be scored, and two models of one title.
    """
    titles = [model.title for model in models]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice is not None:
        raise UserError(f"Two models are called '{twice}'.", "Give one of them a label of its own.")
    by_name = {(seed, task.name): task for seed, some in tasks.items() for task in some}
    _check(prompts, by_name)
    return [
        Cell(model, prompt, task, i, _request(model, prompt, task, example.input, asking, repeat))
        for model in models
        for prompt in prompts
        for task in [by_name[prompt.seed, prompt.task]]
        for i, example in enumerate(task.test)
        for repeat in range(asking.repeats)
    ]


def _request(model: ApiModel, prompt: PromptRow, task: Task, input: str, asking: Asking, repeat: int) -> Request:
    parameters = {**asking.default_parameters(model.layout, task), **asking.parameters}
    return make_request(
        model, prompt.prompt, input, parameters, repeat=repeat, seed=asking.seed, template=asking.template
    )


def _check(prompts: Sequence[PromptRow], tasks: Mapping[tuple[int, str], Task]) -> None:
    for prompt in prompts:
        task = tasks.get((prompt.seed, prompt.task))
        if task is None:
            raise UserError(
                f"The prompt '{prompt.id}' is for the task '{prompt.task}', which is not among the {len(tasks)} tasks.",
                "Name tasks as their files or collection do.",
            )
        check_metric(task)
        if not task.test:
            raise UserError(
                f"The task '{task.name}' has no test examples.", "Give its file at least 20 distinct inputs."
            )


def distinct_requests(cells: Sequence[Cell], model: ApiModel) -> list[Request]:
    """The requests of a model, each once, in the order of the cells."""
    return list({cell.request.key: cell.request for cell in cells if cell.model is model}.values())


def estimates(cells: Sequence[Cell], ledger: Ledger | None, prices: PriceTable, batch: bool = False) -> list[Estimate]:
    """What each model's requests come to; without a ledger nothing is answered yet."""
    models = list({cell.model.title: cell.model for cell in cells}.values())
    return [estimate(model, distinct_requests(cells, model), ledger, prices, batch) for model in models]
