"""soft2hard evaluate as a user meets it: runs, reports, refusals in one line, and the shipped recipes."""

import json
from pathlib import Path

import pytest

from soft2hard.eval.config import parse_config, read_config
from soft2hard.eval.harness import Harness
from soft2hard.eval.report import load_run
from tests import tiny_training
from tests.command_line import Result, run
from tests.paths import ROOT, SHARED

RECIPES = sorted((ROOT / "recipes").glob("evaluate-*.yaml"))
PUBLISHED = SHARED / "instruction_induction"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny subject and its translator on disk."""
    return tiny_training.save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """One task over the words of the tiny subject."""
    return tiny_training.write_task(tmp_path / "kinds.jsonl", "red green")


@pytest.fixture
def config(models: Path, tasks: Path, tmp_path: Path) -> Path:
    """A YAML file for a run of seconds."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"tasks: {{files: [{tasks}]}}\nseeds: [0]\nsubject: {models / 'subject'}\n"
        f"translator: {models / 'translator'}\nreference: subject\n"
        "tuning: {n_tokens: 2, steps: 4, batch_size: 4, eval_every: 2, init: vocabulary, lr: 1e-1}\n"
        "methods: [none, gold, soft, greedy, {name: few-shot, k: 2}]\n"
    )
    return path


def assert_refused(result: Result, *parts: str) -> None:
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr
    for part in parts:
        assert part in result.stderr


# --- runs ---------------------------------------------------------------------------------------


def test_a_configuration_becomes_a_run_that_resumes_and_is_reported(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = run("evaluate", config, "-o", folder)
    assert (first.exit_code, first.stdout) == (
        0,
        f"5 cells in {folder}, 0 of them failed; see soft2hard report {folder}\n",
    )
    cells = {path: path.read_bytes() for path in (folder / "cells").rglob("*.jsonl")}
    assert run("evaluate", config, "-o", folder).exit_code == 0
    assert {path: path.read_bytes() for path in (folder / "cells").rglob("*.jsonl")} == cells and len(cells) == 5
    shown = run("report", folder)
    assert shown.exit_code == 0
    assert {path.name for path in map(Path, shown.stdout.split())} == {"report.html", "report.md"}
    assert "few-shot" in (folder / "report.md").read_text()


def test_flags_do_without_a_configuration(models: Path, tasks: Path, tmp_path: Path) -> None:
    flags = ["--tasks", tasks, "--method", "none", "--method", "gold", "--seed", 3, "--subject", models / "subject"]
    done = run("evaluate", *flags, "--reference", "none", "--generator", "subject", "-o", tmp_path / "run")
    assert done.exit_code == 0
    record = load_run(tmp_path / "run").record
    assert (record.config["reference"], record.config["generator"]) == (None, "subject")
    assert list(record.seeds) == [3]


def test_a_size_is_the_file_with_what_its_variant_changes(config: Path, tmp_path: Path) -> None:
    config.write_text(
        config.read_text() + "variants: {small: {methods: [none], tuning: {steps: 2, lr: null}}, odd: 3}\n"
    )
    assert run("evaluate", config, "-o", tmp_path / "run", "--size", "small").exit_code == 0
    made, whole = load_run(tmp_path / "run"), read_config(config)
    assert made.methods == ("none",) and len(whole.methods) == 5
    assert made.record.config["tuning"] == {k: v for k, v in whole.tuning.items() if k != "lr"} | {"steps": 2}
    assert_refused(run("evaluate", config, "--size", "large"), "no size 'large'", "Its sizes: small, odd")
    assert_refused(run("evaluate", config, "--size", "odd"), "'odd' is no mapping")
    assert_refused(run("evaluate", "--size", "small"), "--size is of a CONFIG")


def test_failed_cells_are_made_again_when_asked_for(config: Path, tmp_path: Path) -> None:
    run("evaluate", config, "-o", tmp_path / "run")
    gold = tmp_path / "run" / "cells" / "0" / "gold.jsonl"
    cell = json.loads(gold.read_text())
    gold.write_text(json.dumps(cell | {"prompt": None, "failure": "out of luck"}) + "\n")
    assert "1 of them failed" in run("evaluate", config, "-o", tmp_path / "run").stdout
    assert "0 of them failed" in run("evaluate", config, "-o", tmp_path / "run", "--retry-failed").stdout


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--tasks", "x.csv"),
        ("--method", "gold"),
        ("--n-tasks", "30"),  # its default, and still asked for
        ("--seed", "0"),
        ("--subject", "embedded"),
        ("--translator", "other"),
        ("--reference", "none"),
        ("--generator", "subject"),
    ],
)
def test_a_flag_that_a_configuration_would_silence_is_refused(
    flag: str, value: str, config: Path, tmp_path: Path
) -> None:
    assert_refused(run("evaluate", config, flag, value, "-o", tmp_path / "run"), f"CONFIG and {flag} exclude")
    assert not (tmp_path / "run").exists()


