"""The questions of a transfer: every prompt on every test example of its task, to every model, and their cost.

Afterwards, where wanted, a language model as judge is asked about every answer, beside the task's own metric.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

from more_itertools import duplicates_everseen, map_reduce

from soft2hard.api.answers import Answer
from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import Estimate, PriceTable, estimate
from soft2hard.api.requests import OUTPUT_LIMITS, ApiModel, Layout, Request, make_request, text_request
from soft2hard.data_gen.tables import read_text
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval, by_task, mean_interval
from soft2hard.eval.metrics.task_score import check_metric, normalise_answer
from soft2hard.eval.transfer.material import PromptRow
from soft2hard.eval.transfer.settings import TransferChoices
from soft2hard.prompts.template import Template

_USUAL_ROOM = 64  # tokens of an answer


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
    choices: TransferChoices = TransferChoices(),
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[Cell]:
    """All cells; `tasks` are by the seed of their examples.

    `parameters` are sent with every request, over greedy decoding and a bound on the answer; a value of None takes one
    out. `seed` is sent with the first asking of each question.

    Raises UserError for prompts of unknown tasks, tasks that cannot be scored, and two models of one title.
    """
    if twice := list(duplicates_everseen(model.title for model in models)):
        raise UserError(f"Two models are called '{twice[0]}'.", "Give one of them a label of its own.")
    by_name = {(seed, task.name): task for seed, some in tasks.items() for task in some}
    for prompt in prompts:
        _check(prompt, by_name)
    asking = {
        (model.title, *name): Asking(model, task, choices, parameters or {}, seed)
        for model in models
        for name, task in by_name.items()
    }
    return [
        Cell(model, prompt, task, i, how.request(prompt.prompt, example.input, repeat))
        for model in models
        for prompt in prompts
        for task in [by_name[prompt.seed, prompt.task]]
        for how in [asking[model.title, prompt.seed, prompt.task]]
        for i, example in enumerate(task.test)
        for repeat in range(choices.repeats)
    ]


@dataclass(frozen=True)
class Asking:
    """How one model is asked with the inputs of one task."""

    model: ApiModel
    task: Task
    choices: TransferChoices
    parameters: Mapping[str, Any]
    """Sent with every request, over greedy decoding and a bound on the answer; None takes one out."""
    seed: int = 0

    def request(self, prompt: str | None, input: str, repeat: int = 0) -> Request:
        """One input under one prompt."""
        return make_request(
            self.model, prompt, input, self._sent, repeat=repeat, seed=self.seed, template=self._template
        )

    @cached_property
    def _template(self) -> Template:
        return self.choices.laid_out

    @cached_property
    def _sent(self) -> dict[str, Any]:
        """Once for all requests: the ends of a plain completion depend on all of the task's outputs."""
        return {**_defaults(self.model.layout, self.task, self.choices, self.parameters), **self.parameters}

    @property
    def settings(self) -> dict[str, Any]:
        """What goes with every request beside its model and text, such as temperature, max_tokens, stop and seed."""
        apart = ("model", "messages", "prompt")
        return {name: value for name, value in self.request(None, "").body.items() if name not in apart}


