"""The results of a transfer: scores by model and method, their differences, their cost, and every answer.

Answers are compared as `task_score.compared` has them; the raw ones stay in the ledger. Answers that are lacking are
counted apart: they are neither right nor wrong.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from more_itertools import map_reduce
from pydantic import TypeAdapter

from soft2hard.api.answers import Answer
from soft2hard.api.ledger import Ledger, Spent
from soft2hard.api.prices import Estimate, estimate_table, money, sample_text, table, total
from soft2hard.errors import UserError
from soft2hard.eval.intervals import (
    Interval,
    by_task,
    difference_interval,
    mean_interval,
    percentile_interval,
    sign_flip_p_value,
)
from soft2hard.eval.metrics.task_score import compared, grade
from soft2hard.eval.transfer.material import SoftScores
from soft2hard.eval.transfer.plan import Cell, Judged
from soft2hard.storage.files import atomic_write

SCHEMA_VERSION = 1
SOFT_PROMPT = "soft prompt"

Unit = tuple[str, int, int, int]
"""Task, seed of its examples, example, repeat: what two prompts are compared on."""


@dataclass(frozen=True)
class Scored:
    """One answer against what was wanted."""

    unit: Unit
    metric: str
    answer: str | None
    """None: there is none."""
    refused: bool
    """A refusal is an answer, and wrong."""
    reference: str
    lack: str | None = None
    """Of a reply without an answer: 'no text' or 'cut off'."""
    cut_short: bool = False
    """Whether the limit on tokens ended the answer."""


@dataclass(frozen=True)
class Score:
    """The score of a method on a model."""

    interval: Interval | None
    """Mean over tasks of the task's own metric, 0 to 1, with its bootstrap interval over tasks; with a single task,
    over its examples. None where there is no answer at all."""
    n_tasks: int
    """Tasks with at least one answer."""
    n_answers: int
    n_refused: int
    n_missing: int
    """Questions without an answer."""
    n_no_text: int = 0
    """Of these, replies that hold no text, such as reasoning or a call of a tool alone."""
    n_cut_off: int = 0
    """Of these, replies whose limit on tokens came before any text."""
    n_cut_short: int = 0
    """Of the answers, those that the limit on tokens ended; they are scored as they are."""


@dataclass(frozen=True)
class PairedTest:
    """A comparison of two methods on the same model, tasks and examples."""

    first: str
    second: str
    difference: Interval
    """Score of the first minus that of the second."""
    p_value: float
    """Two-sided sign-flip permutation test over pairs, adjusted for the number of comparisons (Holm 1979)."""
    n_pairs: int
    unit: str
    """'tasks' or, with a single task, 'examples'."""


def score(answers: Sequence[Scored]) -> Score:
    """The score of one method on one model."""
    had = [a for a in answers if a.answer is not None]
    n_refused = sum(a.refused for a in had)
    units = _by_task(had)
    lacks = Counter(a.lack for a in answers)
    counts = (len(units), len(had), n_refused, len(answers) - len(had), lacks["no text"], lacks["cut off"])
    counts = (*counts, sum(a.cut_short for a in had))
    if not units:
        return Score(None, *counts)
    interval = mean_interval(list(units.values())) if len(units) > 1 else _over_examples(had)
    return Score(interval, *counts)


def _over_examples(answers: Sequence[Scored]) -> Interval:
    """The metric of one task with an interval over its examples."""
    if answers[0].metric != "f1":
        return mean_interval(list(_by_example(answers).values()))
    # F1 is no mean over examples, so the whole of it is resampled.
    examples, rng = list(map_reduce(answers, lambda a: a.unit[:3]).values()), np.random.default_rng(0)
    draws = rng.integers(len(examples), size=(1000, len(examples)))
    values = [_task_score([answer for i in draw for answer in examples[i]]) for draw in draws]
    return percentile_interval(_task_score(answers), np.array(values))


def paired_tests(answers: Mapping[str, Sequence[Scored]], soft: SoftScores = SoftScores()) -> list[PairedTest]:
    """All pairs of methods on one model, each over the examples that both have answers to; and each method against the
    soft prompts on their own subject, where it has an answer to every example of several tasks.

    Pairs are of tasks, since the examples of one task are not independent; of examples where there is one task.
    """
    pairs = [_paired(first, second, answers) for first, second in combinations(answers, 2)]
    if soft.same_examples:
        pairs += [_against_soft(method, of_method, soft) for method, of_method in answers.items()]
    return _holm([pair for pair in pairs if pair is not None])


def _against_soft(method: str, answers: Sequence[Scored], soft: SoftScores) -> PairedTest | None:
    """A soft prompt's answers to single examples are not kept: only a task with all answers can be compared."""
    tasks = map_reduce(answers, lambda a: a.unit[:2])
    whole = {at: some for at, some in tasks.items() if at in soft.values and all(a.answer is not None for a in some)}
    ours = by_task((task, _task_score(some)) for (task, _), some in whole.items())
    theirs = by_task((task, soft.values[task, seed]) for task, seed in whole)
    if len(ours) < 2:
        return None
    x, y = np.array(list(ours.values())), np.array(list(theirs.values()))
    return PairedTest(method, SOFT_PROMPT, difference_interval(x, y), sign_flip_p_value(x - y), len(x), "tasks")


