"""Sections of an analysis on planted soft prompts, how they are kept, and what is said of the study's claims."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.eval.analysis import run as running
from soft2hard.eval.analysis.given import read_given
from soft2hard.eval.analysis.material import Material
from soft2hard.eval.analysis.records import PromptRow, load_analysis, load_arrays
from soft2hard.eval.analysis.run import begin, run_analysis, wanted_sections
from soft2hard.eval.analysis.section_records import Distances, Measure, NotRun
from soft2hard.eval.analysis.sections_geometry import distances_section
from soft2hard.prompts.soft_prompt import SoftPrompt

N_TOKENS, WIDTH = 4, 32


def material(prompts: list[torch.Tensor], tasks: list[str]) -> Material:
    rows = tuple(
        PromptRow(name=f"{task} {i}", task=task, group="given", tuning=i, n_tokens=len(p), d_model=p.shape[1])
        for i, (p, task) in enumerate(zip(prompts, tasks, strict=True))
    )
    return Material(rows, tuple(SoftPrompt(p) for p in prompts))


def noise(n: int, seed: int = 0) -> list[torch.Tensor]:
    return list(torch.randn(n, N_TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)))


def measure(record: Distances, name: str) -> Measure:
    return next(one for one in record.measures if one.name == name)


def test_identical_prompts_of_a_task_have_no_distance_within() -> None:
    a, b, c = noise(3)
    record, arrays = distances_section(material([a, a, b, b, c, c], list("aabbcc")))
    within = measure(record, "frobenius").within
    assert (within.value, within.high) == (0, 0)
    assert measure(record, "frobenius").between.value == pytest.approx(
        np.mean([np.linalg.norm(x - y) for x, y in ((a, b), (a, c), (b, c))]), rel=1e-6
    )
    assert measure(record, "alignment_dimensions").within.value == pytest.approx(1)
    assert not arrays["share_moved"][0, 1]


def test_the_best_permutation_undoes_permuted_copies() -> None:
    prompts = [p[order] for p in noise(3) for order in ([0, 1, 2, 3], [1, 2, 3, 0])]
    record, arrays = distances_section(material(prompts, list("aabbcc")))
    assert measure(record, "frobenius").within.low > 1
    assert measure(record, "reordered").within.high == pytest.approx(0, abs=1e-6)
    assert arrays["share_moved"][0, 1] == 1
    assert measure(record, "alignment_dimensions").within.value == pytest.approx(1)


def test_the_variation_of_distances_is_their_deviation_by_their_mean() -> None:
    prompts = [torch.zeros(N_TOKENS, WIDTH) for _ in range(3)]
    prompts[1][0, 0], prompts[2][0, 0] = 1.0, 3.0  # distances 1, 3, 2
    record, _ = distances_section(material([*prompts, *noise(1)], list("aaab")))
    assert record.variation_within.value == pytest.approx(np.std([1, 3, 2], ddof=1) / 2)


def test_what_needs_no_model_is_run_and_the_rest_says_why_not(tmp_path: Path) -> None:
    given = material(noise(6), list("aabbcc"))
    analysis = run_analysis(*_begun(given, tmp_path), tmp_path)
    run = {
        name
        for name in type(analysis.sections).model_fields
        if not isinstance(getattr(analysis.sections, name), NotRun)
    }
    assert run == {"statistics", "distances", "maps", "claims"}
    assert "--subject" in analysis.sections.transfer.reason
    assert "--translator" in analysis.sections.stability.reason
    assert load_analysis(tmp_path) == analysis


def test_a_folder_is_gone_on_with_and_what_it_holds_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = material(noise(6), list("aabbcc"))
    first = run_analysis(*_begun(given, tmp_path), tmp_path, ["distances"])
    assert first.sections.maps is None
    monkeypatch.setitem(running._ALONE, "distances", None)
    second = run_analysis(*_begun(given, tmp_path), tmp_path)
    assert second.sections.distances == first.sections.distances
    assert second.sections.maps is not None


def test_downloads_hold_the_numbers_of_the_arrays(tmp_path: Path) -> None:
    run_analysis(*_begun(material(noise(4), list("aabb")), tmp_path), tmp_path)
    table = pd.read_csv(tmp_path / "csv" / "distances-frobenius.csv", index_col="name")
    assert list(table.index) == ["a 0", "a 1", "b 2", "b 3"] == list(table.columns)
    assert np.allclose(table.to_numpy(), load_arrays(tmp_path, "distances")["frobenius"])


def _begun(given: Material, folder: Path) -> tuple[Material, object]:
    analysis, ready = begin(given, folder, {"made": "here"}, None)
    return ready, analysis


def test_a_section_that_is_asked_for_by_name_and_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No subject was given, and transfer needs"):
        run_analysis(*_begun(material(noise(4), list("aabb")), tmp_path), tmp_path, ["transfer"])


def test_sections_bring_those_that_they_build_on() -> None:
    assert wanted_sections(["maps"]) == ("distances", "maps")
    with pytest.raises(UserError, match="There is no section 'mops'"):
        wanted_sections(["mops"])


def test_a_mapping_names_tasks_and_is_refused_where_it_fits_no_file(tmp_path: Path) -> None:
    for name in ("x.npy", "y.npy"):
        np.save(tmp_path / name, np.ones((2, 3), np.float32))
    mapping = tmp_path / "tasks.csv"
    mapping.write_text("file,task\nx.npy,first\ny.npy,second\n")
    rows, _ = read_given([tmp_path], mapping)
    assert [(row.name, row.task) for row in rows] == [("x.npy", "first"), ("y.npy", "second")]
    mapping.write_text("file,task\nz.npy,first\n")
    with pytest.raises(UserError, match="names 'z.npy', which is no soft prompt here"):
        read_given([tmp_path], mapping)
    mapping.write_text("file,task\nx.npy,first\nx.npy,second\n")
    with pytest.raises(UserError, match="gives 'x.npy' two tasks"):
        read_given([tmp_path], mapping)


def test_one_file_by_two_paths_is_one_soft_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    monkeypatch.chdir(tmp_path)
    rows, _ = read_given([Path("x.npy"), tmp_path / "x.npy"])
    assert [row.name for row in rows] == ["x.npy"]
