"""Offline pages: one file, no network, nothing of a model's output run or taken for markup.

Texts reach a page by two ways only: through its Jinja template, which escapes all that it is given, and as JSON in
blocks that browsers do not run, from which Plotly draws its charts. A Content-Security-Policy lets exactly the page's
own scripts run, by their hashes, and forbids every request.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_DRAW = """
const NO_BUTTONS = ["lasso2d", "select2d", "sendChartToCloud"];
for (const block of document.querySelectorAll("script.chart")) {
  const figure = JSON.parse(block.textContent);
  const options = {responsive: true, displaylogo: false, modeBarButtonsToRemove: NO_BUTTONS};
  Plotly.newPlot(block.previousElementSibling, figure.data, figure.layout, options);
}
"""


def render_page(
    template: Path,
    context: Mapping[str, Any],
    script: str = "",
    filters: Mapping[str, Callable[..., Any]] | None = None,
    *,
    charts: bool = True,
) -> str:
    """An HTML page from a Jinja template.

    The template writes `{{ head }}` in its head (the charset, on which the hashes depend, and the policy),
    `{{ scripts }}` at the end of its body, and charts by the filter `chart`, given a Plotly figure. Plotly takes some
    markup in labels for its own: escape texts of a run in them (`html.escape`). `script` is the page's own JavaScript.
    A page without `charts` leaves Plotly out, which takes 4 MB, and may run its own script alone, if it has one.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"chart": _chart} if charts else {}  # a chart that nothing would draw is an error
    environment.filters |= filters or {}
    scripts = [_plotly(), _DRAW + script] if charts else [script] * bool(script)
    blocks = Markup("\n".join(f"<script>{text}</script>" for text in scripts))
    return environment.get_template(template.name).render(context, head=_policy(scripts), scripts=blocks)


def json_block(value: Any) -> Markup:
    """JSON that can neither end the script block it stands in, nor begin a comment or another block in it."""
    text = value if isinstance(value, str) else json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _plotly() -> str:
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _chart(figure: "Figure") -> Markup:
    return Markup('<div class="plot"></div><script type="application/json" class="chart">{}</script>').format(
        json_block(figure.to_json())
    )


def _policy(scripts: list[str]) -> Markup:
    """Plotly makes style rules while it draws, and pictures to be saved as data and blob addresses."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    rules = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    rules += "; base-uri 'none'; form-action 'none'"
    return Markup(f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{rules}">')
