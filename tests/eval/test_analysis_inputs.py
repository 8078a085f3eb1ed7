"""Soft prompts as they are read: runs of one task are taken together, different tasks and subjects never."""

from pathlib import Path

import numpy as np
import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.eval.analysis.inputs import check_comparable, read_given, stacked, tasks_of_names
from soft2hard.prompts.soft_prompt import SoftPrompt

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


# --- files of soft prompts -----------------------------------------------------------------------------


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


# --- prompts that may stand in one comparison ----------------------------------------------------------


def prompt(n: int = 2, width: int = 3, **facts: str) -> SoftPrompt:
    return SoftPrompt(torch.ones(n, width), **facts)


def test_prompts_of_one_subject_are_stacked_in_order() -> None:
    rows = np.random.default_rng(2).normal(0.3, 2.0, (3, 4, 9))
    np.testing.assert_allclose(stacked([SoftPrompt(torch.from_numpy(p).float()) for p in rows]), rows, rtol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "problem", "still"),
    [
        ([prompt()], "1 soft prompts where 2", "single"),
        ([prompt(), prompt(width=4)], "3 wide and soft prompt 2 is 4 wide", "nearest tokens"),
        ([prompt(), prompt(n=5)], "2 tokens and soft prompt 2 has 5", "transfer matrix"),
        (
            [prompt(fingerprint="a", subject="x"), prompt(), prompt(fingerprint="b", subject="y")],
            "different subjects: soft prompt 1 to x and soft prompt 3 to y",
            "nearest tokens",
        ),
        (
            [prompt(subject="hub/opt"), prompt(subject="hub/gpt2")],
            "hub/opt and soft prompt 2 to hub/gpt2",
            "nearest tokens",
        ),
    ],
)
def test_prompts_that_cannot_be_compared_are_refused_with_what_still_works(prompts, problem, still) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        stacked(prompts)
    assert still in refused.value.remedy


def test_one_subject_by_two_names_is_one_subject() -> None:
    check_comparable([prompt(subject="hub/opt"), prompt(subject="/models/OPT"), prompt()])
    check_comparable([prompt(subject="a", fingerprint="f"), prompt(subject="b", fingerprint="f")])
