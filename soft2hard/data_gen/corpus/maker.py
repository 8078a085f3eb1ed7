"""A corpus from its settings: the tasks of a collection are read, and their soft prompts tuned here or on a cluster."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soft2hard.data_gen.corpus.cluster import build_on_cluster
from soft2hard.data_gen.corpus.folder import CorpusFolder, CorpusPlan
from soft2hard.data_gen.corpus.shards import CorpusBuilder
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.dods.registry import read_for_corpus
from soft2hard.data_gen.settings import CorpusSettings, Tuning
from soft2hard.data_gen.taskfiles import content_hash
from soft2hard.data_gen.tasks import DoD
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.lm.settings import Loading
from soft2hard.lm.subject import Subject
from soft2hard.workers.cluster import Cluster
from soft2hard.workers.subject_workers import under


@dataclass(frozen=True)
class CorpusTasks:
    """The tasks of a corpus, read once."""

    settings: CorpusSettings
    dod: DoD
    read: tuple[str, Any] | None = None
    """SHA-256 of the tasks and the tasks themselves, where they come from files; None where they are drawn."""
    dropped: tuple[str, ...] = ()
    """What was left out of the files, for people."""

    @property
    def outputs(self) -> Iterator[str]:
        """Outputs of all tasks that are read from files; drawn ones hold no line breaks."""
        for task in self.read[1] if self.read else ():
            yield from (example.output for example in (*task.train, *task.validation))

    def plan(self, tuning: Tuning, subject: Subject, loading: Loading) -> CorpusPlan:
        """All that decides what the corpus holds, its subject held as `loading` says."""
        s = self.settings
        return CorpusPlan(
            dod=s.dod,
            split=s.split,
            n_tasks=s.n_tasks,
            subject=subject.fingerprint,
            tuning=tuning,
            snapshot_steps=s.snapshot_steps,
            shard_size=s.shard_size,
            task_seed=s.task_seed,
            n_train=None if self.read else s.n_train,
            tasks_hash=self.read[0] if self.read else None,
            **loading.rounding,
        )


def corpus_tasks(settings: CorpusSettings) -> CorpusTasks:
    """Read or draw the tasks of a corpus. Raises UserError where there are fewer than asked for, and for bad files."""
    s = settings
    if s.dod != "lexical":
        dod, dropped = read_for_corpus(s.dod, s.folder, s.split, s.n_tasks, s.task_seed, s.dod_options)
        left_out = tuple(f"{count} {reason}" for reason, count in dropped.items())
        return CorpusTasks(s, dod, (content_hash(dod.read), dod.read), left_out)
    if s.folder is not None or s.dod_options:
        raise UserError("'lexical' has no folder and no options.", "Leave out --dod-folder and --dod-option.")
    # Two families are kept from translators while they learn, to measure them on the unseen.
    dod = LexicalDoD(for_translator=s.split != "test", n_train=s.n_train)
    n_found = sum(1 for _ in dod.draw(s.split, s.n_tasks, s.task_seed))
    if n_found < s.n_tasks:
        raise UserError(f"There are no more than {n_found} {s.split} tasks.", f"Give --n-tasks {n_found}.")
    return CorpusTasks(s, dod)


@dataclass(frozen=True)
class Maker:
    """Makes corpora on one subject, in this process or by the workers of a cluster."""

    load: Callable[[], Subject]
    """Loads the subject; picklable where there is a cluster."""
    loading: Loading
    """How `load` holds it."""
    cluster: Cluster | None = None
    log: Callable[[str], None] = lambda line: None
    """Hears lines for people."""
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None
    """Hears the folder's name, how many soft prompts are done, and how many there are in all."""
    on_shard: Callable[[str, int, int], None] = lambda name, number, total: None
    """Hears the same of shards that this process has made."""

    def make(self, folder: Path, tasks: CorpusTasks, tuning: Tuning) -> None:
        """Make a corpus, or resume it.

        Raises UserError, before anything is tuned, where a task from files cannot be tuned.
        """
        subject = self.load().for_outputs(tasks.outputs)
        if tasks.read:
            Tuner(subject, tuning).check(tasks.read[1])
        if tasks.dropped:
            self.log(f"Left out: {', '.join(tasks.dropped)}.")
        plan = tasks.plan(tuning, subject, self.loading)
        place = CorpusFolder(folder, plan)
        done = plan.n_tasks - sum(min(plan.shard_size, plan.n_tasks - i * plan.shard_size) for i in place.missing())

        def advance(n: int) -> None:
            nonlocal done
            done += n
            self.on_progress(folder.name, done, plan.n_tasks)

        advance(0)
        if self.cluster is None:
            builder = CorpusBuilder(folder, plan, tasks.dod, subject)
            for number in builder.build(on_task=lambda _: advance(1)):
                self.on_shard(folder.name, number + 1, builder.n_shards)
            return
        place.claim(subject.name)
        load = partial(under, self.load, subject.template)
        del subject  # the workers load their own, maybe on the same GPU
        for n in build_on_cluster(place, tasks.dod, load, self.cluster, self.log):
            advance(n)
