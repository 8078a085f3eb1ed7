"""An analysis on the screen: one offline page, and a short summary for the terminal, both drawn from its records."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist, squareform

from soft2hard.eval.analysis.findings import (
    GIVEN,
    MAIN,
    SECTIONS,
    Analysis,
    Claim,
    Claims,
    NotRun,
    SectionName,
    Tables,
    all_tables,
    columns_of,
    interval_in,
    load_analysis,
)
from soft2hard.eval.analysis.geometry import MEASURES
from soft2hard.eval.intervals import Interval
from soft2hard.eval.report.html import render_page
from soft2hard.storage.files import atomic_write

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PAGE_NAME = "analysis.html"
MOST_ROWS = 1000
"""Rows of a table at most on the page; the files have all."""
MOST_PROMPTS, MOST_LISTED, MOST_TASKS = 8, 4, 20
"""Soft prompts whose own figures, and whose nearest tokens, and tasks that are printed on the terminal."""
TITLES: dict[SectionName, str] = {
    "claims": "Claims",
    "statistics": "Statistics",
    "distances": "Distances",
    "maps": "Maps",
    "difficulty": "Difficulty",
    "transfer": "Transfer",
    "extraction": "Nearest tokens",
    "stability": "Translations",
    "positions": "Positions",
    "readings": "Readings",
}
CHANGES = {
    "mean": "one position masked by the mean",
    "zeros": "one position masked by zeros",
    "removed": "one position left out",
    "alone": "one position alone",
    "permuted": "all in a random order",
}
_PROJECTIONS = {"tsne": "t-SNE", "umap": "UMAP", "pca": "Principal coordinates"}
_MAPPED = {"frobenius": "Frobenius distances", "reordered": "distances after the best permutation"}
_MEASURED = {"title": "measure", "within": "within a task", "between": "between tasks", "ratio": "ratio"}
_MEASURED |= {"all_pairs": "all pairs", "noise": "pure noise"}
_COLOURS = ("#0b6cbf", "#c2571a", "#1a7f4b", "#8a4fb5", "#b3293e", "#0f7d86", "#8c6d0f", "#5c6670")
_LABELS = {
    "change": "change in accuracy",
    "frobenius": "Frobenius distance",
    "value": "share, or likeness",
    "meaning_changed": "share of translations that change",
    "max_rouge1": "ROUGE-1, best pair of layers",
    "max_class_rate": "class rate, best pair of layers",
    "gap": "1 - median score / best score",
}
_BARE = {"showticklabels": False, "title": "", "showgrid": False, "showline": True, "mirror": True}
_BARE |= {"linecolor": "#d9dee3"}


@dataclass(frozen=True)
class Listing:
    """A table of texts."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    """For each column if it holds numbers."""


def listing(title: str, table: pd.DataFrame, columns: Mapping[str, str] | Sequence[str] = ()) -> Listing:
    """The rows of a table as texts; a figure and the ends of its interval share a cell. `columns` names those to
    show, with their headings; all by default."""
    names = columns or [c for c in table if not (c.endswith(("_low", "_high")) and c.rsplit("_", 1)[0] in table)]
    heads = columns if isinstance(columns, Mapping) else {name: _plain(name) for name in names}
    rows = tuple(tuple(_cell(row, name) for name in heads) for row in table.to_dict("records"))
    return Listing(title, tuple(heads.values()), rows, tuple(table[name].dtype.kind in "fi" for name in heads))


def _cell(row: Mapping[str, Any], name: str) -> str:
    if f"{name}_low" in row:
        return shown(interval_in(row, name))
    return f"{row[name]:.2g}" if name == "p_value" and not pd.isna(row[name]) else shown(row[name])


def shown(value: Any) -> str:
    """A value as people read it; a dash for one that is not known."""
    if isinstance(value, list | tuple | np.ndarray):
        return " | ".join(map(str, value))
    if value is None or value is pd.NA or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- the terminal --------------------------------------------------------------------------------------


def listings(analysis: Analysis, folder: Path, n_positions: int) -> Iterator[Listing]:
    """The summary of an analysis, the most important last; nearest tokens of the first `n_positions` positions."""
    tables = all_tables(folder, analysis)
    given = Counter(row.task for row in analysis.prompts if row.group == GIVEN)
    if given:  # how prompts were told apart by task, for people to see that it is right
        more = f" (the first {MOST_TASKS} of {len(given)})" if len(given) > MOST_TASKS else ""
        counts = pd.DataFrame(list(given.items())[:MOST_TASKS], columns=["task", "soft prompts"])
        yield listing(f"Tasks{more}; --mapping says others", counts)
    if "extraction-tokens" in tables and n_positions:
        tokens = tables["extraction-tokens"]
        rows = tokens_by_position(tokens[tokens["position"] < n_positions])
        yield _first(rows, "Nearest tokens by cosine", most=MOST_LISTED)
    if "extraction-starts" in tables and tables["extraction-starts"]["share_stayed"].notna().any():
        yield listing("What stayed of the starts", tables["extraction-starts"])
    if "statistics-prompts" in tables:
        columns = ["prompt", "n_tokens", "d_model", "norm", "mean_token_norm", "token_norm_variance", "variance"]
        yield _first(tables["statistics-prompts"], "Each soft prompt", [*columns, "token_cosine"])
    if "distances-pairs" in tables and len(tables["distances-pairs"]) < MOST_PROMPTS**2 / 2:
        pairs = tables["distances-pairs"].drop(columns=["share_moved", "alignment_positions"], errors="ignore")
        yield listing("Pairs of soft prompts", pairs)
    for name, title, column in (
        ("statistics-groups", "Groups of tunings", "mean_distance"),
        ("distances-measures", "Distances and likeness", "all_pairs"),
        ("difficulty-correlations", "Difficulty", "first"),
        ("transfer-correlations", "Closeness with transfer", "first"),
        ("readings-correlations", "Score with the quality of readings", "measure"),
    ):
        if name in tables and tables[name][column].notna().any():
            columns = _MEASURED if name == "distances-measures" else ()
            yield listing(title, tables[name].fillna({"reason": ""}), columns)
    yield _overview(analysis)
    claims = analysis.sections.get("claims")
    if isinstance(claims, Claims) and any(claim.estimate for claim in claims.claims):
        yield from _claims(claims.claims)


def _first(table: pd.DataFrame, title: str, columns: Sequence[str] = (), most: int = MOST_PROMPTS) -> Listing:
    names = list(dict.fromkeys(table["prompt"]))
    more = f" (the first {most} of {len(names)} soft prompts)" if len(names) > most else ""
    return listing(title + more, table[table["prompt"].isin(names[:most])], columns)


def tokens_by_position(tokens: pd.DataFrame) -> pd.DataFrame:
    """One row a position, with its nearest tokens and their cosines, and the token that it was started from."""
    near = tokens["token"] + tokens["cosine"].map(" {:.2f}".format)
    start = tokens["start"].fillna("") + tokens["stayed"].map({True: " (stayed)"}).fillna("")
    several = tokens.groupby("prompt")["group"].transform("nunique") > 1  # groups of tunings number theirs alike
    prompt = tokens["prompt"].where(~several, tokens["prompt"] + ", " + tokens["group"])
    rows = pd.DataFrame({"prompt": prompt, "position": tokens["position"], "nearest": near, "started_from": start})
    found = rows.groupby(["prompt", "position"], sort=False).agg({"nearest": ", ".join, "started_from": "first"})
    return found.reset_index()


def _overview(analysis: Analysis) -> Listing:
    rows: list[tuple[str, str, str]] = []
    reasons: dict[str, list[str]] = {}
    if analysis.tuning_seconds is not None:
        rows.append(("tuning", f"{analysis.tuning_seconds:.0f}", f"{len(analysis.prompts)} soft prompts"))
    for name in SECTIONS:
        section = analysis.found(name)
        if section:
            known = [f"{_plain(k)} {shown(v)}" for k, v in section.figures.items() if v is not None]
            rows.append((name, f"{section.seconds:.1f}", "; ".join([*known, *section.notes])))
        elif isinstance(analysis.sections.get(name), NotRun):  # several sections may share a reason
            reasons.setdefault(analysis.reason(name).replace(f"and {name} needs", "and it needs"), []).append(name)
    rows += [(", ".join(names), "", f"not run: {reason}") for reason, names in reasons.items()]
    return listing("Sections", pd.DataFrame(rows, columns=["section", "seconds", "found"]))


def _claims(claims: Sequence[Claim]) -> Iterator[Listing]:
    """The verdicts, between what they could be and what qualifies them."""
    for title, columns, rows in (
        (
            "Other readings of the claims, by the same rules",
            ("claim", "read otherwise", "says", "estimate [95 %]"),
            [(_plain(c.name), one.label, one.says, figure_text(one)) for c in claims for one in c.beside],
        ),
        (
            "Claims of the study",
            ("claim", "verdict", "estimate [95 %]", "rule"),
            [(claim.text, claim.verdict, figure_text(claim), claim.rule) for claim in claims],
        ),
        (
            "Notes that qualify the verdicts",
            ("claim", "note"),
            [(_plain(claim.name), note) for claim in claims for note in claim.notes],
        ),
    ):
        if rows:
            yield Listing(title, columns, tuple(rows), (False,) * len(columns))


def _plain(name: str) -> str:
    return name.replace("_", " ")


def figure_text(one: Any) -> str:
    """The estimate of a claim or a reading, with its p-value and its number of tasks."""
    p_value = "" if one.p_value is None else f", p = {one.p_value:.2g}"
    return f"{shown(one.estimate)}{p_value}" + (f", {one.n} tasks" if one.n is not None else "")


# --- the page ------------------------------------------------------------------------------------------


def write_analysis_page(folder: Path) -> Path:
    """Write the page of the analysis in a folder beside its records, and return its path.

    Raises UserError where the folder holds no analysis, where its records or tables are damaged or of another version,
    and where the page cannot be written.
    """
    analysis = load_analysis(folder)
    tables = all_tables(folder, analysis)
    ran = {name: section for name in TITLES if (section := analysis.found(name))}
    context = {
        "analysis": analysis,
        "titles": TITLES,
        "ran": ran,
        "missing": {name: analysis.reason(name) for name in TITLES if name not in ran},
        "families": [family for family in dict.fromkeys(task.family for task in analysis.tasks) if family],
        "tables": {name: _on_page(name, table) for name, table in tables.items()},
        "charts": dict(_charts(analysis, tables)),
    }
    filters = {"shown": shown, "figure_text": figure_text}
    text = render_page(Path(__file__).with_name("page.html"), context, filters=filters)
    with atomic_write(folder / PAGE_NAME) as temporary:
        # JSON may hold half a surrogate pair, which no file can.
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return folder / PAGE_NAME


def _on_page(name: str, table: pd.DataFrame) -> Listing:
    """A table without the columns that hold nothing, and without more rows than people read."""
    section, kind = name.split("-")
    title = f"{TITLES[section]}: {kind}"
    if name == "distances-measures":
        return listing("Distances and likeness", table, _MEASURED)
    if name == "extraction-tokens":
        title, table = "Nearest tokens of every position", tokens_by_position(table)
    elif name == "positions-effects":
        table = table[table["position"].isna()].assign(change=table["change"].map(CHANGES))
    if len(table) > MOST_ROWS:
        title += f" (the first {MOST_ROWS} of {len(table)} rows; the file has all)"
    return listing(title, table[:MOST_ROWS].dropna(axis=1, how="all"))


def _charts(analysis: Analysis, tables: Tables) -> Iterator[tuple[str, "Figure"]]:
    family = {task.name: task.family for task in analysis.tasks if task.family}
    rows = [(row.name, row.task or "–", row.score) for row in analysis.prompts if row.group in (MAIN, GIVEN)]
    main = pd.DataFrame(rows, columns=["prompt", "task", "score"])
    main["family"] = main["task"].map(family).fillna(main["task"])
    if "distances-pairs" in tables:
        pairs = tables["distances-pairs"]
        names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
        kin = main.set_index("prompt")["family"].loc[names].tolist()
        for measure in (name for name in MEASURES if name in pairs and name != "share_moved"):
            matrix = squareform(pairs[measure].to_numpy())
            order = clustered(1 - matrix if measure.startswith("alignment") else matrix)
            np.fill_diagonal(matrix, np.nan)
            yield measure, heat(MEASURES[measure], names, kin, matrix, order)
    if "maps-maps" in tables:
        texts = tables.get("stability-texts", pd.DataFrame(columns=["prompt", "group", "text"]))
        said = texts[texts["group"].isin((MAIN, GIVEN))].set_index("prompt")["text"]
        told = main.assign(translation=main["prompt"].map(said).fillna("–"))
        for one in tables["maps-maps"].itertuples():
            places = tables["maps-places"].query("map == @one.map").merge(told, on="prompt")
            title = f"{_PROJECTIONS[one.projection]} of {_MAPPED[one.measure]}"
            about = f"{escape(one.about)}; trustworthiness {shown(one.trustworthiness)}"
            hover = {"x": False, "y": False, "task": True, "translation": True, "score": True}
            marks = {"color": "family", "symbol": "family", "hover_name": "prompt", "hover_data": hover}
            chart = drawn("scatter", places, ("x", "y"), f"{title}<br><sub>{about}</sub>", **marks)
            yield f"map {one.map}", chart.update_xaxes(**_BARE).update_yaxes(**_BARE)
    if "difficulty-tasks" in tables:
        title = "How far tunings lie apart, by difficulty: error is 1 less the mean score"
        marks = {"color": "family", "symbol": "family", "hover_name": "task"}
        yield "difficulty", drawn("scatter", tables["difficulty-tasks"], ("error", "mean_distance"), title, **marks)
        title = "How far tunings lie apart, by how far the median tuning stays below the best"
        known = tables["difficulty-tasks"].dropna(subset=["gap"])
        yield "difficulty gap", drawn("scatter", known, ("gap", "mean_distance"), title, **marks)
    if main["score"].notna().any():
        yield "scores", _scores(main.dropna(subset="score"), analysis)
    if "readings-prompts" in tables:
        read, marks = tables["readings-prompts"], {"color": "task", "symbol": "task", "hover_name": "prompt"}
        for name in ("max_rouge1", "max_class_rate"):
            if read[name].notna().any():
                label = _LABELS[name]
                title = f"{label[0].upper()}{label[1:]}, of a soft prompt's readings, by its score"
                hover = {"hover_data": [f"best_{name.removeprefix('max_')}_output", "step"]}
                yield f"readings {name}", drawn("scatter", read, ("score", name), title, **marks, **hover)
    if "transfer-pairs" in tables:
        yield from _transfer(tables["transfer-pairs"], family)
    if section := analysis.found("stability"):
        known = {_plain(name): one for name, one in section.figures.items() if isinstance(one, Interval)}
        table = pd.DataFrame([columns_of("value", one) for one in known.values()]).assign(translations=list(known))
        chart = drawn("scatter", table, ("value", "translations"), "Several tunings of one task", interval="x")
        yield "stability", chart.update_yaxes(autorange="reversed", title="").update_layout(height=460)
    if "positions-effects" in tables:
        effects = tables["positions-effects"].dropna(subset="position")
        effects = effects.assign(change=effects["change"].map(CHANGES), position=effects["position"].astype(int))
        for name, title in (("score_lost", "Score lost"), ("meaning_changed", "Share of translations that change")):
            if effects[name].notna().any():
                options = {"color": "change", "markers": True, "interval": "y"}
                yield (
                    f"positions {name}",
                    drawn("line", effects, ("position", name), f"{title}, by position", **options),
                )


def _scores(main: pd.DataFrame, analysis: Analysis) -> "Figure":
    """Scores of all tunings of each task, beside that without a prompt."""
    baseline = {task.name: task.baseline for task in analysis.tasks if task.baseline is not None}
    rows = [*main[["prompt", "task", "score"]].assign(which="tuned").to_dict("records")]
    rows += [{"prompt": name, "task": name, "score": score, "which": "no prompt"} for name, score in baseline.items()]
    marks = {"color": "which", "symbol": "which", "hover_name": "prompt"}
    return drawn("scatter", pd.DataFrame(rows), ("task", "score"), "Scores of every tuning by task", **marks)


def _transfer(pairs: pd.DataFrame, family: Mapping[str, str]) -> Iterator[tuple[str, "Figure"]]:
    names = list(dict.fromkeys(pairs["tuned_on"]))
    kin = [family.get(name, "") for name in names]
    change = pairs["change"].to_numpy().reshape(len(names), -1)
    order = clustered(squareform(pdist(np.nan_to_num(np.hstack([change, change.T])))))
    title = "Change in accuracy (rows: tuned on, columns: used on)"
    yield "transfer", heat(title, names, kin, change, order, diverging=True)
    if "frobenius" in pairs:  # soft prompts of different lengths have no distance
        apart = pairs["frobenius"].to_numpy().reshape(change.shape)
        yield "transfer distance", heat("Frobenius distance of the tasks' soft prompts", names, kin, apart, order)
        others = pairs[pairs["tuned_on"] != pairs["used_on"]]
        same = others["tuned_on"].map(family) == others["used_on"].map(family)
        labels = {"pair": others["tuned_on"] + " → " + others["used_on"]}
        table = others.assign(families=np.where(same, "one family", "two families"), **labels)
        title = "Change in accuracy, by Frobenius distance of the two tasks' soft prompts"
        marks = {"color": "families", "symbol": "families", "hover_name": "pair"}
        yield "transfer pairs", drawn("scatter", table, ("frobenius", "change"), title, **marks)


def heat(
    title: str,
    names: Sequence[str],
    families: Sequence[str],
    matrix: Float[np.ndarray, "n n"],
    cluster: Sequence[int],
    diverging: bool = False,
) -> "Figure":
    """A heat map of a square matrix, rows and columns sorted alike. `diverging`: shaded from 0 to both sides."""
    from plotly.express import imshow

    labels = [escape(f"{name} ({kin})" if kin else name) for name, kin in zip(names, families, strict=True)]
    by_family = sorted(range(len(names)), key=lambda i: families[i])
    buttons = []
    for name, order in {"as analysed": range(len(names)), "by family": by_family, "by clusters": cluster}.items():
        array = [labels[i] for i in order]
        args = {
            f"{axis}axis.{k}": v for axis in "xy" for k, v in (("categoryorder", "array"), ("categoryarray", array))
        }
        buttons.append({"label": name, "method": "relayout", "args": [args]})
    shades = {"color_continuous_scale": "RdBu", "color_continuous_midpoint": 0.0} if diverging else {}
    # Single precision keeps the page small.
    settings = {"x": labels, "y": labels, "aspect": "auto", "title": title, "color_continuous_scale": "Blues"} | shades
    figure = imshow(matrix.astype(np.float32), **settings)
    figure.update_traces(hovertemplate="%{y}<br>%{x}<br>%{z:.4f}<extra></extra>")
    axis = _BARE | {"type": "category", "categoryorder": "array", "categoryarray": labels}
    figure.update_xaxes(**axis).update_yaxes(**axis)
    menu = {"buttons": buttons, "type": "buttons", "direction": "left", "x": 0, "xanchor": "left", "y": -0.02}
    bar = {"title": "", "thickness": 12}
    return _laid_out(figure).update_layout(height=540, updatemenus=[menu | {"yanchor": "top"}], coloraxis_colorbar=bar)


def drawn(
    kind: str, table: pd.DataFrame, axes: tuple[str, str], title: str, interval: str | None = None, **settings: Any
) -> "Figure":
    """A chart of Plotly Express with no markup of a text in it; `interval`: the axis whose figure has one."""
    import plotly.express

    texts = table.map(lambda value: escape(value) if isinstance(value, str) else value)
    labels = {name: _plain(name) for name in table} | _LABELS
    if interval:
        name = axes["xy".index(interval)]
        ends = {f"error_{interval}": table[f"{name}_high"], f"error_{interval}_minus": table[f"{name}_low"]}
        settings |= {key: (end - table[name]).abs() for key, end in ends.items()}
    chart = getattr(plotly.express, kind)
    figure = chart(
        texts, x=axes[0], y=axes[1], title=title, labels=labels, color_discrete_sequence=_COLOURS, **settings
    )
    return _laid_out(figure).update_layout(showlegend="color" in settings and table[settings["color"]].nunique() > 1)


def _laid_out(figure: "Figure") -> "Figure":
    figure.update_xaxes(zeroline=False).update_yaxes(zeroline=False)
    return figure.update_layout(
        template="plotly_white",
        title={"font": {"size": 14}, "x": 0, "xref": "container"},
        font={"family": "system-ui, sans-serif", "size": 12},
        margin={"l": 8, "r": 8, "t": 60, "b": 8},
        height=420,
        legend={"font": {"size": 11}, "title": ""},
    )


def clustered(distances: Float[np.ndarray, "n n"]) -> list[int]:
    """An order in which near ones stand together: average linkage, leaves in the best order (SciPy)."""
    if len(distances) < 3:
        return list(range(len(distances)))
    finite = np.nan_to_num(distances, nan=float(np.nanmax(np.nan_to_num(distances))))
    both = np.maximum((finite + finite.T) / 2, 0)
    np.fill_diagonal(both, 0)
    return leaves_list(linkage(squareform(both, checks=False), "average", optimal_ordering=True)).tolist()
