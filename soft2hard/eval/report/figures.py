"""The figures of a run: what each means, its value for each method, and how methods, and runs, differ by them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import binned_statistic

from soft2hard.errors import UserError
from soft2hard.eval import intervals
from soft2hard.eval.intervals import Interval, Values
from soft2hard.eval.report.reading import Run


@dataclass(frozen=True)
class Figure:
    """A column of `ResultRow`, as a report shows it."""

    key: str
    title: str
    better: Literal["more", "less"]
    meaning: str
    share: bool = False
    """Zero is the worst value there is, or what no prompt has; a failed cell then counts as zero."""
    log: bool = False
    """Averaged and compared as logarithms: means are geometric, differences are factors."""
    main: bool = False
    """Stands in the main table, not only in the full one."""


_GOLD = "F1 against the gold instruction, with stemming."
_SAME = "Share of test inputs for which the subject writes the same as under the soft prompt."
_EXPLAINED = "1 - KL(soft || prompt) / KL(soft || no prompt): 0 is as no prompt, negative is further away than that."
_LOSSES = "|L - L'|: distance of the loss on the test outputs from that under the soft prompt, nats a token."
_NEAR = "Distance differential: mean squared Euclidean distance from the soft prompt, position by position."
SCORE = Figure("score", "Score", "more", "The task's own metric on its test examples, 0 to 1.", share=True, main=True)
RECOVERY = Figure("recovery", "Recovery", "more", "Mean score over the soft prompts' on the same tasks.", main=True)
EXPLAINED = Figure("explained_share", "Explained share", "more", _EXPLAINED, share=True, main=True)
AGREEMENT = Figure("agreement", "Agreement", "more", _SAME, share=True, main=True)
KL = Figure("kl", "KL", "less", "Mean KL(soft || prompt) over target positions, nats.", main=True)
PERPLEXITY = Figure("perplexity", "Perplexity", "less", "Under the reference LM; geometric mean.", log=True, main=True)
EXACT = Figure("exact_task", "Exact task", "more", "Share of prompts that parse to the very task.", True, main=True)
_KEPT = "Of rewritings in another style: cosine of their sentence embeddings with their sources'."
_WANTED = "Of these: the share in the wanted style, as the judge tells it."
_FLUENT = "Of these: the share that the reference LM finds no less likely than all but 5 % of real sentences."
_JOINT = "Mean over sentences of content * style * fluency, the last two 1 or 0 (arXiv 2205.12548)."
STYLE = (
    Figure("content", "Content", "more", _KEPT, share=True, main=True),
    Figure("style", "Style", "more", _WANTED, share=True, main=True),
    Figure("fluency", "Fluency", "more", _FLUENT, share=True, main=True),
    Figure("joint", "Joint", "more", _JOINT, share=True, main=True),
)
FIGURES = (
    SCORE,
    RECOVERY,
    EXPLAINED,
    AGREEMENT,
    KL,
    PERPLEXITY,
    Figure("rougeL", "ROUGE-L", "more", _GOLD, share=True, main=True),
    *STYLE,
    EXACT,
    Figure("loss", "Loss", "less", "Mean negative log-likelihood of the test outputs, nats a token."),
    Figure("performance_differential", "Performance differential", "less", _LOSSES),
    Figure("top1_agreement", "Top-1 agreement", "more", "Share of positions with the same likeliest token.", True),
    Figure("logit_distance", "Logit distance", "less", "Output differential: mean squared difference of logits."),
    Figure("embedding_distance", "Embedding distance", "less", _NEAR),
    Figure("embedding_cosine", "Embedding cosine", "more", "Mean cosine with the soft prompt, position by position."),
    Figure("rouge1", "ROUGE-1", "more", _GOLD, share=True),
    Figure("rouge2", "ROUGE-2", "more", _GOLD, share=True),
    Figure("bleu", "BLEU", "more", "Against the gold instruction.", share=True),
    Figure("chrf", "chrF", "more", "Against the gold instruction.", share=True),
    Figure("sentence_cosine", "Sentence cosine", "more", "Of the prompt's embedding with the gold instruction's."),
    Figure("nearest_rougeL", "ROUGE-L, nearest", "more", "With the nearest of gold and paraphrases.", share=True),
    Figure("nearest_cosine", "Cosine, nearest", "more", "Of sentence embeddings, likewise."),
    Figure("class_rate", "Class rate", "more", "Share of the task's label words that stand in the prompt.", share=True),
    Figure("keyword_precision", "Keyword precision", "more", "Share of its words that are the task's keywords.", True),
    Figure("keyword_f1", "Keyword F1", "more", "Of the prompt's words with the task's keywords.", share=True),
    Figure(
        "max_rouge1", "ROUGE-1, best pair", "more", "Of all pairs of layers, by the answer (InSPEcT's oracle).", True
    ),
    Figure("max_class_rate", "Class rate, best pair", "more", "Likewise.", share=True),
)
COLUMNS = tuple(figure for figure in FIGURES if figure is not RECOVERY)
"""Those that each row has for itself."""


def per_task(run: Run, method: str, figure: Figure) -> dict[str, float]:
    """A figure of a method for each task that has it, averaged over seeds; logarithms where the figure is `log`.

    A failed cell counts as 0 in the score, and in other shares where they apply, that is, where another method has the
    figure for the task and this method has it for another cell. Otherwise what a cell lacks is left out.
    """
    cells = run.cells[run.cells["method"] == method]
    values = cells[figure.key].astype(float)
    if figure is SCORE or (figure.share and values.notna().any()):
        having = run.cells.loc[run.cells[figure.key].notna(), "task"]
        counts = cells["failure"].notna() & (figure is SCORE or cells["task"].isin(having))
        values = values.mask(values.isna() & counts, 0.0)
    if figure.log:
        values = np.log(values.where(values > 0))
    values = values.dropna()
    return values.groupby(cells["task"].loc[values.index], sort=False).mean().to_dict()


def over_lengths(run: Run, values: Mapping[str, float]) -> dict[str, float]:
    """The values of tasks with those of one task at several lengths averaged: they are one task to an interval."""
    if not run.has_lengths:
        return dict(values)
    return intervals.by_task((name.rpartition(", ")[0], value) for name, value in values.items())


def estimate(run: Run, method: str, figure: Figure) -> Interval | None:
    """Mean over tasks with its interval; None where no task has the figure."""
    if figure is RECOVERY:
        return recovery(run, method)
    values = list(over_lengths(run, per_task(run, method, figure)).values())
    if not values:
        return None
    return exponential(intervals.mean_interval(values)) if figure.log else intervals.mean_interval(values)


def exponential(interval: Interval) -> Interval:
    """A mean of logarithms as a geometric mean, or a difference of logarithms as a factor."""
    return Interval(*(None if x is None else float(np.exp(x)) for x in (interval.value, interval.low, interval.high)))


def recovery(run: Run, method: str, tasks: set[str] | None = None) -> Interval | None:
    """Mean score over the soft prompts' mean score, same tasks; None where there is no soft prompt or it scores 0.

    `tasks` are those that count; None: all.
    """
    if run.soft_label is None:
        return None
    scores, soft = per_task(run, method, SCORE), per_task(run, run.soft_label, SCORE)
    common = [task for task in scores if task in soft and (tasks is None or task in tasks)]
    scores, soft = (over_lengths(run, {task: of[task] for task in common}) for of in (scores, soft))
    if not any(soft.values()):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # resamples of tasks on which the soft prompts score 0
        return intervals.ratio_interval(list(scores.values()), list(soft.values()))


def by_family(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean score, and recovery, of each method (columns) on each family (index, in order); NaN: there is none."""
    scores = pd.DataFrame({method: per_task(run, method, SCORE) for method in run.methods}, dtype=float)
    families = scores.index.map({task.name: task.family for task in run.tasks})

    def means(table: pd.DataFrame) -> pd.DataFrame:
        return table.groupby(families).mean().reindex(run.families)

    soft = scores[run.soft_label] if run.soft_label else pd.Series(np.nan, scores.index)
    base = scores.notna().apply(lambda has: soft.where(has))
    ratio = means(scores.where(soft.notna(), axis=0)) / means(base).replace(0, np.nan)
    return means(scores), ratio


