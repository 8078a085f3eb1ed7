"""soft2hard analyze STUDY.yaml, and the recipes of the papers' experiments, as a user runs them at a tiny size."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml

from soft2hard.data_gen.dods.super_glue import SETS
from soft2hard.eval.analysis.findings import Analysis, NotRun, load_analysis, load_tables
from soft2hard.eval.analysis.study import read_study
from soft2hard.eval.cases import drawn_tasks
from soft2hard.eval.config import Tasks
from soft2hard.eval.methods.registry import method_of
from soft2hard.eval.metrics.descriptions import content_rouge1
from soft2hard.eval.report import load_run
from soft2hard.storage.yaml_files import read_yaml
from tests.command_line import run
from tests.data_gen.test_dods_more import write_super_glue
from tests.paths import ROOT

pytestmark = pytest.mark.usefixtures("without_umap")

RECIPES = ROOT / "recipes"
STUDY = RECIPES / "superglue-study.yaml"
READ = RECIPES / "inspect-study.yaml"
LENGTHS = {"cb": 20, "rte": 16, "copa": 18, "wsc": 12}


# --- the SuperGLUE study ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def superglue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe at its tiny size, on files in the published format, in a folder where the command is given."""
    here = tmp_path_factory.mktemp("here")
    for name in SETS:  # the recipe takes four of them
        write_super_glue(here / "data" / "super_glue", name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        result = run("analyze", STUDY, "--size", "tiny", "--workers", 1, "-o", "out")
    assert result.exit_code == 0, result.output
    return here / "out"


@pytest.fixture(scope="module")
def study(superglue: Path) -> Analysis:
    return load_analysis(superglue)


def test_the_studys_tunings_differ_in_the_order_of_examples_alone(study: Analysis) -> None:
    main = [row for row in study.prompts if row.group == "main"]
    assert Counter(row.task for row in main) == dict.fromkeys(LENGTHS, 4)
    for name in LENGTHS:
        own = [row for row in main if row.task == name]
        assert [(row.init_seed, row.order_seed) for row in own] == [(0, 0), (0, 1), (0, 2), (0, 3)]
        text = read_study(STUDY).starts[name].text
        assert {row.init for row in own} == {f"text:{text}"}


def test_every_task_has_its_own_length_in_all_groups(study: Analysis) -> None:
    assert {(row.task, row.n_tokens) for row in study.prompts} <= set(LENGTHS.items())
    assert {row.group for row in study.prompts} >= {"main", "start varied", "from label words"}


def test_soft_prompts_of_several_lengths_are_compared_over_their_common_positions(
    study: Analysis, superglue: Path
) -> None:
    assert study.sections["distances"].notes == (
        "Soft prompts of 12 to 20 tokens are compared over their first 12 positions.",
    )
    assert len(load_tables(superglue, study, "distances")["pairs"]) == 16 * 15 / 2
    assert "frobenius" in load_tables(superglue, study, "transfer")["pairs"]


def test_every_question_of_the_study_is_answered_by_the_one_command(study: Analysis, superglue: Path) -> None:
    made = {name for name, section in study.sections.items() if not isinstance(section, NotRun)}
    assert made >= {"extraction", "statistics", "distances", "maps", "difficulty", "transfer", "claims"}
    page = (superglue / "analysis.html").read_text()
    for title in ("Scores of every tuning by task", "Change in accuracy (rows", "below the best", "t-SNE of Frobenius"):
        assert title in page


def test_scores_stand_beside_no_prompt_and_the_gap_is_one_less_median_by_maximum(
    study: Analysis, superglue: Path
) -> None:
    scores = {name: [r.score for r in study.prompts if r.task == name and r.group == "main"] for name in LENGTHS}
    baseline = {task.name: task.baseline for task in study.tasks}
    tasks = load_tables(superglue, study, "statistics")["tasks"].query("group == 'main'").set_index("task")
    hard = load_tables(superglue, study, "difficulty")["tasks"].set_index("task")
    for name, own in scores.items():
        known = pd.Series(own)
        assert tasks["baseline"][name] == baseline[name]
        assert tasks["change"][name] == pytest.approx(known.mean() - baseline[name])
        assert (tasks["median_score"][name], tasks["max_score"][name]) == (known.median(), known.max())
        gap = 1 - known.median() / known.max() if known.max() else None
        assert (None if pd.isna(hard["gap"][name]) else hard["gap"][name]) == pytest.approx(gap)


def test_the_same_command_again_tunes_nothing_and_other_starts_are_refused(
    superglue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(superglue.parent)
    files = {path: path.stat().st_mtime_ns for path in superglue.glob("tunings/*")}
    assert run("analyze", STUDY, "--size", "tiny", "--workers", 1, "-o", "out").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in superglue.glob("tunings/*")} == files
    other = yaml.safe_load(STUDY.read_text())
    other["starts"]["cb"]["text"] = "Say it."
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    said = one_line(tmp_path / "other.yaml", "--size", "tiny", "--workers", 1, "-o", "out")
    assert "made with other settings (starts" in said


# --- readings -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read") / "out"
    result = run("analyze", READ, "--size", "tiny", "--workers", 1, "-o", folder)
    assert result.exit_code == 0, result.output
    assert "Score with the quality of readings" in result.output
    return folder


def test_soft_prompts_on_their_way_are_read_beside_those_they_became(read: Path) -> None:
    analysis = load_analysis(read)
    table = load_tables(read, analysis, "readings")["prompts"]
    assert table["group"].value_counts().to_dict() == {"on the way": 9, "main": 3}
    assert sorted(table["step"][table["group"] == "on the way"]) == [5, 5, 5, 10, 10, 10, 15, 15, 15]
    scores = {row.name: row.score for row in analysis.prompts}
    assert table["score"].tolist() == [scores[name] for name in table["prompt"]]
    assert analysis.sections["readings"].figures["n_pairs"] == 4
    assert "ROUGE-1, best pair of layers, of a soft prompt" in (read / "analysis.html").read_text()


def test_sections_that_compare_tunings_leave_those_on_their_way_out(read: Path) -> None:
    groups = load_tables(read, load_analysis(read), "statistics")["groups"]
    assert groups["group"].tolist() == ["main"]


def test_tunings_with_those_on_their_way_can_be_analysed_again(read: Path, tmp_path: Path) -> None:
    result = run("analyze", read / "tunings", "--only", "statistics", "-o", tmp_path / "again")
    assert result.exit_code == 0, result.output
    again = load_analysis(tmp_path / "again")
    assert Counter(row.group for row in again.prompts) == {"on the way": 9, "given": 3}


# --- InSPEcT's options side by side -------------------------------------------------------------------


def test_the_recipe_of_inspects_options_runs_and_reports_the_oracles_columns(tmp_path: Path) -> None:
    asked = read_yaml(RECIPES / "evaluate-inspect.yaml", "a configuration")
    asked["tasks"] |= {"n": 2, "n_validation": 6, "n_train": 8}
    asked |= {"seeds": [0], "tuning": asked["tuning"] | {"steps": 2, "eval_every": 2}}
    for method in asked["methods"]:
        if isinstance(method, dict):
            method |= {"sources": [1, 2], "targets": [0], "max_new_tokens": 6}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(asked))
    result = run("evaluate", tmp_path / "few.yaml", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    found = load_run(tmp_path / "run")
    rows = found.rows
    tasks = drawn_tasks(Tasks.model_validate(found.record.config["tasks"]), "test", 0)
    oracle = [row for row in rows if row.method == "inspect-oracle, as released"]
    assert len(oracle) == 2
    for row in oracle:
        task = next(task for task in tasks if task.name == row.task)
        assert row.max_rouge1 == content_rouge1(row.best_rouge1_output, task.phrasings)
        if row.failure is None:
            assert row.best_rouge1_output == row.prompt
    assert all(row.max_rouge1 is None for row in rows if not row.method.startswith("inspect-oracle"))
    gold = next(row for row in rows if row.method == "gold")
    assert (gold.keyword_precision, gold.keyword_f1) == (1.0, 1.0)
    assert run("report", tmp_path / "run").exit_code == 0
    assert "Keyword F1" in (tmp_path / "run" / "report.html").read_text()


# --- bad studies --------------------------------------------------------------------------------------


def one_line(*arguments: object) -> str:
    result = run("analyze", *arguments)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"startz": {}}, "there is no setting 'startz'; the nearest is 'starts'"),
        ({"starts": {"cb": {"text": "x", "n_tokens": 0}}}, "starts.cb.n_tokens is 0"),
        ({"counts": {"varies": "nothing"}}, "there is no varies 'nothing'"),
        ({"counts": {"n_tasks": 3}}, "the number of tasks is n under tasks"),
        ({"only": ["mops"]}, "there is no section 'mops'"),
        ({"readings": {"entry": "last"}}, "there is no entry 'last'"),
        ({"tasks": {"dod": "super-glue", "folder": "x", "dod_options": {"metric": "bleu"}}}, "cannot be 'bleu'"),
    ],
)
def test_bad_settings_of_a_study_are_one_line(changes: dict, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"tasks": {"dod": "lexical", "n": 2}} | changes))
    assert said in one_line(path, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_start_of_no_task_is_refused_before_anything_is_tuned(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"tasks": {"dod": "lexical", "n": 1}, "starts": {"cb": {"text": "Say it."}}}))
    assert "There is a start for 'cb', which is none of the tasks" in one_line(
        path, "--workers", 1, "-o", tmp_path / "o"
    )
    assert not list((tmp_path / "o").glob("tunings/*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((STUDY, "--subject", "x", "--tunings", 3, "-o", "y"), "file and --subject, --tunings exclude each other"),
        ((STUDY,), "Tunings need a folder"),
        ((STUDY, "x.npy", "-o", "y"), "stands alone"),
        ((STUDY, "--size", "huge", "-o", "y"), "has no size 'huge'"),
        (("x.npy", "--size", "tiny"), "--size names a variant of a study"),
    ],
)
def test_what_does_not_go_with_a_study_is_refused(arguments: tuple[object, ...], said: str) -> None:
    assert said in one_line(*arguments)


@pytest.mark.parametrize("path", [STUDY, READ], ids=lambda path: path.stem)
def test_every_size_of_a_shipped_study_is_a_study(path: Path) -> None:
    for size in (None, *yaml.safe_load(path.read_text())["variants"]):
        study = read_study(path, size)
        assert json.dumps(study.plain)
        if study.readings is not None:
            method_of("inspect-oracle")(**vars(study.inspect_options()))
