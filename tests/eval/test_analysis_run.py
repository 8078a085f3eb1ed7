"""Sections of an analysis on planted soft prompts, and how they are kept and resumed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis import analysis_run, experiments
from soft2hard.eval.analysis.analysis_run import begin, run_analysis, wanted_sections
from soft2hard.eval.analysis.comparisons import distances_section, statistics_section
from soft2hard.eval.analysis.experiments import stability_section
from soft2hard.eval.analysis.findings import (
    Analysis,
    NotRun,
    PromptRow,
    Tables,
    interval_in,
    load_analysis,
    load_tables,
)
from soft2hard.eval.analysis.inputs import Material
from soft2hard.eval.analysis.transfer_matrix import transfer_matrix
from soft2hard.eval.intervals import Interval
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models, tiny_training
from tests.planted_prompts import own_task, spoken

pytestmark = pytest.mark.usefixtures("without_umap")

N_TOKENS, WIDTH = 4, 32


def material(prompts: list[torch.Tensor], tasks: list[str]) -> Material:
    rows = tuple(
        PromptRow(name=f"{task} {i}", task=task, group="given", tuning=i, n_tokens=len(p), d_model=p.shape[1])
        for i, (p, task) in enumerate(zip(prompts, tasks, strict=True))
    )
    return Material(rows, tuple(SoftPrompt(p) for p in prompts))


def noise(n: int, seed: int = 0) -> list[torch.Tensor]:
    return list(torch.randn(n, N_TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)))


def measure(tables: Tables, name: str, part: str) -> Interval:
    return interval_in(tables["measures"].set_index("measure").loc[name], part)


def moved(tables: Tables) -> float:
    """Of the first pair."""
    return tables["pairs"]["share_moved"][0]


def test_identical_prompts_of_a_task_have_no_distance_within() -> None:
    a, b, c = noise(3)
    _, tables = distances_section(material([a, a, b, b, c, c], list("aabbcc")))
    within = measure(tables, "frobenius", "within")
    assert (within.value, within.high) == (0, 0)
    assert measure(tables, "frobenius", "between").value == pytest.approx(
        np.mean([np.linalg.norm(x - y) for x, y in ((a, b), (a, c), (b, c))]), rel=1e-6
    )
    assert measure(tables, "alignment_dimensions", "within").value == pytest.approx(1)
    assert moved(tables) == 0


def test_the_best_permutation_undoes_permuted_copies() -> None:
    prompts = [p[order] for p in noise(3) for order in ([0, 1, 2, 3], [1, 2, 3, 0])]
    _, tables = distances_section(material(prompts, list("aabbcc")))
    assert measure(tables, "frobenius", "within").low > 1
    assert measure(tables, "reordered", "within").high == pytest.approx(0, abs=1e-6)
    assert moved(tables) == 1
    assert measure(tables, "alignment_dimensions", "within").value == pytest.approx(1)


def test_the_variation_of_distances_is_their_deviation_by_their_mean() -> None:
    prompts = [torch.zeros(N_TOKENS, WIDTH) for _ in range(3)]
    prompts[1][0, 0], prompts[2][0, 0] = 1.0, 3.0  # distances 1, 3, 2
    section, _ = distances_section(material([*prompts, *noise(1)], list("aaab")))
    assert section.figures["variation_within"].value == pytest.approx(np.std([1, 3, 2], ddof=1) / 2)


def begun(given: Material, folder: Path) -> tuple[Material, Analysis]:
    analysis, ready = begin(given, folder, {"made": "here"}, None)
    return ready, analysis


def test_what_needs_no_model_is_run_and_the_rest_says_why_not(tmp_path: Path) -> None:
    analysis = run_analysis(*begun(material(noise(6), list("aabbcc")), tmp_path), tmp_path)
    run = {name for name, section in analysis.sections.items() if not isinstance(section, NotRun)}
    assert run == {"statistics", "distances", "maps", "claims"}
    assert "--subject" in analysis.reason("transfer")
    assert "--translator" in analysis.reason("stability")
    assert load_analysis(tmp_path) == analysis


def test_a_folder_is_resumed_and_sections_that_it_holds_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = material(noise(6), list("aabbcc"))
    first = run_analysis(*begun(given, tmp_path), tmp_path, ["distances"])
    assert "maps" not in first.sections
    monkeypatch.setitem(analysis_run._MAKERS, "distances", None)
    second = run_analysis(*begun(given, tmp_path), tmp_path)
    assert second.sections["distances"] == first.sections["distances"]
    assert second.found("maps")


def test_tables_hold_each_pair_once_in_the_order_of_scipy(tmp_path: Path) -> None:
    prompts = noise(4)
    run_analysis(*begun(material(prompts, list("aabb")), tmp_path), tmp_path)
    pairs = pd.read_parquet(tmp_path / "tables" / "distances-pairs.parquet")
    assert list(pairs["first"] + pairs["second"]) == ["a 0a 1", "a 0b 2", "a 0b 3", "a 1b 2", "a 1b 3", "b 2b 3"]
    rows = np.stack(prompts).reshape(4, -1).astype(float)
    np.testing.assert_allclose(squareform(pairs["frobenius"]), squareform(pdist(rows)))
    np.testing.assert_allclose(pairs["cosine"], 1 - pdist(rows, "cosine"), atol=1e-12)
    points = pd.read_parquet(tmp_path / "tables" / "maps-places.parquet")
    assert len(points) == 8 and set(points["map"]) == {"pca_frobenius", "pca_reordered"}


def test_a_missing_or_damaged_table_is_one_line(tmp_path: Path) -> None:
    ready, analysis = begun(material(noise(4), list("aabb")), tmp_path)
    analysis = run_analysis(ready, analysis, tmp_path, ["distances"])
    (tmp_path / "tables" / "distances-pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="tables of 'distances'.*cannot be read"):
        load_tables(tmp_path, analysis, "distances")


def test_a_section_that_is_asked_for_by_name_and_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No subject was given, and transfer needs"):
        run_analysis(*begun(material(noise(4), list("aabb")), tmp_path), tmp_path, ["transfer"])


def test_sections_bring_those_that_they_build_on() -> None:
    assert wanted_sections(["maps"]) == ("distances", "maps")
    with pytest.raises(UserError, match="There is no section 'mops'"):
        wanted_sections(["mops"])


# --- sections of a subject ------------------------------------------------------------------------------

SUBJECT = tiny_models.subject("llama")


def task(name: str, family: str = "f") -> Task:
    return Task(name, family, "", (), (), (), (Example("cat", "dog"), Example("red", "blue")))


def with_subject(lengths: dict[str, list[int]], *tasks: Task, **rows: object) -> Material:
    """Random soft prompts of these lengths for each task."""
    generator = torch.Generator().manual_seed(0)
    prompts, found = [], []
    for name, own in lengths.items():
        for i, n in enumerate(own):
            prompts.append(SoftPrompt(torch.randn(n, SUBJECT.d_model, generator=generator)))
            found.append(
                PromptRow(name=f"{name} {i}", task=name, group="given", tuning=i, n_tokens=n, d_model=16, **rows)
            )
    return Material(tuple(found), tuple(prompts), tasks, subject=SUBJECT)


def test_difficulty_is_by_the_metric_of_the_task() -> None:
    """Under its soft prompt the subject finds each label likelier than the others, but writes none of them."""
    prompts = [spoken(SUBJECT, text) for text in ("cat red up", "dog blue down")]
    tasks = [own_task(SUBJECT, name, prompt) for name, prompt in zip("ab", prompts, strict=True)]
    given = with_subject({"a": [3], "b": [3]}, *tasks)
    scored = replace(given, soft_prompts=tuple(prompts)).scored()
    assert [row.score for row in scored.prompts] == [1, 1]
    exact = transfer_matrix(SUBJECT, prompts, tasks)
    assert np.diag(exact.accuracy).max() < 1 and set(scored.baseline) == {"a", "b"}


def test_statistics_are_of_prompts_tasks_and_groups() -> None:
    given = with_subject({"a": [3, 3], "b": [3]}, task("a", family="g"), score=0.5)
    _, tables = statistics_section(given)
    first, second, third = (p.embeddings.numpy().astype(float) for p in given.soft_prompts)
    assert tables["prompts"]["norm"].tolist() == pytest.approx([np.linalg.norm(p) for p in (first, second, third)])
    a, b = tables["tasks"].itertuples()
    assert (a.task, a.family, a.n_prompts, b.n_prompts, a.mean_score, a.score_deviation) == ("a", "g", 2, 1, 0.5, 0)
    assert a.mean_distance == pytest.approx(np.linalg.norm(first - second)) and np.isnan(b.mean_distance)
    (group,) = tables["groups"].to_dict("records")
    assert interval_in(group, "mean_distance") == Interval(a.mean_distance, None, None)  # of a single task
    norms = [(np.linalg.norm(first) + np.linalg.norm(second)) / 2, np.linalg.norm(third)]
    assert group["mean_norm"] == pytest.approx(np.mean(norms)) and group["n_tasks"] == 2


def test_one_translation_too_long_for_the_subject_leaves_the_section_of_stability(monkeypatch) -> None:
    texts = ["cat dog", "cat dog", "red " * 80, "one two", "two one", "two one"]
    monkeypatch.setattr(experiments, "greedy_translation", lambda _: lambda prompts: texts[: len(prompts)])
    given = with_subject({"a": [3, 3], "b": [3, 3], "c": [3, 3]}, task("a"), task("b"), task("c", family="g"))
    section, tables = stability_section(replace(given, translator=tiny_training.translator(SUBJECT)))
    found = section.figures
    assert found["n_unread"] == 1 and tables["tasks"]["cosine"].isna().tolist() == [False, True, False]
    assert found["agreement"].value == pytest.approx(2 / 3)
    assert found["family_agreement"].value == 0 and found["family_rougeL"].value == 0  # a and b alone
    assert found["cosine"].value == pytest.approx(1, abs=1e-4)
