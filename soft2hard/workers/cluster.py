"""Work in shards over the workers of a Ray cluster: one of this machine, or one of many by its address.

A pool of Ray actors takes shards. An actor that is lost (killed, out of memory, its node gone) is replaced, and its
shard is handed out again, so work must be such that doing a shard twice does no harm: here every shard appears under
its name by one rename. Files are shared: all machines must see the same paths.

Ray is an extra (`soft2hard[cluster]`) and is imported only here.
"""

import os
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from pydantic import Field, PositiveInt, model_validator

from soft2hard.errors import UserError
from soft2hard.settings import settings

Shard = TypeVar("Shard")
Result = TypeVar("Result")

LOCAL = "local"
_MOST_LOSSES = 3
"""Times that one shard, or a worker that has not begun, may be lost before the work is given up."""
_START_TRIES = 3
"""Ray gives itself half a minute to start, which is short on a busy machine."""
_POLL_SECONDS = 0.5


# --- how many workers, and what each holds ----------------------------------------------------


@settings
class Cluster:
    """Where work fans out to, and how wide."""

    address: str
    """Fan out over Ray: 'local' for a cluster of this machine that ends with the work, or the address of a Ray cluster,
    such as auto or 10.0.0.1:6379, whose machines share the files (docs/cluster.md)."""
    workers: PositiveInt | None = None
    """Workers in all; by default one a GPU, and without GPUs one for each so many cores as a worker has."""
    cores: PositiveInt | None = None
    """Cores, and so threads, of each worker; by default an equal share for each worker asked for or GPU, else 1."""
    gpus: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs of each worker, 0 or 1; by default 1 where the cluster has GPUs by now. Give 1 where the machines that have
    them have yet to join."""

    @model_validator(mode="before")
    @classmethod
    def _has_address(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "address" not in given:
            raise ValueError("the workers, cores and GPUs of a cluster need its address (--cluster)")
        return given


class Node(NamedTuple):
    """One machine of a cluster."""

    cores: int
    gpus: int = 0


@dataclass(frozen=True)
class Layout:
    """How many workers a cluster gets, and what each holds."""

    workers: int
    cores: int
    gpus: int
    room: int
    """Workers for which there is room by now; the others wait for machines that join."""


def layout_of(cluster: Cluster, nodes: Sequence[Node]) -> Layout:
    """Workers on these machines: one GPU each where there are GPUs, and no core held twice.

    Each gets as many cores as leave room for all of them, machine by machine; where there is room for none or not for
    all, what lets the most begin. Raises UserError where they ask for what no machine that could hold one has, and for
    more workers than GPUs on a cluster of this machine, which no other joins.
    """
    n_gpus = sum(node.gpus for node in nodes)
    gpus = int(n_gpus > 0) if cluster.gpus is None else cluster.gpus
    able = [node for node in nodes if node.gpus >= gpus]
    asked = cluster.workers or (n_gpus if gpus else None)
    if gpus and cluster.address == LOCAL and (asked or 1) > n_gpus:
        raise UserError(f"{asked or 1} workers cannot share {n_gpus} GPUs.", f"Ask for {n_gpus} or fewer.")
    most = max((node.cores for node in able), default=cluster.cores or 1)
    cores = cluster.cores or 1
    if asked and cluster.cores is None:  # the most that leave room for all, or for as many as there is any room for
        wanted = min(asked, _room(able, 1, gpus))
        cores = next((n for n in range(most, 1, -1) if wanted and _room(able, n, gpus) >= wanted), 1)
    if most < cores and cluster.address != LOCAL:
        raise UserError(
            f"A worker is to have {cores} cores, but no machine of the cluster has more than {most}.",
            "Ask for fewer cores or more workers.",
        )
    room = _room(able, cores, gpus)
    return Layout(cluster.workers or max(1, room), cores, gpus, room)


def _room(nodes: Sequence[Node], cores: int, gpus: int) -> int:
    """Workers of so many cores and GPUs each that these machines hold."""
    return sum(min(node.cores // cores, node.gpus // gpus if gpus else node.cores) for node in nodes)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- Ray --------------------------------------------------------------------------------------


def import_ray() -> ModuleType:
    """Ray, told to keep to itself. Raises UserError where it is missing."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reports its use to its makers unless told not to
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")  # on a busy machine its own minute is short
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "Ray is not installed.", "Run pip install 'soft2hard[cluster]', or leave out --cluster."
        ) from error
    return ray


def _connect(ray: ModuleType, cluster: Cluster) -> None:
    """Start or join the cluster. Raises UserError where it does not come up or cannot be reached."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.address == LOCAL:
        n_cores = max(available_cores(), (cluster.workers or 1) * (cluster.cores or 1))
        here = {"num_cpus": n_cores, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        for tries_left in reversed(range(_START_TRIES)):
            try:
                ray.init(address=LOCAL, **here, **quiet)
                return
            except Exception as error:  # Ray raises no narrower one where its processes do not come up
                ray.shutdown()
                if not tries_left:
                    problem = f"Ray does not start on this machine ({_last_line(error)})."
                    raise UserError(problem, "Try again when it is less busy.") from error
    try:
        host, _, port = cluster.address.rpartition("://")[2].rpartition(":")
        if host and port.isdigit():  # Ray itself would try for minutes where nobody listens
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=cluster.address, **quiet)
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        raise UserError(
            f"No Ray cluster can be joined at '{cluster.address}' ({_last_line(error)}).",
            "Start one with ray start --head and give its address, or give local; where it asks for a token, set "
            "RAY_AUTH_MODE=token and see that the same token is here (docs/cluster.md).",
        ) from error


def _last_line(error: Exception) -> str:
    """Of a message of Ray's the line that gives the reason, cut to one line of a terminal or two."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".")[:200]


