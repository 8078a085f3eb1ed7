"""What soft2hard tune --dod does: a corpus of a DoD's tasks, in this process or on a cluster."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft2hard.cli.common import load_subject, no_remains, progress_bar, rounding_of, say
from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.data_gen.corpus_folder import CorpusPlan
    from soft2hard.data_gen.tasks import DoD, Split
    from soft2hard.data_gen.tuning import Tuning
    from soft2hard.workers.cluster import Cluster


@dataclass(frozen=True)
class Source:
    """Which tasks a corpus is made of."""

    dod: str
    folder: Path | None
    split: "Split"
    n_tasks: int
    task_seed: int


def tune_corpus(
    source: Source,
    snapshot_steps: tuple[int, ...],
    shard_size: int,
    subject: tuple[str, dict[str, Any]],
    config: "Tuning",
    output: Path,
    cluster: "Cluster | None",
) -> None:
    """Make a corpus, or go on with it; `subject` is its name and how it is loaded.

    Raises UserError before anything is tuned where its tasks are not to be had, or one cannot be tuned.
    """
    from soft2hard.data_gen.corpus.making import CorpusBuilder
    from soft2hard.data_gen.corpus_cluster import build_on_cluster
    from soft2hard.data_gen.corpus_folder import CorpusFolder, CorpusPlan
    from soft2hard.data_gen.tuning.tuner import Tuner

    dod, of_files, dropped = _read(source)
    load = partial(load_subject, subject[0], fast=True, loading=subject[1])
    lm = load()
    if of_files:
        Tuner(lm, config).check(dod.tasks(source.split))
    if dropped:
        say("Left out: " + ", ".join(f"{count} {reason}" for reason, count in dropped.items()) + ".")
    plan = CorpusPlan(
        source.dod,
        source.split,
        source.n_tasks,
        lm.fingerprint,
        config,
        snapshot_steps,
        shard_size,
        source.task_seed,
        **of_files,
        **rounding_of(subject[1]),
    )
    title = f"Tuning {source.split} tasks"
    with no_remains(output):
        if cluster is None:
            build_corpus(CorpusBuilder(output, plan, dod, lm), title)
        else:
            place = CorpusFolder(output, plan)
            place.claim(lm.name)
            del lm  # the workers load their own, maybe on the same GPU
            _show(plan, place.missing(), title, build_on_cluster(place, dod, load, cluster, say))
    say(f"Corpus of {source.n_tasks} tasks: {output}")


def _read(source: Source) -> tuple["DoD", dict[str, Any], dict[str, int]]:
    """The DoD; what its plan says where the tasks are read from files; and what was left out of these, by reason."""
    if source.dod == "lexical":
        from soft2hard.data_gen.dods.lexical import LexicalDoD

        if source.folder is not None:
            raise UserError("'lexical' has no folder.", "Leave out --dod-folder.")
        # Two families are kept from translators while they learn, to measure them on the unseen.
        dod = LexicalDoD(for_translator=source.split != "test")
        n_found = sum(1 for _ in dod.draw(source.split, source.n_tasks, source.task_seed))
        if n_found < source.n_tasks:
            raise UserError(f"There are no more than {n_found} {source.split} tasks.", f"Give --n-tasks {n_found}.")
        return dod, {}, {}
    from soft2hard.data_gen.dods.registry import read_for_corpus
    from soft2hard.data_gen.taskfiles import content_hash

    dod, dropped = read_for_corpus(source.dod, source.folder, source.split, source.n_tasks, source.task_seed)
    return dod, {"n_train": None, "tasks_hash": content_hash(dod.read)}, dropped


def build_corpus(builder: Any, title: str) -> None:
    """Make what is missing of a corpus in this process, with a progress bar."""
    missing = builder.missing()
    with progress_bar() as progress:
        bar = progress.add_task(title, total=builder.plan.n_tasks, completed=_n_made(builder.plan, missing))
        for _ in builder.build(missing, on_task=lambda _: progress.advance(bar)):
            pass


def _show(plan: "CorpusPlan", missing: list[int], title: str, numbers: Iterable[int]) -> None:
    """A progress bar over the numbers of tasks that are made."""
    with progress_bar() as progress:
        bar = progress.add_task(title, total=plan.n_tasks, completed=_n_made(plan, missing))
        for n in numbers:
            progress.advance(bar, n)


def _n_made(plan: "CorpusPlan", missing: list[int]) -> int:
    """Tasks in shards that are there."""
    return plan.n_tasks - sum(min(plan.shard_size, plan.n_tasks - i * plan.shard_size) for i in missing)
