"""The contents of a report: sections of sentences, tables and charts, for the page and the Markdown summary alike."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from math import isnan
from typing import TYPE_CHECKING

import pandas as pd

from soft2hard.api.prices import money
from soft2hard.errors import UserError
from soft2hard.eval import certificate
from soft2hard.eval.intervals import Interval
from soft2hard.eval.report import charts, figures, searches
from soft2hard.eval.report.ablations import ablations
from soft2hard.eval.report.figures import AGREEMENT, FIGURES, KL, PERPLEXITY, SCORE, Comparison, Figure, number_text
from soft2hard.eval.report.parts import Section, Table, Value
from soft2hard.eval.report.reading import Run
from soft2hard.eval.run_records import NOTEWORTHY_UNKNOWN

if TYPE_CHECKING:
    from soft2hard.eval.transfer.results import TransferResult

CLEAR = 0.05
"""The p-value below which a difference is marked; one pair in twenty would be by chance."""
SUCCESS = 0.9
"""A prompt succeeds whose score is at least this part of the soft prompt's on the same task and seed; where the run has
no soft prompts, one whose score is at least this."""
KEPT_RATE = 0.95
"""The success rate that is asked of what is kept."""
_COSTS = {"seconds": "Seconds", "model_calls": "Model calls", "tokens": "Tokens"}
_VERDICTS = ("faithful", "doubtful", "failed", "unverified")
_NO_CURVES = ("step", "epoch", "runtime", "per_second", "flos", "seconds")

Found = dict[tuple[str, Figure], Interval | None]
"""The figures of each method."""


def contents(run: Run, comparisons: Sequence[Comparison], transfers: Sequence["TransferResult"]) -> list[Section]:
    """All that the run has something for. Raises UserError where transfers are not of this run."""
    found = {(method, figure): figures.estimate(run, method, figure) for method in run.methods for figure in FIGURES}
    parts = [_methods(run, found), searches.trials(run), _differences(run), _tradeoff(run, found)]
    parts += [
        _options(run, found),
        _families(run),
        _calibration(run),
        searches.curves(run),
        _style(run, found),
        _kinds(run),
        _certificate(run),
        _transfer(run, transfers),
        _failures(run),
        _cost(run, found),
        _training(run),
        _map(run),
        _provenance(run),
    ]
    return [*map(_comparison, comparisons), *(part for part in parts if part)]


def heading(run: Run) -> list[str]:
    """The size of the run, and what its readers must know first."""
    record, n_seeds = run.record, len(run.record.seeds)
    size = f"{len(run.methods)} methods, {len(run.tasks)} tasks of {len(run.families)} families, {n_seeds} seed"
    said = [size + "s" * (n_seeds > 1) + "."]
    if record.unknown_tokens > NOTEWORTHY_UNKNOWN:
        said.append(
            f"{record.unknown_tokens:.0%} of the tokens of instructions and examples are unknown to the subject: the "
            "scores say little about a model that knows them."
        )
    if len(run.tasks) == 1:
        said.append("With a single task there is nothing to resample: figures have no intervals.")
    if record.dropped:
        reasons = "; ".join(f"{n} {reason}" for reason, n in record.dropped.items())
        said.append(f"Left out of the collection, over all seeds: {reasons}.")
    return said


def main_table(run: Run, found: Found | None = None, every: bool = False) -> Table:
    """Methods by main figures, or by every figure, as far as any method has them."""
    candidates = [figure for figure in FIGURES if figure.main or every]
    found = found or {(method, f): figures.estimate(run, method, f) for method in run.methods for f in candidates}
    shown = [f for f in candidates if any(found[method, f] for method in run.methods)]
    failed = {m: f"{sum(r.failure is not None for r in rows)} of {len(rows)}" for m, rows in run.by_method.items()}
    rows = [[method, failed[method], *(found[method, f] for f in shown)] for method in run.methods]
    return Table(["method", "failed", *(f.title for f in shown)], rows, "All figures" if every else "", not every)


def _methods(run: Run, found: Found) -> Section:
    n_cells, n_tasks = len(run.tasks) * len(run.record.seeds), len(run.tasks)
    lacking = {method: n_cells - len(rows) for method, rows in run.by_method.items()}
    notes = [f"{method} has no row for {n} cells; no figure counts them." for method, n in lacking.items() if n]
    main = [(m, f) for (m, f), interval in found.items() if interval and f.main and f is not figures.RECOVERY]
    counts = {(m, f): len(figures.per_task(run, m, f)) for m, f in main}
    if fewer := [f"{method}, {figure.title}: {n}" for (method, figure), n in counts.items() if n < n_tasks]:
        notes.append(f"Over fewer than all {n_tasks} tasks: {'; '.join(fewer)}.")
    if run.soft_label is None:
        notes.append("No method of the run gives the soft prompts themselves, so there is no recovery.")
    if points := run.record.reference_perplexity:
        natural, shuffled = number_text(points.natural), number_text(points.shuffled)
        notes.append(f"The gold instructions themselves have a perplexity of {natural}, words shuffled {shuffled}.")
        if points.inputs is not None:
            notes.append(f"The tasks' test inputs have a perplexity of {number_text(points.inputs)}.")
    meanings = [[f.title, f.meaning, f.better] for f in FIGURES if any(found[method, f] for method in run.methods)]
    meaning = Table(["figure", "meaning", "better is"], meanings, "What the figures mean", False)
    scores = {method: score for method in run.methods if (score := found[method, SCORE])}
    return Section(
        "Methods",
        "Seeds are averaged first; brackets are 95 % bootstrap intervals over tasks. A failed cell (a task and seed "
        "for which a method has no prompt) counts as 0 in the score and in other shares.",
        [main_table(run, found), main_table(run, found, every=True), meaning],
        [charts.dots("Score by method, with its 95 % interval", scores, "Score")] if scores else [],
        notes,
    )


def _differences(run: Run) -> Section | None:
    order, pairs = figures.ranked(run), figures.differences(run)
    if not pairs:
        return None
    values = pd.DataFrame(float("nan"), order[:-1], order[1:])
    clear, rows = values.notna(), {}
    for first, second, paired in pairs:
        values.loc[first, second] = paired.difference.value
        clear.loc[first, second] = paired.p_value < CLEAR
        rows[first, second] = [first, second, paired.difference, f"{paired.p_value:.2g}", paired.n_tasks]
    neighbours = [rows[pair] for pair in zip(order, order[1:], strict=False) if pair in rows]
    return Section(
        "Differences",
        "By mean score, each method against the next one: paired difference over tasks, p-value of a sign-flip "
        "permutation test. The page has all pairs, the method on the left less the one above, bold where "
        f"p < {CLEAR}, each pair by itself.",
        [
            Table(["method", "next", "difference", "p", "tasks"], neighbours),
            Table(["method", "other", "difference", "p", "tasks"], list(rows.values()), "All pairs", False),
        ],
        [charts.heat_map("Difference of scores, all pairs", values, clear)],
    )


def _tradeoff(run: Run, found: Found) -> Section | None:
    drawn = []
    for figure in (PERPLEXITY, KL, AGREEMENT):
        if points := [(m, m, found[m, figure], found[m, SCORE]) for m in run.methods if found[m, figure]]:
            axes = (figure.title + " (log)" * figure.log, "Score")
            drawn.append(charts.scatter(f"Score by {figure.title}", points, axes, run.methods, log_x=figure.log))
    text = (
        "Up is more accurate. A prompt reads more naturally where its perplexity under the reference LM is lower (the "
        "trade-off of arXiv 2504.02144), and is more faithful where the subject behaves more as under the soft prompt: "
        "a low divergence, a high agreement."
    )
    return Section("Naturalness and faithfulness", text, charts=drawn) if drawn else None


def _style(run: Run, found: Found) -> Section | None:
    methods = [method for method in run.methods if any(found[method, figure] for figure in figures.STYLE)]
    if not methods:
        return None
    shown = (*figures.STYLE, PERPLEXITY)
    rows = [[method, *(found[method, figure] for figure in shown)] for method in methods]
    points = run.record.style_points
    rows += [[name, *(scores.get(figure.key) for figure in figures.STYLE), None] for name, scores in points.items()]
    joint = figures.STYLE[-1]
    drawn = [(m, m, found[m, PERPLEXITY], found[m, joint]) for m in methods if found[m, PERPLEXITY] and found[m, joint]]
    axes = (f"{PERPLEXITY.title} of the prompt (log)", joint.title)
    return Section(
        "Style transfer",
        "Of the rewritings that the subject samples for a test sentence under a prompt, the one with the highest "
        "reward is measured (arXiv 2205.12548). Below the methods stand texts that no prompt made: what people wrote, "
        "and the sentences as they are.",
        [Table(["method", *(figure.title for figure in shown)], rows)],
        [charts.scatter("Joint score by perplexity of the prompt", drawn, axes, methods, log_x=True)] if drawn else [],
    )


def _kinds(run: Run) -> Section | None:
    """Whether a method's prompts are of the kind of what people write, all of them together."""
    if not run.record.mauve:
        return None
    ordered = sorted(run.record.mauve.items(), key=lambda one: -one[1]["mauve"])
    rows = [[name, int(of["texts"]), of["mauve"]] for name, of in ordered]
    return Section(
        "Kind of text",
        "MAUVE (arXiv 2102.01454): how alike a method's distinct prompts, over all tasks and seeds, and the phrasings "
        "that come with these tasks (its own left out) are as two distributions of texts, 0 to 1, by the reference "
        "LM's last hidden states, always with 100 texts drawn of either. It says whether prompts are natural "
        "instructions, not whether each is right; one half of the phrasings against the other shows what natural "
        "texts reach, the same with words shuffled what is poor.",
        [Table(["texts", "distinct", "MAUVE"], rows)],
    )


