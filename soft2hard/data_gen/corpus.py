"""The corpus: soft prompts beside the tasks they were tuned for, on disk, in shards.

Each shard is a `datasets` folder (Arrow); `corpus_folder` says how they lie, and how a killed making is gone on with.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from pyarrow.lib import ArrowException

from soft2hard.data_gen.corpus_folder import PLAN_FILE, CorpusFolder, CorpusPlan, count_shards, saved_plan
from soft2hard.data_gen.tasks import DoD, Task
from soft2hard.data_gen.tuning import Tuned, Tuner
from soft2hard.errors import UserError, first_line
from soft2hard.lm.shared_prefix import Runner, make_runner
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.hub import local_folder


def corpus_features(n_tokens: int, d_model: int) -> datasets.Features:
    """Columns of a corpus."""
    text, number = datasets.Value("string"), datasets.Value("float32")
    return datasets.Features(
        {
            "task": text,
            "family": text,
            "instruction": text,
            "paraphrases": datasets.List(text),
            "step": datasets.Value("int32"),
            "is_best": datasets.Value("bool"),
            "validation_loss": number,
            "initial_loss": number,
            "embeddings": datasets.Array2D((n_tokens, d_model), "float32"),
        }
    )


def rows_of(tuned: Tuned) -> Iterator[dict[str, object]]:
    """The corpus rows of one tuned prompt: the best one, then its snapshots."""
    common = {
        "task": tuned.task.name,
        "family": tuned.task.family,
        "instruction": tuned.task.instruction,
        "paraphrases": list(tuned.task.paraphrases),
        "validation_loss": tuned.validation_loss,
        "initial_loss": tuned.initial_loss,
    }
    best = tuned.soft_prompt.embeddings.numpy()
    yield common | {"step": tuned.best_step, "is_best": True, "embeddings": best}
    for step, prompt in tuned.snapshots:
        yield common | {"step": step, "is_best": False, "embeddings": prompt.float().numpy()}


class ShardMaker:
    """Tunes the tasks of one shard after another on a subject and saves each shard whole."""

    def __init__(self, place: CorpusFolder, subject: Subject, runner: Runner | None = None):
        self.place, self.subject = place, subject
        self.runner = runner or make_runner(subject)

    def make(self, number: int, tasks: Sequence[Task], on_task: Callable[[Tuned], None] | None = None) -> None:
        """Make a shard of these tasks. Where another worker has meanwhile saved the same shard, that one stays."""
        plan, path = self.place.plan, self.place.shard_path(number)
        tuner = Tuner(self.subject, plan.tuning, runner=self.runner, snapshot_steps=plan.snapshot_steps)
        rows: list[dict[str, object]] = []
        for tuned in tuner.tune(tasks):
            rows += rows_of(tuned)
            if on_task:
                on_task(tuned)
        # Tasks finish in an order that depends on the machine; on disk they stand in the DoD's order.
        place = {task.name: i for i, task in enumerate(tasks)}
        rows.sort(key=lambda row: (place[row["task"]], not row["is_best"], row["step"]))
        features = corpus_features(plan.tuning.n_tokens, self.subject.d_model)
        columns = {name: [row[name] for row in rows] for name in features}
        shard = datasets.Dataset.from_dict(columns, features=features)
        try:
            with atomic_folder(path) as temporary:
                shard.save_to_disk(str(temporary))
        except UserError:
            if not path.exists():
                raise


class CorpusBuilder:
    """Makes, or goes on making, a corpus in a folder, in this process.

    Raises UserError when the folder holds a corpus made to another plan.
    """

    def __init__(self, folder: Path, plan: CorpusPlan, dod: DoD, subject: Subject, runner: Runner | None = None):
        self.plan, self.dod = plan, dod
        self.place = CorpusFolder(Path(folder), plan)
        self.place.claim(subject.name)
        self._maker = ShardMaker(self.place, subject, runner)

    @property
    def n_shards(self) -> int:
        return self.plan.n_shards

    def missing(self) -> list[int]:
        """Shards still to be made."""
        return self.place.missing()

    def build(
        self, shards: Iterable[int] | None = None, on_task: Callable[[Tuned], None] | None = None
    ) -> Iterator[int]:
        """Make the missing shards (or those given), yielding the number of each as it is finished."""
        for number, tasks in self.place.waiting(self.dod, self.missing() if shards is None else shards):
            self._maker.make(number, tasks, on_task)
            yield number
        self.place.tidy()


def load_corpus(folder: Path | str, *, snapshots: bool = True) -> datasets.Dataset:
    """A finished corpus as one dataset, in order; without snapshots, the best prompts alone.

    It is read from its folder, or by its name from the local cache or the hub. Raises UserError when there is no
    corpus, its plan cannot be read, or shards are missing.
    """
    folder = local_folder(folder, "corpus")
    if not (folder / PLAN_FILE).exists():
        raise UserError(f"'{folder}' is not a corpus: it has no {PLAN_FILE}.", "Make one with soft2hard tune --dod.")
    plan = corpus_plan(folder)
    n_shards = count_shards(plan["n_tasks"], plan["shard_size"])
    shards = sorted(path for path in (folder / "shards").glob("[0-9]*") if path.name.isdigit())
    if len(shards) < n_shards:
        raise UserError(
            f"The corpus '{folder}' is half-made: it has {len(shards)} of {n_shards} shards.",
            "Run its command again to go on with it.",
        )
    corpus = datasets.concatenate_datasets([_read_shard(shard) for shard in shards])
    # By indices: a filter would leave a file of its own among the shards.
    return corpus if snapshots else corpus.select(np.flatnonzero(corpus.with_format("numpy")["is_best"][:]))


def _read_shard(path: Path) -> datasets.Dataset:
    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, ArrowException) as error:
        raise UserError(
            f"The shard '{path}' is damaged ({first_line(error)}).", "Remove it and make the corpus again, or copy it."
        ) from error


def corpus_plan(folder: Path | str) -> dict[str, Any]:
    """The plan a corpus was made to, as saved. Raises UserError where it cannot be read."""
    return saved_plan(local_folder(folder, "corpus"))


def soft_prompt_of(row: dict, fingerprint: str | None = None) -> SoftPrompt:
    """The soft prompt of a corpus row."""
    embeddings = torch.from_numpy(np.asarray(row["embeddings"], dtype=np.float32))
    return SoftPrompt(embeddings, fingerprint=fingerprint, provenance={"task": row["task"], "step": str(row["step"])})


def content_hash(corpus: datasets.Dataset) -> str:
    """SHA-256 of all tasks, texts and embeddings, to tell whether two corpora are the same."""
    digest = hashlib.sha256()
    for row in corpus.with_format("numpy"):
        texts = [str(row["instruction"]), *map(str, row["paraphrases"])]
        digest.update(json.dumps([str(row["task"]), int(row["step"]), texts]).encode())
        digest.update(np.ascontiguousarray(row["embeddings"], dtype=np.float32).tobytes())
    return digest.hexdigest()
