"""Making a corpus: tasks are tuned shard by shard, and each shard is saved whole."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import datasets

from soft2hard.data_gen.corpus.folder import CorpusFolder, CorpusPlan
from soft2hard.data_gen.corpus.rows import MOST_EXAMPLES, corpus_features
from soft2hard.data_gen.tasks import DoD, Task
from soft2hard.data_gen.tuning.tuner import Tuned, Tuner
from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.storage.files import atomic_folder


class ShardMaker:
    """Tunes the tasks of one shard after another on a subject and saves each shard whole."""

    def __init__(self, place: CorpusFolder, subject: Subject):
        self.place, plan = place, place.plan
        self.tuner = Tuner(subject, plan.tuning, snapshot_steps=plan.snapshot_steps)

    def make(self, number: int, tasks: Sequence[Task], on_task: Callable[[Tuned], None] | None = None) -> None:
        """Make a shard of these tasks. Where another worker has meanwhile saved the same shard, that one stays."""
        rows: list[dict[str, object]] = []
        for tuned in self.tuner.tune(tasks):
            rows += _rows_of(tuned)
            if on_task:
                on_task(tuned)
        # Tasks finish in an order that depends on the machine; on disk they stand in the DoD's order.
        place = {task.name: i for i, task in enumerate(tasks)}
        rows.sort(key=lambda row: (place[row["task"]], not row["is_best"], row["step"]))
        path = self.place.shard_path(number)
        features = corpus_features(self.place.plan.tuning.n_tokens, self.tuner.subject.d_model)
        columns = {name: [row[name] for row in rows] for name in features}
        shard = datasets.Dataset.from_dict(columns, features=features)
        try:
            with atomic_folder(path) as temporary:
                shard.save_to_disk(str(temporary))
        except UserError:
            if not path.exists():
                raise


class CorpusBuilder:
    """Makes a corpus in a folder, or what is missing of it, in this process.

    Raises UserError when the folder holds a corpus made to another plan.
    """

    def __init__(self, folder: Path, plan: CorpusPlan, dod: DoD, subject: Subject):
        self.plan, self.dod = plan, dod
        self.place = CorpusFolder(Path(folder), plan)
        self.place.claim(subject.name)
        self._maker = ShardMaker(self.place, subject)

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


def _rows_of(tuned: Tuned) -> Iterator[dict[str, object]]:
    """The corpus rows of one tuned prompt: the best one, then its snapshots."""
    shown = list(dict.fromkeys(tuned.task.train))[:MOST_EXAMPLES]
    common = {
        "task": tuned.task.name,
        "family": tuned.task.family,
        "instruction": tuned.task.instruction,
        "paraphrases": list(tuned.task.paraphrases),
        "inputs": [example.input for example in shown],
        "outputs": [example.output for example in shown],
        "validation_loss": tuned.validation_loss,
        "initial_loss": tuned.initial_loss,
    }
    best = tuned.soft_prompt.embeddings.numpy()
    yield common | {"step": tuned.best_step, "is_best": True, "embeddings": best}
    for step, prompt in tuned.snapshots:
        yield common | {"step": step, "is_best": False, "embeddings": prompt.float().numpy()}