def ranked(run: Run) -> list[str]:
    """Methods that have scores, best mean score first."""
    means = {method: np.mean([*scores]) for method in run.methods if (scores := per_task(run, method, SCORE).values())}
    return sorted(means, key=lambda method: -means[method])


def differences(run: Run) -> list[tuple[str, str, intervals.PairedDifference]]:
    """The better of two methods by mean score, the other, and how their scores differ; of all pairs with a common task,
    in the order of the ranking."""
    order = ranked(run)
    scores = {method: over_lengths(run, per_task(run, method, SCORE)) for method in order}
    return [
        (first, second, intervals.paired_difference(scores[first], scores[second]))
        for first, second in combinations(order, 2)
        if scores[first].keys() & scores[second].keys()
    ]


def reliability(confidence: Values, outcome: Values, n_bins: int = 10) -> pd.DataFrame:
    """Reliability diagram: mean `confidence`, mean `outcome` (0 to 1, graded or not) and number `n` of the items in
    each bin of equal width from 0 to 1 that is not empty. An edge belongs to the bin above it."""
    settings = {"bins": n_bins, "range": (0, 1)}
    means, _, _ = binned_statistic(confidence, [confidence, outcome], "mean", **settings)
    counts, _, _ = binned_statistic(confidence, None, "count", **settings)
    table = pd.DataFrame({"confidence": means[0], "outcome": means[1], "n": counts.astype(int)})
    return table[table["n"] > 0]


