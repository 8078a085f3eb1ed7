"""The README's picture: accuracy by family under each kind of prompt."""

from collections.abc import Sequence
from pathlib import Path

from soft2hard.data_gen.dods.lexical import UNSEEN_FAMILIES
from soft2hard.eval.recovery import TaskResult, by_family

_SERIES = (
    ("no_prompt", "no prompt", "#c7c7c7"),
    ("gold", "gold text", "#8fb9aa"),
    ("soft", "soft prompt", "#30638e"),
    ("greedy", "translated, greedy", "#f2b880"),
    ("verified", "translated, verified", "#d1495b"),
)


def draw_families(results: Sequence[TaskResult], path: Path) -> None:
    """Save a bar chart (the suffix of `path` says the format)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    families = by_family(results)
    names = sorted(families, key=lambda name: (name in UNSEEN_FAMILIES, name))
    figure, axes = pyplot.subplots(figsize=(11, 3.8))
    width = 0.16
    for k, (field, label, colour) in enumerate(_SERIES):
        places = [i + (k - 2) * width for i in range(len(names))]
        axes.bar(places, [families[name][field] for name in names], width, label=label, color=colour)
    labels = [name.replace("_", "\n") + ("\n(unseen)" if name in UNSEEN_FAMILIES else "") for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=8)
    axes.set_ylabel("exact-match accuracy")
    axes.set_ylim(0, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncol=5, loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", dpi=150)
    pyplot.close(figure)
