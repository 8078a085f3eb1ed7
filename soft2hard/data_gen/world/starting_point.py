"""A learned starting point for tuning: the mean of many tuned soft prompts.

Prompts tuned from one common point need fewer steps and lie in one region, which makes them easier to read.
(SPoT, Vu et al. 2022, arXiv 2110.07904, starts from the prompt of a related task; a mean serves all.)
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning import Tuner, Tuning
from soft2hard.softprompt import SoftPrompt
from soft2hard.subject import Subject

NEUTRAL_TEXT = "text:Say the word in the list and write it."
"""Common start of the first round, so that virtual tokens keep their places and the mean is of like with like."""


def learned_start(subject: Subject, tasks: Sequence[Task], tuning: Tuning) -> SoftPrompt:
    """The mean of the soft prompts of `tasks`, tuned from one neutral text."""
    tuned = list(Tuner(subject, replace(tuning, init=NEUTRAL_TEXT)).tune(tasks))
    mean = torch.stack([result.soft_prompt.embeddings for result in tuned]).mean(0)
    return SoftPrompt(
        mean,
        subject="embedded",
        fingerprint=subject.fingerprint,
        provenance={"made": f"mean of {len(tuned)} soft prompts tuned from '{NEUTRAL_TEXT}'"},
    )
