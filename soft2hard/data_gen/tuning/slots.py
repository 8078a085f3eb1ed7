"""Many prompts tuned side by side: where they start, their examples, losses and gradients, and Adam's state."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.compute.memory import Halving, affordable
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import START_FILE, Tuning
from soft2hard.errors import UserError
from soft2hard.lm.batching import EncodedExample, batches_by_length
from soft2hard.lm.checkpointing import checkpointing
from soft2hard.lm.endings import special_ids
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Kind

MOST_SLOTS = 512
"""More prompts at once make none of them cheaper."""
_REMEDY = (
    "Tune with --gradient-checkpointing, --dtype bfloat16, --quantization 4bit, fewer examples a step (--batch-size) "
    "or shorter ones."
)


class SlotLosses:
    """Runs prompts through a subject, each with examples of its own; what one has does not depend on the others."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._lead = self.subject.lead_embeddings("soft")
        self._halving = Halving(_REMEDY)

    @torch.no_grad()
    def losses(
        self, prompts: Float[Tensor, "slots n d"], examples: Sequence[Sequence[EncodedExample]]
    ) -> Float[Tensor, "slots"]:
        """Mean loss over output tokens for each slot, nats a token."""
        return self._in_batches(prompts, examples, self._mean_losses)

    def gradients(
        self, prompts: Float[Tensor, "slots n d"], examples: Sequence[Sequence[EncodedExample]]
    ) -> Float[Tensor, "slots n d"]:
        """The gradient of each slot's mean loss."""
        return self._in_batches(prompts, examples, self._gradients)

    def affordable_slots(
        self, n_tokens: int, training: Sequence[EncodedExample], validation: Sequence[EncodedExample]
    ) -> int:
        """How many prompts of `n_tokens`, with these examples a step and these a look, the memory has room for."""

        def step_and_look(n: int) -> None:
            prompts = torch.zeros(n, n_tokens, self.subject.d_model, device=self.subject.device)
            self._gradients(prompts, [training] * n)
            with torch.no_grad():
                self._mean_losses(prompts, [validation] * n)

        return affordable(step_and_look, self.subject.device, at_most=MOST_SLOTS)

    def _in_batches(
        self,
        prompts: Float[Tensor, "slots *rest"],
        examples: Sequence[Sequence[EncodedExample]],
        work: Callable[[Tensor, list[Sequence[EncodedExample]]], Tensor],
    ) -> Float[Tensor, "slots *result"]:
        lengths = [sum(example.n_read for example in of_slot) for of_slot in examples]
        batches = batches_by_length([prompts.shape[1] + len(self._lead) + length for length in lengths])
        found = self._halving.run(batches, lambda some: work(prompts[list(some)], [examples[i] for i in some]))
        order, results = zip(*found, strict=True)
        slots = torch.tensor([slot for some in order for slot in some], device=prompts.device)
        return torch.cat(results)[slots.argsort()]

    def _gradients(self, prompts: Tensor, examples: Sequence[Sequence[EncodedExample]]) -> Tensor:
        prompts = prompts.detach().requires_grad_()
        with checkpointing(self.subject.model, self.subject.loading.gradient_checkpointing):
            losses = self._mean_losses(prompts, examples)
            # A sum, so that a slot's gradient is that of its own mean loss whatever the other slots hold.
            (gradient,) = torch.autograd.grad(losses.sum(), prompts)
        return gradient

    def _mean_losses(self, prompts: Tensor, examples: Sequence[Sequence[EncodedExample]]) -> Float[Tensor, "slots"]:
        dtype = self.subject.embedding.dtype
        prefixes = torch.cat([self._lead.to(dtype).expand(len(prompts), -1, -1), prompts.to(dtype)], 1)
        targets = self.subject.scorer.run(list(prefixes), examples)
        losses = self.subject.scorer.losses(targets.hidden, targets.ids)
        return _mean_by(losses, targets.prompt, len(prompts))


def _mean_by(values: Float[Tensor, "n"], group: Int[Tensor, "n"], n_groups: int) -> Float[Tensor, "groups"]:
    total = torch.zeros(n_groups, device=values.device).index_add(0, group, values)
    return total / torch.bincount(group, minlength=n_groups).clamp(min=1)


class SlotState:
    """Prompts and Adam moments of all slots, each counting its own steps.

    Adam with bias correction (Kingma and Ba 2015, algorithm 1). The learning rate is in units of the
    subject's embeddings, so that one setting serves subjects of any embedding scale.
    """

    BETAS, EPSILON = (0.9, 0.98), 1e-8

    def __init__(self, subject: Subject, config: Tuning) -> None:
        scale = embedding_scale(subject)
        self.lr, self.warmup, self.steps = config.lr * scale, config.warmup, config.steps
        shape = (0, config.n_tokens, subject.d_model)
        self.prompts, self.starts, self.mean, self.square = (
            torch.zeros(shape, device=subject.device) for _ in range(4)
        )
        self.pull = 2 * config.pull / (config.n_tokens * subject.d_model * scale**2)
        """Gradient of the pull on each entry, by its distance from the start."""
        self.count: Int[Tensor, slots] = torch.zeros(0, dtype=torch.long, device=subject.device)

    def add(self, prompt: Float[Tensor, "n d"]) -> None:
        new = prompt.float()[None].to(self.prompts.device)
        self.prompts, self.starts = torch.cat([self.prompts, new]), torch.cat([self.starts, new])
        self.mean = torch.cat([self.mean, torch.zeros_like(new)])
        self.square = torch.cat([self.square, torch.zeros_like(new)])
        self.count = torch.cat([self.count, self.count.new_zeros(1)])

    def keep(self, indices: list[int]) -> None:
        self.prompts, self.starts, self.mean, self.square, self.count = (
            x[indices] for x in (self.prompts, self.starts, self.mean, self.square, self.count)
        )

    def update(self, gradient: Float[Tensor, "slots n d"]) -> None:
        first, second = self.BETAS
        step = self.count.float()
        schedule = torch.minimum((step + 1) / self.warmup, (self.steps - step) / self.steps).clamp(max=1)
        self.count = self.count + 1
        if self.pull:
            gradient = gradient + self.pull * (self.prompts - self.starts)
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient.square()
        correct = [(1 - beta ** self.count.float())[:, None, None] for beta in self.BETAS]
        direction = self.mean / correct[0] / ((self.square / correct[1]).sqrt() + self.EPSILON)
        self.prompts = self.prompts - (self.lr * schedule)[:, None, None] * direction