def _paired(first: str, second: str, answers: Mapping[str, Sequence[Scored]]) -> PairedTest | None:
    had_a, had_b = ({a.unit: a for a in answers[name] if a.answer is not None} for name in (first, second))
    common = sorted(had_a.keys() & had_b.keys())
    if not common:
        return None
    sides = [had_a[unit] for unit in common], [had_b[unit] for unit in common]
    unit = "tasks" if len({u[0] for u in common}) > 1 else "examples"
    values_of = _by_task if unit == "tasks" else _by_example
    x, y = (np.array(list(values_of(side).values()), dtype=float) for side in sides)
    return PairedTest(first, second, difference_interval(x, y), sign_flip_p_value(x - y), len(x), unit)


def _holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    adjusted = [0.0] * len(tests)
    worst = 0.0
    for rank, i in enumerate(sorted(range(len(tests)), key=lambda i: tests[i].p_value)):
        worst = max(worst, min(1.0, (len(tests) - rank) * tests[i].p_value))
        adjusted[i] = worst
    return [replace(test, p_value=p) for test, p in zip(tests, adjusted, strict=True)]


def _by_task(answers: Sequence[Scored]) -> dict[str, float]:
    """Each task's metric, averaged over seeds; repeats count as further answers."""
    scores = map_reduce(answers, lambda a: a.unit[:2], reducefunc=_task_score)
    return by_task((task, value) for (task, _), value in scores.items())


def _by_example(answers: Sequence[Scored]) -> dict[tuple, float]:
    """Each example's score, averaged over repeats."""
    return map_reduce(answers, lambda a: a.unit[:3], lambda a: _task_score([a]), lambda scores: float(np.mean(scores)))


def _task_score(answers: Sequence[Scored]) -> float:
    texts = ["" if a.refused else str(a.answer) for a in answers]
    return grade(answers[0].metric, texts, [a.reference for a in answers])


# --- the records ---------------------------------------------------------------------------------


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
    """Raw; None where there is none."""
    normalised: str | None
    """As it was compared."""
    refused: bool
    fault: str | None
    """Kind of the last fault of a request without an answer, 'no text' or 'cut off' of a reply without one; None where
    nothing was sent."""
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
    input_tokens: int | None
    """Of all answers; None where a reply does not say."""
    output_tokens: int | None


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
        remedy = "Give the file that transfer wrote."
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["schema_version"] != SCHEMA_VERSION:
                raise UserError(f"{path} has schema {value['schema_version']}.", "Update soft2hard.")
            return TypeAdapter(cls).validate_python(value)
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.", remedy) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no result of a transfer.", remedy) from error


