"""The Markdown summary: what the page's tables say, without its pictures."""

import html
import json
import re
from collections.abc import Sequence

from soft2hard.api.prices import money
from soft2hard.eval.report.calibration import KEPT_RATE, SUCCESS, discriminations
from soft2hard.eval.report.comparison import Comparison
from soft2hard.eval.report.differences import differences, neighbours
from soft2hard.eval.report.figures import interval_text, number_text
from soft2hard.eval.report.reading import Run, soft_prompt_label
from soft2hard.eval.report.tables import COSTS, MethodLine, costs, failures, family_cells, shown_figures, verdict_lines
from soft2hard.eval.report.transfer import TransferTable
from soft2hard.eval.run_records import NOTEWORTHY_UNKNOWN

_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
"""What begins mark-up within a line; no text of a run begins a line of the summary."""


_ONE_TASK = " With a single task there is nothing to resample: brackets repeat the value and say nothing."

_COST = (
    "## Cost\n\nFor one task and seed; in all in parentheses. Model calls are sequences that a language model scores "
    "or writes. The tuning of the soft prompts, which all methods that read one need, is in no figure."
)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no mark-up, no HTML, no link."""
    shown = html.escape(" ".join(text.split()), quote=False)
    # A bare address would become a link in some dialects.
    return _SPECIAL.sub(r"\\\1", shown).replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def render_markdown(
    run: Run, lines: Sequence[MethodLine], comparisons: Sequence[Comparison], transfers: TransferTable | None = None
) -> str:
    """The report of a run, and its comparisons with earlier ones, as Markdown."""
    parts = [_heading(run), *(_comparison(comparison) for comparison in comparisons)]
    parts += [_main(lines), _reference_perplexity(run), _ranking(run), _families(run), _verdicts(run)]
    parts += [_discrimination(run), _transfers(transfers), _failures(run), _costs(run), _provenance(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts that are mark-up already (`plain`)."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _heading(run: Run) -> str:
    n_seeds = len(run.record.seeds)
    return (
        f"# Evaluation {plain(run.name)}\n\n{len(run.methods)} methods, {len(run.tasks)} tasks of "
        f"{len(run.families)} families, {n_seeds} seed{'s' if n_seeds > 1 else ''}. Seeds are averaged first; brackets "
        "are 95 % bootstrap intervals over tasks. Failed cells count as 0 in the score and the other shares."
        + (_ONE_TASK if len(run.tasks) == 1 else "")
        + _coverage(run)
    )


def _coverage(run: Run) -> str:
    """What the subject could not read, and what was left out, where there is such."""
    record, text = run.record, ""
    if record.unknown_tokens > NOTEWORTHY_UNKNOWN:
        text = (
            f"\n\n**{record.unknown_tokens:.0%} of the tokens of instructions and examples are unknown to the "
            "subject:** the scores say little about a model that knows them."
        )
    left_out = "; ".join(f"{n} {plain(reason)}" for reason, n in record.dropped.items())
    return text + (f"\n\nLeft out of the collection, over all seeds: {left_out}." if left_out else "")


def _main(lines: Sequence[MethodLine]) -> str:
    figures = [figure for figure in shown_figures(lines) if figure.main]
    rows = [
        [plain(line.method), f"{line.n_failed} of {line.n_cells}"]
        + [str(line.figures[f.key]) if line.figures[f.key] else "–" for f in figures]
        for line in lines
    ]
    missing = [f"{plain(line.method)} has no row for {line.n_missing} cells." for line in lines if line.n_missing]
    text = f"## Methods\n\n{markdown_table(['method', 'failed', *(f.title for f in figures)], rows)}"
    return "\n\n".join([text, *missing])


def _reference_perplexity(run: Run) -> str:
    points = run.record.reference_perplexity
    if points is None:
        return ""
    return (
        f"The gold instructions themselves have a perplexity of {number_text(points.natural)}, with their words "
        f"shuffled {number_text(points.shuffled)}."
    )


def _ranking(run: Run) -> str:
    rows = [
        [plain(d.first), plain(d.second), interval_text(d.paired.difference), f"{d.paired.p_value:.2g}"]
        for d in neighbours(run, differences(run))
    ]
    if not rows:
        return ""
    head = (
        "## Ranking\n\nBy mean score, each method against the next one: paired difference over tasks, p-value of a "
        "sign-flip permutation test. The page has all pairs."
    )
    return f"{head}\n\n" + markdown_table(["method", "next", "difference", "p"], rows)


def _families(run: Run) -> str:
    cells = {(cell.method, cell.family): cell for cell in family_cells(run)}
    soft = soft_prompt_label(run)
    methods = [method for method in run.methods if method != soft]
    what = "Recovery" if soft else "Mean score"
    rows = []
    for family in run.families:
        found = [cells[method, family] for method in methods]
        values = [cell.recovery if soft else cell.score for cell in found]
        n_tasks = sum(task.family == family for task in run.tasks)
        rows.append([plain(family), str(n_tasks), *("–" if value is None else f"{value:.2f}" for value in values)])
    return f"## Families\n\n{what} of each method.\n\n" + markdown_table(
        ["family", "tasks", *map(plain, methods)], rows
    )


def _verdicts(run: Run) -> str:
    rows = [
        [plain(v.method), plain(v.verdict), str(v.n), number_text(v.score), number_text(v.recovery)]
        for v in verdict_lines(run)
    ]
    if not rows:
        return ""
    return "## Verdicts\n\n" + markdown_table(["method", "verdict", "cells", "score", "recovery"], rows)


def _transfers(transfers: TransferTable | None) -> str:
    if transfers is None:
        return ""
    rows = []
    for line in transfers.lines:
        found = [line.by_model.get(model) for model in transfers.models]
        intervals = [row and row.score.interval for row in found]
        scores = [interval_text(interval) if interval else "–" for interval in intervals]
        prices = [plain(money(row.price)) if row else "–" for row in found]
        lacking = sum(row.score.n_missing for row in found if row)
        rows.append([plain(line.method), number_text(line.subject_score), *scores, *prices, str(lacking)])
    columns = ["method", "on the subject", *map(plain, transfers.models)]
    columns += [f"cost, {plain(model)}" for model in transfers.models] + ["not to be had"]
    head = (
        "## Transfer\n\nScore of the same prompts on models behind an API. Refusals count as wrong; answers that could "
        "not be had are in no mean."
    )
    return f"{head}\n\n" + markdown_table(columns, rows)


def _discrimination(run: Run) -> str:
    rows = [
        [plain(method), str(d.n), str(d.n_left_out), f"{d.success:.3f}", number_text(d.auroc), f"{d.kept.share:.3f}"]
        + [number_text(d.kept.threshold)]
        for method, d in discriminations(run).items()
    ]
    if not rows:
        return ""
    bar = f"{SUCCESS:.0%} of the soft prompt's score" if soft_prompt_label(run) else f"a score of {SUCCESS}"
    head = (
        f"## Calibration\n\nA prompt succeeds that reaches {bar}. *Kept* is the largest share of prompts, by "
        f"confidence, of which {KEPT_RATE:.0%} succeed, *from* the lowest confidence among them. Left out are cells "
        "whose soft prompt scores 0."
    )
    return f"{head}\n\n" + markdown_table(["method", "cells", "left out", "succeed", "AUROC", "kept", "from"], rows)


def _failures(run: Run) -> str:
    found = failures(run)
    if not found:
        return "## Failures\n\nNone."
    return "## Failures\n\n" + markdown_table(
        ["method", "cells", "reason"], [[plain(f.method), str(f.n), plain(f.reason)] for f in found]
    )


def _costs(run: Run) -> str:
    rows = [
        [plain(line.method), *(f"{number_text(line.mean[key])} ({number_text(line.total[key])})" for key in COSTS)]
        for line in costs(run)
    ]
    return _COST + "\n\n" + markdown_table(["method", *COSTS.values()], rows)


def _comparison(comparison: Comparison) -> str:
    before, after = plain(comparison.before.name), plain(comparison.after.name)
    head = (
        f"## {after} against {before}\n\n{comparison.n_clear} of {len(comparison.changes)} figures changed "
        f"significantly over the {comparison.n_tasks} common tasks (paired 95 % bootstrap interval that does "
        "not reach no change; about 5 % of the figures would by chance). Scores, and what else changed significantly."
    )
    rows = [
        [plain(c.method), c.figure.title, str(c.n_tasks), number_text(c.before), number_text(c.after)]
        + [("× " if c.figure.log else "") + interval_text(c.difference), c.verdict]
        for c in comparison.changes
        if c.shown
    ]
    parts = [head, markdown_table(["method", "figure", "tasks", "before", "after", "change", "verdict"], rows)]
    if comparison.settings:
        settings = [[plain(name), plain(old), plain(new)] for name, old, new in comparison.settings]
        parts.append("What differs in the making:\n\n" + markdown_table(["setting", "before", "after"], settings))
    for which, labels in (("before", comparison.only_before), ("after", comparison.only_after)):
        if labels:
            parts.append(f"Only {which}: {', '.join(map(plain, labels))}.")
    return "\n\n".join(parts)


def _provenance(run: Run) -> str:
    record = run.record
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in record.versions.items())
    return (
        f"## Provenance\n\nMade {plain(record.created)} in {number_text(record.seconds)} s; commit "
        f"{plain(record.commit or 'unknown')}; seeds {', '.join(map(str, record.seeds))}; {versions}; SHA-256 of "
        f"results.parquet {run.results_sha256}. Configuration:\n\n" + _configuration(run)
    )


def _configuration(run: Run) -> str:
    text = json.dumps(run.record.config, indent=2, ensure_ascii=False, default=str)
    # Four spaces make a code block that no run of backticks in the text can end.
    return "\n".join(f"    {line}" for line in text.splitlines())
