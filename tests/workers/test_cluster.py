"""A pool of Ray workers does every shard, replaces workers that are killed, and leaves no process behind."""

import subprocess
import sys
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from soft2hard.errors import UserError
from soft2hard.workers.cluster import Cluster, Layout, Node, Pool, layout_of
from tests import cluster_work
from tests.paths import ROOT

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install '.[cluster]'")


HERE, GPUS = [Node(8)], [Node(8, 4)]
KUBERAY = [Node(8), *[Node(8, 1)] * 8]
"""A head without a GPU and eight machines with one each."""
OUTSIDE = "10.0.0.1:6379"


@pytest.mark.parametrize(
    ("asked", "nodes", "expected"),
    [
        (Cluster("local"), HERE, Layout(8, 1, 0, room=8)),
        (Cluster("local", cores=3), HERE, Layout(2, 3, 0, room=2)),
        (Cluster("local", workers=2), HERE, Layout(2, 4, 0, room=2)),
        (Cluster("local", workers=3), HERE, Layout(3, 2, 0, room=4)),
        (Cluster("local", workers=2, cores=1), HERE, Layout(2, 1, 0, room=8)),
        (Cluster("local", workers=4), [Node(2)], Layout(4, 1, 0, room=2)),
        (Cluster("local", cores=16), HERE, Layout(1, 16, 0, room=0)),
        (Cluster("local"), GPUS, Layout(4, 2, 1, room=4)),
        (Cluster("local", workers=2), GPUS, Layout(2, 4, 1, room=2)),
        (Cluster("local", gpus=0), GPUS, Layout(8, 1, 0, room=8)),
        (Cluster("auto", workers=8), KUBERAY, Layout(8, 8, 1, room=8)),
        (Cluster("auto"), KUBERAY, Layout(8, 8, 1, room=8)),
        (Cluster("auto", workers=4), [Node(8), Node(4), Node(4)], Layout(4, 4, 0, room=4)),
    ],
)
def test_workers_share_out_the_cores_of_each_machine_and_have_a_gpu_each(
    asked: Cluster, nodes: list[Node], expected: Layout
) -> None:
    assert layout_of(asked, nodes) == expected


@pytest.mark.parametrize(
    ("asked", "nodes", "expected"),
    [
        (Cluster(OUTSIDE, workers=16), [Node(32, 4)], Layout(16, 8, 1, room=4)),
        (Cluster(OUTSIDE, workers=16), [Node(32, 4)] * 4, Layout(16, 8, 1, room=16)),
        (Cluster(OUTSIDE, workers=16, cores=8, gpus=1), [Node(2)], Layout(16, 8, 1, room=0)),
    ],
)
def test_workers_whose_machines_have_yet_to_join_wait_for_them(
    asked: Cluster, nodes: list[Node], expected: Layout
) -> None:
    assert layout_of(asked, nodes) == expected


def test_what_no_machine_can_hold_is_refused() -> None:
    with pytest.raises(UserError, match="5 workers cannot share 4 GPUs"):
        layout_of(Cluster("local", workers=5), GPUS)
    with pytest.raises(UserError, match="1 workers cannot share 0 GPUs"):
        layout_of(Cluster("local", gpus=1), HERE)
    with pytest.raises(UserError, match="to have 16 cores, but no machine of the cluster has more than 8"):
        layout_of(Cluster(OUTSIDE, cores=16), [Node(32), Node(8, 1)])
    with pytest.raises(UserError, match="workers is 0"):
        Cluster("local", workers=0)
    with pytest.raises(UserError, match="cores is -1"):
        Cluster("local", cores=-1)
    with pytest.raises(UserError, match="gpus is 2, not a number up to 1"):
        Cluster("local", gpus=2)


class FakeRay:
    """Ray whose workers answer at once; the first answer to each shard is an error."""

    def __init__(self, lost: Exception):
        import ray

        self.exceptions, self.lost, self.started, self.failed = ray.exceptions, lost, 0, set()

    def remote(self, cls: type) -> "FakeRay":
        return self

    def options(self, **_: object) -> SimpleNamespace:
        return SimpleNamespace(remote=self._actor)

    def _actor(self, *_: object) -> SimpleNamespace:
        self.started += 1
        ask = SimpleNamespace(remote=lambda shard=None: (self.started, shard))
        return SimpleNamespace(ready=ask, do=ask)

    def wait(self, tasks: list, **_: object) -> tuple[list, list]:
        return tasks[:1], tasks[1:]

    def get(self, task: tuple) -> int | None:
        if task[1] is not None and task[1] not in self.failed:
            self.failed.add(task[1])
            raise self.lost
        return task[1]

    def kill(self, actor: object) -> None:
        pass

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]


@needs_ray
@pytest.mark.parametrize("kind", ["OutOfMemoryError", "LocalRayletDiedError", "ActorUnschedulableError"])
def test_a_worker_that_ray_ends_for_want_of_memory_or_room_is_replaced(kind: str, monkeypatch) -> None:
    from ray import exceptions

    error = getattr(exceptions, kind)
    fake, said = FakeRay(error() if kind == "LocalRayletDiedError" else error("no memory left")), []
    monkeypatch.setattr("soft2hard.workers.cluster.import_ray", lambda: fake)
    with Pool(Cluster("auto", workers=1), cluster_work.refusing, said.append) as pool:
        assert dict(pool.map([1, 2])) == {1: 1, 2: 2}
    assert fake.started == 3 and len(said) == 2


