"""Tuning many soft prompts at once on one frozen subject.

Prompt tuning (Lester et al. 2021, arXiv 2104.08691) with a batch of *slots*: every slot holds one task
with its own prompt, examples, Adam state, learning-rate schedule and early stopping. All slots share each
forward and backward pass; a slot whose task is done takes the next one. Gradients go to the prompts alone.

What a task becomes does not depend on its slot-mates: its examples are drawn by a generator seeded by the
task alone, losses are summed over slots, and no statistic is shared.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from random import Random

from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning.slots import (
    Deck,
    EncodedExample,
    SlotLosses,
    SlotState,
    encode_examples,
    given_prompt,
    initial_prompt,
)
from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers, Tell


@dataclass(frozen=True)
class Tuned:
    """A tuned soft prompt and how it came about."""

    task: Task
    soft_prompt: SoftPrompt
    """The prompt with the lowest validation loss seen."""
    validation_loss: float
    """Its loss on the task's validation examples, nats a token."""
    initial_loss: float
    """The validation loss before the first step."""
    steps: int
    """Steps taken in all."""
    best_step: int
    """The step at which the returned prompt stood."""
    snapshots: tuple[tuple[int, Float[Tensor, "n_tokens d_model"]], ...] = ()
    """Earlier prompts along the tuning with their steps, if asked for."""
    losses: tuple[tuple[int, float], ...] = ()
    """Steps with the validation loss that each was looked at with."""


@dataclass
class _Job:
    """A task being tuned in a slot."""

    task: Task
    deck: Deck
    validation: list[EncodedExample]
    rng: Random
    """Of the starting point; also the deck's, unless their seeds are told apart."""
    step: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    best: Tensor | None = None
    looks_without_gain: int = 0
    snapshots: list[tuple[int, Tensor]] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    """Steps with the validation loss at each look."""


