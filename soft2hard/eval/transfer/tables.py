"""A transfer's results and its estimate as text for people: Markdown tables, methods by models."""

from collections.abc import Sequence

from soft2hard.api.estimates import Estimate, estimate_table, sample_text, table_cell
from soft2hard.api.prices import money
from soft2hard.eval.transfer.results import MethodRow, TransferResult


def estimate_text(estimates: Sequence[Estimate]) -> str:
    """Requests, tokens and price of each model, and one request of each exactly as it would be sent."""
    sources = [f"Price of {e.model}: {e.price_source}." for e in estimates]
    return "\n".join([estimate_table(estimates), *sources, *(f"\n{sample_text(e)}" for e in estimates)])


def result_text(result: TransferResult) -> str:
    """Scores, answers that are lacking, costs, and differences between methods."""
    models = list(dict.fromkeys(row.model for row in result.rows))
    methods = list(dict.fromkeys(row.method for row in result.rows))
    at = {(row.method, row.model): row for row in result.rows}
    lines = [f"| method | on the subject | {' | '.join(map(table_cell, models))} |", "|---|---|" + "---|" * len(models)]
    if result.soft_prompt:
        lines.append(f"| soft prompt | {result.soft_prompt} |" + " cannot be sent |" * len(models))
    for method in methods:
        rows = [at.get((method, model)) for model in models]
        on_subject = next((row.subject_score for row in rows if row), None)
        shown = "" if on_subject is None else f"{on_subject:.3f}"
        lines.append(f"| {table_cell(method)} | {shown} | {' | '.join(map(_score, rows))} |")
    lines += ["", "| method | model | answers | refused | not to be had | tokens in / out | cost |", "|" + "---|" * 7]
    for row in result.rows:
        s = row.score
        lines.append(
            f"| {table_cell(row.method)} | {table_cell(row.model)} | {s.n_answers} | {s.n_refused} | {s.n_missing} | "
            f"{row.input_tokens} / {row.output_tokens} | {money(row.price)} |"
        )
    lines += _judged_lines(result)
    lines += _test_lines(result)
    return "\n".join([*lines, "", _spent(result)])


def _judged_lines(result: TransferResult) -> list[str]:
    if result.judged is None:
        return []
    head = f"| method | model | right, says {table_cell(result.judged.judge)} | judged | unclear | not judged |"
    return ["", head, "|" + "---|" * 6] + [
        f"| {table_cell(row.method)} | {table_cell(row.model)} | {row.share or 'nothing judged'} | {row.n_judged} | "
        f"{row.n_unclear} | {row.n_missing} |"
        for row in result.judged.rows
    ]


def _test_lines(result: TransferResult) -> list[str]:
    lines = []
    for model, tests in result.tests.items():
        for test in tests:
            lines.append(
                f"| {table_cell(model)} | {table_cell(test.first)} - {table_cell(test.second)} | {test.difference} | "
                f"{test.p_value:.2g} | {test.n_pairs} {test.unit} |"
            )
    head = ["", "| model | difference | value [95 % interval] | p (Holm) | pairs |", "|---|---|---|---|---|"]
    return [*head, *lines] if lines else []


def _score(row: MethodRow | None) -> str:
    return "" if row is None else "no answers" if row.score.interval is None else str(row.score.interval)


def _spent(result: TransferResult) -> str:
    spent = result.spent
    parts = [money(spent.known)] if spent.known or not spent.unknown else []
    parts += [f"{spent.unknown} answers whose price is unknown"] if spent.unknown else []
    text = f"All requests of this ledger: {', and '.join(parts)}"
    if spent.possible:
        text += f"; answers lost on the way may have cost up to {money(spent.possible)} more"
    return text + "."
