"""The study's claims on planted soft prompts: confirmed, refuted and undecided where they must be, and why."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.analysis import transfer_matrix
from soft2hard.eval.analysis.analysis_run import begin, run_analysis
from soft2hard.eval.analysis.claims import MIN_TASKS, claims_section
from soft2hard.eval.analysis.comparisons import difficulty_section, distances_section
from soft2hard.eval.analysis.findings import Analysis, Claim, NotRun, PromptRow, Section, interval_in, load_tables
from soft2hard.eval.analysis.inputs import Material
from soft2hard.eval.analysis.page import figure_text, listings
from soft2hard.eval.analysis.transfer_matrix import TransferMatrix
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models

N_TOKENS, WIDTH = 4, 16
SUBJECT = tiny_models.subject("llama")

pytestmark = pytest.mark.usefixtures("without_umap")


def material(
    prompts: Iterable[np.ndarray], tasks: Iterable[str], errors: dict[str, float] | None = None, **rows: object
) -> Material:
    """Soft prompts of tasks; `errors` are of tasks."""
    found = [
        PromptRow(
            name=f"{task} {i}", task=task, group="given", tuning=i, n_tokens=len(p), d_model=p.shape[1],
            score=None if errors is None else 1 - errors[task], **rows,
        )
        for i, (p, task) in enumerate(zip(prompts, tasks, strict=True))
    ]  # fmt: skip
    return Material(tuple(found), tuple(SoftPrompt(torch.tensor(p, dtype=torch.float32)) for p in prompts))


def noise(n: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(100 + seed).standard_normal((n, N_TOKENS, width))  # not that of `noise_like`


def names(n_tasks: int, n: int = 3) -> list[str]:
    return [f"t{i:02}" for i in range(n_tasks) for _ in range(n)]


def analysed(given: Material, folder: Path, *only: str) -> Analysis:
    analysis, ready = begin(given, folder, {}, None)
    return run_analysis(ready, analysis, folder, only)


def claim(given: Material | Analysis, name: str, folder: Path, *only: str) -> Claim:
    analysis = given if isinstance(given, Analysis) else analysed(given, folder, *only, "claims")
    return next(one for one in analysis.sections["claims"].claims if one.name == name)


def reading(of: Claim, label: str) -> str:
    return next(one.says for one in of.beside if one.label == label)


# --- equidistant, as far as other tasks ----------------------------------------------------------------


def test_pure_noise_is_equidistant_and_as_far_apart_within_tasks_as_between_and_so_is_other_noise(tmp_path) -> None:
    analysis = analysed(material(noise(36, width=100), names(12)), tmp_path, "claims")
    figures = analysis.sections["distances"].figures
    assert figures["variation_noise"].value == pytest.approx(figures["variation_within"].value, abs=0.02)
    ratio = interval_in(load_tables(tmp_path, analysis, "distances")["measures"].iloc[0], "noise_ratio")
    assert ratio.low > 0.95 and ratio.high < 1.05
    for name in ("equidistant", "as_far_as_other_tasks"):
        one = claim(analysis, name, tmp_path)
        assert (one.verdict, one.n) == ("confirmed", 12)
        assert one.notes[-1] == "Pure noise with the soft prompts' norms gives the same verdict."
    assert claim(analysis, "harder_vary_more", tmp_path).verdict == "not tested"


def test_tunings_that_end_close_together_or_unevenly_apart_refute_where_noise_confirms(tmp_path) -> None:
    centres = np.repeat(noise(12, 1), 3, 0)
    uneven = centres + np.tile([0.001, 0.002, 0.3], 12)[:, None, None] * noise(36)
    analysis = analysed(material(uneven, names(12)), tmp_path, "claims")
    for name in ("equidistant", "as_far_as_other_tasks"):
        one = claim(analysis, name, tmp_path)
        assert one.verdict == "refuted" and reading(one, "pure noise with the same norms") == "confirmed"
        assert not any("same verdict" in note for note in one.notes)


def test_a_ratio_that_is_nearly_but_surely_not_1_is_confirmed_with_a_note(tmp_path) -> None:
    near = 0.3 * np.repeat(noise(12, 1), 3, 0) + noise(36)
    one = claim(material(near, names(12)), "as_far_as_other_tasks", tmp_path)
    assert one.verdict == "confirmed" and one.estimate.high < 1
    assert "Equivalent within 10 % but not equal: the whole interval lies below 1." in one.notes


def test_permuted_copies_are_as_far_as_other_tasks_until_their_positions_are_put_in_order(tmp_path) -> None:
    orders = [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1]]
    permuted = [prompt[order] for prompt in noise(12) for order in orders]
    one = claim(material(permuted, names(12)), "as_far_as_other_tasks", tmp_path)
    assert one.verdict == "confirmed" and reading(one, "after the best permutation of positions") == "refuted"
    assert "Other readings say otherwise: after the best permutation of positions (refuted)." in one.notes


@pytest.mark.parametrize("n_tasks", [1, 3, MIN_TASKS - 1])
def test_too_few_tasks_leave_claims_undecided_with_the_reason(n_tasks: int, tmp_path: Path) -> None:
    one = claim(material(noise(3 * n_tasks, width=100), names(n_tasks)), "equidistant", tmp_path)
    assert one.verdict == "undecided" and one.estimate.value < 0.1
    assert one.notes == (f"{n_tasks} task{'s' * (n_tasks > 1)}, and a verdict needs {MIN_TASKS}.",)
    assert (one.estimate.low is None) == (n_tasks == 1)


def test_what_was_not_tested_says_why(tmp_path: Path) -> None:
    analysis = analysed(material(noise(10), names(10, 1)), tmp_path)
    found = {one.name: one for one in analysis.sections["claims"].claims}
    assert {one.verdict for one in found.values()} == {"not tested"}
    assert found["equidistant"].notes == ("No task has three different soft prompts.",)
    assert "no task has two soft prompts" in found["as_far_as_other_tasks"].notes[0]
    assert found["closer_transfer_better"].notes[0].startswith("No subject was given")
    off = analysis.model_copy(update={"sections": {"transfer": NotRun(reason="It is off.")}})
    assert claims_section(off, lambda name: {})[0].claims[3].notes == ("It is off.",)


# --- harder tasks vary more ----------------------------------------------------------------------------


def spread(widths: Iterable[float], norms: Iterable[float] | None = None, seed: int = 0) -> np.ndarray:
    """Three prompts a task that lie as far from their middle as it says, of these norms."""
    widths = list(widths)
    rows = np.repeat(noise(len(widths), seed + 1), 3, 0) + np.repeat(widths, 3)[:, None, None] * noise(
        3 * len(widths), seed
    )
    lengths = np.random.default_rng(seed).uniform(7, 9, len(widths)) if norms is None else np.array(list(norms))
    return rows / np.linalg.norm(rows, axis=(1, 2), keepdims=True) * np.repeat(lengths, 3)[:, None, None]


ERRORS = {f"t{i:02}": i / 20 for i in range(16)}


@pytest.mark.parametrize(("order", "said"), [(1, "confirmed"), (-1, "refuted")])
def test_tasks_whose_tunings_spread_by_their_difficulty_decide_and_norms_change_nothing(
    order: int, said: str, tmp_path: Path
) -> None:
    rows = spread(np.linspace(0.3, 0.9, 16)[::order])
    one = claim(material(rows, names(16), ERRORS), "harder_vary_more", tmp_path)
    assert one.verdict == said and one.p_value < 0.05
    assert reading(one, "given the norms") == reading(one, "distance divided by norm") == said
    assert reading(one, "pure noise with the same norms") == "undecided"


def test_tasks_whose_tunings_spread_whatever_their_difficulty_are_undecided(tmp_path: Path) -> None:
    widths = np.random.default_rng(5).permutation(np.linspace(0.3, 0.9, 16))
    one = claim(material(spread(widths), names(16), ERRORS), "harder_vary_more", tmp_path)
    assert one.verdict == "undecided" and abs(one.estimate.value) < 0.4


def test_longer_vectors_of_harder_tasks_confirm_alone_but_not_given_their_norms(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = spread(np.full(16, 0.85), np.linspace(5, 15, 16) + rng.uniform(0, 3, 16), seed=2)
    one = claim(material(rows, names(16), ERRORS), "harder_vary_more", tmp_path)
    assert one.verdict == "confirmed"
    assert reading(one, "given the norms") == reading(one, "distance divided by norm") == "undecided"
    assert reading(one, "pure noise with the same norms") == "confirmed"
    assert "given the norms (undecided)" in one.notes[0] and "gives the same verdict" in one.notes[1]


def test_figures_of_difficulty_are_those_of_the_tasks() -> None:
    rows = spread(np.linspace(0.3, 0.9, 16))
    given = material(rows, names(16), ERRORS, steps=7)
    _, tables = difficulty_section(given, distances_section(given)[1])
    one = tables["tasks"].iloc[2]
    own = rows[6:9].astype(np.float32)
    apart = [np.linalg.norm(own[i] - own[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert (one.task, one.steps, one.error) == ("t02", 7, pytest.approx(0.1))
    assert one.mean_distance == pytest.approx(np.mean(apart), rel=1e-5)
    assert one.mean_norm == pytest.approx(np.mean([np.linalg.norm(p) for p in own]), rel=1e-5)
    assert one.distance_by_norm == pytest.approx(one.mean_distance / one.mean_norm)
    norm = np.linalg.norm(own[0])  # that of all three: noise of one norm stands nearly at right angles
    assert one.noise_distance == pytest.approx(norm * np.sqrt(2), rel=0.15)
    rows = tables["correlations"]
    by_steps = rows[rows["first"].eq("steps") | rows["given"].str.contains("steps")]
    assert len(by_steps) == 5 and by_steps["reason"].str.contains("same value").all()


def test_tasks_that_are_all_as_hard_have_no_correlation_and_the_claim_says_so(tmp_path: Path) -> None:
    given = material(spread(np.linspace(0.3, 0.9, 10)), names(10), {f"t{i:02}": 1.0 for i in range(10)})
    one = claim(given, "harder_vary_more", tmp_path)
    assert one.verdict == "not tested" and "All tasks have the same value" in one.notes[0]


def test_few_tasks_of_noise_never_confirm_or_refute_a_correlation() -> None:
    for seed in range(8):
        errors = dict(zip(("t00", "t01", "t02"), np.random.default_rng(seed).uniform(size=3), strict=True))
        given = material(noise(9, seed), names(3), errors)
        tables = difficulty_section(given, distances_section(given)[1])[1]
        made = Analysis(
            created="", settings={}, versions={}, subject=None, prompts=(), tasks=(), sections={"difficulty": Section()}
        )
        assert claims_section(made, lambda name, tables=tables: tables)[0].claims[2].verdict == "undecided"


# --- closer transfers better ---------------------------------------------------------------------------


def with_tasks(given: Material, family: Callable[[int], str] = lambda i: f"f{i % 3}") -> Material:
    examples = (Example("cat", "dog"),)
    tasks = [Task(name, family(i), "", (), (), (), examples) for i, name in enumerate(dict.fromkeys(names(12, 1)))]
    return replace(given, subject=SUBJECT, tasks=tuple(tasks))


def planted_transfer(
    monkeypatch: pytest.MonkeyPatch, given: Material, change: Callable[[np.ndarray], np.ndarray], folder: Path
) -> Analysis:
    """An analysis in which the change in accuracy is what is said of the prompts, one a task."""
    prompts = np.stack([p.embeddings.numpy().ravel() for p in given.soft_prompts]).astype(float)
    found = TransferMatrix(change(prompts), np.zeros(len(prompts)))
    monkeypatch.setattr(transfer_matrix, "shared_transfer_matrix", lambda *_: found)
    return analysed(with_tasks(given), folder, "transfer", "claims")


def apart(prompts: np.ndarray) -> np.ndarray:
    return np.linalg.norm(prompts[:, None] - prompts[None], axis=-1)


@pytest.mark.parametrize(("sign", "said"), [(-1, "confirmed"), (1, "refuted")])
def test_a_change_that_falls_or_grows_with_distance_decides(sign, said, monkeypatch, tmp_path) -> None:
    given = material(noise(12), names(12, 1))
    found = planted_transfer(monkeypatch, given, lambda p: 0.01 * sign * apart(p), tmp_path)
    one = claim(found, "closer_transfer_better", tmp_path)
    assert one.verdict == said and one.estimate.value == pytest.approx(-sign)
    assert reading(one, "given both tasks") == said


def test_a_change_that_has_nothing_to_do_with_distance_is_undecided(monkeypatch, tmp_path) -> None:
    given = material(noise(12), names(12, 1))
    rng = np.random.default_rng(1)
    found = planted_transfer(monkeypatch, given, lambda p: rng.normal(size=(12, 12)), tmp_path)
    assert claim(found, "closer_transfer_better", tmp_path).verdict == "undecided"


def test_closeness_that_norms_and_baselines_hide_shows_by_cosine_and_given_both_tasks(monkeypatch, tmp_path) -> None:
    angles = np.random.default_rng(3).permutation(np.linspace(0, 2, 12))
    flat = np.zeros((12, N_TOKENS * WIDTH))
    flat[:, 0], flat[:, 1] = np.cos(angles), np.sin(angles)
    norms = np.random.default_rng(4).uniform(1, 9, 12)
    given = material((flat * norms[:, None]).reshape(12, N_TOKENS, WIDTH), names(12, 1))
    found = planted_transfer(
        monkeypatch, given, lambda p: np.cos(angles[:, None] - angles[None]) + 0.5 * norms[None], tmp_path
    )
    one = claim(found, "closer_transfer_better", tmp_path)
    assert one.verdict != "confirmed"
    assert reading(one, "closeness by cosine, given both tasks") == "confirmed"
    assert any("closeness by cosine, given both tasks (confirmed)" in note for note in one.notes)


def test_means_on_other_tasks_and_on_those_of_the_family_are_those_of_the_matrix(monkeypatch, tmp_path) -> None:
    rng = np.random.default_rng(1)
    change = rng.normal(size=(12, 12))
    found = planted_transfer(monkeypatch, material(noise(12), names(12, 1)), lambda _: change, tmp_path)
    record = found.sections["transfer"].figures
    off = ~np.eye(12, dtype=bool)
    kin = off & (np.arange(12)[:, None] % 3 == np.arange(12)[None] % 3)
    assert record["own"].value == pytest.approx(np.diag(change).mean())
    assert record["other"].value == pytest.approx(change[off].mean())
    assert record["same_family"].value == pytest.approx(change[kin].mean())
    assert record["share_helped"] == pytest.approx((change[off] > 0).mean())
    assert record["other"].high - record["other"].low > 0.2  # the rows alone would say less


# --- what is shown -------------------------------------------------------------------------------------


def test_readings_and_reasons_are_in_the_terminals_tables(tmp_path: Path) -> None:
    analysis = analysed(material(noise(36), names(12)), tmp_path)
    shown = {one.title: one.rows for one in listings(analysis, tmp_path, 0)}
    claims = analysis.sections["claims"].claims
    for row, one in zip(shown["Claims of the study"], claims, strict=True):
        assert row == (one.text, one.verdict, figure_text(one), one.rule)
        assert row[2] == ("–" if one.estimate is None else f"{one.estimate}, 12 tasks")
    readings = [r for one in claims for r in one.beside]
    rows = shown["Other readings of the claims, by the same rules"]
    assert [row[1:] for row in rows] == [(r.label, r.says, f"{r.estimate}, 12 tasks") for r in readings]
    notes = shown["Notes that qualify the verdicts"]
    assert [row[1] for row in notes] == [note for one in claims for note in one.notes]
    assert shown["Distances and likeness"][-1][0] == "Share of positions that the best permutation moves"
    overview = dict(zip(*list(zip(*shown["Sections"], strict=True))[::2], strict=True))
    assert f"variation noise {analysis.sections['distances'].figures['variation_noise']}" in overview["distances"]
