"""The results of an evaluation: outcomes scored on test examples, and the files of a finished run.

The run's record is written last, with the time taken: a run without it is unfinished.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from random import Random
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save_file

from soft2hard.data_gen.tasks import StyleTask, Task
from soft2hard.eval.cases import kind_of
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.metrics.descriptions import BestReadings, keyword_scores
from soft2hard.eval.metrics.measurement import Comparison, Measurement, measure
from soft2hard.eval.metrics.scrutability import (
    MAUVE_OF,
    has_mauve,
    mauve,
    perplexities,
    shuffled_words,
    subject_encoder,
)
from soft2hard.eval.metrics.style import StyleScores
from soft2hard.eval.metrics.text import class_rate, closest_text, exact_task, overlap, rouge
from soft2hard.eval.rewriting import Styling, has_room
from soft2hard.eval.run_records import ResultRow, RunRecord, TaskRecord
from soft2hard.lm.sentences import embedding_cosines
from soft2hard.lm.subject import Subject
from soft2hard.storage.files import atomic_write
from soft2hard.storage.run_folders import write_json

_COLUMNS = {field.name for field in fields(ResultRow)}
_TASKS_AT_ONCE = 32
"""Whose prompts are measured together; progress is told in between."""
_SHOWN_EXAMPLES = 8
TOO_LONG = "the prompt does not fit the subject's context"


Losses = Mapping[int, Mapping[str, Sequence[tuple[int, float]]]]
"""Steps with validation losses of the tuning, by seed and task."""


# --- scores -----------------------------------------------------------------------------------


def score_seed(
    seed: int,
    cases: Sequence[Case],
    outcomes: Mapping[str, Mapping[str, Outcome]],
    bench: Bench,
    on_scored: Callable[[int, int], None] = lambda done, total: None,
) -> list[ResultRow]:
    """One row for each method's outcome for each case; `outcomes` are by label, then by task.

    All prompts of a task are measured together, so that its soft prompt is run once. `on_scored` hears how many of how
    many tasks are scored.
    """
    rows = []
    for start in range(0, len(cases), _TASKS_AT_ONCE):
        on_scored(start, len(cases))
        found, comparisons = [], []
        for case in cases[start : start + _TASKS_AT_ONCE]:
            name = case.task.name
            of_case = {label: of_task[name] for label, of_task in outcomes.items() if name in of_task}
            whole = {label: outcome.prompt for label, outcome in of_case.items() if outcome.failure is None}
            found.append((case, of_case, list(whole)))
            comparisons.append(Comparison(case.task, tuple(whole.values()), case.soft_prompt))
        for (case, of_case, labels), measured in zip(found, measure(bench.subject, comparisons), strict=True):
            by_label = dict(zip(labels, measured, strict=True))
            rows += [_row(label, seed, case, outcome, by_label.get(label)) for label, outcome in of_case.items()]
    on_scored(len(cases), len(cases))
    return _with_style(_with_cosines(_with_perplexities(rows, bench), cases, bench), cases, outcomes, bench)


def _row(label: str, seed: int, case: Case, outcome: Outcome, measured: Measurement | None) -> ResultRow:
    kind = kind_of(outcome.prompt)
    figures = {name: value for name, value in vars(measured).items() if name in _COLUMNS} if measured else {}
    if kind == "hard":
        figures |= _text_figures(outcome.prompt, case.task)
    figures |= {field.name: outcome.trace.get(field.name) for field in fields(BestReadings)}
    return ResultRow(
        method=label,
        task=case.task.name,
        family=case.task.family,
        seed=seed,
        kind=kind,
        prompt=outcome.prompt if kind == "hard" else None,
        failure=outcome.failure or (None if measured else TOO_LONG),
        **figures,
        verdict=outcome.trace.get("verdict"),
        confidence=outcome.trace.get("confidence"),
        **asdict(outcome.cost),
        trace=outcome.trace,
    )


def _text_figures(text: str, task: Task) -> dict[str, object]:
    """Figures of a hard prompt's words: against the gold instruction where there is one, and its label words."""
    figures: dict[str, object] = {}
    if task.instruction:
        gold = task.instruction
        figures = vars(rouge(text, [gold])) | vars(overlap(text, [gold])) | {"exact_task": exact_task(text, gold)}
        figures["nearest_rougeL"] = rouge(text, [gold, *task.paraphrases]).rougeL
    if task.labels:
        figures["class_rate"] = class_rate(text, task.labels)
    if keywords := keyword_scores(text, task):
        figures |= {name: value for name, value in vars(keywords).items() if name in _COLUMNS}
    return figures


