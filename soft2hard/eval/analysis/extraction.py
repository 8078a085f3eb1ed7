"""Which tokens the positions of a soft prompt resemble, and which of them are those that it was started from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.legible import legible, scripts, token_texts
from soft2hard.eval.methods.nearest_token import NearestToken
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt


@dataclass(frozen=True)
class Neighbour:
    """A token of the vocabulary beside a position."""

    id: int
    text: str
    """As it is shown: see `legible`."""
    scripts: tuple[str, ...]
    """Of its letters, such as 'Latin'."""
    cosine: float
    """With the position's vector, -1 to 1; 0 for a vector without length."""


@dataclass(frozen=True)
class Position:
    """One position of a soft prompt."""

    nearest: tuple[Neighbour, ...]
    """Nearest first."""
    start: Neighbour | None = None
    """The token it was started from, if that is known."""

    @property
    def stayed(self) -> bool | None:
        """Whether the token it was started from is still the nearest; None where that token is not known."""
        return None if self.start is None else self.start.id == self.nearest[0].id


@dataclass(frozen=True)
class Extraction:
    """What the positions of a soft prompt resemble."""

    positions: tuple[Position, ...]

    @property
    def share_stayed(self) -> float | None:
        """Share of positions still nearest to the token they were started from; None where that is not known."""
        known = [position.stayed for position in self.positions if position.stayed is not None]
        return sum(known) / len(known) if known else None

    def as_json(self) -> list[dict[str, Any]]:
        """One record a position."""
        return [asdict(position) | {"stayed": position.stayed} for position in self.positions]


def extract(
    subject: Subject,
    prompts: Sequence[SoftPrompt],
    k: int = 3,
    *,
    starts: Sequence[Sequence[int] | None] | None = None,
    vocabulary: str = "all",
) -> list[Extraction]:
    """The `k` nearest tokens by cosine of every position of every soft prompt (3 in the study), in one product.

    `starts[i]` are the tokens that the positions of prompt i were started from (`start_ids`), None where not known.
    `vocabulary` is as for `NearestToken`: 'all', 'not_special' or 'text'.

    Raises UserError for a soft prompt of another subject, more neighbours than tokens, and starts that are not as
    long as their prompts.
    """
    for prompt in prompts:
        subject.check(prompt)
    begun = [None] * len(prompts) if starts is None else list(starts)
    _check_starts(subject, prompts, begun)
    method = NearestToken(distance="cosine", top_k=k, vocabulary=vocabulary)
    found = method.neighbours(subject, [prompt.embeddings for prompt in prompts])
    shown = _shown(subject, [ids for ids, _ in found], begun)
    return [
        _extraction(subject, prompt, ids, 1 - distances, start, shown)
        for prompt, (ids, distances), start in zip(prompts, found, begun, strict=True)
    ]


def start_ids(subject: Subject, init: str, n_tokens: int, task: Task | None = None) -> list[int] | None:
    """The tokens that a soft prompt was started from, as `Tuning.init` names them (provenance 'init').

    Known of 'text:...', and of 'labels' and 'instruction' where the task is given and has them; None for all others.
    Too short a text is repeated, too long a one is cut, as tuning does it.
    """
    if init.startswith("text:"):
        text = init.removeprefix("text:")
    elif init == "labels" and task is not None and task.labels:
        text = " ".join(task.labels)
    elif init == "instruction" and task is not None:
        text = task.instruction
    else:
        return None
    ids = list(subject.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
    return (ids * -(-n_tokens // len(ids)))[:n_tokens] if ids else None


def _check_starts(subject: Subject, prompts: Sequence[SoftPrompt], starts: Sequence[Sequence[int] | None]) -> None:
    if len(starts) != len(prompts):
        raise UserError(f"There are {len(prompts)} soft prompts and {len(starts)} starts.", "Give one, or None, each.")
    for prompt, start in zip(prompts, starts, strict=True):
        if start is not None and len(start) != prompt.n_tokens:
            raise UserError(
                f"A soft prompt of {prompt.n_tokens} tokens cannot have started from {len(start)}.",
                "Give one token a position, as start_ids does.",
            )
        if start is not None and not all(0 <= i < len(subject.embedding) for i in start):
            raise UserError(
                f"The start names a token that '{subject.name}' does not have.", "Take its ids from this subject."
            )


def _shown(
    subject: Subject, ids: Sequence[Int[Tensor, "_n k"]], starts: Sequence[Sequence[int] | None]
) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Text and scripts of every token that is named."""
    distinct = sorted(
        {i for of_prompt in ids for i in of_prompt.flatten().tolist()} | {i for s in starts for i in s or ()}
    )
    texts = token_texts(subject.tokenizer, distinct)
    return {i: (legible(text), scripts(text)) for i, text in zip(distinct, texts, strict=True)}


def _extraction(
    subject: Subject,
    prompt: SoftPrompt,
    ids: Int[Tensor, "n k"],
    cosines: Float[Tensor, "n k"],
    start: Sequence[int] | None,
    shown: dict[int, tuple[str, tuple[str, ...]]],
) -> Extraction:
    def neighbour(i: int, cosine: float) -> Neighbour:
        return Neighbour(i, *shown[i], cosine)

    nearest = [
        tuple(neighbour(i, cosine) for i, cosine in zip(*row, strict=True))
        for row in zip(ids.tolist(), cosines.tolist(), strict=True)
    ]
    if start is None:
        return Extraction(tuple(Position(row) for row in nearest))
    began = subject.embedding[list(start)].float().cpu()
    own = torch.cosine_similarity(prompt.embeddings, began, dim=1).tolist()
    return Extraction(tuple(Position(row, neighbour(i, c)) for row, i, c in zip(nearest, start, own, strict=True)))
