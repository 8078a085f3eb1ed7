"""Charts of a report, by Plotly.

Plotly takes some markup in labels for its own, so all texts of a run are escaped here (`html.escape`).
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from soft2hard.eval.intervals import Interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_COLOURS = ("#0b6cbf", "#c2571a", "#1a7f4b", "#8a4fb5", "#b3293e", "#0f7d86", "#8c6d0f", "#5c6670")
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up")

Point = tuple[str, str, Interval | float, Interval | float]
"""Series, name, x and y."""


def scatter(
    title: str, points: Sequence[Point], axes: tuple[str, str], order: Sequence[str], **options: Any
) -> "Figure":
    """Marks with their intervals; a series has its colour and symbol by its place in `order`, in all charts alike."""
    import plotly.express as px

    rows = []
    for series, name, *values in points:
        row = {"series": escape(series), "name": escape(name)}
        for axis, value in zip("xy", values, strict=True):
            interval = value if isinstance(value, Interval) else Interval(value, None, None)
            ends = (interval.value,) * 2 if interval.low is None else (interval.low, interval.high)
            row |= {axis: interval.value, f"{axis}-": interval.value - ends[0], f"{axis}+": ends[1] - interval.value}
        rows.append(row)
    errors = {"error_x": "x+", "error_x_minus": "x-", "error_y": "y+", "error_y_minus": "y-"}
    chart = px.scatter(pd.DataFrame(rows), x="x", y="y", hover_name="name", **errors, **_style(axes, order), **options)
    chart.update_traces(marker_size=10, error_x_width=0, error_y_width=0)
    return _finished(chart, title)


def dots(title: str, values: Mapping[str, Interval], axis: str) -> "Figure":
    """A value from 0 to 1 with its interval on a line of its own, by name."""
    points = [("all", name, interval, 0.0) for name, interval in values.items()]
    chart = scatter(title, points, (axis, ""), ["all"])
    chart.update_traces(y=[escape(name) for name in values], error_y=None, hovertemplate="<b>%{y}</b><br>%{x:.3f}")
    chart.update_yaxes(type="category", autorange="reversed").update_xaxes(range=(-0.01, 1.02))
    return chart.update_layout(height=90 + 26 * len(values), showlegend=False)


def diagonal(chart: "Figure") -> "Figure":
    """Both axes from 0 to 1, with the diagonal."""
    chart.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"color": "#8a8a8a", "dash": "dot", "width": 1})
    return chart.update_xaxes(range=(-0.03, 1.03)).update_yaxes(range=(-0.03, 1.03))


def reliability_diagram(title: str, curves: Mapping[str, pd.DataFrame], outcome: str, order: Sequence[str]) -> "Figure":
    """Outcome by confidence (`figures.reliability`) of each method; larger marks are more items."""
    import plotly.express as px

    bins = pd.concat([curve.assign(series=escape(method)) for method, curve in curves.items()])
    chart = px.scatter(
        bins, x="confidence", y="outcome", size="n", size_max=16, **_style(("Confidence", outcome), order)
    )
    return diagonal(_finished(chart, title).update_traces(mode="lines+markers", line_width=1.5))


def training_curves(title: str, curves: pd.DataFrame, shown: Sequence[str]) -> "Figure":
    """A line a column against `step`; those not `shown` are drawn on pressing their name."""
    import plotly.express as px

    long = curves.rename(columns=escape).melt("step", var_name="series").dropna()
    chart = px.line(long, x="step", y="value", markers=True, **_style(("Step", "Value"), list(curves.columns)))
    names = {escape(name) for name in shown}
    chart.for_each_trace(lambda trace: trace.update(visible=True if trace.name in names else "legendonly"))
    return _finished(chart, title)


def heat_map(title: str, values: pd.DataFrame, bold: pd.DataFrame | None = None) -> "Figure":
    """A cell for each row and column, coloured from 0 to 1; `bold` says which figures stand out."""
    import plotly.express as px

    shown = values.rename(escape).rename(escape, axis=1)
    texts = values.map(lambda value: "" if np.isnan(value) else f"{value:.2f}")
    if bold is not None:
        texts = texts.where(~bold, "<b>" + texts + "</b>")
    chart = px.imshow(shown, zmin=0, zmax=1, aspect="auto", color_continuous_scale="Blues")
    chart.update_traces(text=texts.to_numpy(), texttemplate="%{text}", hovertemplate="%{y}<br>%{x}<br>%{z:.3f}")
    chart.update_traces(xgap=2, ygap=2).update_coloraxes(showscale=False)
    chart.update_xaxes(type="category", side="top", title="", showgrid=False)
    chart.update_yaxes(type="category", title="", showgrid=False)
    return _finished(chart, title).update_layout(height=150 + 26 * len(values), margin_t=80)


def soft_prompt_map(prompts: Mapping[Any, np.ndarray]) -> tuple[list[Any], Float[np.ndarray, "n 2"], str]:
    """Soft prompts in two dimensions: their keys, their places, and the name of the projection.

    Soft prompts of one shape are flattened; where the run has several lengths, each is averaged over its positions.
    Different widths have no common space: of these the most frequent is shown. From ten soft prompts on t-SNE, begun at
    50 principal components (van der Maaten & Hinton 2008, section 4.2); fewer have no neighbourhoods to speak of.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    widths = [prompt.shape[1] for prompt in prompts.values()]
    width = max(sorted(set(widths)), key=widths.count)
    kept = {key: prompt.astype(float) for key, prompt in prompts.items() if prompt.shape[1] == width}
    same = len({prompt.shape for prompt in kept.values()}) == 1
    vectors = np.stack([prompt.ravel() if same else prompt.mean(0) for prompt in kept.values()])
    if len(kept) < 2:
        return list(kept), np.zeros((len(kept), 2)), "one point"
    components = PCA(min(50, *vectors.shape), random_state=0).fit_transform(vectors)
    components = np.pad(components, ((0, 0), (0, 2)))  # so that there are two at least
    if len(kept) < 10:
        return list(kept), components[:, :2], "principal components"
    tsne = TSNE(perplexity=min(30, (len(kept) - 1) / 3), init="pca", random_state=0)
    return list(kept), tsne.fit_transform(components), "t-SNE"


def _style(axes: tuple[str, str], order: Sequence[str]) -> dict[str, Any]:
    """Titles of the axes, and colour and symbol of each series by its place in `order`."""
    names = [escape(name) for name in order]
    titles = dict(zip(("x", "y", "confidence", "outcome", "step", "value"), axes * 3, strict=True))
    return {
        "labels": titles | {"series": ""},
        "color": "series",
        "symbol": "series",
        "color_discrete_map": {name: _COLOURS[i % 8] for i, name in enumerate(names)},
        "symbol_map": {name: _SYMBOLS[i // 8 % 5] for i, name in enumerate(names)},
        "category_orders": {"series": names},
    }


def _finished(chart: "Figure", title: str) -> "Figure":
    return chart.update_layout(
        template="plotly_white",
        title={"text": escape(title), "font_size": 15, "x": 0, "xref": "container"},
        font={"family": "system-ui, Liberation Sans, sans-serif", "size": 12, "color": "#1b1f24"},
        height=400,
        margin={"l": 10, "r": 10, "t": 44, "b": 10},
    )
