"""Are better soft prompts read better? InSPEcT's readings of soft prompts, beside their scores (arXiv 2410.11660).

The paper follows soft prompts through their tuning and finds that what InSPEcT elicits names the task more often the
better a soft prompt does it. Its measures are oracles, each the best over all pairs of layers by the task's own
instruction or classes (`best_readings`), so they are above 0 for any soft prompt: beside them stands the ROUGE-1 of
the same readings with the instruction of another task.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import spearmanr

from soft2hard.errors import UserError
from soft2hard.eval.analysis.findings import ON_THE_WAY, Section, Tables, columns_of, known_mean
from soft2hard.eval.analysis.inputs import Material
from soft2hard.eval.intervals import Interval, Values, percentile_interval
from soft2hard.eval.methods.base import Bench, Case
from soft2hard.eval.methods.inspect_patching import Describer, InspectOracle
from soft2hard.eval.methods.options import InspectOracleOptions
from soft2hard.eval.metrics.descriptions import best_readings, keyword_scores
from soft2hard.translator.proposers.elicit import spread

MEASURES = ("max_rouge1", "max_class_rate", "keyword_precision", "keyword_f1")
"""Of the quality of a soft prompt's readings, 0 to 1; keywords are those of the reading with the best ROUGE-1."""
_LEAST = 3  # soft prompts of a task that a correlation within it is of


def readings_section(material: Material) -> tuple[Section, Tables]:
    """Every main soft prompt, and those on their way there, read under pairs of layers; tasks need an instruction.

    `prompts`: score and step of each, its best readings and their measures, and `other_rouge1`, the best ROUGE-1 with
    the instruction of the next task. `correlations` (`correlations_with_score`): of each measure. Figures: mean over
    tasks of `max_rouge1` and of `other_rouge1`, pairs of layers (`n_pairs`), and soft prompts that could not be read.
    Raises UserError for a subject whose blocks cannot be patched, and where no soft prompt has a score.
    """
    subject = material.need_subject("readings")
    numbers = [i for i in (*material.main, *material.of_group(ON_THE_WAY)) if material.prompts[i].score is not None]
    numbers = material.need_tasks("readings", numbers)
    tasks = {name: material.task_by_name[name] for name in dict.fromkeys(material.names(numbers))}
    tasks = {name: task for name, task in tasks.items() if task.instruction}
    names = list(tasks)[: material.sizes.experiment_tasks]
    numbers = [i for i in numbers if material.prompts[i].task in names]
    if not numbers:
        raise UserError("No task of a soft prompt has an instruction to compare its readings with.", "Write one.")
    describer = _describer(material, Bench(subject, seed=material.seed))
    cases = [Case(tasks[material.prompts[i].task], material.soft_prompts[i]) for i in numbers]
    rows, unread = [], 0
    for i, described in zip(numbers, describer.describe(cases, describer.pairs), strict=True):
        if isinstance(described, str):
            unread += 1
            continue
        row, own = material.prompts[i], tasks[material.prompts[i].task]
        other = tasks[names[(names.index(own.name) + 1) % len(names)]]
        best = best_readings(described[1], own)
        facts = {"prompt": row.name, "task": own.name, "group": row.group, "step": row.steps, "score": row.score}
        keywords = keyword_scores(best.best_rouge1_output, own)
        facts |= asdict(best) | (vars(keywords) if keywords else dict.fromkeys(("keyword_precision", "keyword_f1")))
        rows.append(facts | {"other_rouge1": best_readings(described[1], other).max_rouge1 if len(names) > 1 else None})
    if not rows:
        raise UserError("No soft prompt fits the subject's context with the text that asks.", "Shorten the prompts.")
    table = pd.DataFrame(rows)
    table = table.astype({name: float for name in (*MEASURES, "score", "other_rouge1")})
    means = table.groupby("task", sort=False)[["max_rouge1", "other_rouge1"]].mean()
    figures = {name: known_mean(means[name], material.seed) for name in means}
    figures |= {"n_pairs": len(describer.pairs), "n_unread": unread}
    return Section(figures=figures), {"prompts": table, "correlations": correlations_with_score(table, material.seed)}


def _describer(material: Material, bench: Bench) -> Describer:
    """InSPEcT as the material asks for it; layers that are not named are spread over the subject."""
    options = material.readings or InspectOracleOptions()
    method = InspectOracle(**vars(options))
    method.check(bench)
    describer = Describer(method, bench)
    n, first = len(describer.patcher.blocks), describer.patcher.first_source
    most = material.sizes.reading_layers
    chosen = {
        "sources": options.sources or tuple(first + i for i in spread(n - first, most)),
        "targets": options.targets or tuple(spread(n, most)),
    }
    describer.pairs = describer.patcher.pairs(**chosen)
    return describer


def correlations_with_score(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Spearman's rank correlation of score and quality of reading for each of `MEASURES`.

    `within`: of the soft prompts of each task (three or more that differ in both), mean over such tasks: whether a task
    is read better as its soft prompt gets better. `pooled`: of all soft prompts together, as the paper's figures show
    them; tasks differ in both, so it may come from them. Tasks are resampled with their soft prompts.
    """
    rows = []
    for measure in MEASURES:
        known = table[["task", "score", measure]].dropna()
        pairs = [group[["score", measure]].to_numpy(float) for _, group in known.groupby("task", sort=False)]
        within = [_spearman(*own.T) for own in pairs if len(own) >= _LEAST]
        rows.append(
            {"measure": measure}
            | columns_of("within", known_mean(within, seed))
            | {"n_tasks": int(np.isfinite(within).sum())}
            | columns_of("pooled", _pooled(pairs, seed))
            | {"n_prompts": len(known)}
        )
    return pd.DataFrame(rows)


def _spearman(first: Values, second: Values) -> float:
    """NaN where one side has one value only."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan
    return float(spearmanr(first, second).statistic)


def _pooled(pairs: Sequence[Float[np.ndarray, "_n 2"]], seed: int, n_resamples: int = 2000) -> Interval | None:
    """Of the pairs of all tasks together, an array a task."""
    observed = _spearman(*np.concatenate(pairs).T) if pairs else np.nan
    if np.isnan(observed):
        return None
    if len(pairs) == 1:
        return Interval(observed, None, None)
    drawn = np.random.default_rng(seed).integers(0, len(pairs), (n_resamples, len(pairs)))
    resampled = np.array([_spearman(*np.concatenate([pairs[i] for i in some]).T) for some in drawn])
    return percentile_interval(observed, resampled)