def collect(cells: Sequence[Cell], ledger: Ledger, soft: SoftScores = SoftScores()) -> TransferResult:
    """Score what the ledger holds of a plan; nothing is sent."""
    stored = ledger.answers(cell.request.key for cell in cells)
    faults = ledger.last_faults(cell.request.key for cell in cells if cell.request.key not in stored)
    rows, tests = [], {}
    by_model = map_reduce(cells, lambda cell: cell.model.title)
    for model, of_model in by_model.items():
        methods = map_reduce(of_model, lambda cell: cell.prompt.method)
        scored = {method: [_scored(c, stored.get(c.request.key)) for c in some] for method, some in methods.items()}
        rows += [_row(model, method, some, stored, score(scored[method])) for method, some in methods.items()]
        tests[model] = tuple(paired_tests(scored, soft))
    return TransferResult(
        rows=tuple(rows),
        tests=tests,
        spent=ledger.spent(),
        soft_prompt=_soft_score(soft),
        answers=tuple(_answer_row(cell, stored.get(cell.request.key), faults) for cell in cells),
        requests={model: of_model[0].request.canonical for model, of_model in by_model.items()},
    )


def _soft_score(soft: SoftScores) -> Interval | None:
    of_tasks = by_task((task, value) for (task, _), value in soft.values.items())
    return mean_interval(list(of_tasks.values())) if of_tasks else None


def _scored(cell: Cell, answer: Answer | None) -> Scored:
    unit = (cell.task.name, cell.prompt.seed, cell.example, cell.request.repeat)
    text, refused, lack = (answer.text, answer.refused, answer.lack) if answer else (None, False, None)
    said = None if lack or text is None else cell.request.cut(text)
    # An answer that goes on behind its own end is whole.
    is_whole = said is None or refused or said.strip() != text.strip()
    cut_short = not is_whole and answer.finish_reason == "length"
    return Scored(unit, cell.task.scored_by, said, refused, cell.wanted.output, lack, cut_short)


def _row(model: str, method: str, cells: Sequence[Cell], stored: dict[str, Answer], found: Score) -> MethodRow:
    answers = {c.request.key: stored[c.request.key] for c in cells if c.request.key in stored}.values()
    prices = [answer.price for answer in answers]
    on_subject = [prompt.subject_score for prompt in {c.prompt.id: c.prompt for c in cells}.values()]
    return MethodRow(
        model=model,
        method=method,
        score=found,
        subject_score=None if None in on_subject else sum(on_subject) / len(on_subject),
        price=None if None in prices or not prices else float(sum(prices)),
        input_tokens=total([answer.input_tokens for answer in answers]),
        output_tokens=total([answer.output_tokens for answer in answers]),
    )


def _answer_row(cell: Cell, answer: Answer | None, faults: dict[str, tuple[str, str]]) -> AnswerRow:
    fault = answer.lack if answer else faults.get(cell.request.key, (None,))[0]
    text = answer.text if answer and not answer.lack else None
    return AnswerRow(
        model=cell.model.title,
        method=cell.prompt.method,
        prompt_id=cell.prompt.id,
        task=cell.task.name,
        example=cell.example,
        repeat=cell.request.repeat,
        input=cell.wanted.input,
        wanted=cell.wanted.output,
        answer=text,
        normalised=None if text is None else compared(cell.request.cut(text), cell.task.scored_by),
        refused=bool(answer and answer.refused),
        fault=fault,
        price=answer.price if answer else None,
    )


_RIVALS = ("gold", "few-shot", "few-shot-all", "none", SOFT_PROMPT)
_CLEAR = 0.05


