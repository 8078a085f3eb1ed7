"""Pictures of an analysis for the docs, drawn from its records."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soft2hard.eval.analysis.interpolation import Interpolation
from soft2hard.eval.analysis.positions_effects import PositionEffects
from soft2hard.eval.analysis.records import Analysis, load_analysis, load_arrays
from soft2hard.eval.analysis.retrieval_savings import RetrievalSavings
from soft2hard.eval.analysis.section_records import Experiment, NotRun
from soft2hard.eval.intervals import Interval
from soft2hard.eval.report.analysis_data import MEASURES, PROJECTIONS, clustered, families_of
from soft2hard.eval.report.analysis_experiments import CHANGES, KINDS, mean_curves, result_of
from soft2hard.storage.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0b6cbf", "#c2571a", "#1a7f4b", "#8a4fb5", "#b3293e", "#0f7d86", "#8c6d0f", "#5c6670")
_HEIGHT, _SQUARE = 4.2, 5.0  # inches
_MOST_MAPS = 3


def draw_analysis(folder: Path, figures: Path) -> list[Path]:
    """Draw understanding-*.png of the sections that there are into `figures`, and return their paths.

    Raises UserError as `load_analysis` and `load_arrays` do, and where a picture cannot be written.
    """
    analysis = load_analysis(folder)
    drawn = []
    for name, draw in _FIGURES.items():
        section = getattr(analysis.sections, name)
        if section is None or isinstance(section, NotRun):
            continue
        path = figures / f"understanding-{name}.png"
        draw(path, analysis, section, load_arrays(folder, name) if name in ("distances", "maps", "transfer") else {})
        drawn.append(path)
    return drawn


def _distances(path: Path, analysis: Analysis, section: Any, arrays: dict[str, np.ndarray]) -> None:
    shown = [measure for measure in section.measures if measure.name in ("frobenius", "reordered")]
    order = clustered(arrays[shown[0].name])
    with _panels(path, len(shown), _SQUARE) as panels:
        for axes, measure in zip(panels, shown, strict=True):
            matrix = arrays[measure.name][np.ix_(order, order)].astype(float)
            np.fill_diagonal(matrix, np.nan)
            _heat(axes, matrix, measure.title, "soft prompts, clustered by Frobenius distance", "Blues")


def _transfer(path: Path, analysis: Analysis, section: Any, arrays: dict[str, np.ndarray]) -> None:
    change, apart = arrays["change"], arrays["frobenius"]
    order = clustered(apart)
    off = ~np.eye(len(change), dtype=bool)
    with _panels(path, 2, _SQUARE) as (left, right):
        most = float(np.nanmax(np.abs(change)))
        _heat(left, change[np.ix_(order, order)], "change in accuracy", "used on", "RdBu", (-most, most))
        left.set_ylabel("tuned on (tasks, clustered by distance)")
        right.scatter(apart[off], change[off], s=6, alpha=0.5, color=_COLOURS[0], linewidths=0)
        right.axhline(0, color="#888", lw=0.8)
        right.set_xlabel("Frobenius distance of the two tasks' soft prompts")
        right.set_ylabel("change in accuracy against no prompt")


def _maps(path: Path, analysis: Analysis, section: Any, arrays: dict[str, np.ndarray]) -> None:
    families = families_of(analysis, section.prompts)
    shown = [one for one in section.maps if one.measure == "frobenius"][:_MOST_MAPS]
    with _panels(path, len(shown), _SQUARE) as panels:
        for axes, one in zip(panels, shown, strict=True):
            for i, family in enumerate(dict.fromkeys(families)):
                own = arrays[one.name][[k for k, other in enumerate(families) if other == family]]
                axes.scatter(*own.T, s=14, color=_COLOURS[i % 8], marker="osD^"[i // 8 % 4], label=family)
            trust = "" if one.trustworthiness is None else f", trustworthiness {one.trustworthiness:.2f}"
            axes.set_title(f"{PROJECTIONS[one.projection]} of {MEASURES[one.measure]}{trust}", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
        panels[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _difficulty(path: Path, analysis: Analysis, section: Any, arrays: dict[str, np.ndarray]) -> None:
    with _panels(path, 2) as panels:
        for axes, figure in zip(panels, ("mean_distance", "reordered_distance"), strict=True):
            axes.scatter([t.error for t in section.tasks], [getattr(t, figure) for t in section.tasks], s=14)
            axes.set_xlabel("error: 1 less the mean score")
            axes.set_ylabel(f"{figure.replace('_', ' ')} within the task")


def _positions(path: Path, analysis: Analysis, section: Experiment, arrays: dict[str, np.ndarray]) -> None:
    found = result_of(PositionEffects, section.result)
    of_position = [effect for effect in found.effects if effect.position is not None]
    with _panels(path, 2 if of_position[0].meaning_changed else 1) as panels:
        titles = {"score_lost": "score lost", "meaning_changed": "share of translations that change"}
        for axes, (figure, title) in zip(panels, titles.items(), strict=False):
            for k, change in enumerate(dict.fromkeys(effect.change for effect in of_position)):
                own = [effect for effect in of_position if effect.change == change]
                _curve(axes, [e.position for e in own], [getattr(e, figure) for e in own], CHANGES[change], k)
            axes.set_xlabel("position")
            axes.set_ylabel(title)
        panels[0].legend(fontsize=8, frameon=False)


def _interpolation(path: Path, analysis: Analysis, section: Experiment, arrays: dict[str, np.ndarray]) -> None:
    found = result_of(Interpolation, section.result)
    with _panels(path, len(found.kinds)) as panels:
        for axes, summary in zip(panels, found.kinds, strict=True):
            own = [point for point in found.curves if point.kind == summary.kind]
            names = {"first_score": "score on the first task", "second_score": "score on the second task"}
            if own[0].says_first is not None:
                names |= {"says_first": "says what the first end says", "says_second": "says what the second end says"}
            for k, (figure, title) in enumerate(names.items()):
                _curve(axes, [p.share for p in own], [getattr(p, figure) for p in own], title, k)
            axes.set_xlabel("share of the second soft prompt")
            axes.set_title(f"{KINDS[summary.kind]}, {summary.n_pairs} pairs", fontsize=9)
            axes.set_ylim(-0.02, 1.02)
        panels[-1].legend(fontsize=8, frameon=False)


def _retrieval(path: Path, analysis: Analysis, section: Experiment, arrays: dict[str, np.ndarray]) -> None:
    found = result_of(RetrievalSavings, section.result)
    rows = mean_curves(found)
    with _panels(path, 2) as (left, right):
        for k, start in enumerate(found.starts):
            own = [(step, loss) for name, step, loss in rows if name == start.start]
            left.plot(*zip(*own, strict=True), color=_COLOURS[k], label=start.start)
            saved = start.saved
            right.errorbar(saved.value, -k, xerr=_reach(saved), color=_COLOURS[k], fmt="o", capsize=2)
        left.set_xlabel("steps")
        left.set_ylabel("lowest validation loss so far, nats a token")
        left.legend(fontsize=8, frameon=False)
        right.set_yticks([-k for k in range(len(found.starts))], [start.start for start in found.starts], fontsize=8)
        right.axvline(0, color="#888", lw=0.8)
        right.set_xlabel(f"steps saved against {found.base}")


def _heat(
    axes: "Axes", matrix: np.ndarray, title: str, label: str, colours: str, limits: tuple[float, float] | None = None
) -> None:
    low, high = limits or (None, None)
    image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(label)
    axes.set_xticks([])
    axes.set_yticks([])


def _curve(axes: "Axes", x: list, intervals: list[Interval], label: str, k: int) -> None:
    axes.plot(x, [i.value for i in intervals], color=_COLOURS[k], marker="o", ms=4, label=label)
    if all(i.low is not None for i in intervals):
        ends = ([getattr(i, end) for i in intervals] for end in ("low", "high"))
        axes.fill_between(x, *ends, color=_COLOURS[k], alpha=0.15, lw=0)


def _reach(interval: Interval) -> list[list[float]]:
    low, high = (interval.value if end is None else end for end in (interval.low, interval.high))
    return [[max(0.0, interval.value - low)], [max(0.0, high - interval.value)]]


@contextmanager
def _panels(path: Path, n: int, height: float = _HEIGHT) -> Iterator[list["Axes"]]:
    """Panels side by side, saved when the block ends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * n, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, n, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    yield panels
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


_FIGURES = {
    "distances": _distances,
    "maps": _maps,
    "difficulty": _difficulty,
    "transfer": _transfer,
    "positions": _positions,
    "interpolation": _interpolation,
    "retrieval": _retrieval,
}
