"""The HTML page: one file, no network, nothing of a model's output run or taken for markup.

Text of a run reaches the page by two ways only: through the template, which escapes all it is given, and as JSON in a
block that browsers do not run, from which the scripts make text nodes. A Content-Security-Policy lets exactly the
page's own script and style take effect, by their hashes, and forbids every request.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soft2hard.api.prices import money
from soft2hard.eval.report.calibration import KEPT_RATE, SUCCESS, discriminations, reliabilities
from soft2hard.eval.report.comparison import MIN_TASKS, Comparison
from soft2hard.eval.report.data import (
    charts_of,
    comparison_data,
    difference_data,
    failure_data,
    family_data,
    main_data,
    task_data,
    transfer_chart,
)
from soft2hard.eval.report.differences import CLEAR, differences, ranked
from soft2hard.eval.report.figures import AGREEMENT, SCORE, interval_text, number_text
from soft2hard.eval.report.reading import Run, soft_prompt_label
from soft2hard.eval.report.tables import COSTS, MethodLine, costs, failures, family_cells, shown_figures, verdict_lines
from soft2hard.eval.report.transfer import TransferTable
from soft2hard.eval.run_records import NOTEWORTHY_UNKNOWN

_HERE = Path(__file__).parent
_SCRIPTS = ("elements.js", "scales.js", "charts.js", "pointing.js", "tables.js", "tasks.js", "main.js")
HEAT_LEVELS = 10
"""Shades of the heat map, over 0 to 1."""


def render_page(
    run: Run, lines: list[MethodLine], comparisons: list[Comparison], transfers: TransferTable | None = None
) -> str:
    """The report of a run, and its comparisons with earlier ones, as HTML."""
    return render_template("page.html", ("page.css",), _SCRIPTS, *_content(run, lines, comparisons, transfers))


def render_template(
    name: str, styles: Sequence[str], scripts: Sequence[str], context: dict[str, Any], data: dict[str, Any]
) -> str:
    """A template of this folder as one page with its styles, scripts and the data that they work with."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number_text, "interval": interval_text, "level": _heat_level, "pretty": _pretty}
    environment.filters["money"] = money
    style, script = (
        "\n".join((_HERE / part).read_text(encoding="utf-8") for part in parts) for parts in (styles, scripts)
    )
    return environment.get_template(name).render(
        context,
        style=Markup(style),
        script=Markup(script),
        data=Markup(json_for_script(data)),
        policy=_policy(script, style),
    )


def json_for_script(value: Any) -> str:
    """JSON that cannot end the script block it stands in, nor begin a comment or another block in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(script: str, style: str) -> str:
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _content(
    run: Run, lines: list[MethodLine], comparisons: list[Comparison], transfers: TransferTable | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the template shows and what the scripts work with."""
    spent, failed, families = costs(run), failures(run), family_cells(run)
    tables, charts = charts_of(run, lines, spent)
    pairs = differences(run)
    tables |= {"differences": difference_data(pairs)}
    tables |= {"main": main_data(lines), "failures": failure_data(failed), "families": family_data(families)}
    tables |= {f"comparison {i}": comparison_data(comparison) for i, comparison in enumerate(comparisons)}
    if transfers:
        tables["transfer"], charts["transfer"] = transfer_chart(transfers)
    curves = {figure: reliabilities(run, figure.key) for figure in (SCORE, AGREEMENT)}
    context = {
        "run": run,
        "noteworthy_unknown": NOTEWORTHY_UNKNOWN,
        "lines": lines,
        "figures": shown_figures(lines),
        "costs": spent,
        "cost_titles": COSTS,
        "failures": failed,
        "ranked": ranked(run),
        "differences": {(pair.first, pair.second): pair for pair in pairs},
        "clear": CLEAR,
        "verdicts": verdict_lines(run),
        "discriminations": discriminations(run),
        "success": SUCCESS,
        "kept_rate": KEPT_RATE,
        "heat": {(cell.method, cell.family): cell for cell in families},
        "soft_label": soft_prompt_label(run),
        "charts": charts,
        "reliabilities": {figure: found[0] for figure, found in curves.items() if found[0]},
        "not_shares": sorted({method for found in curves.values() for method in found[1]}),
        "comparisons": comparisons,
        "transfers": transfers,
        "min_tasks": MIN_TASKS,
    }
    return context, {"tables": tables, "charts": charts, **task_data(run)}


def _heat_level(value: float | None) -> str:
    """Class of a cell of the heat map."""
    return "none" if value is None else str(min(HEAT_LEVELS, max(0, round(value * HEAT_LEVELS))))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
