"""The card of a saved translator: whose soft prompts it reads, and where it comes from."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from soft2hard.errors import UserError

CARD_FILE = "soft2hard.json"
SCHEMA_VERSION = 1
MAX_INSTRUCTION_TOKENS = 64
"""Longest instruction, in tokens, of a translator whose card does not say: it is older than the choice."""

Architecture = Literal["encoder-decoder", "causal-lora"]


@dataclass(frozen=True)
class TranslatorCard:
    """Identity of the subject a translator is for, and where it comes from."""

    subject: str
    """Name or path of the subject."""
    fingerprint: str
    """`Subject.fingerprint` of it."""
    d_subject: int
    """Width of its soft prompts."""
    architecture: Architecture = "encoder-decoder"
    hidden_layers: tuple[int, ...] = ()
    """Layers of the subject whose hidden states it reads beside the soft prompt's vectors."""
    base: str | None = None
    """Causal LM under a LoRA translator's adapters: a name, or a path on the machine it was trained on."""
    base_fingerprint: str | None = None
    """`Subject.fingerprint` of that."""
    instruction_tokens: int = MAX_INSTRUCTION_TOKENS
    """Longest instruction that it has learned and writes, in tokens."""
    training: dict = field(default_factory=dict)
    """Settings, data, versions and scores of the training, as plain JSON."""


def write_card(folder: Path, card: TranslatorCard) -> None:
    (folder / CARD_FILE).write_text(json.dumps({"schema_version": SCHEMA_VERSION} | asdict(card), indent=2))


def read_card(folder: Path) -> TranslatorCard:
    """Raises UserError where the folder holds no translator, or one of a later version."""
    path = folder / CARD_FILE
    if not path.exists():
        raise UserError(f"'{folder}' is not a translator: it has no {CARD_FILE}.", "Make one with soft2hard train.")
    try:
        content = json.loads(path.read_text())
        if (schema := content["schema_version"]) > SCHEMA_VERSION:
            raise UserError(f"'{folder}' was saved by a later soft2hard (schema {schema}).", "Update soft2hard.")
        known = {f.name: content[f.name] for f in fields(TranslatorCard) if f.name in content}
        return TranslatorCard(**known | {"hidden_layers": tuple(known.get("hidden_layers", ()))})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is damaged.", "Train or copy the translator again.") from error