def _options(run: Run, found: Found) -> Section | None:
    """Score by the value of an option, where several methods differ in that option alone."""
    rows, drawn = [], []
    for one in ablations(run.record.methods):
        pairs = [(label, value) for label, value in zip(one.labels, one.values, strict=True) if found[label, SCORE]]
        rows += [[one.method, one.option, str(v), m, found[m, SCORE], found[m, PERPLEXITY]] for m, v in pairs]
        if one.is_numeric and pairs:
            points = [(one.method, label, float(value), found[label, SCORE]) for label, value in pairs]
            log = one.spans_magnitudes
            axes = (one.option + " (log)" * log, "Score")
            chart = charts.scatter(f"Score of {one.method} by {one.option}", points, axes, [one.method], log_x=log)
            drawn.append(chart.update_traces(mode="lines+markers").update_layout(showlegend=False))
    columns = ["method", "option", "value", "label", "score", "perplexity"]
    text = "Methods that differ in one option alone, all else being the same."
    return Section("Options", text, [Table(columns, rows)], drawn) if rows else None


def _families(run: Run) -> Section:
    shown, recovered = figures.by_family(run)
    what = "Mean score"
    if run.soft_label:
        shown = recovered.drop(columns=run.soft_label)
        what = f"Recovery: mean score divided by that of {run.soft_label} on the same tasks"
    n_tasks = Counter(task.family for task in run.tasks)
    texts = shown.map(lambda value: "–" if isnan(value) else f"{value:.2f}")
    rows = [[family, n_tasks[family], *texts.loc[family]] for family in run.families]
    table = Table(["family", "tasks", *shown.columns], rows, "Numbers")
    return Section("Families", f"{what}.", [table], [charts.heat_map(what.partition(":")[0], shown.T)])


