"""Work in shards over the workers of a Ray cluster.

A pool of Ray actors pulls shards. An actor that is lost (killed, out of memory, its node gone) is replaced, and its
shard is handed out again, so work must be such that doing a shard twice does no harm: here every shard appears under
its name by one rename. Files are shared: all machines must see the same paths.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from soft2hard.errors import UserError
from soft2hard.workers.cluster import Cluster, Layout, Node, connect, import_ray, last_line, layout_of

Shard = TypeVar("Shard")
Result = TypeVar("Result")

MOST_LOSSES = 3
"""Times that one shard, or a worker that has not begun, may be lost before the work is given up."""
_POLL_SECONDS = 0.5


class _Worker:
    """An actor: makes what does the work when the first shard comes, so that its errors come back as errors."""

    def __init__(self, make_work: Callable[[], Callable[[Any], Any]], n_threads: int, folder: str):
        self._make_work, self._work, self._folder = make_work, None, folder
        _set_threads(n_threads)

    def ready(self) -> int:
        """Its process id."""
        return os.getpid()

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


def _set_threads(n: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(n)  # for libraries yet to be imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)


@dataclass
class _Job(Generic[Shard]):
    """A shard on its way, and how often it was lost with its worker."""

    shard: Shard
    losses: int = 0


@dataclass
class _Member(Generic[Shard]):
    """A worker of the pool and what it is busy with."""

    actor: Any
    task: Any
    """Ray's reference to what comes next from it: that it is ready, or a result. None while it is idle."""
    job: _Job[Shard] | None = None


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
        self._lost_early = 0

    def __enter__(self) -> "Pool[Shard, Result]":
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            connect(self._ray, self.cluster)
        self.layout = self._layout()
        self._members = [self._start() for _ in range(self.layout.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            self._ray.kill(member.actor)
        self._members = []
        if self._is_ours:
            self._ray.shutdown()

    def map(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Result]]:
        """Each shard with its result, as they are finished; shards are taken from the iterable when a worker is free.

        Raises what the work raises, and UserError for a shard that is lost with its worker `MOST_LOSSES` times.
        """
        source, again = iter(shards), deque[_Job[Shard]]()
        exhausted = False
        while True:
            for member in self._members:
                if member.task is None and not again and not exhausted:
                    taken = [_Job(shard) for shard in islice(source, 1)]
                    again.extend(taken)
                    exhausted = not taken
                if member.task is None and again:
                    member.job = again.popleft()
                    member.task = member.actor.do.remote(member.job.shard)
            if exhausted and not again and all(member.job is None for member in self._members):
                return
            for member in self._news():
                job, member.job = member.job, None
                try:
                    result = self._ray.get(member.task)
                except self._losses() as error:
                    again.extend([job] if job else [])
                    self._replace(member, job, error)
                    continue
                except self._ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, UserError):
                        raise error.cause from None
                    raise
                member.task = None
                if job is not None:
                    yield job.shard, result

    # --- members --------------------------------------------------------------------------------

    def _start(self) -> _Member[Shard]:
        options = {"num_cpus": self.layout.cores, "num_gpus": self.layout.gpus, "max_restarts": 0}
        actor = self._ray.remote(_Worker).options(**options).remote(self.make_work, self.layout.cores, os.getcwd())
        return _Member(actor, actor.ready.remote())

    def _news(self) -> list[_Member[Shard]]:
        """Members of which something has come; waits for it a moment."""
        busy = {member.task: member for member in self._members if member.task is not None}
        done, _ = self._ray.wait(list(busy), num_returns=1, timeout=_POLL_SECONDS)
        self.tell()
        return [busy[task] for task in done]

    def _replace(self, member: _Member[Shard], job: _Job[Shard] | None, error: Exception) -> None:
        """Another worker for one that is lost. Raises UserError where it is one too many."""
        if job is None:
            self._lost_early += 1
        else:
            job.losses += 1
        n_lost, when = (self._lost_early, "before they began") if job is None else (job.losses, "over the same shard")
        if n_lost >= MOST_LOSSES:
            raise UserError(
                f"{n_lost} workers were lost {when}; the last one: {last_line(error)}.",
                "See that soft2hard is installed on every machine, give each worker more memory (fewer workers), and "
                "run the same command again: what is finished is kept.",
            )
        self.log(f"A worker was lost, and another takes its place. {last_line(error)}")
        self._ray.kill(member.actor)  # one that was only out of reach must not go on
        self._members[self._members.index(member)] = self._start()

    def _losses(self) -> tuple[type[Exception], ...]:
        """What Ray raises when a worker is gone and another may take its place."""
        found = self._ray.exceptions
        gone = (found.RayActorError, found.WorkerCrashedError, found.OutOfMemoryError, found.ActorUnschedulableError)
        return (*gone, found.NodeDiedError, found.LocalRayletDiedError, found.ObjectLostError)

    def _layout(self) -> Layout:
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        layout = layout_of(self.cluster, [Node(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in alive])
        if layout.room < layout.workers:
            share = f"{layout.cores} cores" + (" and a GPU" if layout.gpus else "")
            self.log(
                f"There is room for {layout.room} of {layout.workers} workers with {share} each; "
                "the others wait for machines that join."
            )
        return layout
