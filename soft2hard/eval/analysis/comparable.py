"""Which soft prompts may stand in one comparison."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from soft2hard.errors import UserError
from soft2hard.prompts.soft_prompt import SoftPrompt


def stacked(prompts: Sequence[SoftPrompt], at_least: int = 2) -> Float[np.ndarray, "n_prompts n_tokens d_model"]:
    """The vectors of soft prompts of one subject and one length, in float64.

    Raises UserError as `check_comparable` does, and where lengths differ.
    """
    check_comparable(prompts, at_least)
    lengths = [prompt.n_tokens for prompt in prompts]
    if len(set(lengths)) > 1:
        other = next(i for i, n in enumerate(lengths) if n != lengths[0])
        raise UserError(
            f"Soft prompt 1 has {lengths[0]} tokens and soft prompt {other + 1} has {lengths[other]}: distances are"
            " between prompts of one length.",
            "Give prompts of one length; nearest tokens, statistics and the transfer matrix can be had of any.",
        )
    return np.stack([prompt.embeddings.numpy() for prompt in prompts]).astype(np.float64)


def check_comparable(prompts: Sequence[SoftPrompt], at_least: int = 2) -> None:
    """Raise UserError for too few soft prompts, for different widths, and for subjects known to be different.

    Subjects are told apart by fingerprint where both prompts have one, else by the last part of their names, so that
    a model on the hub and its copy in a folder are one.
    """
    if len(prompts) < at_least:
        raise UserError(
            f"There are {len(prompts)} soft prompts where {at_least} are compared.",
            "Give more; nearest tokens and positions can be had of a single one.",
        )
    for number, prompt in enumerate(prompts[1:], 2):
        if prompt.d_model != prompts[0].d_model:
            raise UserError(
                f"Soft prompt 1 is {prompts[0].d_model} wide and soft prompt {number} is {prompt.d_model} wide: they"
                " have no space in common.",
                "Compare prompts of one subject; nearest tokens can be had of each beside its own subject.",
            )
    for attribute, value in (("fingerprint", lambda p: p.fingerprint), ("subject", _short_name)):
        _check_one(prompts, attribute, [value(prompt) for prompt in prompts])


def _check_one(prompts: Sequence[SoftPrompt], attribute: str, values: list[str | None]) -> None:
    known = [(i, value) for i, value in enumerate(values) if value is not None]
    for i, value in known[1:]:
        first, expected = known[0]
        if value != expected and not (attribute == "subject" and _same_fingerprint(prompts[first], prompts[i])):
            names = [prompts[j].subject or "an unnamed subject" for j in (first, i)]
            raise UserError(
                f"Soft prompts {first + 1} and {i + 1} belong to different subjects: {names[0]} and {names[1]}.",
                "Compare prompts of one subject; nearest tokens can be had of each beside its own subject.",
            )


def _same_fingerprint(first: SoftPrompt, second: SoftPrompt) -> bool:
    return first.fingerprint is not None and first.fingerprint == second.fingerprint


def _short_name(prompt: SoftPrompt) -> str | None:
    return Path(prompt.subject).name.casefold() if prompt.subject else None
