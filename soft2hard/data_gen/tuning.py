"""Tuning many soft prompts at once on one frozen subject.

Prompt tuning (Lester et al. 2021, arXiv 2104.08691) with a batch of *slots*: every slot holds one task
with its own prompt, examples, Adam state, learning-rate schedule and early stopping. All slots share each
forward and backward pass; a slot whose task is done takes the next one. Gradients go to the prompts alone.

What a task becomes does not depend on its slot-mates: its examples are drawn by a generator seeded by the
task alone, losses are summed over slots, and no statistic is shared.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.drawing import Deck, encode_examples
from soft2hard.data_gen.initialisation import given_prompt, initial_prompt
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.slot_losses import SlotLosses
from soft2hard.data_gen.slot_state import SlotState, embedding_scale
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.lm.shared_prefix import EncodedExample, Runner, make_runner
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt

__all__ = ["Tuned", "Tuner", "Tuning", "embedding_scale"]


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
    initial_loss: float = float("nan")
    best_loss: float = float("inf")
    best_step: int = 0
    best: Tensor | None = None
    looks_without_gain: int = 0
    looked_at: int = -1
    snapshots: list[tuple[int, Tensor]] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)

    def draw(self, n: int) -> list[EncodedExample]:
        """The next examples: every one is seen once before any is seen again."""
        return self.deck.deal(n)


class Tuner:
    """Tunes soft prompts for tasks on one subject.

    `tune(tasks)` yields results as tasks finish, in no fixed order. `init_seed` and `order_seed` seed the starting
    points and the order of examples apart; where only one is given, the other is `config.seed`. `starts` are soft
    prompts that tasks start from, by the tasks' names; all others start as `config.init` says.
    """

    def __init__(
        self,
        subject: Subject,
        config: Tuning = Tuning(),
        *,
        runner: Runner | None = None,
        snapshot_steps: Sequence[int] = (),
        on_step: Callable[[int], None] | None = None,
        init_seed: int | None = None,
        order_seed: int | None = None,
        starts: Mapping[str, SoftPrompt] | None = None,
    ):
        self.subject, self.config = subject, config
        self.init_seed, self.order_seed = init_seed, order_seed
        self.losses = SlotLosses(runner or make_runner(subject))
        self.snapshot_steps = frozenset(snapshot_steps)
        self.on_step = on_step
        self.starts = {name: given_prompt(subject, start, config.n_tokens) for name, start in (starts or {}).items()}
        self._bos = len(subject.prompt_embeddings(None))

    def tune(self, tasks: Iterable[Task]) -> Iterator[Tuned]:
        """Tune one soft prompt a task.

        Tasks of like length share a batch, so little is padded. Raises UserError for a task without
        train or validation examples, or with one too long for the subject.
        """
        jobs = deque(sorted((self._job(task) for task in tasks), key=_length))
        slots: list[_Job] = []
        c = self.config
        state = SlotState(self.subject, n_tokens=c.n_tokens, lr=c.lr, warmup=c.warmup, steps=c.steps)
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
        given = self.starts.get(job.task.name)
        if given is not None:
            return given
        return initial_prompt(self.subject, job.task, self.config.init, self.config.n_tokens, job.rng)

    def check(self, tasks: Iterable[Task]) -> None:
        """Raise UserError for the first task that `tune` would refuse."""
        for task in tasks:
            self._job(task)

    def _job(self, task: Task) -> _Job:
        train, validation = (encode_examples(self.subject, task, part) for part in ("train", "validation"))
        rng, order = self._generators(task)
        job = _Job(task, Deck(train, order), validation, rng)
        longest = max(e.n_read for e in train + validation) + self.config.n_tokens + self._bos
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
        gradient = self.losses.gradients(state.prompts, [job.draw(self.config.batch_size) for job in slots])
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
        due = [i for i in due if slots[i].looked_at != slots[i].step]
        if not due:
            return
        losses = self.losses.losses(state.prompts[due], [slots[i].validation for i in due]).tolist()
        for i, loss in zip(due, losses, strict=True):
            job = slots[i]
            job.looked_at = job.step
            job.losses.append((job.step, loss))
            if job.step == 0:
                job.initial_loss = loss
            if loss < job.best_loss:
                job.best_loss, job.best_step, job.looks_without_gain = loss, job.step, 0
                job.best = state.prompts[i].clone()
            else:
                job.looks_without_gain += 1

    def _seeds(self) -> dict[str, str]:
        named = {"init_seed": self.init_seed, "order_seed": self.order_seed}
        return {"seed": str(self.config.seed)} | {name: str(s) for name, s in named.items() if s is not None}

    def _result(self, job: _Job) -> Tuned:
        if job.best is None:
            raise UserError(
                f"Tuning of task '{job.task.name}' diverged: its loss was never a number.", "Lower the learning rate."
            )
        soft_prompt = SoftPrompt(
            job.best.float().cpu(),
            subject=self.subject.name,
            fingerprint=self.subject.fingerprint,
            provenance={
                "task": job.task.name,
                "init": "given" if job.task.name in self.starts else self.config.init,
                **self._seeds(),
                "steps": str(job.best_step),
                "validation_loss": f"{job.best_loss:.6f}",
            },
        )
        snapshots = tuple((step, prompt) for step, prompt in job.snapshots if step < job.best_step)
        return Tuned(
            job.task,
            soft_prompt,
            job.best_loss,
            job.initial_loss,
            job.step,
            job.best_step,
            snapshots,
            tuple(job.losses),
        )


def _length(job: _Job) -> float:
    examples = job.deck.examples
    return sum(example.n_read for example in examples) / len(examples)
