"""The README's table and pictures of a finished run over the embedded world; scripts/evaluate_embedded calls it.

python scripts/readme_figures.py RUN --figures docs/figures
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soft2hard.data_gen.dods.lexical import UNSEEN_FAMILIES
from soft2hard.errors import run_script
from soft2hard.eval.intervals import Interval, mean_interval
from soft2hard.eval.report import Run, load_run
from soft2hard.eval.report.figures import (
    EXACT,
    EXPLAINED,
    PERPLEXITY,
    SCORE,
    by_family,
    estimate,
    interval_text,
    per_task,
    ranked,
    recovery,
)
from soft2hard.storage.files import atomic_write

_COLUMNS = (
    "score, all families",
    "recovery, seen families",
    "exact task",
    "recovery, unseen families",
    "perplexity",
    "explained share",
    "seconds a cell",
)
_SERIES = {
    "none": ("no prompt", "#c7c7c7"),
    "gold": ("gold text", "#8fb9aa"),
    "soft": ("soft prompt", "#30638e"),
    "greedy": ("translated, greedy", "#f2b880"),
    "translated": ("translated, verified", "#d1495b"),
}
_OURS, _RIVALS, _POINTS = "#d1495b", "#30638e", "#8a8a8a"
_REFERENCE_POINTS = ("none", "gold", "soft", "inspect-oracle")


def markdown(run: Run) -> str:
    """One line a method: score, recovery on families the translator has met or not, exact tasks, perplexity, explained
    share, cost."""
    seconds = run.cells.groupby("method")["seconds"].mean()
    lines = [f"| method | {' | '.join(_COLUMNS)} |", "|" + "---|" * (1 + len(_COLUMNS))]
    lines += [f"| {method} | {' | '.join(_cells(run, method))} | {seconds[method]:.1f} |" for method in run.methods]
    n_unseen = sum(task.family in UNSEEN_FAMILIES for task in run.tasks)
    return "\n".join([*lines, "", f"{len(run.tasks) - n_unseen} tasks of seen families, {n_unseen} of unseen ones."])


def _cells(run: Run, method: str) -> Iterator[str]:
    unseen = {task.name for task in run.tasks if task.family in UNSEEN_FAMILIES}
    seen = {task.name for task in run.tasks} - unseen
    exact = [value for name, value in per_task(run, method, EXACT).items() if name in seen]
    yield _text(estimate(run, method, SCORE))
    yield _text(recovery(run, method, seen))
    yield str(mean_interval(exact)) if exact else "–"
    yield _text(recovery(run, method, unseen))
    yield _text(estimate(run, method, PERPLEXITY))
    yield _text(estimate(run, method, EXPLAINED))


def draw_families(run: Run, path: Path) -> None:
    """A bar chart of scores by family; the suffix of `path` says the format. Methods the run lacks are left out."""
    series = [label for label in _SERIES if label in run.methods]
    scores = by_family(run)[0].fillna(0.0)
    names = sorted(run.families, key=lambda name: (name in UNSEEN_FAMILIES, name))
    with _canvas(path, 1, 3.8) as (axes,):
        width = 0.8 / max(1, len(series))
        for k, label in enumerate(series):
            title, colour = _SERIES[label]
            places = [i + (k - (len(series) - 1) / 2) * width for i in range(len(names))]
            axes.bar(places, scores.loc[names, label], width, label=title, color=colour)
        labels = [name.replace("_", "\n") + ("\n(unseen)" if name in UNSEEN_FAMILIES else "") for name in names]
        axes.set_xticks(range(len(names)), labels, fontsize=8)
        axes.set_ylabel("exact-match accuracy")
        axes.set_ylim(0, 1.02)
        axes.legend(ncol=5, loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False, fontsize=9)


def draw_methods(run: Run, path: Path) -> None:
    """Score of every method with its interval, and score against perplexity; the suffix of `path` says the format."""
    order = ranked(run)[::-1]
    with _canvas(path, 2, 0.32 * len(order) + 1.6) as (left, right):
        for place, method in enumerate(order):
            score, perplexity = estimate(run, method, SCORE), estimate(run, method, PERPLEXITY)
            ours = method.startswith(("greedy", "transl"))
            colour = _POINTS if method in _REFERENCE_POINTS else _OURS if ours else _RIVALS
            style = {"color": colour, "fmt": "o", "ms": 5, "capsize": 2}
            left.errorbar(score.value, place, xerr=_reach(score), **style)
            if perplexity is not None:
                x, y = perplexity.value, score.value
                right.errorbar(x, y, xerr=_reach(perplexity), yerr=_reach(score), **style)
                right.annotate(method, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
        left.set_yticks(range(len(order)), order, fontsize=8)
        left.set_xlabel("score (95 % interval)")
        left.set_xlim(0, 1.02)
        left.grid(axis="x", alpha=0.3)
        right.set_xscale("log")
        right.set_xlabel("perplexity under the reference LM")
        right.set_ylabel("score")


def _text(interval: Interval | None) -> str:
    return interval_text(interval) if interval else "–"


def _reach(interval: Interval) -> list[list[float]]:
    low, high = (interval.value if end is None else end for end in (interval.low, interval.high))
    return [[max(0.0, interval.value - low)], [max(0.0, high - interval.value)]]


@contextmanager
def _canvas(path: Path, n: int, height: float) -> Iterator[list[Any]]:
    """The axes of `n` panels side by side, saved when the block ends; heights are inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, n, figsize=(11, height), squeeze=False)
    for axes in panels[0]:
        axes.spines[["top", "right"]].set_visible(False)
    yield list(panels[0])
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight", dpi=150)
    pyplot.close(figure)


def main(
    run: Path,
    /,
    *,
    figures: Path | None = None,
) -> None:
    """Print the table of seen and unseen families.

    Args:
        run: Folder of a finished run of recipes/evaluate-embedded.yaml.
        figures: Also draw the README's pictures into this folder.
    """
    found = load_run(run)
    print(markdown(found))
    if figures:
        draw_families(found, figures / "families.png")
        draw_methods(found, figures / "methods.png")


if __name__ == "__main__":
    run_script(main)
