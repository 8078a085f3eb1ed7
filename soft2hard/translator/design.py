"""What a new translator is made of."""

from dataclasses import dataclass
from typing import Literal

from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.translator.card import Architecture
from soft2hard.translator.data import MAX_INSTRUCTION_TOKENS

_CHOICES = ("auto", "encoder-decoder", "causal-lora")


@dataclass(frozen=True)
class Design:
    """What a new translator is made of."""

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
        if self.lora_rank < 1:
            raise UserError(f"lora_rank is {self.lora_rank}.", "It must be at least 1.")
        if self.instruction_tokens < 1:
            raise UserError(f"instruction_tokens is {self.instruction_tokens}.", "It must be at least 1.")

    def architecture_for(self, subject: Subject) -> Architecture:
        """The architecture, 'auto' decided."""
        if self.architecture != "auto":
            return self.architecture
        context = subject.context_length
        room = 2 * self.instruction_tokens  # for an instruction and a soft prompt as long
        reads_enough = not subject.is_encoder_decoder and (context is None or context >= room)
        return "causal-lora" if self.base is None and reads_enough else "encoder-decoder"