def _with_perplexities(rows: list[ResultRow], bench: Bench) -> list[ResultRow]:
    if bench.reference is None:
        return rows
    texts = sorted({row.prompt for row in rows if row.prompt})
    of_text = dict(zip(texts, perplexities(bench.reference, texts), strict=True))
    return [replace(row, perplexity=of_text[row.prompt]) if row.prompt else row for row in rows]


def _with_cosines(rows: list[ResultRow], cases: Sequence[Case], bench: Bench) -> list[ResultRow]:
    """Cosines of each prompt's embedding with those of its gold instruction and paraphrases, where there is an
    encoder."""
    golds = {c.task.name: c.task.phrasings for c in cases if c.task.instruction}
    pairs = [(i, gold) for i, row in enumerate(rows) if row.prompt for gold in golds.get(row.task, ())]
    if bench.encoder is None or not pairs:
        return rows
    of_row: dict[int, list[float]] = {}
    cosines = embedding_cosines([rows[i].prompt for i, _ in pairs], [gold for _, gold in pairs], bench.encoder)
    for (i, _), cosine in zip(pairs, cosines, strict=True):
        of_row.setdefault(i, []).append(cosine)
    return [
        replace(row, sentence_cosine=of_row[i][0], nearest_cosine=max(of_row[i])) if i in of_row else row
        for i, row in enumerate(rows)
    ]


def _with_style(
    rows: list[ResultRow], cases: Sequence[Case], outcomes: Mapping[str, Mapping[str, Outcome]], bench: Bench
) -> list[ResultRow]:
    """Scores of the rewritings of test sentences under each prompt, for style-transfer tasks."""
    tasks = {case.task.name: case.task for case in cases if isinstance(case.task, StyleTask)}
    if bench.style is None or not tasks:
        return rows
    found: dict[tuple[str, str], dict[str, float | None]] = {}
    for name, task in tasks.items():
        # A row without a score has no prompt, or one that does not fit the context; a rewriting takes more room.
        labels = [
            row.method
            for row in rows
            if row.task == name
            and row.score is not None
            and has_room(bench.subject, outcomes[row.method][name].prompt, [example.input for example in task.test])
        ]
        if not labels:
            continue
        texts = bench.style.best_rewritings(
            bench.subject, task, [outcomes[label][name].prompt for label in labels], bench.seed
        )
        scores = bench.style.scores(task, texts, bench.reference)
        found |= {(label, name): asdict(one) for label, one in zip(labels, scores, strict=True)}
    return [replace(row, **found.get((row.method, row.task), {})) for row in rows]


def style_points(
    cases: Mapping[int, Sequence[Case]], style: Styling | None, reference: Subject | None
) -> dict[str, dict[str, float | None]]:
    """Scores of the human references of style-transfer tasks, and of their sentences unchanged; means over tasks and
    seeds."""
    tasks = [case.task for of_seed in cases.values() for case in of_seed if isinstance(case.task, StyleTask)]
    if style is None or not tasks:
        return {}
    both = [style.scores(t, ([e.output for e in t.test], [e.input for e in t.test]), reference) for t in tasks]
    names = ("human references", "unchanged sentences")
    return {name: _mean_scores(scores) for name, scores in zip(names, zip(*both, strict=True), strict=True)}


