"""Soft prompts a second by Ray workers against one process, with the same cores for each.

    python benchmarks/ray_scaling.py

Makes the same corpus of the lexical world twice on the embedded subject: in this process with --cores threads, and by
--workers Ray workers with as many threads each. Starting (Ray, processes, imports, loading) is reported apart: the
rate counts from the moment at which the first worker, or this process, begins its first shard. The two corpora are
compared by their hash. The machine needs workers x cores free cores, else the ratio says what was missing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import torch

from soft2hard.cli.common import AtLeast1
from soft2hard.data_gen.corpus.cluster import Shard, shard_work
from soft2hard.data_gen.corpus.folder import CorpusFolder, CorpusPlan
from soft2hard.data_gen.corpus.rows import content_hash, load_corpus
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.errors import run_script
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from soft2hard.pipeline.recipe import read_recipe
from soft2hard.workers.cluster import Cluster, Pool, available_cores

Span = tuple[float, float]
"""When a shard was begun and ended, seconds of the clock that all processes share."""


@dataclass(frozen=True)
class Made:
    """What one way of making the corpus took."""

    name: str
    started: float
    spans: list[Span]
    n_tasks: int

    @property
    def start_up(self) -> float:
        return min(begun for begun, _ in self.spans) - self.started

    @property
    def per_second(self) -> float:
        return self.n_tasks / (max(ended for _, ended in self.spans) - min(begun for begun, _ in self.spans))


def timed_work(place: CorpusFolder, load: Callable[[], Subject]) -> Callable[[Shard], Span]:
    """The work of the package, with its times."""
    work = shard_work(place, load)

    def timed(shard: Shard) -> Span:
        begun = time.time()
        work(shard)
        return begun, time.time()

    return timed


def alone(place: CorpusFolder, dod: LexicalDoD, load: Callable[[], Subject]) -> Made:
    started = time.time()
    work = timed_work(place, load)
    spans = [work(shard) for shard in place.waiting(dod, place.missing())]
    return Made("one process", started, spans, place.plan.n_tasks)


def by_workers(place: CorpusFolder, dod: LexicalDoD, load: Callable[[], Subject], cluster: Cluster) -> Made:
    started = time.time()
    with Pool(cluster, partial(timed_work, place, load), print) as pool:
        spans = [span for _, span in pool.map(place.waiting(dod, place.missing()))]
    return Made(f"{cluster.workers} Ray workers", started, spans, place.plan.n_tasks)


def main(
    *,
    n_tasks: AtLeast1 = 256,
    shard_size: AtLeast1 = 32,
    workers: AtLeast1 = 2,
    cores: AtLeast1 = 1,
    recipe: Path = Path("recipes/embedded.yaml"),
) -> None:
    """Make the corpus both ways and print prompts a second, their ratio, and what starting took.

    Args:
        n_tasks: Training tasks of the lexical world to tune.
        shard_size: Tasks a shard; give each worker several shards.
        workers: Ray workers.
        cores: Cores, and so threads, of the one process and of each worker.
        recipe: YAML file; its first train corpus says how soft prompts are tuned.
    """
    torch.set_num_threads(cores)
    datasets.disable_progress_bars()
    load, dod = partial(load_for_tuning, "embedded"), LexicalDoD(for_translator=True)
    subject = load()
    found = read_recipe(recipe)
    tuning = found.corpus_tuning(next(iter(found.of_split("train"))))
    plan = CorpusPlan("lexical", "train", n_tasks, subject.fingerprint, tuning, (), shard_size)
    print(f"torch {torch.__version__}, ray {version('ray')}; {available_cores()} cores here, {cores} for each")
    print(f"{n_tasks} tasks in {plan.n_shards} shards, {plan.tuning}")
    with TemporaryDirectory() as folder:
        places = [CorpusFolder(Path(folder) / name, plan) for name in ("alone", "workers")]
        for place in places:
            place.claim(subject.name)
        made = [alone(places[0], dod, load), by_workers(places[1], dod, load, Cluster(workers=workers, cores=cores))]
        hashes = {content_hash(load_corpus(place.folder)) for place in places}
    print(f"\n{'':<16} prompts/s  start-up, s")
    for one in made:
        print(f"{one.name:<16} {one.per_second:9.2f}  {one.start_up:11.1f}")
    print(f"\n{workers} Ray workers against one process: {made[1].per_second / made[0].per_second:.2f} times the rate.")
    print("The two corpora are the same." if len(hashes) == 1 else "The two corpora differ in rounding.")


if __name__ == "__main__":
    run_script(main)
