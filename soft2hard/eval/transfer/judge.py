"""A language model as judge of answers, beside the task's own metric."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from soft2hard.api.ledger import StoredAnswer
from soft2hard.api.requests import ApiModel, Request, text_request
from soft2hard.data_gen.tables import read_text
from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval, mean_interval
from soft2hard.eval.metrics.task_score import normalise_answer
from soft2hard.eval.transfer.plan import Cell

PLACES = ("instruction", "input", "reference", "answer")
_NEEDED = ("input", "answer")
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
        lacking = [name for name in _NEEDED if f"{{{name}}}" not in self.prompt]
        if lacking:
            raise UserError(
                f"The judge's prompt has no place for the {lacking[0]}.",
                f"Put {', '.join(f'{{{name}}}' for name in PLACES)} where they are to stand.",
            )


@dataclass(frozen=True)
class JudgedRow:
    """What the judge says of one method on one model."""

    model: str
    method: str
    share: Interval | None
    """Of answers judged right, mean over tasks, with its bootstrap interval; None where nothing was judged."""
    n_judged: int
    n_unclear: int
    """Replies that are neither yes nor no; they are in no mean."""
    n_missing: int
    """Answers without a judgement: refused, not to be had, or the judge's reply was not to be had."""


@dataclass(frozen=True)
class Judged:
    """All judgements, with what was asked."""

    judge: str
    prompt: str
    rows: tuple[JudgedRow, ...]


def read_judge_prompt(path: Path | None) -> str:
    """The text of a file, or the prompt that comes along. Raises UserError where it cannot be read."""
    return JUDGE_PROMPT if path is None else read_text(path).strip()


def judge_cells(cells: Sequence[Cell], answers: Mapping[str, StoredAnswer], judge: Judge) -> list[Cell | None]:
    """For every cell the one that asks the judge about its answer; None where there is no answer in words."""
    return [_judge_cell(cell, answers.get(cell.request.key), judge) for cell in cells]


def _judge_cell(cell: Cell, answer: StoredAnswer | None, judge: Judge) -> Cell | None:
    if answer is None or answer.refused:
        return None
    return replace(cell, model=judge.model, request=_request(cell, answer.text, judge))


def _request(cell: Cell, answer: str, judge: Judge) -> Request:
    values = (cell.task.instruction or "(not told)", cell.wanted.input, cell.wanted.output, answer.strip())
    of_place = dict(zip(PLACES, values, strict=True))
    # In one pass: an answer that holds a placeholder stays as it is.
    text = re.sub(r"\{(" + "|".join(PLACES) + r")\}", lambda m: of_place[m[1]], judge.prompt)
    return text_request(judge.model, text, {"temperature": 0, "max_tokens": judge.max_tokens})


def judged(
    cells: Sequence[Cell], asked: Sequence[Cell | None], answers: Mapping[str, StoredAnswer], judge: Judge
) -> Judged:
    """The judgements of every method on every model; `asked` are those of `judge_cells`, `answers` the judge's."""
    groups: dict[tuple[str, str], list[tuple[str, str | None]]] = {}
    for cell, question in zip(cells, asked, strict=True):
        said = (cell.task.name, _says(question, answers))
        groups.setdefault((cell.model.title, cell.prompt.method), []).append(said)
    rows = [_row(model, method, said) for (model, method), said in groups.items()]
    return Judged(judge.model.title, judge.prompt, tuple(rows))


def _says(cell: Cell | None, answers: Mapping[str, StoredAnswer]) -> str | None:
    """'yes', 'no', 'unclear', or None where there is no reply."""
    reply = answers.get(cell.request.key) if cell else None
    if reply is None or reply.refused:
        return None
    words = re.findall(r"\w+", normalise_answer(reply.text))
    return words[0] if words and words[0] in ("yes", "no") else "unclear"


def _row(model: str, method: str, said: Sequence[tuple[str, str | None]]) -> JudgedRow:
    """`said` are tasks with what was said of one answer each."""
    of_task: dict[str, list[bool]] = {}
    for task, word in said:
        if word in ("yes", "no"):
            of_task.setdefault(task, []).append(word == "yes")
    words = [word for _, word in said]
    shares = [float(np.mean(values)) for values in of_task.values()]
    n_judged = sum(len(values) for values in of_task.values())
    counts = (n_judged, words.count("unclear"), words.count(None))
    return JudgedRow(model, method, mean_interval(shares) if shares else None, *counts)
