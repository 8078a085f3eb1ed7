"""What a transfer found: scores by model and method, their differences, what it cost, and every answer."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soft2hard.api.ledger import Ledger, Spent, StoredAnswer
from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval, mean_interval
from soft2hard.eval.metrics.task_score import normalise_answer
from soft2hard.eval.transfer.judge import Judged, JudgedRow
from soft2hard.eval.transfer.plan import Cell
from soft2hard.eval.transfer.scoring import PairedTest, Score, Scored, paired_tests, score
from soft2hard.storage.files import atomic_write

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class AnswerRow:
    """One answer, or why there is none."""

    model: str
    method: str
    prompt_id: str
    task: str
    example: int
    repeat: int
    input: str
    wanted: str
    answer: str | None
    """Raw; None where it could not be had."""
    normalised: str | None
    """As it was compared."""
    refused: bool
    fault: str | None
    """Kind of the last fault of a request without an answer; None where it was not sent."""
    price: float | None


@dataclass(frozen=True)
class MethodRow:
    """One method on one model."""

    model: str
    method: str
    score: Score
    subject_score: float | None
    """Mean score of the same prompts on the subject; None where it is not known for all of them."""
    price: float | None
    """USD of the answers; None where that of any is unknown."""
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class TransferResult:
    """All that a transfer found."""

    rows: tuple[MethodRow, ...]
    tests: dict[str, tuple[PairedTest, ...]]
    """By model."""
    spent: Spent
    """By the ledger as a whole."""
    soft_prompt: Interval | None
    """Score of the soft prompts on their own subject, where the prompts come from a run that has them."""
    answers: tuple[AnswerRow, ...]
    requests: dict[str, str]
    """By model, the body of its first request, exactly as sent."""
    judged: Judged | None = None
    """What a judge says of the answers, where one was asked."""
    schema_version: int = SCHEMA_VERSION

    def save(self, path: Path) -> None:
        """Write all of it to a JSON file."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "TransferResult":
        """Read what `save` wrote. Raises UserError where the file is damaged or newer."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["schema_version"] != SCHEMA_VERSION:
                raise UserError(f"{path} has schema {value['schema_version']}.", "Update soft2hard.")
            return cls(
                rows=tuple(_method_row(row) for row in value["rows"]),
                tests={model: tuple(map(_paired_test, tests)) for model, tests in value["tests"].items()},
                spent=Spent(**value["spent"]),
                soft_prompt=_interval(value["soft_prompt"]),
                answers=tuple(AnswerRow(**row) for row in value["answers"]),
                requests=value["requests"],
                judged=_judged(value.get("judged")),
            )
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.", "Give the file that transfer wrote.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no result of a transfer.", "Give the file that transfer wrote.") from error


def collect(cells: Sequence[Cell], ledger: Ledger, soft_scores: Sequence[float] = ()) -> TransferResult:
    """Score what the ledger holds of a plan; nothing is sent."""
    stored = ledger.answers(cell.request.key for cell in cells)
    faults = ledger.last_faults(cell.request.key for cell in cells if cell.request.key not in stored)
    by_model: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        by_model.setdefault(cell.model.title, {}).setdefault(cell.prompt.method, []).append(cell)
    rows, tests = [], {}
    for model, methods in by_model.items():
        scored = {method: [_scored(c, stored.get(c.request.key)) for c in some] for method, some in methods.items()}
        rows += [_row(model, method, some, stored, score(scored[method])) for method, some in methods.items()]
        tests[model] = tuple(paired_tests(scored))
    return TransferResult(
        rows=tuple(rows),
        tests=tests,
        spent=ledger.spent(),
        soft_prompt=mean_interval(list(soft_scores)) if soft_scores else None,
        answers=tuple(_answer_row(cell, stored.get(cell.request.key), faults) for cell in cells),
        requests={model: next(iter(methods.values()))[0].request.canonical for model, methods in by_model.items()},
    )


def _scored(cell: Cell, answer: StoredAnswer | None) -> Scored:
    return Scored(
        unit=(cell.task.name, cell.prompt.seed, cell.example, cell.request.repeat),
        metric=cell.task.metric,
        answer=answer.text if answer else None,
        refused=bool(answer and answer.refused),
        reference=cell.wanted.output,
    )


def _row(model: str, method: str, cells: Sequence[Cell], stored: dict[str, StoredAnswer], found: Score) -> MethodRow:
    answers = {c.request.key: stored[c.request.key] for c in cells if c.request.key in stored}.values()
    prices = [answer.price for answer in answers]
    on_subject = [prompt.subject_score for prompt in {c.prompt.id: c.prompt for c in cells}.values()]
    known = [value for value in on_subject if value is not None]
    return MethodRow(
        model=model,
        method=method,
        score=found,
        subject_score=sum(known) / len(known) if known and len(known) == len(on_subject) else None,
        price=None if None in prices or not prices else float(sum(p for p in prices if p is not None)),
        input_tokens=sum(answer.input_tokens or 0 for answer in answers),
        output_tokens=sum(answer.output_tokens or 0 for answer in answers),
    )


def _answer_row(cell: Cell, answer: StoredAnswer | None, faults: dict[str, tuple[str, str]]) -> AnswerRow:
    fault = faults.get(cell.request.key)
    return AnswerRow(
        model=cell.model.title,
        method=cell.prompt.method,
        prompt_id=cell.prompt.id,
        task=cell.task.name,
        example=cell.example,
        repeat=cell.request.repeat,
        input=cell.wanted.input,
        wanted=cell.wanted.output,
        answer=answer.text if answer else None,
        normalised=normalise_answer(answer.text) if answer else None,
        refused=bool(answer and answer.refused),
        fault=fault[0] if fault and answer is None else None,
        price=answer.price if answer else None,
    )


def _interval(value: dict | None) -> Interval | None:
    return None if value is None else Interval(**value)


def _method_row(value: dict[str, Any]) -> MethodRow:
    found = value["score"]
    return MethodRow(**value | {"score": Score(**found | {"interval": _interval(found["interval"])})})


def _judged(value: dict[str, Any] | None) -> Judged | None:
    if value is None:
        return None
    rows = tuple(JudgedRow(**row | {"share": _interval(row["share"])}) for row in value["rows"])
    return Judged(**value | {"rows": rows})


def _paired_test(value: dict[str, Any]) -> PairedTest:
    difference = _interval(value["difference"])
    assert difference is not None
    return PairedTest(**value | {"difference": difference})
