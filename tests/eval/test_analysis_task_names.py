"""Tasks by the names of files and folders: runs of one task are taken together, and different tasks never."""

from pathlib import Path

import pytest

from soft2hard.eval.analysis.task_names import tasks_of_names

FILES = {
    "numbers that count up": {"rte-0.npy": "rte", "rte-1.npy": "rte", "boolq-1.npy": "boolq", "boolq-2.npy": "boolq"},
    "numbers of data sets": {"sst-2.npy": "sst-2", "sst-5.npy": "sst-5", "yelp-2.npy": "yelp-2"},
    "a run's number behind a data set's": {"sst-2_0.npy": "sst-2", "sst-2_1.npy": "sst-2", "sst-5_0.npy": "sst-5"},
    "words of runs": {"rte_seed7.npy": "rte", "rte-run-3.pt": "rte", "rte.tuning9.npy": "rte", "sst2.npy": "sst2"},
    "no number of a run": {"overrun3.npy": "overrun3", "03-relation.pt": "03-relation"},
    "a folder a task": {"rte/seed0.npy": "rte", "rte/seed1.npy": "rte", "boolq/seed0.npy": "boolq"},
    "a folder a run": {"rte_0/prompt.npy": "rte", "rte_1/prompt.npy": "rte", "boolq_0/prompt.npy": "boolq"},
    "a folder a run of a task": {
        "rte/seed0/prompt.npy": "rte",
        "rte/seed1/prompt.npy": "rte",
        "cb/seed0/best.pt": "cb",
    },
    "a folder a run of all tasks": {"seed0/rte.npy": "rte", "seed1/rte.npy": "rte", "seed0/boolq.npy": "boolq"},
    "plain numbers": {"rte/0.npy": "rte", "rte/1.npy": "rte"},
}


@pytest.mark.parametrize("layout", FILES)
def test_the_layouts_that_people_use_are_understood(layout: str, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in FILES[layout]]
    assert tasks_of_names(paths) == list(FILES[layout].values())


def test_checkpoints_of_an_adapter_are_of_the_folder_that_they_lie_in(tmp_path: Path) -> None:
    paths = [tmp_path / "rte" / f"checkpoint-{step}" for step in (100, 200)] + [tmp_path / "boolq" / "checkpoint-100"]
    for path in paths:
        path.mkdir(parents=True)
    assert tasks_of_names(paths) == ["rte", "rte", "boolq"]


def test_names_of_known_tasks_are_kept_whole_and_runs_of_them_are_found(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("sst-1.npy", "sst-2.npy", "agnews-7.npy")]
    assert tasks_of_names(paths) == ["sst", "sst", "agnews-7"]
    assert tasks_of_names(paths, {"sst-1", "sst-2", "agnews"}) == ["sst-1", "sst-2", "agnews"]


def test_a_name_that_says_nothing_anywhere_stays(tmp_path: Path) -> None:
    assert tasks_of_names([tmp_path / "runs" / "run" / "seed" / "0.npy"]) == ["0"]
