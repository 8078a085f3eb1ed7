"""An evaluation in this process, in several of this machine, or by the workers of a Ray cluster.

Processes take a seed each. What a cluster hands out is smaller, so that a run of one seed fills many workers too: the
soft prompts of a seed and split, then the cells of a method under a seed, then the scores of a seed. Workers leave
their results in the run's folder, which all machines share, where a single process would leave them; so the part of a
lost worker is resumed, and made once.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from soft2hard.errors import UserError
from soft2hard.eval.cases import Log, Pace, silent
from soft2hard.eval.config import Evaluation
from soft2hard.eval.harness import RUN, Harness, Progress
from soft2hard.eval.run_records import ResultRow
from soft2hard.workers.cluster import Cluster, Pool
from soft2hard.workers.subject_workers import process_pool, results

RowsBySeed = dict[int, list[ResultRow]]


def run_evaluation(
    config: Evaluation,
    folder: Path,
    log: Log = silent,
    on_cell: Progress = lambda done, total: None,
    workers: int = 1,
    retry_failed: bool = False,
    cluster: Cluster | None = None,
) -> list[ResultRow]:
    """Run an evaluation in a folder, or resume it there; `log` is a function of a module where there are processes.

    `on_cell` hears how many cells are done, and how many there are. The cells are made by so many processes (`workers`,
    one seed each at a time, with an equal share of the cores), or by the workers of a Ray cluster. With `retry_failed`
    failed cells of an earlier run are made again. Raises UserError as `Harness` does, and for workers that are lost or
    do not see the folder.
    """
    harness = Harness(config, folder, log, on_cell, retry_failed)
    if cluster is not None:
        return harness.run(partial(_rows_on_cluster, cluster=cluster))
    if workers > 1 and len(config.seeds) > 1:
        return harness.run(partial(_rows_of_processes, workers=workers))
    return harness.run()


# --- processes --------------------------------------------------------------------------------


def _rows_of_processes(harness: Harness, workers: int) -> RowsBySeed:
    """A seed at a time for each process. An error is raised when the seeds that still run are done: they are kept."""
    seeds = harness.config.seeds
    given = (harness.config, harness.folder, harness.log, harness.retry_failed)
    with process_pool(min(workers, len(seeds))) as pool:
        futures = {pool.submit(_run_seed, seed, *given): seed for seed in seeds}
        try:
            return dict(results(futures, lambda: harness.on_cell(harness.n_done(), harness.n_cells)))
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise


def _run_seed(seed: int, config: Evaluation, folder: Path, log: Log, retry_failed: bool) -> list[ResultRow]:
    return Harness(config, folder, log, retry_failed=retry_failed).run_seed(seed)


# --- a cluster --------------------------------------------------------------------------------


class Part(NamedTuple):
    """A part of a run, small enough to be done by one worker."""

    stage: Literal["tune", "cells", "score"]
    seed: int
    of: str = ""
    """The split of tasks to tune, or the label of the method that makes cells."""


Done = tuple[list[ResultRow], list[str]]
"""The rows that a part scores, and its lines for the log."""


def _rows_on_cluster(harness: Harness, cluster: Cluster) -> RowsBySeed:
    seeds, rows, pace = harness.config.seeds, {}, Pace(harness.log, "cells")
    stages = (
        [Part("tune", seed, split) for seed in seeds for split in harness.splits],
        [Part("cells", seed, choice.label) for choice in harness.config.methods for seed in seeds],
        [Part("score", seed) for seed in seeds],
    )

    def tell() -> None:
        done, total = harness.n_done(), harness.n_cells
        harness.on_cell(done, total)
        pace(done, total)

    make_work = partial(run_work, harness.config, harness.folder.resolve(), harness.retry_failed)
    with Pool(cluster, make_work, harness.log, tell) as pool:
        for parts in stages:
            for part, (found, lines) in pool.map(parts):
                for line in lines:
                    harness.log(line)
                if part.stage == "score":
                    rows[part.seed] = found
    tell()
    return rows


def run_work(config: Evaluation, folder: Path, retry_failed: bool) -> Callable[[Part], Done]:
    """The work of one worker, whose models stay loaded from part to part."""
    if not (folder / RUN.file).exists():
        raise UserError(
            f"A worker does not see the run in {folder}.", "Choose a folder that all machines of the cluster share."
        )
    lines: list[str] = []
    harness = Harness(config, folder, lines.append, retry_failed=retry_failed, paced=False)

    def work(part: Part) -> Done:
        lines.clear()
        rows: list[ResultRow] = []
        if part.stage == "tune":
            harness.cases(part.seed, part.of)
        elif part.stage == "cells":
            harness.make_cells(part.seed, part.of)
        else:
            harness.retry_failed = False  # failures that are left by now are rows
            rows = harness.run_seed(part.seed)
        return rows, list(lines)

    return work