def _calibration(run: Run) -> Section | None:
    rows, verdicts, notes, curves = [], [], [], {SCORE: {}, AGREEMENT: {}}
    for method in run.methods:
        verdicts += _verdicts(run, method)
        cells = run.cells[(run.cells["method"] == method) & run.cells["confidence"].notna()]
        scored = cells[cells["score"].notna()]
        judged = scored[scored["soft"] > 0]
        if n := len(judged):
            success = (judged["score"] >= SUCCESS * judged["soft"]).to_numpy()
            confidence = judged["confidence"].to_numpy()
            kept = figures.kept_at(confidence, success, KEPT_RATE)
            auroc = figures.auroc(confidence, success)
            rows.append([method, n, len(scored) - n, float(success.mean()), auroc, *kept])
        if not cells["confidence"].between(0, 1).all():
            notes.append(f"The confidence of {method} leaves the range from 0 to 1, so it is no probability.")
            continue
        for figure, found in curves.items():
            if len(known := cells[cells[figure.key].notna()]):
                found[method] = figures.reliability(*known[["confidence", figure.key]].to_numpy(float).T)
    drawn = []
    for figure, found in ((figure, found) for figure, found in curves.items() if found):
        errors = (f"{method} {number_text(figures.calibration_error(bins))}" for method, bins in found.items())
        notes.append(f"Expected calibration error, {figure.title.lower()}: {'; '.join(errors)}.")
        title = f"{figure.title} by confidence"
        drawn.append(charts.reliability_diagram(title, found, figure.title, run.methods))
    bar = f"{SUCCESS:.0%} of the soft prompt's score" if run.soft_label else f"a score of {SUCCESS}"
    text = (
        f"A prompt succeeds that reaches {bar}. Kept is the largest share of prompts, by confidence, of which "
        f"{KEPT_RATE:.0%} succeed, from the lowest confidence among them. Cells whose soft prompt scores 0 are left "
        "out. On the diagonal of a reliability diagram (ten bins of equal width), confidence equals outcome."
    )
    tables = [
        Table(["method", "cells", "left out", "succeed", "AUROC", "kept", "from"], rows),
        Table(["method", "verdict", "cells", "score", "recovery"], verdicts),
    ]
    tables = [table for table in tables if table.rows]
    return Section("Calibration", text, tables, drawn, notes) if tables or notes else None