@dataclass
class Tuner:
    """Tunes soft prompts for tasks on one subject.

    `tune(tasks)` yields results as tasks finish, in no fixed order.
    """

    subject: Subject
    config: Tuning = Tuning()
    _: KW_ONLY
    snapshot_steps: Sequence[int] = ()
    """Steps at which prompts on the way are kept as well."""
    on_step: Callable[[int], None] | None = None
    """Hears after each step of how many prompts it was."""
    init_seed: int | None = None
    order_seed: int | None = None
    """Seeds of the starting points and of the order of examples, apart; the one that is not given is `config.seed`."""
    starts: Mapping[str, SoftPrompt] | None = None
    """Soft prompts that tasks start from, by the tasks' names; all others start as `config.init` says."""

    def __post_init__(self) -> None:
        self.losses = SlotLosses(self.subject)
        given, n_tokens = (self.starts or {}).items(), self.config.n_tokens
        self._starts = {name: given_prompt(self.subject, start, n_tokens) for name, start in given}
        self._n_lead = len(self.subject.lead_embeddings("soft"))

    def tune(self, tasks: Iterable[Task]) -> Iterator[Tuned]:
        """Tune one soft prompt a task.

        Tasks of like length share a batch, so little is padded. Raises UserError for a task without
        train or validation examples, or with one too long for the subject.
        """
        jobs = deque(sorted((self._job(task) for task in tasks), key=_length))
        slots: list[_Job] = []
        state = SlotState(self.subject, self.config)
        n_slots = self.config.slots or (self._affordable_slots(jobs) if jobs else 1)
        while jobs or slots:
            while jobs and len(slots) < n_slots:
                job = jobs.popleft()
                slots.append(job)
                state.add(self._start(job))
            self._look(slots, state)
            finished = [i for i, job in enumerate(slots) if self._is_done(job)]
            for i in finished:
                yield self._result(slots[i])
            if finished:
                kept = [i for i in range(len(slots)) if i not in set(finished)]
                slots = [slots[i] for i in kept]
                state.keep(kept)
                continue
            self._step(slots, state)

    def _affordable_slots(self, jobs: Sequence[_Job]) -> int:
        """As many as there is memory for, by a trial with the longest examples of all."""
        every = [(sorted(job.deck.examples, key=lambda e: e.n_read), job.validation) for job in jobs]
        n, at_once = self.config.batch_size, lambda examples: sum(example.n_read for example in examples)
        training = max(((train[-n:] * n)[-n:] for train, _ in every), key=at_once)
        validation = max((validation for _, validation in every), key=at_once)
        return self.losses.affordable_slots(self.config.n_tokens, training, validation)

    def _start(self, job: _Job) -> Float[Tensor, "n_tokens d_model"]:
        if (given := self._starts.get(job.task.name)) is not None:
            return given
        return initial_prompt(self.subject, job.task, self.config.init, self.config.n_tokens, job.rng)

    def check(self, tasks: Iterable[Task]) -> None:
        """Raise UserError for the first task that `tune` would refuse."""
        for task in tasks:
            self._job(task)

    def _job(self, task: Task) -> _Job:
        train, validation = (encode_examples(self.subject, task, part) for part in ("train", "validation"))
        outputs = [example.output for example in (*task.train, *task.validation)]
        if self.subject.template.for_outputs(outputs) != self.subject.template:
            raise UserError(
                f"Outputs of task '{task.name}' hold a text that ends outputs under this template (a line break?).",
                "Use subject.for_outputs(outputs), or a template with another ending.",
            )
        rng, order = self._generators(task)
        job = _Job(task, Deck(train, order), validation, rng)
        longest = max(e.n_read for e in train + validation) + self.config.n_tokens + self._n_lead
        limit = self.subject.context_length
        if limit is not None and longest > limit:
            raise UserError(
                f"An example of task '{task.name}' needs {longest} tokens with its prompt; the subject reads {limit}.",
                "Shorten the example or use a subject with a longer context.",
            )
        return job

    def _generators(self, task: Task) -> tuple[Random, Random]:
        """Of the starting point and of the order of examples: one generator for both where their seeds are one."""
        if self.init_seed is None and self.order_seed is None:
            rng = Random(f"{self.config.seed}/{task.name}")
            return rng, rng
        init, order = (self.config.seed if seed is None else seed for seed in (self.init_seed, self.order_seed))
        return Random(f"{init}/{task.name}"), Random(f"{order}/{task.name}")

    def _is_done(self, job: _Job) -> bool:
        return (
            job.step >= self.config.steps
            or job.looks_without_gain >= self.config.patience
            or job.best_loss <= self.config.good_enough
        )

    def _step(self, slots: list[_Job], state: SlotState) -> None:
        gradient = self.losses.gradients(state.prompts, [job.deck.deal(self.config.batch_size) for job in slots])
        state.update(gradient)
        for i, job in enumerate(slots):
            job.step += 1
            if job.step in self.snapshot_steps:
                job.snapshots.append((job.step, state.prompts[i].clone().cpu()))
        if self.on_step:
            self.on_step(len(slots))

    def _look(self, slots: list[_Job], state: SlotState) -> None:
        """Validation loss of the slots whose turn it is."""
        last = self.config.steps
        due = [i for i, job in enumerate(slots) if job.step % self.config.eval_every == 0 or job.step == last]
        due = [i for i in due if not slots[i].losses or slots[i].losses[-1][0] != slots[i].step]
        if not due:
            return
        losses = self.losses.losses(state.prompts[due], [slots[i].validation for i in due]).tolist()
        for i, loss in zip(due, losses, strict=True):
            job = slots[i]
            job.losses.append((job.step, loss))
            if loss < job.best_loss:
                job.best_loss, job.best_step, job.looks_without_gain = loss, job.step, 0
                job.best = state.prompts[i].clone()
            else:
                job.looks_without_gain += 1

    def _result(self, job: _Job) -> Tuned:
        if job.best is None:
            raise UserError(
                f"Tuning of task '{job.task.name}' diverged: its loss was never a number.", "Lower the learning rate."
            )
        seeds = {"seed": self.config.seed, "init_seed": self.init_seed, "order_seed": self.order_seed}
        soft_prompt = SoftPrompt(
            job.best.float().cpu(),
            subject=self.subject.name,
            fingerprint=self.subject.fingerprint,
            template=self.subject.template,
            scale=self.subject.embedding_scale,
            provenance={
                "task": job.task.name,
                "init": "given" if job.task.name in self._starts else self.config.init,
                **{name: str(seed) for name, seed in seeds.items() if seed is not None},
                "steps": str(job.best_step),
                "validation_loss": f"{job.best_loss:.6f}",
            },
        )
        snapshots = tuple((step, prompt) for step, prompt in job.snapshots if step < job.best_step)
        return Tuned(
            job.task,
            soft_prompt,
            validation_loss=job.best_loss,
            initial_loss=job.losses[0][1],
            steps=job.step,
            best_step=job.best_step,
            snapshots=snapshots,
            losses=tuple(job.losses),
        )


def _length(job: _Job) -> float:
    examples = job.deck.examples
    return sum(example.n_read for example in examples) / len(examples)


# --- shared out among workers that each hold the subject ----------------------------------------


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
        return [replace(self, tasks=self.tasks[first::n]) for first in range(min(n, len(self.tasks)))]


def tune_jobs(
    workers: SubjectWorkers, jobs: Sequence[TuningJob], on_step: Tell = lambda n: None
) -> Iterator[tuple[int, dict[str, Tuned]]]:
    """Each job's number with what became of its tasks, by their names and in their order, as jobs are finished.

    A job is cut into parts where there are fewer jobs than workers. `on_step(n)` hears of steps of so many prompts.
    Raises UserError as `Tuner.tune` does.
    """
    n_parts = -(-workers.n // max(1, len(jobs)))
    parts = [(number, part) for number, job in enumerate(jobs) for part in job.parts(n_parts)]
    found: list[dict[str, Tuned]] = [{} for _ in jobs]
    for i, tuned in workers.map(_tune, [part for _, part in parts], on_step):
        number = parts[i][0]
        found[number] |= {one.task.name: one for one in tuned}
        if len(found[number]) == len(jobs[number].tasks):
            yield number, {task.name: found[number][task.name] for task in jobs[number].tasks}


def _tune(subject: Subject, job: TuningJob, on_step: Tell) -> list[Tuned]:
    how = {field.name: getattr(job, field.name) for field in fields(job) if field.name != "tasks"}
    return list(Tuner(subject, on_step=on_step, **how).tune(job.tasks))
