"""Where the tuning of a soft prompt starts."""

from pathlib import Path
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt

START_FILE = "initial_prompt.safetensors"
"""A subject's folder may hold under this name the common start of the prompts its translator was trained on."""


def initial_prompt(
    subject: Subject, task: Task, init: str, n_tokens: int, rng: Random
) -> Float[Tensor, "n_tokens d_model"]:
    """The starting point named by `init` (see `Tuning.init`).

    Too short a text is repeated, too long a one is cut. Raises UserError for an unknown name, for labels
    where the task has none, and for a saved prompt of another length.
    """
    start = Path(subject.name) / START_FILE
    if init == "learned" or (init == "auto" and start.exists() and SoftPrompt.load(start).n_tokens == n_tokens):
        if not start.exists():
            raise UserError(f"The subject '{subject.name}' comes without a learned start.", "Use --init vocabulary.")
        return _saved(subject, str(start), n_tokens)
    if init in ("vocabulary", "auto"):
        return _random_tokens(subject, n_tokens, rng)
    if init == "labels":
        if not task.labels:
            raise UserError(f"Task '{task.name}' has no label words to start from.", "Use --init vocabulary.")
        return _repeat(subject.embed_text(" ".join(task.labels)), n_tokens)
    if init == "instruction":
        if not task.instruction:
            raise UserError(f"Task '{task.name}' has no instruction to start from.", "Use --init vocabulary.")
        return _repeat(subject.embed_text(task.instruction), n_tokens)
    if init.startswith("text:"):
        return _repeat(subject.embed_text(init.removeprefix("text:")), n_tokens)
    if Path(init).exists():
        return _saved(subject, init, n_tokens)
    raise UserError(
        f"Unknown initialisation '{init}'.",
        "Use auto, learned, vocabulary, labels, instruction, text:..., or a path.",
    )


def _random_tokens(subject: Subject, n_tokens: int, rng: Random) -> Tensor:
    special = set(subject.tokenizer.all_special_ids)
    ordinary = [i for i in range(min(len(subject.tokenizer), len(subject.embedding))) if i not in special]
    ids = torch.tensor(rng.choices(ordinary, k=n_tokens), device=subject.device)
    return subject.embed_ids(ids).detach().clone()


def _repeat(vectors: Float[Tensor, "n d"], n_tokens: int) -> Float[Tensor, "n_tokens d"]:
    if not len(vectors):
        raise UserError("The initial text is empty.", "Give at least one word.")
    times = -(-n_tokens // len(vectors))
    return vectors.detach().repeat(times, 1)[:n_tokens].clone()


def _saved(subject: Subject, path: str, n_tokens: int) -> Tensor:
    return given_prompt(subject, SoftPrompt.load(path), n_tokens, f"'{path}'")


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
    return soft_prompt.embeddings.clone()