@needs_ray
def test_workers_that_wait_for_machines_are_said(monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("soft2hard.workers.cluster.import_ray", lambda: FakeRay(RuntimeError()))
    with Pool(Cluster("auto", workers=3, cores=1), cluster_work.refusing, said.append):
        pass
    assert said == ["There is room for 2 of 3 workers with 1 cores each; the others wait for machines that join."]


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed. Run pip install 'soft2hard\[cluster\]'"):
        Pool(Cluster("local"), cluster_work.refusing)


@pytest.fixture(scope="module")
def two_workers(ray_address: str) -> Cluster:
    """Two workers on a Ray cluster that is joined by its address."""
    return Cluster(ray_address, workers=2, cores=1)


def done(folder: Path) -> Counter[int]:
    return Counter(int(line.split()[0]) for line in (folder / "done").read_text().splitlines())


def test_every_shard_is_done_once_by_workers_that_stay(two_workers: Cluster, tmp_path: Path) -> None:
    told = []
    with Pool(two_workers, partial(cluster_work.squaring, tmp_path), tell=lambda: told.append(1)) as pool:
        first = dict(pool.map(range(6)))
        second = dict(pool.map(iter([6, 7])))
        assert dict(pool.map([])) == {}
    assert first | second == {number: number**2 for number in range(8)}
    assert done(tmp_path) == dict.fromkeys(range(8), 1) and told
    lines = [line.split() for line in (tmp_path / "done").read_text().splitlines()]
    assert {threads for *_, threads in lines} == {"1"}
    assert 1 <= len({pid for _, pid, _ in lines}) == len(list(tmp_path.glob("made-*"))) <= 2


def test_the_shards_of_killed_workers_are_done_by_others(two_workers: Cluster, tmp_path: Path) -> None:
    for number in (1, 4):
        (tmp_path / f"die-{number}").touch()
    lost: list[str] = []
    with Pool(two_workers, partial(cluster_work.squaring, tmp_path), log=lost.append) as pool:
        results = list(pool.map(range(6)))
    assert sorted(results) == [(number, number**2) for number in range(6)]
    assert done(tmp_path) == {0: 1, 1: 2, 2: 1, 3: 1, 4: 2, 5: 1}
    assert len(lost) == 2 and all(line.startswith("A worker was lost") for line in lost)


def test_a_shard_that_is_lost_again_and_again_ends_the_work_in_one_line(two_workers: Cluster, tmp_path: Path) -> None:
    (tmp_path / "always-die-1").touch()
    with pytest.raises(UserError, match="3 workers were lost over the same shard; the last one: .* died"):
        with Pool(two_workers, partial(cluster_work.squaring, tmp_path)) as pool:
            list(pool.map(range(3)))
    assert done(tmp_path)[1] == 3


def test_errors_of_the_user_come_back_as_they_are_and_bugs_with_their_trace(two_workers: Cluster) -> None:
    with Pool(two_workers, cluster_work.refusing) as pool:
        with pytest.raises(UserError) as caught:
            list(pool.map([1, 2]))
        assert (caught.value.problem, caught.value.remedy) == ("Two is no number.", "Give another.")
    with Pool(two_workers, cluster_work.refusing) as pool:
        with pytest.raises(ZeroDivisionError, match="a bug"):
            list(pool.map([3]))


def test_more_cores_than_any_machine_has_are_refused(two_workers: Cluster) -> None:
    with pytest.raises(UserError, match="to have 3 cores, but no machine of the cluster has more than 2"):
        Pool(Cluster(two_workers.address, cores=3), cluster_work.refusing).__enter__()


@needs_ray
def test_an_address_without_a_cluster_is_refused_in_one_line() -> None:
    code = "from soft2hard.workers.cluster import Cluster, Pool; Pool(Cluster('127.0.0.1:9'), None).__enter__()"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "UserError: No Ray cluster can be joined at '127.0.0.1:9'" in ended.stderr.splitlines()[-1]


@needs_ray
def test_a_local_cluster_ends_with_its_pool() -> None:
    """In a process of its own, whose children can be counted."""
    code = """
import os, time
from pathlib import Path
from soft2hard.workers.cluster import Cluster, Pool
from tests.cluster_work import descendants, refusing
with Pool(Cluster("local", workers=1, cores=1), refusing) as pool:
    assert list(pool.map([1])) == [(1, 1)]
    begun = [Path(f"/proc/{pid}/cmdline") for pid in descendants(os.getpid())]
    assert len(begun) > 2
time.sleep(1)
print("left", [path for path in begun if path.exists() and path.read_text()])
"""
    if not Path("/proc").is_dir():
        pytest.skip("processes are counted in /proc")
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines()[-1:] == ["left []"], ended.stderr