# --- the pool ---------------------------------------------------------------------------------


class _Worker:
    """An actor: makes what does the work when the first shard comes, so that its errors come back as errors."""

    def __init__(self, make_work: Callable[[], Callable[[Any], Any]], n_threads: int, folder: str):
        self._make_work, self._work, self._folder = make_work, None, folder
        os.environ["OMP_NUM_THREADS"] = str(n_threads)  # for libraries yet to be imported
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(n_threads)

    def ready(self) -> None:
        """Answers once the worker has begun."""

    def do(self, shard: Any) -> Any:
        if self._work is None:
            if not Path(self._folder).is_dir():
                raise UserError(
                    f"{os.uname().nodename} does not see the folder {self._folder}.",
                    "Run from a folder that all machines of the cluster share.",
                )
            os.chdir(self._folder)
            self._work = self._make_work()
        return self._work(shard)


@dataclass(eq=False)
class _Member(Generic[Shard]):
    """A worker of the pool and its work."""

    actor: Any
    task: Any
    """Ray's reference to what comes next from it: that it is ready, or a result. None while it is idle."""
    job: tuple[int, Shard] | None = None
    """A shard with its number in the pool's life."""


class Pool(Generic[Shard, Result]):
    """Workers that stay, with what they have loaded, for one or several maps; a context manager.

    Args:
        cluster: Where, and how many.
        make_work: Called once in each worker; returns the function that does a shard. Must be picklable, as a function
            of a module or a `partial` of one.
        log: Told of lost workers.
        tell: Called about twice a second while a map waits.

    Raises UserError where Ray is missing or its cluster cannot be reached.
    """

    def __init__(
        self,
        cluster: Cluster,
        make_work: Callable[[], Callable[[Shard], Result]],
        log: Callable[[str], None] = lambda line: None,
        tell: Callable[[], None] = lambda: None,
    ):
        self.cluster, self.make_work, self.log, self.tell = cluster, make_work, log, tell
        self._ray = import_ray()
        self._members: list[_Member[Shard]] = []
        self._numbers, self._losses = count(), Counter[int | None]()

    def __enter__(self) -> "Pool[Shard, Result]":
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            _connect(self._ray, self.cluster)
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        nodes = [Node(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in alive]
        self.layout = layout = layout_of(self.cluster, nodes)
        if layout.room < layout.workers:
            share = f"{layout.cores} cores" + (" and a GPU" if layout.gpus else "")
            self.log(
                f"There is room for {layout.room} of {layout.workers} workers with {share} each; "
                "the others wait for machines that join."
            )
        self._members = [self._start() for _ in range(layout.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            self._ray.kill(member.actor)
        self._members = []
        if self._is_ours:
            self._ray.shutdown()

    def map(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Result]]:
        """Each shard with its result, as they are finished; shards are taken from the iterable when a worker is free.

        Raises what the work raises, and UserError for a shard that is lost with its worker `_MOST_LOSSES` times.
        """
        waiting, again = zip(self._numbers, shards, strict=False), deque[tuple[int, Shard]]()
        while True:
            for member in self._members:
                if member.task is None and (job := again.popleft() if again else next(waiting, None)):
                    member.job, member.task = job, member.actor.do.remote(job[1])
            if all(member.job is None for member in self._members):
                again.extend(() if again else islice(waiting, 1))
                if not again:
                    return
            busy = {member.task: member for member in self._members if member.task is not None}
            done, _ = self._ray.wait(list(busy), num_returns=1, timeout=_POLL_SECONDS)
            self.tell()
            for member in map(busy.get, done):
                job, member.job = member.job, None
                try:
                    result = self._ray.get(member.task)
                except self._ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, UserError):
                        raise error.cause from None
                    raise
                except self._ray.exceptions.RayError as error:  # the worker is gone, in one of many ways
                    again.extend([job] if job else [])
                    self._replace(member, job, error)
                    continue
                member.task = None
                if job is not None:
                    yield job[1], result

    def _start(self) -> _Member[Shard]:
        options = {"num_cpus": self.layout.cores, "num_gpus": self.layout.gpus, "max_restarts": 0}
        actor = self._ray.remote(_Worker).options(**options).remote(self.make_work, self.layout.cores, os.getcwd())
        return _Member(actor, actor.ready.remote())

    def _replace(self, member: _Member[Shard], job: tuple[int, Shard] | None, error: Exception) -> None:
        """Another worker for one that is lost. Raises UserError where it is one too many."""
        number, when = (job[0], "over the same shard") if job else (None, "before they began")
        self._losses[number] += 1
        if self._losses[number] >= _MOST_LOSSES:
            raise UserError(
                f"{_MOST_LOSSES} workers were lost {when}; the last one: {_last_line(error)}.",
                "See that soft2hard is installed on every machine, give each worker more memory (fewer workers), and "
                "run the same command again: what is finished is kept.",
            )
        self.log(f"A worker was lost, and another takes its place. {_last_line(error)}")
        self._ray.kill(member.actor)  # one that was only out of reach must not work on
        self._members[self._members.index(member)] = self._start()