def embedding_scale(subject: Subject) -> float:
    """Root mean square of the entries of the subject's input embeddings."""
    return subject.embedding.float().square().mean().sqrt().item()


# --- examples ---------------------------------------------------------------------------------


def encode_examples(
    subject: Subject, task: Task, part: Literal["train", "validation"], kind: Kind = "soft"
) -> list[EncodedExample]:
    """The examples of a part of a task as tokens after a prompt of this kind; raises UserError where it has none."""
    examples = getattr(task, part)
    if not examples:
        raise UserError(f"Task '{task.name}' has no {part} examples.", "Give it some, or leave it out.")
    return [subject.encode_example(example.input, example.output, kind) for example in examples]


class Deck:
    """Deals a task's examples: every one once before any comes again."""

    def __init__(self, examples: Sequence[EncodedExample], rng: Random):
        self.examples, self.rng = examples, rng
        self._order: list[int] = []

    def deal(self, n: int) -> list[EncodedExample]:
        """The next `n` examples."""
        while len(self._order) < n:
            self._order += self.rng.sample(range(len(self.examples)), len(self.examples))
        dealt, self._order = self._order[:n], self._order[n:]
        return [self.examples[i] for i in dealt]


# --- where a prompt starts --------------------------------------------------------------------


def initial_prompt(
    subject: Subject, task: Task, init: str, n_tokens: int, rng: Random
) -> Float[Tensor, "n_tokens d_model"]:
    """The starting point named by `init` (see `Tuning.init`).

    Too short a text is repeated, too long a one is cut. Raises UserError for an unknown name, for labels
    where the task has none, and for a saved prompt of another length.
    """
    learned = Path(subject.name) / START_FILE
    texts = {"labels": " ".join(task.labels or ()), "instruction": task.instruction}
    if init == "auto":
        fits = learned.exists() and SoftPrompt.from_pretrained(learned).n_tokens == n_tokens
        init = "learned" if fits else "vocabulary"
    if init == "learned":
        if not learned.exists():
            raise UserError(f"The subject '{subject.name}' comes without a learned start.", "Use --init vocabulary.")
        return given_prompt(subject, SoftPrompt.from_pretrained(learned), n_tokens, f"'{learned}'")
    if init == "vocabulary":
        return _random_tokens(subject, n_tokens, rng)
    if init in texts:
        if not texts[init]:
            what = "label words" if init == "labels" else "instruction"
            raise UserError(f"Task '{task.name}' has no {what} to start from.", "Use --init vocabulary.")
        return _repeat(subject.embed_text(texts[init]), n_tokens)
    if init.startswith("text:"):
        return _repeat(subject.embed_text(init.removeprefix("text:")), n_tokens)
    if Path(init).exists():
        return given_prompt(subject, SoftPrompt.from_pretrained(init), n_tokens, f"'{init}'")
    raise UserError(
        f"Unknown initialisation '{init}'.",
        "Use auto, learned, vocabulary, labels, instruction, text:..., or a path.",
    )


def given_prompt(
    subject: Subject, soft_prompt: SoftPrompt, n_tokens: int, called: str = "The soft prompt to start from"
) -> Float[Tensor, "n_tokens d_model"]:
    """A soft prompt as a starting point. Raises UserError for one of another subject or another length."""
    subject.check(soft_prompt)
    if soft_prompt.n_tokens != n_tokens:
        raise UserError(
            f"{called} has {soft_prompt.n_tokens} virtual tokens, but {n_tokens} are to be tuned.",
            f"Set the number of tokens to {soft_prompt.n_tokens}.",
        )
    return subject.in_own_scale(soft_prompt).embeddings.clone()


def _random_tokens(subject: Subject, n_tokens: int, rng: Random) -> Tensor:
    special = special_ids(subject.tokenizer)
    ordinary = [i for i in range(min(len(subject.tokenizer), len(subject.embedding))) if i not in special]
    ids = torch.tensor(rng.choices(ordinary, k=n_tokens), device=subject.device)
    return subject.embed_ids(ids).detach().clone()


def _repeat(vectors: Float[Tensor, "n d"], n_tokens: int) -> Float[Tensor, "n_tokens d"]:
    if not len(vectors):
        raise UserError("The initial text is empty.", "Give at least one word.")
    times = -(-n_tokens // len(vectors))
    return vectors.detach().repeat(times, 1)[:n_tokens].clone()