def room_for(task: Task) -> int:
    """Tokens that answers to a task are given, if the user names none: as many as its longest output may take, a token
    for two bytes, twice what English takes."""
    return max([_USUAL_ROOM, *(-(-len(e.output.encode()) // 2) for e in (*task.train, *task.test))])


def _defaults(layout: Layout, task: Task, choices: TransferChoices, given: Mapping[str, Any]) -> dict[str, Any]:
    """Greedy decoding and a bound on the answer; plain completions also end where the next block would begin."""
    defaults: dict[str, Any] = {"temperature": 0}
    if not any(given.get(name) for name in OUTPUT_LIMITS):
        defaults["max_tokens"] = choices.max_tokens or room_for(task)
    if layout == "completion":
        defaults["stop"] = list(choices.laid_out.for_outputs(e.output for e in (*task.train, *task.test)).stops)
    return defaults


def _check(prompt: PromptRow, tasks: Mapping[tuple[int, str], Task]) -> None:
    task = tasks.get((prompt.seed, prompt.task))
    if task is None:
        known = ", ".join(f"'{name}'" for name in dict.fromkeys(name for _, name in tasks))
        raise UserError(
            f"The prompt '{prompt.id}' is for the task '{prompt.task}', which is not among these: "
            f"{shorten(known, 200, placeholder=' ...') or 'there are none'}.",
            "Name tasks as their files or collection do.",
        )
    check_metric(task)
    if not task.test:
        raise UserError(f"The task '{task.name}' has no test examples.", "Give its file at least 20 distinct inputs.")


def distinct_requests(cells: Sequence[Cell], model: ApiModel) -> list[Request]:
    """The requests of a model, each once, in the order of the cells."""
    return list({cell.request.key: cell.request for cell in cells if cell.model is model}.values())


def estimates(cells: Sequence[Cell], ledger: Ledger | None, prices: PriceTable, batch: bool = False) -> list[Estimate]:
    """The estimate of each model's requests; without a ledger nothing is answered yet."""
    models = list({cell.model.title: cell.model for cell in cells}.values())
    found = []
    for model in models:
        requests = distinct_requests(cells, model)
        stored = ledger.answers(request.key for request in requests) if ledger else {}
        found.append(estimate(model.title, requests, stored, prices.of(model.base_url, model.name), batch))
    return found


# --- a judge -------------------------------------------------------------------------------------

_PLACES = ("instruction", "input", "reference", "answer")
JUDGE_PROMPT = """Somebody was given a task and an input, and wrote an answer.

Task: {instruction}
Input: {input}
Reference answer: {reference}
Answer: {answer}

Does the answer say the same as the reference answer? Reply with one word, yes or no."""


@dataclass(frozen=True)
class Judge:
    """Who judges, and by which words."""

    model: ApiModel
    prompt: str = JUDGE_PROMPT
    """With {instruction}, {input}, {reference} and {answer} where these are to stand."""
    max_tokens: int = 8

    def __post_init__(self) -> None:
        lacking = [name for name in ("input", "answer") if f"{{{name}}}" not in self.prompt]
        if lacking:
            raise UserError(
                f"The judge's prompt has no place for the {lacking[0]}.",
                f"Put {', '.join(f'{{{name}}}' for name in _PLACES)} where they are to stand.",
            )


@dataclass(frozen=True)
class JudgedRow:
    """The judgements of one method on one model."""

    model: str
    method: str
    share: Interval | None
    """Of answers judged right, mean over tasks, with its bootstrap interval; None where nothing was judged."""
    n_judged: int
    n_unclear: int
    """Replies that are neither yes nor no; they are in no mean."""
    n_missing: int
    """Answers without a judgement: refused, lacking, or the judge's reply is lacking."""


@dataclass(frozen=True)
class Judged:
    """All judgements, with what was asked."""

    judge: str
    prompt: str
    rows: tuple[JudgedRow, ...]


def read_judge_prompt(path: Path | None) -> str:
    """The text of a file, or the prompt that comes along. Raises UserError where it cannot be read."""
    return JUDGE_PROMPT if path is None else read_text(path).strip()


def judge_cells(cells: Sequence[Cell], answers: Mapping[str, Answer], judge: Judge) -> list[Cell | None]:
    """For every cell the one that asks the judge about its answer; None where there is no answer in words."""
    found = [answers.get(cell.request.key) for cell in cells]
    return [
        None if answer is None or answer.refused or answer.lack
        else replace(cell, model=judge.model, request=_judge_request(cell, answer.text, judge))
        for cell, answer in zip(cells, found, strict=True)
    ]  # fmt: skip


def _judge_request(cell: Cell, answer: str, judge: Judge) -> Request:
    said = cell.request.cut(answer).strip()
    values = (cell.task.instruction or "(not told)", cell.wanted.input, cell.wanted.output, said)
    of_place = dict(zip(_PLACES, values, strict=True))
    # In one pass: an answer that holds a placeholder stays as it is.
    text = re.sub(r"\{(" + "|".join(_PLACES) + r")\}", lambda m: of_place[m[1]], judge.prompt)
    return text_request(judge.model, text, {"temperature": 0, "max_tokens": judge.max_tokens})


def judged(cells: Sequence[Cell], asked: Sequence[Cell | None], answers: Mapping[str, Answer], judge: Judge) -> Judged:
    """The judgements of every method on every model; `asked` are those of `judge_cells`, `answers` the judge's."""
    said = [(cell, _says(question, answers)) for cell, question in zip(cells, asked, strict=True)]
    groups = map_reduce(said, lambda one: (one[0].model.title, one[0].prompt.method))
    rows = [_row(model, method, some) for (model, method), some in groups.items()]
    return Judged(judge.model.title, judge.prompt, tuple(rows))


def _says(cell: Cell | None, answers: Mapping[str, Answer]) -> str | None:
    """'yes', 'no', 'unclear', or None where there is no reply."""
    reply = answers.get(cell.request.key) if cell else None
    if reply is None or reply.refused or reply.lack:
        return None
    words = re.findall(r"\w+", normalise_answer(reply.text))
    return words[0] if words and words[0] in ("yes", "no") else "unclear"


def _row(model: str, method: str, said: Sequence[tuple[Cell, str | None]]) -> JudgedRow:
    words = [word for _, word in said]
    clear = [(cell.task.name, word == "yes") for cell, word in said if word in ("yes", "no")]
    shares = by_task(clear).values()
    counts = (len(clear), words.count("unclear"), words.count(None))
    return JudgedRow(model, method, mean_interval(list(shares)) if shares else None, *counts)