def verdicts(result: TransferResult) -> list[str]:
    """One sentence for each method that is no reference point against each that is, and against the soft prompts."""
    said = []
    for model, tests in result.tests.items():
        for test in tests:
            first, second, value = test.first, test.second, test.difference
            if first in _RIVALS and second not in _RIVALS:
                first, second = second, first
                ends = [None if end is None else -end for end in (value.high, value.low)]
                value = Interval(-value.value, *ends)
            if first not in _RIVALS and second in _RIVALS:
                which = "no clear difference" if test.p_value >= _CLEAR else "better" if value.value > 0 else "worse"
                said.append(f"{model}: {first} against {second}, {which}: {value} (p = {test.p_value:.2g}).")
        if result.soft_prompt is not None:
            own = result.soft_prompt.value
            said += [
                f"{model}: {row.method} keeps {row.score.interval.value / own:.2f} of the score that the soft prompts "
                "have on their own subject."
                for row in result.rows
                if row.model == model and row.method not in _RIVALS and row.score.interval and own
            ]
    return said


# --- text for people: Markdown tables, methods by models -----------------------------------------


def estimate_text(estimates: Sequence[Estimate]) -> str:
    """Requests, tokens and price of each model, and one request of each exactly as it would be sent."""
    sources = [f"Price of {e.model}: {e.price_source}." for e in estimates]
    return "\n".join([estimate_table(estimates), *sources, *(f"\n{sample_text(e)}" for e in estimates)])


def result_text(result: TransferResult) -> str:
    """Scores, answers that are lacking, costs, and differences between methods."""
    models = list(dict.fromkeys(row.model for row in result.rows))
    methods = map_reduce(result.rows, lambda row: row.method)
    scores: list[tuple] = [(SOFT_PROMPT, result.soft_prompt, *["cannot be sent"] * len(models))]
    scores = scores if result.soft_prompt else []
    for method, rows in methods.items():
        at, on_subject = {row.model: _shown(row.score) for row in rows}, rows[0].subject_score
        shown = "" if on_subject is None else f"{on_subject:.3f}"
        scores.append((method, shown, *(at.get(model, "") for model in models)))
    lines = table(("method", "on the subject", *models), scores)
    columns = ("method", "model", "answers", "refused", "no answer", "tokens in / out", "cost")
    counts = []
    for row in result.rows:
        s, tokens = row.score, ["unknown" if n is None else n for n in (row.input_tokens, row.output_tokens)]
        lacks = [f"{n} {what}" for n, what in ((s.n_no_text, "no text"), (s.n_cut_off, "cut off")) if n]
        missing = f"{s.n_missing} ({', '.join(lacks)})" if lacks else s.n_missing
        answered = f"{s.n_answers} ({s.n_cut_short} cut short)" if s.n_cut_short else s.n_answers
        shown = (answered, s.n_refused, missing, f"{tokens[0]} / {tokens[1]}", money(row.price))
        counts.append((row.method, row.model, *shown))
    lines += ["", *table(columns, counts)]
    if judged := result.judged:
        judgements = [
            (row.method, row.model, row.share or "nothing judged", row.n_judged, row.n_unclear, row.n_missing)
            for row in judged.rows
        ]
        columns = ("method", "model", f"right, says {judged.judge}", "judged", "unclear", "not judged")
        lines += ["", *table(columns, judgements)]
    tests = [
        (model, f"{t.first} - {t.second}", t.difference, f"{t.p_value:.2g}", f"{t.n_pairs} {t.unit}")
        for model, some in result.tests.items()
        for t in some
    ]
    if tests:
        lines += ["", *table(("model", "difference", "value [95 % interval]", "p (Holm)", "pairs"), tests)]
    said = verdicts(result)
    return "\n".join([*lines, *(["", *said] if said else []), "", _spent(result.spent)])


def _shown(score: Score) -> str:
    return "no answers" if score.interval is None else str(score.interval)


def _spent(spent: Spent) -> str:
    parts = [money(spent.known)] if spent.known or not spent.unknown else []
    parts += [f"{spent.unknown} answers whose price is unknown"] if spent.unknown else []
    text = f"All requests of this ledger: {', and '.join(parts)}"
    if spent.possible:
        text += f"; answers lost on the way may have cost up to {money(spent.possible)} more"
    return text + "."
