"""Hashes by which the tasks and models of an evaluation are known again, lest old cells be taken for new ones."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from soft2hard.data_gen.taskfiles import content_hash
from soft2hard.eval.cases import drawn_tasks
from soft2hard.eval.config import Evaluation
from soft2hard.eval.generators import LocalGenerator
from soft2hard.eval.models import Models
from soft2hard.translator.model import Translator


def inputs_of(config: Evaluation, models: Models) -> dict[str, str]:
    """SHA-256 of each model's telling weights and of all examples of each seed's tasks."""
    found = {"subject": models.subject.fingerprint}
    if models.reference is not None:
        found["reference"] = models.reference.fingerprint
    if isinstance(models.generator, LocalGenerator):
        found["generator"] = models.generator.lm.fingerprint
    if models.translator is not None:
        found["translator"] = translator_fingerprint(models.translator)
    for seed in config.seeds:
        for split in ("test", "validation"):
            if tasks := drawn_tasks(config.tasks, split, seed):
                found[f"{split} tasks of seed {seed}"] = content_hash(tasks)
    return found


def translator_fingerprint(translator: Translator) -> str:
    """Of weights that no training leaves as they are, as float32."""
    return _hash(translator.model.telling_weights())


@torch.no_grad()
def _hash(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