def calibration_error(bins: pd.DataFrame) -> float:
    """Expected calibration error: mean distance of outcome and confidence over the bins of `reliability`, each counting
    by its items (Guo et al. 2017, eq. 3)."""
    return float(np.average((bins["outcome"] - bins["confidence"]).abs(), weights=bins["n"]))


def auroc(confidence: Values, success: Values) -> float | None:
    """Area under the ROC curve; None where all items succeed, or all fail."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(success, confidence)) if 0 < sum(success) < len(success) else None


def kept_at(confidence: Values, success: Values, rate: float) -> tuple[float, float | None]:
    """The largest share of items that a threshold on the confidence keeps at a success rate of `rate` or more, and that
    threshold, the lowest confidence kept (None where nothing is)."""
    items = pd.DataFrame({"confidence": confidence, "success": success}).sort_values("confidence", ascending=False)
    last = ~items["confidence"].duplicated(keep="last")  # items of one confidence are kept or rejected together
    rates = items["success"].cumsum() / np.arange(1, len(items) + 1)
    good = np.flatnonzero(last & (rates >= rate))
    return ((good[-1] + 1) / len(items), float(items["confidence"].iloc[good[-1]])) if len(good) else (0.0, None)


def number_text(value: float | int | None) -> str:
    """A number for people: three decimals below 10, fewer above."""
    if value is None or not np.isfinite(value):
        return "–"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def interval_text(interval: Interval) -> str:
    """A number and its interval, where it has one."""
    if interval.low is None:
        return f"{number_text(interval.value)} [–]"
    return f"{number_text(interval.value)} [{number_text(interval.low)}, {number_text(interval.high)}]"


# Two runs side by side: what got better or worse, over the tasks that both have

MIN_TASKS = 6
"""With fewer pairs not even a change of the same sign in all of them is significant at 5 % (sign test: 2 / 2^5)."""
N_TASKS_SHOWN = 5
"""Tasks named for each method, as having gained and as having lost most."""
TaskChange = tuple[str, str, float, float, str, str]
"""Method, task, its score before and after, its hard prompts before and after, one a line."""


@dataclass(frozen=True)
class Change:
    """One figure of one method in both runs, over the tasks that have it in both."""

    method: str
    figure: Figure
    n_tasks: int
    before: float
    after: float
    difference: Interval
    """After less before; for a figure compared as logarithms, the factor from before to after."""
    verdict: Literal["better", "worse", "no clear change", "too few tasks"]

    @property
    def clear(self) -> bool:
        """True if the figure changed significantly."""
        return self.verdict in ("better", "worse")


@dataclass(frozen=True)
class Comparison:
    """How one run differs from an earlier one."""

    before: Run
    n_tasks: int
    """Tasks in both."""
    changes: tuple[Change, ...]
    tasks: tuple[TaskChange, ...]
    """Those that gained and lost most under each method."""
    only_before: tuple[str, ...]
    """Methods."""
    only_after: tuple[str, ...]
    settings: tuple[tuple[str, str, str], ...]
    """Name, before, after: configuration, seeds, options, versions and commit where they differ."""


def compare(before: Run, after: Run) -> Comparison:
    """Compare by method label; seeds are averaged first, differences are paired by task.

    Raises UserError where the runs have no task or no method in common.
    """
    known = {(task.name, task.family, task.instruction) for task in before.tasks}
    tasks = {task.name for task in after.tasks if (task.name, task.family, task.instruction) in known}
    methods = [label for label in after.methods if label in before.methods]
    for what, common in (("tasks", tasks), ("methods", methods)):
        if not common:
            raise UserError(
                f"The runs {before.name} and {after.name} have no {what} in common.",
                "Compare runs of the same tasks and methods, or report each on its own.",
            )
    changes = [_change(before, after, method, figure, tasks) for method in methods for figure in COLUMNS]
    old, new = _settings(before), _settings(after)
    pairs = {name: (old.get(name, "not set"), new.get(name, "not set")) for name in old | new}
    return Comparison(
        before=before,
        n_tasks=len(tasks),
        changes=tuple(change for change in changes if change),
        tasks=tuple(change for method in methods for change in _task_changes(before, after, method, tasks)),
        only_before=tuple(label for label in before.methods if label not in methods),
        only_after=tuple(label for label in after.methods if label not in methods),
        settings=tuple((name, *pair) for name, pair in pairs.items() if pair[0] != pair[1]),
    )


def _change(before: Run, after: Run, method: str, figure: Figure, tasks: set[str]) -> Change | None:
    old, new = per_task(before, method, figure), per_task(after, method, figure)
    common = [task for task in new if task in old and task in tasks]
    if not common:
        return None
    olds, news = [old[task] for task in common], [new[task] for task in common]
    difference = intervals.difference_interval(news, olds)
    means = [Interval(float(np.mean(values)), None, None) for values in (olds, news)]
    verdict = _verdict(difference, figure, len(common))
    if figure.log:
        difference, *means = (exponential(interval) for interval in (difference, *means))
    return Change(method, figure, len(common), means[0].value, means[1].value, difference, verdict)


def _verdict(difference: Interval, figure: Figure, n_tasks: int) -> str:
    if n_tasks < MIN_TASKS or difference.low is None or difference.high is None:
        return "too few tasks"
    if difference.low <= 0 <= difference.high:
        return "no clear change"
    return "better" if (difference.low > 0) == (figure.better == "more") else "worse"


def _task_changes(before: Run, after: Run, method: str, tasks: set[str]) -> Iterator[TaskChange]:
    old, new = per_task(before, method, SCORE), per_task(after, method, SCORE)
    gains = {task: new[task] - old[task] for task in new if task in old and task in tasks}
    best_first = sorted(gains, key=lambda task: -gains[task])
    gained = [task for task in best_first if gains[task] > 0][:N_TASKS_SHOWN]
    lost = [task for task in best_first[::-1] if gains[task] < 0][:N_TASKS_SHOWN]
    for task in (*gained, *lost):
        yield method, task, old[task], new[task], _prompts(before, method, task), _prompts(after, method, task)


def _prompts(run: Run, method: str, task: str) -> str:
    return "\n".join(dict.fromkeys(r.prompt for r in run.by_method[method] if r.task == task and r.prompt is not None))


def _settings(run: Run) -> dict[str, str]:
    """What a run was made with, flat: dotted names to JSON values."""
    record = run.record
    methods = {m.label: {"name": m.name, "options": m.options} for m in record.methods}
    tree = {"config": record.config, "methods": methods, "seeds": list(record.seeds), "versions": record.versions}
    return dict(_flat(tree | {"commit": record.commit}))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
