"""The seeds of an evaluation in processes of their own: small matrices do not fill several cores."""

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, wait
from pathlib import Path
from typing import TYPE_CHECKING

from soft2hard.eval.config import Evaluation
from soft2hard.eval.records import ResultRow
from soft2hard.workers.processes import POLL_SECONDS, process_pool, result_of

if TYPE_CHECKING:
    from soft2hard.eval.harness import Harness


def rows_by_seed(harness: "Harness", tell: Callable[[], None]) -> dict[int, list[ResultRow]]:
    """Run each seed of an evaluation in a process, `harness.workers` at a time; the cores are shared out evenly.

    `harness.log` is called in the processes, so it must be a function of a module; `tell` is called here, every second.
    Raises what a process raises, when the seeds that still run are done: what they made is kept.
    """
    seeds = harness.config.seeds
    with process_pool(min(harness.workers, len(seeds))) as pool:
        given = (harness.config, harness.folder, harness.log, harness.retry_failed)
        futures = {seed: pool.submit(_run_seed, seed, *given) for seed in seeds}
        waiting = set(futures.values())
        while waiting:
            done, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
            tell()
            if any(future.exception() for future in done):
                pool.shutdown(cancel_futures=True)
                break
        return {seed: result_of(future) for seed, future in futures.items()}


def _run_seed(
    seed: int, config: Evaluation, folder: Path, log: Callable[[str], None], retry_failed: bool
) -> list[ResultRow]:
    from soft2hard.eval.harness import Harness

    return Harness(config, folder, log=log, retry_failed=retry_failed).run_seed(seed)