def _verdicts(run: Run, method: str) -> Iterator[list[Value]]:
    """The prompts of a method by the verdict they bear, the most trusted first."""
    cells = run.cells[(run.cells["method"] == method) & run.cells["verdict"].notna()]
    for verdict in sorted(set(cells["verdict"]), key=lambda v: ([v != known for known in _VERDICTS], v)):
        part = cells[(cells["verdict"] == verdict) & cells["score"].notna()]
        base = part["soft"].sum() if run.soft_label else 0.0
        yield [method, verdict, len(part), float(part["score"].mean()), part["score"].sum() / base if base else None]


def _transfer(run: Run, results: Sequence["TransferResult"]) -> Section | None:
    if not results:
        return None
    if strange := {answer.task for result in results for answer in result.answers} - {task.name for task in run.tasks}:
        raise UserError(
            f"A result of transfer has tasks that the run {run.name} lacks, such as '{min(strange)}'.",
            "Give results of soft2hard transfer with this run's folder.",
        )
    found = [row for result in results for row in result.rows]
    pair, n = Counter((row.method, row.model) for row in found).most_common(1)[0]
    if n > 1:
        raise UserError(f"Two results have {pair[0]} on {pair[1]}.", "Give one result for each model and method.")
    rows, points = [], []
    for row in found:
        score = row.score
        rows.append([row.method, row.model, row.subject_score, score.interval, score.n_answers, score.n_refused])
        rows[-1] += [score.n_missing, row.input_tokens, row.output_tokens, money(row.price)]
        if score.interval and row.subject_score is not None:
            points.append((row.model, row.method, row.subject_score, score.interval))
    columns = ["method", "model", "on the subject", "on the model", "answers", "refused", "unavailable"]
    columns += ["input tokens", "output tokens", "cost"]
    from soft2hard.eval.transfer.results import verdicts as said_of

    axes, models = ("Score on the subject", "Score on the API model"), list(dict.fromkeys(row.model for row in found))
    return Section(
        "Transfer to API models",
        "Score of the same prompts on the subject and on models behind an API. Refusals count as wrong; unavailable "
        "answers are in no mean. The cost is that of the answers.",
        [Table(columns, rows), Table(["in words"], [[sentence] for result in results for sentence in said_of(result)])],
        [charts.diagonal(charts.scatter("Score by score on the subject", points, axes, models))] if points else [],
    )


def _certificate(run: Run) -> Section | None:
    found = run.certificate
    if found is None:
        return None
    shown = [key for key in certificate.FIGURES if any(found.interval(read, key) for read in found.reads)]
    n_tasks = {read: len(found.values(read, "nll")) for read in found.reads}
    rows = [[read, n, *(found.interval(read, key) for key in shown)] for read, n in n_tasks.items()]
    pairs = [(read, found.difference(read, "nll")) for read in found.reads if read != certificate.MATCHED]
    less = [[read, pair.difference, f"{pair.p_value:.2g}", pair.n_tasks] for read, pair in pairs if pair]
    strayed = [
        [w.task, w.towards, w.nearest, w.score, w.nll_own, w.nll_other, "own" if w.is_own else "other", w.text]
        for w in found.wayward
    ]
    tables = [
        Table(["read", "tasks", *(certificate.FIGURES[key] for key in shown)], rows),
        Table(["read", "NLL more than given its own soft prompt", "p", "tasks"], less),
        Table(
            ["task", "tuned close to", "still nearest", "score", "NLL, own", "NLL, other", "read as", "text"],
            strayed,
            "Wayward soft prompts",
        ),
    ]
    text = (
        "Other things were read in the place of each soft prompt, by the translator and by others that were trained on "
        "as many pairs to read these. NLL is that of the task's own instructions, nats a token; ROUGE-L with the "
        "nearest of them; the score is that of the text on the subject. " + " ".join(found.sentences())
    )
    return Section("Does it read the vectors?", text, [table for table in tables if table.rows])


def _failures(run: Run) -> Section:
    failed = run.cells[run.cells["failure"].notna()]
    rows = [
        [method, n, reason or "no reason given"]
        for method in run.methods
        for reason, n in failed.loc[failed["method"] == method, "failure"].value_counts().items()
    ]
    if not rows:
        return Section("Failures", "No cell failed.")
    text = "Cells without a prompt; the list of tasks shows them."
    return Section("Failures", text, [Table(["method", "cells", "reason"], rows)])


