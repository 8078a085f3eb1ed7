"""Options of the commands that fan out over a Ray cluster."""

from typing import TYPE_CHECKING, Annotated

import typer

from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.workers.cluster import Cluster

_PANEL = "Cluster"

ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Fan out over Ray: 'local' for this machine alone, or the address of a Ray cluster, such as auto or "
        "10.0.0.1:6379, whose machines share the files (docs/cluster.md).",
        rich_help_panel=_PANEL,
    ),
]
ClusterWorkers = Annotated[
    int | None,
    typer.Option(
        "--cluster-workers",
        min=1,
        help="Workers in all.",
        show_default="one a GPU; without GPUs, one for each --cluster-cores cores",
        rich_help_panel=_PANEL,
    ),
]
ClusterCores = Annotated[
    int | None,
    typer.Option(
        "--cluster-cores",
        min=1,
        help="Cores, and so threads, of each worker.",
        show_default="an equal share for each worker asked for or GPU, else 1",
        rich_help_panel=_PANEL,
    ),
]
ClusterGpus = Annotated[
    int | None,
    typer.Option(
        "--cluster-gpus",
        min=0,
        max=1,
        help="GPUs of each worker; give 1 where the machines that have them have yet to join.",
        show_default="1 where the cluster has GPUs by now, else 0",
        rich_help_panel=_PANEL,
    ),
]


def cluster_of(address: str | None, workers: int | None, cores: int | None, gpus: int | None) -> "Cluster | None":
    """The cluster that the options ask for. Raises UserError for its settings without it."""
    from soft2hard.workers.cluster import Cluster

    if address is not None:
        return Cluster(address, workers, cores, gpus)
    if (workers, cores, gpus) != (None, None, None):
        raise UserError(
            "--cluster-workers, --cluster-cores and --cluster-gpus belong to --cluster.", "Add --cluster local."
        )
    return None
