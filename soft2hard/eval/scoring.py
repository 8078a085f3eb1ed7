"""Outcomes of all methods for the cases of one seed, scored on test examples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from soft2hard.eval.cells import kind_of
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.metrics.measurement import Comparison, Measurement, measure
from soft2hard.eval.metrics.scrutability import perplexities
from soft2hard.eval.metrics.text import class_rate, embedding_cosines, exact_task, overlap, rouge
from soft2hard.eval.records import ResultRow
from soft2hard.lm.shared_prefix import Runner

_MEASURED = (
    "score",
    "loss",
    "agreement",
    "kl",
    "top1_agreement",
    "logit_distance",
    "embedding_distance",
    "embedding_cosine",
)
"""Columns that measurements have by the same names."""
TOO_LONG = "the prompt does not fit the subject's context"


def score_seed(
    seed: int,
    cases: Sequence[Case],
    outcomes: Mapping[str, Mapping[str, Outcome]],
    bench: Bench,
    runner: Runner | None = None,
) -> list[ResultRow]:
    """One row for each method's outcome for each case; `outcomes` are by label, then by task.

    All prompts of a task are measured together, so that its soft prompt is run once.
    """
    comparisons, cells = [], []
    for case in cases:
        found = {label: of_task[case.task.name] for label, of_task in outcomes.items() if case.task.name in of_task}
        whole = {label: outcome for label, outcome in found.items() if outcome.failure is None}
        comparisons.append(Comparison(case.task, tuple(o.prompt for o in whole.values()), case.soft_prompt))
        cells.append((case, found, list(whole)))
    measured = measure(bench.subject, comparisons, runner)
    rows: list[ResultRow] = []
    for (case, found, labels), of_case in zip(cells, measured, strict=True):
        by_label = dict(zip(labels, of_case, strict=True))
        rows += [_row(label, seed, case, outcome, by_label.get(label)) for label, outcome in found.items()]
    return _with_cosines(_with_perplexities(rows, bench), cases, bench)


def _row(label: str, seed: int, case: Case, outcome: Outcome, measured: Measurement | None) -> ResultRow:
    failure = outcome.failure or (TOO_LONG if measured is None else None)
    kind = kind_of(outcome.prompt)
    figures: dict[str, object] = {}
    if measured is not None:
        figures = {name: getattr(measured, name) for name in _MEASURED}
    if kind == "hard":
        figures |= _text_figures(outcome.prompt, case)
    return ResultRow(
        method=label,
        task=case.task.name,
        family=case.task.family,
        seed=seed,
        kind=kind,
        prompt=outcome.prompt if kind == "hard" else None,
        failure=failure,
        **figures,
        verdict=outcome.trace.get("verdict"),
        confidence=outcome.trace.get("confidence"),
        seconds=outcome.cost.seconds,
        model_calls=outcome.cost.model_calls,
        tokens=outcome.cost.tokens,
        trace=outcome.trace,
    )


def _text_figures(text: str, case: Case) -> dict[str, object]:
    """Figures of a hard prompt's words: against the gold instruction where there is one, and its label words."""
    task, figures = case.task, {}
    if task.instruction:
        words, characters = rouge(text, [task.instruction]), overlap(text, [task.instruction])
        figures = {"rouge1": words.rouge1, "rouge2": words.rouge2, "rougeL": words.rougeL}
        figures |= {"bleu": characters.bleu, "chrf": characters.chrf, "exact_task": exact_task(text, task.instruction)}
    if task.labels:
        figures["class_rate"] = class_rate(text, task.labels)
    return figures


def _with_perplexities(rows: list[ResultRow], bench: Bench) -> list[ResultRow]:
    if bench.reference is None:
        return rows
    texts = sorted({row.prompt for row in rows if row.prompt})
    of_text = dict(zip(texts, perplexities(bench.reference, texts), strict=True))
    return [replace(row, perplexity=of_text[row.prompt]) if row.prompt else row for row in rows]


def _with_cosines(rows: list[ResultRow], cases: Sequence[Case], bench: Bench) -> list[ResultRow]:
    """Cosine of each prompt's embedding with its gold instruction's, where there is an encoder."""
    gold = {case.task.name: case.task.instruction for case in cases}
    wanted = [i for i, row in enumerate(rows) if row.prompt and gold[row.task]]
    if bench.encoder is None or not wanted:
        return rows
    texts, golds = [rows[i].prompt for i in wanted], [gold[rows[i].task] for i in wanted]
    of_row = dict(zip(wanted, embedding_cosines(texts, golds, bench.encoder), strict=True))
    return [replace(row, sentence_cosine=of_row.get(i)) for i, row in enumerate(rows)]
