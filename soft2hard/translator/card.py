"""How a new translator is designed, and the card that a saved one carries."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.lm.subject import Subject

CARD_FILE = "soft2hard.json"
SCHEMA_VERSION = 1
MAX_INSTRUCTION_TOKENS = 64
"""Longest instruction that a translator learns and writes, in tokens, unless it is made for others; the rest is cut."""

Architecture = Literal["encoder-decoder", "causal-lora"]
_CHOICES = ("auto", "encoder-decoder", "causal-lora")


@dataclass(frozen=True)
class Design:
    """The architecture of a new translator, and its starting point."""

    architecture: Literal["auto", "encoder-decoder", "causal-lora"] = "auto"
    """'encoder-decoder'; 'causal-lora', a frozen causal LM under adapters; or 'auto': an encoder-decoder where there is
    a `base`, else the subject itself under adapters, which learns more from as many pairs (docs/experiments.md), if it
    is a causal LM that can read enough."""
    base: str | None = None
    """Checkpoint to start from, a name or a folder: an encoder-decoder, or for 'causal-lora' a causal LM. None: made
    from the subject's own weights where that can be; an encoder-decoder is else a small random T5."""
    hidden_layers: tuple[int, ...] = ()
    """Layers of the subject whose hidden states over the soft prompt are read beside its vectors."""
    lora_rank: int = 64
    """Rank of the adapters of 'causal-lora'."""
    dropout: float = 0.1
    """Of an encoder-decoder that does not start from `base`, and of adapters."""
    instruction_tokens: int = MAX_INSTRUCTION_TOKENS
    """Longest instruction that is learned and written, in tokens; what is longer is cut."""

    def __post_init__(self) -> None:
        if self.architecture not in _CHOICES:
            raise UserError(f"There is no architecture '{self.architecture}'.", f"Choose {', '.join(_CHOICES)}.")
        for name in ("lora_rank", "instruction_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be at least 1.")

    def architecture_for(self, subject: "Subject") -> Architecture:
        """The architecture, 'auto' decided."""
        if self.architecture != "auto":
            return self.architecture
        context = subject.context_length
        room = 2 * self.instruction_tokens  # for an instruction and a soft prompt as long
        reads_enough = not subject.is_encoder_decoder and (context is None or context >= room)
        return "causal-lora" if self.base is None and reads_enough else "encoder-decoder"


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
        schema = content.pop("schema_version")
        if schema > SCHEMA_VERSION:
            raise UserError(f"'{folder}' was saved by a later soft2hard (schema {schema}).", "Update soft2hard.")
        names = {f.name for f in fields(TranslatorCard)}
        known = {name: value for name, value in content.items() if name in names}
        return TranslatorCard(**known | {"hidden_layers": tuple(known.get("hidden_layers", ()))})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is damaged.", "Train or copy the translator again.") from error
