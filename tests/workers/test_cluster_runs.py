"""Corpora and evaluations by Ray workers are those of a single process, even where a worker is killed in mid-run."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from soft2hard.data_gen.corpus.rows import content_hash, load_corpus
from soft2hard.errors import UserError
from tests import cluster_work, tiny_training
from tests.command_line import run
from tests.data_gen.test_tune_dods import write_manifests

pytest.importorskip("ray", reason="Ray is not installed: pip install '.[cluster]'")


@pytest.fixture(scope="module")
def on_two(ray_address: str) -> list[object]:
    """Options of a command that is to run on two workers of one core."""
    return ["--cluster", ray_address, "--cluster-workers", 2, "--cluster-cores", 1]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As each worker has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny subject and its translator on disk."""
    return tiny_training.save_models(tmp_path_factory.mktemp("models"))


def kill_a_worker_after(first: Path, killed: list[int]) -> None:
    """Once something lies at `first`, kill one of the workers with SIGKILL."""
    deadline = time.monotonic() + 120
    while not (first.exists() and cluster_work.actors()) and time.monotonic() < deadline:
        time.sleep(0.01)
    victim = max(cluster_work.actors())
    os.kill(victim, signal.SIGKILL)
    killed.append(victim)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="workers are found in /proc")
def test_a_corpus_of_two_workers_one_of_them_killed_is_that_of_one_process(
    models: Path, tmp_path: Path, on_two: list[object]
) -> None:
    manifests = write_manifests(tmp_path / "manifests", 10)
    command = [
        "tune",
        "--dod",
        "manifests",
        "--dod-folder",
        manifests,
        "--n-tasks",
        10,
        "--subject",
        models / "subject",
    ]
    command += ["--shard-size", 1, "--steps", 60, "--eval-every", 20, "--patience", 9, "--n-tokens", 2]
    command += ["--snapshots", 10, "--good-enough", 1e-9]
    assert run(*command, "-o", tmp_path / "alone").exit_code == 0
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after, args=(tmp_path / "corpus" / "shards", killed))
    killer.start()
    result = run(*command, "-o", tmp_path / "corpus", *on_two)
    killer.join()
    assert result.exit_code == 0, result.stderr
    assert killed and result.stderr.count("A worker was lost, and another takes its place.") == 1
    made, alone = load_corpus(tmp_path / "corpus"), load_corpus(tmp_path / "alone")
    assert content_hash(made) == content_hash(alone)
    assert made["instruction"][:] == alone["instruction"][:]
    assert len(list((tmp_path / "corpus" / "shards").iterdir())) == 10, "nothing is left of the killed worker's shard"
    assert run(*command, "-o", tmp_path / "corpus", *on_two).exit_code == 0, "a finished corpus needs no workers"


def test_an_evaluation_by_two_workers_is_that_of_one_process(
    models: Path, tmp_path: Path, on_two: list[object]
) -> None:
    for name, outputs in (("kinds", "red green"), ("places", "one two three four big small up")):
        tiny_training.write_task(tmp_path / f"{name}.jsonl", outputs)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"tasks: {{files: [{tmp_path / 'kinds.jsonl'}, {tmp_path / 'places.jsonl'}]}}\nseeds: [0, 1]\n"
        f"subject: {models / 'subject'}\ntranslator: {models / 'translator'}\nreference: subject\n"
        "tuning: {n_tokens: 2, steps: 4, batch_size: 4, eval_every: 2, init: vocabulary}\n"
        "methods: [none, gold, soft, greedy, {name: few-shot, k: 2}]\n"
    )
    assert run("evaluate", config, "-o", tmp_path / "alone").exit_code == 0
    result = run("evaluate", config, "-o", tmp_path / "run", *on_two)
    assert result.exit_code == 0, result.stderr
    assert (
        result.stdout == f"20 cells in {tmp_path / 'run'}, 0 of them failed; see soft2hard report {tmp_path / 'run'}\n"
    )
    alone, rows = (pq.read_table(tmp_path / name / "results.parquet").to_pylist() for name in ("alone", "run"))
    for row in (*alone, *rows):
        assert row.pop("seconds") >= 0
    assert rows == alone
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("alone", "run")]
    assert records[0]["inputs"] == records[1]["inputs"]
    lines = [path.read_text().splitlines() for path in (tmp_path / "run" / "cells").rglob("*.jsonl")]
    assert [len(of_method) for of_method in lines] == [2] * 10, "each cell was made once"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").rglob("*.jsonl")}
    on_one = [*on_two[:2], "--cluster-workers", 1]  # there is nothing left to share out
    assert run("evaluate", config, "-o", tmp_path / "run", *on_one).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").rglob("*.jsonl")} == before


def test_workers_that_do_not_see_the_run_say_so() -> None:
    from soft2hard.data_gen.corpus.cluster import shard_work
    from soft2hard.data_gen.corpus.folder import CorpusFolder, CorpusPlan
    from soft2hard.data_gen.tuning import Tuning
    from soft2hard.eval.config import parse_config
    from soft2hard.eval.fan_out import run_work

    plan = CorpusPlan("lexical", "train", 1, "a subject", Tuning())
    with pytest.raises(UserError, match="does not see the corpus in .*elsewhere"):
        shard_work(CorpusFolder(Path("elsewhere"), plan), lambda: pytest.fail("there is nothing to load it for"))
    config = parse_config({"tasks": {"dod": "lexical"}, "methods": ["gold"]}, "this test")
    with pytest.raises(UserError, match="does not see the run in elsewhere"):
        run_work(config, Path("elsewhere"), False)


def test_cluster_options_without_a_cluster_and_two_ways_at_once_are_refused(models: Path, tmp_path: Path) -> None:
    tune = ["tune", "--dod", "lexical", "--n-tasks", 2, "--subject", models / "subject", "-o", tmp_path / "out"]
    for command, said in [
        ([*tune, "--cluster-workers", 2], "need its address (--cluster)"),
        (["evaluate", "-o", tmp_path / "out", "--cluster-cores", 2], "need its address (--cluster)"),
        (["evaluate", "-o", tmp_path / "out", "--workers", 2, "--cluster", "local"], "--workers and --cluster exclude"),
        (["tune", tmp_path / "x.csv", "-o", tmp_path / "out", "--cluster", "local"], "belong to --dod"),
    ]:
        result = run(*command)
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr
        assert said in result.stderr
    assert not (tmp_path / "out").exists()
