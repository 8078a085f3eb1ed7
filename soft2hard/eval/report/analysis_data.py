"""What the page of an analysis draws of its geometry: tables, charts and heat maps of plain JSON values.

Tables and charts are as in `data`. A heat map has `names` and `families` of its rows and columns, `values`, and
`orders`: for each way to sort them their numbers. Each figure's download holds the numbers that it is drawn from.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist, squareform

from soft2hard.eval.analysis.records import Analysis
from soft2hard.eval.analysis.section_records import (
    CorrelationRow,
    Difficulty,
    Distances,
    Estimate,
    Extraction,
    Maps,
    Statistics,
    Transfer,
)
from soft2hard.eval.report.data import Chart, Table, table

Arrays = dict[str, np.ndarray]
UNKNOWN = "unknown"
_TOKENS_SHOWN = 3


@dataclass
class Page:
    """All that the scripts are given."""

    tables: dict[str, Table] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)
    heats: dict[str, dict[str, Any]] = field(default_factory=dict)

    def chart(self, name: str, data: Table, **settings: Any) -> None:
        """A chart of a table of its own."""
        self.tables[name] = data
        self.charts[name] = {"kind": "scatter", "table": name, **settings}


def names_of(analysis: Analysis, prompts: Sequence[int]) -> list[str]:
    """Labels of soft prompts: their names in the analysis."""
    return [analysis.prompts[i].name for i in prompts]


def labels_of(analysis: Analysis) -> list[str]:
    """A label of every soft prompt, by which it is told from all others: groups of tunings number theirs alike."""
    several = Counter(row.name for row in analysis.prompts)
    return [f"{row.name}, {row.group}" if several[row.name] > 1 else row.name for row in analysis.prompts]


def families_of(analysis: Analysis, prompts: Sequence[int]) -> list[str]:
    """Family of each soft prompt's task; where no family is known at all, the task."""
    if not any(task.family for task in analysis.tasks):
        return [analysis.prompts[i].task or UNKNOWN for i in prompts]
    of_task = {task.name: task.family or UNKNOWN for task in analysis.tasks}
    return [of_task.get(analysis.prompts[i].task or "", UNKNOWN) for i in prompts]


def add_distances(page: Page, analysis: Analysis, record: Distances, arrays: Arrays) -> None:
    """A heat map a measure, sorted as analysed, by family, or by clusters."""
    names, families = names_of(analysis, record.prompts), families_of(analysis, record.prompts)
    for measure in record.measures:
        matrix = arrays[measure.name]
        alike = measure.name.startswith("alignment")
        order = clustered(1 - matrix if alike else matrix)
        page.heats[measure.name] = heat(measure.title, names, families, matrix, order, what=_SHORT[measure.name])
    rows = [
        [m.title, *_parts(m.within), *_parts(m.between), *_parts(m.ratio), m.mean, m.noise]
        for m in (*record.measures, record.moved)
    ]
    figures = [f"{name}{part}" for name in ("within", "between", "ratio") for part in ("", " low", " high")]
    page.tables["distances"] = table(["measure", *figures, "all pairs", "pure noise"], rows)


_SHORT = {
    "frobenius": "distance",
    "reordered": "distance",
    "alignment_dimensions": "alignment",
    "alignment_positions": "alignment",
}


def add_maps(page: Page, analysis: Analysis, record: Maps, arrays: Arrays, texts: dict[int, str]) -> None:
    """A scatter a map: hover for task, family and translation; `texts` are the translations by number."""
    names, families = names_of(analysis, record.prompts), families_of(analysis, record.prompts)
    rows = [analysis.prompts[i] for i in record.prompts]
    translations = [texts.get(i) for i in record.prompts]
    for one in record.maps:
        places = arrays[one.name].tolist()
        data = [
            [name, x, y, family, row.task, translation, row.score]
            for name, (x, y), family, row, translation in zip(names, places, families, rows, translations, strict=True)
        ]
        columns = ["soft prompt", "x", "y", "family", "task", "translation", "score"]
        page.chart(
            f"map {one.name}",
            table(columns, data),
            label="soft prompt",
            series="family",
            x="x",
            y="y",
            bare=True,
            title=f"{PROJECTIONS[one.projection]} of {MEASURES[one.measure]}",
        )


PROJECTIONS = {"tsne": "t-SNE", "umap": "UMAP", "pca": "Principal coordinates"}
MEASURES = {"frobenius": "Frobenius distances", "reordered": "distances after the best permutation"}


def add_difficulty(page: Page, record: Difficulty) -> None:
    """How hard a task is against how far its tunings lie apart."""
    fields = ["task", "family", "error", "validation_loss", "steps", "mean_distance", "reordered_distance"]
    fields += ["mean_norm", "distance_by_norm", "noise_distance"]
    columns = [name.replace("_", " ") for name in fields]
    rows = [[getattr(t, name) for name in fields] for t in record.tasks]
    page.chart(
        "difficulty",
        table(columns, rows),
        label="task",
        series="family",
        x="error",
        y="mean distance",
        x_title="Error: 1 less the mean score",
        y_title="Mean distance within the task",
        title="How far tunings lie apart, by difficulty",
    )
    page.tables["difficulty correlations"] = correlation_table(record.correlations)


