"""soft2hard certify as a user meets it: on an evaluation of the embedded world, resumed, reported, refused."""

import json
import shutil
from pathlib import Path

import pytest

from soft2hard.eval import certifying
from soft2hard.eval.certificate import FIGURES, MATCHED, NOISE, OTHER, SHUFFLED, load
from soft2hard.eval.report import load_run
from tests import tiny_training
from tests.command_line import Result, run

SMALL = ["--candidates", 4, "--probes", 4]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation of three tasks of the embedded world; not to be changed."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "config.yaml").write_text(
        "tasks: {dod: lexical, n: 3, n_test: 6}\nseeds: [0]\nreference: null\ngenerator: null\n"
        "tuning: {steps: 20, batch_size: 4, eval_every: 10}\nmethods: [soft, greedy]\n"
    )
    assert run("evaluate", folder / "config.yaml", "-o", folder / "run").exit_code == 0
    return folder / "run"


@pytest.fixture
def own(evaluated: Path, tmp_path: Path) -> Path:
    """The same evaluation in a folder of one's own."""
    shutil.copytree(evaluated, tmp_path / "run")
    return tmp_path / "run"


def assert_refused(result: Result, *parts: str) -> None:
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr
    for part in parts:
        assert part in result.stderr


def test_a_run_is_certified_resumed_and_reported(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("certify", own, *SMALL, "--wayward", 2)
    assert first.exit_code == 0, first.stderr
    found = load(own)
    assert {MATCHED, OTHER, SHUFFLED, NOISE} <= set(found.reads)
    tasks = {task.name for task in load_run(own).tasks}
    assert len(tasks) == 3 and {reading.task for reading in found.readings if reading.read == MATCHED} == tasks
    assert set(found.soft_scores) == {f"0/{task}" for task in tasks} and len(found.wayward) == 2
    assert found.translator == "embedded" and found.settings.candidates == 4
    shown = " ".join(first.stdout.split())
    assert all(word in shown for read in found.reads for word in read.split())
    assert all(" ".join(sentence.split()) in shown for sentence in found.sentences()) and found.sentences()
    assert str(found.interval(MATCHED, "nll").value)[:4] in shown

    # What has been read is not read again; wayward prompts may be left out.
    monkeypatch.setattr(certifying.Certifier, "_read", lambda *given: pytest.fail("it was read before"))
    assert run("certify", own, *SMALL).exit_code == 0
    again = load(own)
    assert (again.readings, again.wayward) == (found.readings, ())
    assert_refused(run("certify", own, "--candidates", 5, "--probes", 4), "other settings (candidates)")
    assert load(own) == again

    assert run("report", own).exit_code == 0
    text = (own / "report.md").read_text()
    section = text.partition("## Does it read the vectors?")[2].partition("\n## ")[0]
    assert all(title in section for title in FIGURES.values()) and found.sentences()[0] in section


def test_several_runs_are_certified_apart_and_together_unless_they_share_a_task(
    own: Path, evaluated: Path, tmp_path: Path
) -> None:
    assert_refused(run("certify", own, own, *SMALL), "stands in several of the runs")
    assert load(own) is None
    config = (evaluated.parent / "config.yaml").read_text().replace("n: 3,", "n: 2, seed: 1,")
    (tmp_path / "config.yaml").write_text(config)
    assert run("evaluate", tmp_path / "config.yaml", "-o", tmp_path / "other").exit_code == 0
    certified = run("certify", own, tmp_path / "other", "--no-verify", "--no-score")
    assert certified.exit_code == 0, certified.stderr
    assert load(own).n_tasks == 3 and load(tmp_path / "other").n_tasks == 2
    assert "all 2 runs, 5 tasks" in " ".join(certified.stdout.split())


def test_a_run_without_a_translator_asks_for_one(own: Path) -> None:
    record = json.loads((own / "run.json").read_text())
    record["config"]["translator"] = None
    record["config"]["methods"] = record["config"]["methods"][:1]
    (own / "run.json").write_text(json.dumps(record))
    assert_refused(run("certify", own, *SMALL), "has no translator", "--translator")
    assert load(own) is None


def test_a_rival_that_reads_the_same_is_refused_before_anything_is_read(own: Path) -> None:
    assert_refused(run("certify", own, *SMALL, "--rival", "embedded"), "'embedded' reads both, as the one that")
    assert load(own) is None and not (own / "certificate").exists()


def test_a_translator_of_another_subject_and_what_is_no_run_are_refused(own: Path, tmp_path: Path) -> None:
    tiny_training.translator(tiny_training.llama_subject()).save_pretrained(tmp_path / "other")
    assert_refused(run("certify", own, "--translator", tmp_path / "other"), "was trained for another subject")
    assert_refused(run("certify", tmp_path / "nowhere"), "There is no folder")
    assert_refused(run("certify", tmp_path / "other"), "is not a run")
    assert_refused(run("certify", own, "--candidates", 0), "candidates")
