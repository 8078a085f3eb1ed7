"""The README's pictures, drawn from a finished run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from soft2hard.data_gen.dods.lexical import UNSEEN_FAMILIES
from soft2hard.eval.report.differences import ranked
from soft2hard.eval.report.figures import PERPLEXITY, SCORE, estimate
from soft2hard.eval.report.reading import Run
from soft2hard.eval.report.tables import family_cells
from soft2hard.storage.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SERIES = {
    "none": ("no prompt", "#c7c7c7"),
    "gold": ("gold text", "#8fb9aa"),
    "soft": ("soft prompt", "#30638e"),
    "greedy": ("translated, greedy", "#f2b880"),
    "translated": ("translated, verified", "#d1495b"),
}
_OURS, _RIVALS, _POINTS = "#d1495b", "#30638e", "#8a8a8a"
_WIDTH = 11  # inches
_REFERENCE_POINTS = ("none", "gold", "soft", "inspect-oracle")


def draw_families(run: Run, path: Path) -> None:
    """A bar chart of scores by family; the suffix of `path` says the format. Methods the run lacks are left out."""
    series = [label for label in _SERIES if label in run.methods]
    score = {(c.method, c.family): c.score or 0.0 for c in family_cells(run, with_soft=True)}
    names = sorted(run.families, key=lambda name: (name in UNSEEN_FAMILIES, name))
    with _canvas(path, 1, 3.8) as (_, (axes,)):
        width = 0.8 / max(1, len(series))
        for k, label in enumerate(series):
            title, colour = _SERIES[label]
            places = [i + (k - (len(series) - 1) / 2) * width for i in range(len(names))]
            axes.bar(places, [score[label, name] for name in names], width, label=title, color=colour)
        labels = [name.replace("_", "\n") + ("\n(unseen)" if name in UNSEEN_FAMILIES else "") for name in names]
        axes.set_xticks(range(len(names)), labels, fontsize=8)
        axes.set_ylabel("exact-match accuracy")
        axes.set_ylim(0, 1.02)
        axes.legend(ncol=5, loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False, fontsize=9)


def draw_methods(run: Run, path: Path) -> None:
    """Score of every method with its interval, and score against perplexity; the suffix of `path` says the format."""
    order = ranked(run)[::-1]
    with _canvas(path, 2, 0.32 * len(order) + 1.6) as (_, (left, right)):
        for place, method in enumerate(order):
            score, perplexity = estimate(run, method, SCORE), estimate(run, method, PERPLEXITY)
            style = {"color": _colour(method), "fmt": "o", "ms": 5, "capsize": 2}
            left.errorbar(score.interval.value, place, xerr=_reach(score.interval), **style)
            if perplexity is not None:
                x, y = perplexity.interval, score.interval
                right.errorbar(x.value, y.value, xerr=_reach(x), yerr=_reach(y), **style)
                right.annotate(method, (x.value, y.value), xytext=(5, 4), textcoords="offset points", fontsize=7)
        left.set_yticks(range(len(order)), order, fontsize=8)
        left.set_xlabel("score (95 % interval)")
        left.set_xlim(0, 1.02)
        left.grid(axis="x", alpha=0.3)
        right.set_xscale("log")
        right.set_xlabel("perplexity under the reference LM")
        right.set_ylabel("score")


def _colour(method: str) -> str:
    return _POINTS if method in _REFERENCE_POINTS else _OURS if method.startswith(("greedy", "transl")) else _RIVALS


def _reach(interval) -> list[list[float]]:
    low, high = (interval.value if end is None else end for end in (interval.low, interval.high))
    return [[max(0.0, interval.value - low)], [max(0.0, high - interval.value)]]


@contextmanager
def _canvas(path: Path, n: int, height: float) -> Iterator[tuple["Figure", list["Axes"]]]:
    """A figure of `n` panels side by side, saved when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, n, figsize=(_WIDTH, height), squeeze=False)
    for axes in panels[0]:
        axes.spines[["top", "right"]].set_visible(False)
    yield figure, list(panels[0])
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight", dpi=150)
    pyplot.close(figure)
