"""The corpora of a recipe, in this process or by the workers of a cluster."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from soft2hard.data_gen.corpus.making import CorpusBuilder
from soft2hard.data_gen.corpus_cluster import build_on_cluster
from soft2hard.data_gen.corpus_folder import CorpusFolder, CorpusPlan
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.dods.registry import FOLDER_DODS, read_for_corpus
from soft2hard.data_gen.taskfiles import content_hash
from soft2hard.data_gen.tasks import DoD
from soft2hard.lm.loading import Loading
from soft2hard.lm.precision import load_for_tuning, rounding_of
from soft2hard.lm.subject import Subject
from soft2hard.pipeline.job import Job
from soft2hard.pipeline.recipe import CorpusSettings, Recipe


def make_corpora(job: Job) -> None:
    """Tune the soft prompts of every corpus. Raises UserError, before any is tuned, where tasks are lacking."""
    recipe = job.recipe
    tasks = {name: _tasks_of(job, name, settings) for name, settings in recipe.corpora.items()}
    load = partial(load_for_tuning, recipe.subject, Loading(**recipe.loading))
    subject = load()
    plans = {name: corpus_plan(recipe, name, subject, tasks_hash) for name, (_, tasks_hash) in tasks.items()}
    if job.cluster is None:
        for name, plan in plans.items():
            builder = CorpusBuilder(job.layout.corpora / name, plan, tasks[name][0], subject)
            advance = _progress(job, name, builder.place)
            for number in builder.build(on_task=lambda *_, advance=advance: advance(1)):
                job.log(f"corpus {name}: shard {number + 1} of {builder.n_shards}")
        return
    places = {name: CorpusFolder(job.layout.corpora / name, plan) for name, plan in plans.items()}
    for place in places.values():
        place.claim(subject.name)
    del subject  # the workers load their own, maybe on the same GPU
    for name, place in places.items():
        advance = _progress(job, name, place)
        for n in build_on_cluster(place, tasks[name][0], load, job.cluster, job.log):
            advance(n)


def _progress(job: Job, name: str, place: CorpusFolder) -> Callable[[int], None]:
    """Counts soft prompts that are made to those that are there."""
    size, total = place.plan.shard_size, place.plan.n_tasks
    done = total - sum(min(size, total - i * size) for i in place.missing())

    def advance(n: int) -> None:
        nonlocal done
        done += n
        job.on_progress(f"corpus {name}, soft prompts", done, total)

    return advance


def _tasks_of(job: Job, name: str, settings: CorpusSettings) -> tuple[DoD, str | None]:
    """The collection of a corpus, and the hash of its tasks where they are read from files."""
    if settings.dod == "lexical":
        return dod_of(settings), None
    read, dropped = read_for_corpus(settings.dod, settings.folder, settings.split, settings.n_tasks, settings.task_seed)
    for reason, n in dropped.items():
        job.log(f"corpus {name}: left out, {reason}: {n}")
    return read, content_hash(read.read)


def corpus_plan(recipe: Recipe, name: str, subject: Subject, tasks_hash: str | None) -> CorpusPlan:
    """The plan of a corpus by its name."""
    settings = recipe.corpora[name]
    return CorpusPlan(
        dod=settings.dod,
        split=settings.split,
        n_tasks=settings.n_tasks,
        subject=subject.fingerprint,
        tuning=recipe.corpus_tuning(name),
        snapshot_steps=settings.snapshot_steps,
        shard_size=settings.shard_size,
        task_seed=settings.task_seed,
        n_train=settings.n_train if settings.dod == "lexical" else None,
        tasks_hash=tasks_hash,
        **rounding_of(recipe.loading),
    )


def dod_of(settings: CorpusSettings) -> DoD:
    """The collection of a corpus; of 'lexical' without the families that translators must not have met."""
    if settings.dod == "lexical":
        return LexicalDoD(for_translator=True, n_train=settings.n_train)
    return FOLDER_DODS[settings.dod](settings.folder)


def is_at_hand(dod: str, folder: Path | None) -> bool:
    """Whether the tasks of a collection can be read without the network."""
    return dod == "lexical" if folder is None else folder.exists()