def mauve_points(
    rows: Sequence[ResultRow], cases: Mapping[int, Sequence[Case]], reference: Subject | None
) -> dict[str, dict[str, float]]:
    """MAUVE of each method's distinct hard prompts with the phrasings that come with the tasks, its own left out.

    Likewise of one half of the phrasings with the other, and of the first half with their words in random order: what
    natural texts reach, and what is poor. All compare the same number of texts. Each with the number of its `texts`;
    empty where there are too few, and without a reference LM or the package.
    """
    if reference is None or not has_mauve():
        return {}
    tasks = {c.task.name: c.task for of_seed in cases.values() for c in of_seed if c.task.instruction}
    natural = list(dict.fromkeys(text for task in tasks.values() for text in task.phrasings))
    Random(0).shuffle(natural)  # for the halves
    half = len(natural) // 2
    sets = {
        label: [r.prompt for r in rows if r.method == label and r.prompt] for label in {r.method: None for r in rows}
    }
    sets |= {HALVES: natural[:half], SHUFFLED: [shuffled_words(text) for text in natural[:half]]}
    every = sorted({text for texts in (natural, *sets.values()) for text in texts})
    embedded = dict(zip(every, subject_encoder(reference, unread=True)(every), strict=True)) if every else {}
    embedded = {text: vector for text, vector in embedded.items() if np.isfinite(vector).all()}
    found: dict[str, dict[str, float]] = {}
    for name, texts in sets.items():
        ours = {text: None for text in texts if text in embedded}  # distinct ones, in order
        others = natural[half:] if name in (HALVES, SHUFFLED) else natural
        theirs = [text for text in others if text in embedded and text not in ours]
        if min(len(ours), len(theirs)) >= MAUVE_OF:
            both = (np.stack([embedded[text] for text in some]) for some in (ours, theirs))
            found[name] = {"texts": float(len(ours)), "mauve": mauve(*both)}
    return found


HALVES, SHUFFLED = "phrasings, half against half", "phrasings, words shuffled"
"""What `mauve_points` measures beside methods."""


def _mean_scores(scores: Sequence[StyleScores]) -> dict[str, float | None]:
    columns = {name: [getattr(one, name) for one in scores] for name in asdict(scores[0])}
    return {name: None if None in values else fmean(values) for name, values in columns.items()}


# --- files ------------------------------------------------------------------------------------


def write_results(
    folder: Path,
    record: RunRecord,
    rows: Sequence[ResultRow],
    cases: Mapping[int, Sequence[Case]],
    losses: Losses,
    trained_on: Sequence[str] = (),
) -> None:
    """Everything that `run_records` says a finished run holds, its record last.

    `trained_on` are the instructions that the run's translator has seen in training, if that is known.
    """
    # Traces differ from method to method: a column of JSON text holds them all.
    table = pa.Table.from_pylist([asdict(row) | {"trace": json.dumps(row.trace)} for row in rows])
    with atomic_write(folder / "results.parquet") as temporary:
        pq.write_table(table, temporary)
    prompts = {f"{seed}/{case.task.name}": case.soft_prompt for seed, of_seed in cases.items() for case in of_seed}
    with atomic_write(folder / "soft_prompts.safetensors") as temporary:
        save_file({name: prompt.embeddings.contiguous() for name, prompt in prompts.items()}, temporary)
    write_json(folder / "results.json", [asdict(row) for row in rows])
    write_json(folder / "tasks.json", [_told(case.task, trained_on) for case in next(iter(cases.values()))])
    with atomic_write(folder / "training.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in tuning_curves(losses)), encoding="utf-8")
    write_json(folder / "run.json", asdict(record))


def tuning_curves(losses: Losses) -> Iterator[dict[str, float]]:
    """Mean validation loss over tasks by step, one column a seed; a task that has stopped keeps its last loss."""
    steps = sorted({step for of_seed in losses.values() for of_task in of_seed.values() for step, _ in of_task})
    for step in steps:
        line: dict[str, float] = {"step": step}
        for seed, of_seed in losses.items():
            now = [max((s, loss) for s, loss in of_task if s <= step)[1] for of_task in of_seed.values() if of_task]
            if now:
                line[f"validation loss, seed {seed}"] = fmean(now)
        yield line


def _told(task: Task, trained_on: Sequence[str]) -> dict[str, object]:
    closest = closest_text(task.instruction, trained_on) if task.instruction and trained_on else None
    examples = tuple((e.input, e.output) for e in task.train[:_SHOWN_EXAMPLES])
    return asdict(TaskRecord(task.name, task.family, task.instruction, task.labels, examples, closest))