def add_transfer(page: Page, analysis: Analysis, record: Transfer, arrays: Arrays) -> None:
    """The matrix of changes, and each of its cells against the distance of the two tasks."""
    of_task = {task.name: task.family or UNKNOWN for task in analysis.tasks}
    families = [of_task.get(name, UNKNOWN) for name in record.tasks]
    change = arrays["change"]
    order = clustered(squareform(pdist(np.nan_to_num(np.hstack([change, change.T])))))
    page.heats["transfer"] = heat(
        "Change in accuracy: tuned on the row's task, used on the column's",
        record.tasks,
        families,
        change,
        order,
        what="change",
        diverging=True,
        diagonal=True,
    )
    title = "Frobenius distance of tasks, mean over their soft prompts"
    page.tables["transfer correlations"] = correlation_table(record.correlations)
    if "frobenius" not in arrays:  # soft prompts of different lengths have no distance
        return
    page.heats["transfer distance"] = heat(
        title, record.tasks, families, arrays["frobenius"], order, what="distance", diagonal=True
    )
    pairs = [(i, j) for i in range(len(families)) for j in range(len(families)) if i != j]
    rows = [
        [
            f"{record.tasks[i]} → {record.tasks[j]}",
            "one family" if families[i] == families[j] else "two families",
            arrays["frobenius"][i, j].item(),
            arrays["reordered"][i, j].item(),
            arrays["cosine"][i, j].item(),
            arrays["alignment_dimensions"][i, j].item(),
            change[i, j].item(),
        ]
        for i, j in pairs
    ]
    columns = ["pair", "families", "distance", "reordered distance", "cosine", "alignment"]
    columns += ["change in accuracy"]
    page.chart(
        "transfer pairs",
        table(columns, rows),
        label="pair",
        series="families",
        x="distance",
        y="change in accuracy",
        x_title="Frobenius distance of the two tasks' soft prompts",
        y_title="Change in accuracy",
        title="Transfer against distance",
    )


def add_statistics(page: Page, record: Statistics) -> None:
    """Norms and variances of tasks, as the study's table 1 has them, and of single soft prompts."""
    columns = ["task", "family", "group", "prompts", "mean norm", "mean token norm", "norm variance", "variance"]
    columns += ["mean distance", "variation of distances", "mean score", "score deviation"]
    rows = [
        [t.task, t.family, t.group, t.n_prompts, t.mean_norm, t.mean_token_norm, t.norm_variance, t.variance]
        + [t.mean_distance, t.distance_variation, t.mean_score, t.score_deviation]
        for t in record.tasks
    ]
    page.tables["statistics tasks"] = table(columns, rows)
    fields = ["name", "n_tokens", "d_model", "norm", "mean_token_norm", "token_norm_variance", "smallest_token_norm"]
    fields += ["largest_token_norm", "mean", "variance", "token_cosine"]
    single = [[getattr(one, name) for name in fields] for one in record.prompts]
    page.tables["statistics prompts"] = table([name.replace("_", " ") for name in fields], single)
    fields = ["first", "second", "distance", "reordered_distance", "cosine", "token_cosine", "alignment"]
    pairs = [[getattr(one, name) for name in fields] for one in record.pairs]
    page.tables["statistics pairs"] = table([name.replace("_", " ") for name in fields], pairs)


def add_extraction(page: Page, analysis: Analysis, record: Extraction) -> None:
    """Nearest tokens of every position."""
    n = min(_TOKENS_SHOWN, record.k)
    columns = ["soft prompt", "position", *(f"token {i + 1}{part}" for i in range(n) for part in ("", " cosine"))]
    names = labels_of(analysis)
    rows = [
        [names[one.prompt], i, *(v for t in position.nearest[:n] for v in (t.text, t.cosine))]
        + [None if position.start is None else position.start.text, position.stayed]
        for one in record.prompts
        for i, position in enumerate(one.positions)
    ]
    page.tables["tokens"] = table([*columns, "start", "stayed"], rows)


def correlation_table(rows: Sequence[CorrelationRow]) -> Table:
    """Correlations with their intervals."""
    columns = ["first", "second", "given", "method", "correlation", "correlation low", "correlation high", "p value"]
    return table(
        [*columns, "tasks"],
        [[r.first, r.second, ", ".join(r.given), r.method, *_parts(r.correlation), r.p_value, r.n] for r in rows],
    )


def heat(
    title: str,
    names: Sequence[str],
    families: Sequence[str],
    matrix: Float[np.ndarray, "n n"],
    cluster: Sequence[int],
    *,
    what: str,
    diverging: bool = False,
    diagonal: bool = False,
) -> dict[str, Any]:
    """A heat map of a square matrix, rows and columns sorted alike. `diverging`: shaded from 0 to both sides.
    `diagonal`: that something is compared with itself is worth a shade."""
    by_family = sorted(range(len(names)), key=lambda i: families[i])
    return {
        "title": title,
        "what": what,
        "diverging": diverging,
        "diagonal": diagonal,
        "names": list(names),
        "families": list(families),
        "values": table([], matrix.tolist())["rows"],
        "orders": {"as analysed": list(range(len(names))), "by family": by_family, "clustered": list(cluster)},
    }


def clustered(distances: Float[np.ndarray, "n n"]) -> list[int]:
    """An order in which near ones stand together: average linkage, leaves in the best order (SciPy)."""
    if len(distances) < 3:
        return list(range(len(distances)))
    finite = np.nan_to_num(distances, nan=float(np.nanmax(np.nan_to_num(distances))))
    both = np.maximum((finite + finite.T) / 2, 0)
    np.fill_diagonal(both, 0)
    return leaves_list(linkage(squareform(both, checks=False), "average", optimal_ordering=True)).tolist()


def _parts(estimate: Estimate | None) -> list[float | None]:
    return [None] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high]