def _cost(run: Run, found: Found) -> Section:
    by_method = run.cells.astype(dict.fromkeys(_COSTS, float)).groupby("method")[list(_COSTS)]
    means, totals = by_method.mean(), by_method.sum()
    methods = [method for method in run.methods if method in means.index]
    rows = [
        [method, *(f"{number_text(means.loc[method, key])} ({number_text(totals.loc[method, key])})" for key in _COSTS)]
        for method in methods
    ]
    points = [(m, m, means.loc[m, "seconds"], found[m, SCORE]) for m in methods if means.loc[m, "seconds"]]
    points = [point for point in points if point[-1]]
    axes = ("Seconds a task and seed (log)", "Score")
    return Section(
        "Cost",
        "For one task and seed, failed cells included; in all in parentheses. Model calls are sequences that a "
        "language model scores or writes. No figure includes the tuning of the soft prompts, which all methods that "
        "read one need.",
        [Table(["method", *_COSTS.values()], rows)],
        [charts.scatter("Score by cost", points, axes, run.methods, log_x=True)] if points else [],
    )


def _training(run: Run) -> Section | None:
    names = [name for name in run.training if not any(word in name for word in _NO_CURVES)]
    if not names:
        return None
    shown = [name for name in names if "loss" in name] or names[:1]
    chart = charts.training_curves("Training curves", run.training[["step", *names]], shown)
    return Section("Training", "Numbers that the tuning of the soft prompts logged.", charts=[chart])


def _map(run: Run) -> Section | None:
    tasks = {task.name: task for task in run.tasks}
    prompts = {cell: prompt for cell, prompt in run.soft_prompts.items() if cell[1] in tasks}
    if not prompts:
        return None
    cells, places, projection = charts.soft_prompt_map(prompts)
    names = [f"{tasks[task].instruction} ({task}, seed {seed})" for seed, task in cells]
    points = [(tasks[c[1]].family, name, *map(float, xy)) for c, name, xy in zip(cells, names, places, strict=True)]
    chart = charts.scatter(f"Soft prompts, {projection}", points, ("", ""), run.families)
    chart.update_xaxes(showticklabels=False).update_yaxes(showticklabels=False).update_layout(height=560)
    text = "Each mark is a soft prompt; near marks are alike as vectors. Point at one for its instruction."
    return Section("Map of the soft prompts", text, charts=[chart])


def _provenance(run: Run) -> Section:
    record = run.record
    facts = {
        "made": f"{record.created} in {number_text(record.seconds)} s",
        "commit": record.commit or "unknown",
        "seeds": ", ".join(map(str, record.seeds)),
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "SHA-256 of results.parquet": run.results_sha256,
    }
    rows = [[m.label, m.name, m.source, ", ".join(f"{k}={v}" for k, v in m.options.items())] for m in record.methods]
    options = Table(["label", "method", "source", "options"], rows, "Methods and their options", False)
    code = json.dumps(record.config, indent=2, ensure_ascii=False, default=str)
    return Section("Provenance", "", [Table(["what", "value"], list(facts.items())), options], code=code)


def _comparison(comparison: Comparison) -> Section:
    rows: dict[bool, list[list[Value]]] = {True: [], False: []}
    for c in comparison.changes:
        title = c.figure.title + " (factor)" * c.figure.log
        line = [c.method, title, c.n_tasks, c.before, c.after, c.difference, c.verdict]
        rows[c.clear or c.figure is SCORE].append(line)
    columns = ["method", "figure", "tasks", "before", "after", "change", "verdict"]
    changes = ["method", "task", "before", "after", "prompts before", "prompts after"]
    tables = [
        Table(columns, rows[True]),
        Table(columns, rows[False], "Figures without a clear change", False),
        Table(changes, comparison.tasks, "The tasks that gained and lost most", False),
        Table(["setting", "before", "after"], comparison.settings, "Settings that differ"),
    ]
    n_clear = sum(c.clear for c in comparison.changes)
    only = {"before": comparison.only_before, "after": comparison.only_after}
    return Section(
        f"Changes since {comparison.before.name}",
        f"{n_clear} of {len(comparison.changes)} figures changed significantly over the {comparison.n_tasks} tasks "
        "that both runs have: the paired 95 % bootstrap interval of the change does not reach no change; about 5 % of "
        f"the figures would by chance. Fewer than {figures.MIN_TASKS} tasks decide nothing. Scores, and what else "
        "changed significantly:",
        [table for table in tables if table.rows],
        notes=[f"Only {which}: {', '.join(labels)}." for which, labels in only.items() if labels],
    )
