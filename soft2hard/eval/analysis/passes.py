"""Files of the soft prompts that an analysis has tuned: those of one pass together, with what is known of each."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from soft2hard.errors import UserError
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_write

_KEY = "prompts"
"""In the metadata: what is known of each soft prompt, in order."""


def save_pass(path: Path, prompts: Mapping[str, SoftPrompt]) -> None:
    """Write the soft prompts of some tasks, of one subject, to one file; its name ends in '.safetensors'."""
    tensors = {str(i): prompt.embeddings for i, prompt in enumerate(prompts.values())}
    facts = json.dumps([dict(prompt.provenance) for prompt in prompts.values()])
    one = next(iter(prompts.values()))
    known = {"subject": one.subject, "fingerprint": one.fingerprint}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, {_KEY: facts} | {name: v for name, v in known.items() if v}))


def is_pass(path: Path) -> bool:
    """Whether a file is one of these."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as stored:
            return _KEY in (stored.metadata() or {})
    except (SafetensorError, OSError):
        return False  # whoever reads it says what is the matter


def load_pass(path: Path) -> tuple[SoftPrompt, ...]:
    """The soft prompts of a file; 'task' in the provenance of each. Raises UserError for a damaged one."""
    try:
        with safe_open(path, "pt") as stored:
            metadata = stored.metadata()
            facts = json.loads(metadata[_KEY])
            rows = [stored.get_tensor(str(i)) for i in range(len(facts))]
        if not all("task" in known for known in facts):
            raise KeyError("task")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged.", "Remove it, and its soft prompts are tuned anew.") from error
    subject, fingerprint = metadata.get("subject"), metadata.get("fingerprint")
    return tuple(SoftPrompt(row, subject, fingerprint, known) for row, known in zip(rows, facts, strict=True))