def test_several_such_flags_are_told_at_once(config: Path) -> None:
    flags = ["--subject", "X", "--n-tasks", 5, "--translator", "Y"]
    assert_refused(run("evaluate", config, *flags), "CONFIG and --n-tasks, --subject, --translator exclude")


@pytest.mark.parametrize("where", ["file", "file/run"])
def test_a_file_in_the_place_of_the_output_folder_is_refused(where: str, config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(run("evaluate", config, "-o", tmp_path / where), f"{tmp_path / 'file'} is a file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_or_nothing_in_the_place_of_the_configuration_is_refused(tmp_path: Path) -> None:
    assert_refused(run("evaluate", tmp_path, "-o", tmp_path / "run"), f"{tmp_path} is a folder")
    assert_refused(run("evaluate", tmp_path / "no.yaml", "-o", tmp_path / "run"), "No such file")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("methods: [{name: few-shot, k: 2.5}]", "k is 2.5, not a whole number"),
        ("methods: [gold]\ntuning: {init: nonsense}", "init is 'nonsense'"),
        ("methods: [gold]\nseeds: [1, 1]", "seeds: 1 is there twice"),
        ("methods: [{name: inspect, sources: [9], targets: [0], placeholder: one}]", "there is no layer 9"),
    ],
)
def test_bad_settings_end_in_one_line_and_leave_nothing(
    line: str, said: str, models: Path, tasks: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"tasks: {{files: [{tasks}]}}\nsubject: {models / 'subject'}\nreference: null\n{line}\n")
    assert_refused(run("evaluate", path, "-o", tmp_path / "run"), said)
    assert not (tmp_path / "run").exists()


def test_flags_are_checked_as_a_file_is(tmp_path: Path) -> None:
    flags = ["--seed", 1, "--seed", 1, "--method", "gould"]
    assert_refused(run("evaluate", *flags, "-o", tmp_path / "run"), "seeds: 1 is there twice", "no method 'gould'")


# --- what comes along ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_a_configuration(path: Path) -> None:
    assert read_config(path).methods


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 3


def test_a_published_collection_runs_on_the_embedded_models(tmp_path: Path) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip(f"the published files are not in {PUBLISHED}")
    asked = {
        "tasks": {"dod": "instruction-induction", "folder": str(PUBLISHED), "n": 2},
        "methods": ["none", "gold", "soft"],
        "seeds": [0],
        "tuning": {"steps": 4, "batch_size": 4, "eval_every": 2, "n_tokens": 2, "init": "vocabulary"},
    }
    rows = Harness(parse_config(asked, "test"), tmp_path / "run").run()
    assert len({row.task for row in rows}) == 2 and len(rows) == 6
    assert all(row.failure is None and 0 <= row.score <= 1 for row in rows)
    assert all(row.perplexity > 1 for row in rows if row.method == "gold")
