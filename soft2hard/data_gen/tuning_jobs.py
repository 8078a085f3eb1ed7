"""Tunings shared out among workers that each hold the subject."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuned, Tuner, Tuning
from soft2hard.lm.shared_prefix import Runner
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers, Tell


@dataclass(frozen=True)
class TuningJob:
    """Tasks that are tuned in one way, each once."""

    tasks: tuple[Task, ...]
    config: Tuning
    snapshot_steps: tuple[int, ...] = ()
    init_seed: int | None = None
    order_seed: int | None = None
    """These and `starts` are those of `Tuner`."""
    starts: Mapping[str, SoftPrompt] | None = None

    def parts(self, n: int) -> "list[TuningJob]":
        """The tasks in `n` shares of like size, or one each where there are fewer."""
        shares = [self.tasks[i::n] for i in range(min(n, len(self.tasks)))]
        return [replace(self, tasks=share) for share in shares]


def tune_jobs(
    workers: SubjectWorkers, jobs: Sequence[TuningJob], on_step: Tell = lambda n: None
) -> Iterator[tuple[int, dict[str, Tuned]]]:
    """Each job's number with what became of its tasks, by their names and in their order, as jobs are finished.

    A job is cut into parts where there are fewer jobs than workers. `on_step(n)` hears of steps of so many prompts.
    Raises UserError as `Tuner.tune` does.
    """
    n_parts = -(-workers.n // max(1, len(jobs)))
    parts = [(number, part) for number, job in enumerate(jobs) for part in job.parts(n_parts)]
    left = [sum(number == own for number, _ in parts) for own in range(len(jobs))]
    found: list[dict[str, Tuned]] = [{} for _ in jobs]
    for i, tuned in workers.map(_tune, [part for _, part in parts], on_step):
        number = parts[i][0]
        found[number] |= {one.task.name: one for one in tuned}
        left[number] -= 1
        if not left[number]:
            yield number, {task.name: found[number][task.name] for task in jobs[number].tasks}


def _tune(runner: Runner, job: TuningJob, on_step: Tell) -> list[Tuned]:
    tuner = Tuner(
        runner.subject,
        job.config,
        runner=runner,
        snapshot_steps=job.snapshot_steps,
        on_step=on_step,
        init_seed=job.init_seed,
        order_seed=job.order_seed,
        starts=job.starts,
    )
    return list(tuner.tune(job.tasks))
