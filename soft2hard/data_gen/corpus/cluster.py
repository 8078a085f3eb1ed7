"""A corpus made by the workers of a Ray cluster, shard by shard."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from soft2hard.data_gen.corpus.folder import PLAN_FILE, CorpusFolder
from soft2hard.data_gen.corpus.shards import ShardMaker
from soft2hard.data_gen.tasks import DoD, Task
from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.workers.cluster import Cluster, Pool

Shard = tuple[int, Sequence[Task]]
"""Its number and its tasks, which travel to the worker."""


def build_on_cluster(
    place: CorpusFolder,
    dod: DoD,
    load_subject: Callable[[], Subject],
    cluster: Cluster,
    log: Callable[[str], None] = lambda line: None,
) -> Iterator[int]:
    """Make the missing shards of a claimed corpus on a cluster, yielding how many tasks each has as it is finished.

    `load_subject` loads the subject in each worker, so it must be picklable. The corpus is the one that a single
    process makes: shards are tuned apart in either case. Raises UserError as `Pool` does, and where a worker does not
    see the corpus or has another subject.
    """
    missing = place.missing()
    if not missing:
        return
    with Pool(cluster, partial(shard_work, place, load_subject), log) as pool:
        for (_, tasks), _ in pool.map(place.waiting(dod, missing)):
            yield len(tasks)
    place.tidy()


def shard_work(place: CorpusFolder, load_subject: Callable[[], Subject]) -> Callable[[Shard], None]:
    """What one worker does. Raises UserError where it does not see the corpus or has another subject."""
    if not (place.folder / PLAN_FILE).exists():
        raise UserError(
            f"A worker does not see the corpus in {place.folder.resolve()}.",
            "Choose an output folder that all machines of the cluster share.",
        )
    subject = load_subject()
    if subject.fingerprint != place.plan.subject:
        raise UserError(
            f"A worker has another subject by the name of '{subject.name}'.", "Give a folder that all machines share."
        )
    maker = ShardMaker(place, subject)
    return lambda shard: maker.make(*shard)
