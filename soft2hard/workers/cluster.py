"""Where work fans out to: a Ray cluster of this machine, or one of many by its address.

Ray is an extra (`soft2hard[cluster]`) and is imported only here.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, NamedTuple

from pydantic import Field, PositiveInt, model_validator

from soft2hard.errors import UserError
from soft2hard.settings import settings

LOCAL = "local"
_START_TRIES = 3
"""Ray gives itself half a minute to start, which is short on a busy machine."""


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

    def room(self, cores: int, gpus: int) -> int:
        """Workers of so many cores and GPUs each that it holds."""
        return min(self.cores // cores, self.gpus // gpus) if gpus else self.cores // cores


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
    cores = cluster.cores or (_share(able, asked, gpus) if asked else 1)
    most = max((node.cores for node in able), default=cores)
    if most < cores and cluster.address != LOCAL:
        raise UserError(
            f"A worker is to have {cores} cores, but no machine of the cluster has more than {most}.",
            "Ask for fewer cores or more workers.",
        )
    room = _room(able, cores, gpus)
    return Layout(cluster.workers or max(1, room), cores, gpus, room)


def _share(nodes: Sequence[Node], workers: int, gpus: int) -> int:
    """The most cores a worker that leave room for so many workers, or for as many as there is any room for."""
    wanted = min(workers, _room(nodes, 1, gpus))
    most = max((node.cores for node in nodes), default=1) if wanted else 1
    return next((cores for cores in range(most, 1, -1) if _room(nodes, cores, gpus) >= wanted), 1)


def _room(nodes: Sequence[Node], cores: int, gpus: int) -> int:
    return sum(node.room(cores, gpus) for node in nodes)


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


def connect(ray: ModuleType, cluster: Cluster) -> None:
    """Start or join the cluster. Raises UserError where it does not come up or cannot be reached."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.address == LOCAL:
        n_cores = max(available_cores(), (cluster.workers or 1) * (cluster.cores or 1))
        here = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        _start_here(ray, num_cpus=n_cores, **here, **quiet)
        return
    try:
        _knock(cluster.address)
        ray.init(address=cluster.address, **quiet)
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        raise UserError(
            f"No Ray cluster can be joined at '{cluster.address}' ({last_line(error)}).",
            "Start one with ray start --head and give its address, or give local; where it asks for a token, set "
            "RAY_AUTH_MODE=token and see that the same token is here (docs/cluster.md).",
        ) from error


def _start_here(ray: ModuleType, **options: object) -> None:
    for tries_left in reversed(range(_START_TRIES)):
        try:
            ray.init(address=LOCAL, **options)
            return
        except Exception as error:  # Ray raises no narrower one where its processes do not come up
            ray.shutdown()
            if not tries_left:
                raise UserError(
                    f"Ray does not start on this machine ({last_line(error)}).", "Try again when it is less busy."
                ) from error


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_line(error: Exception) -> str:
    """Of what Ray says: where it says what was the matter, cut to one line of a terminal or two."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".")[:200]
