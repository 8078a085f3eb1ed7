"""An evaluation by the workers of a Ray cluster: soft prompts first, then cells, then scores.

What is handed out is small, so that a run of one seed fills many workers too: the soft prompts of a seed and split, the
cells of a method under a seed, the scores of a seed. Workers leave their results in the run's folder, which all
machines share, where a single process would leave them; so a lost worker's part is gone on with, and made once.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from soft2hard.errors import UserError
from soft2hard.eval.claiming import RUN_FILE
from soft2hard.eval.config import Evaluation
from soft2hard.eval.records import ResultRow
from soft2hard.workers.cluster import Cluster
from soft2hard.workers.pool import Pool

if TYPE_CHECKING:
    from soft2hard.eval.harness import Harness


class Part(NamedTuple):
    """A part of a run, small enough to be done by one worker."""

    stage: Literal["tune", "cells", "score"]
    seed: int
    of: str = ""
    """The split of tasks to tune, or the label of the method that makes cells."""


Done = tuple[list[ResultRow], list[str]]
"""The rows that a part scores, and what it has to say."""


def rows_on_cluster(harness: "Harness", cluster: Cluster, tell: Callable[[], None]) -> dict[int, list[ResultRow]]:
    """Run all seeds of a claimed evaluation on a cluster; `tell` is called while it goes on.

    Raises UserError as `Pool` does, and where a worker does not see the run's folder.
    """
    seeds, rows = harness.config.seeds, {}
    stages = (
        [Part("tune", seed, split) for seed in seeds for split in harness.splits],
        [Part("cells", seed, choice.label) for choice in harness.config.methods for seed in seeds],
        [Part("score", seed) for seed in seeds],
    )
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
    """What one worker does; its models stay loaded from part to part."""
    from soft2hard.eval.harness import Harness

    if not (folder / RUN_FILE).exists():
        raise UserError(
            f"A worker does not see the run in {folder}.", "Choose a folder that all machines of the cluster share."
        )
    lines: list[str] = []
    harness = Harness(config, folder, lines.append, retry_failed=retry_failed)

    def work(part: Part) -> Done:
        lines.clear()
        rows: list[ResultRow] = []
        if part.stage == "tune":
            harness.tune(part.seed, part.of)
        elif part.stage == "cells":
            harness.make_cells(part.seed, part.of)
        else:
            harness.retry_failed = False  # failures that are left by now are rows
            rows = harness.run_seed(part.seed)
        return rows, list(lines)

    return work
