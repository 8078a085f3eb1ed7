"""How a new translator is designed, how it is trained, and how soft prompts are translated."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.lm.subject import Subject

MIN_PROBES = 4
"""Fewer inputs cannot tell two texts apart."""
_CHOICES = ("auto", "encoder-decoder", "causal-lora")


@dataclass(frozen=True)
class Design:
    """The architecture of a new translator, and where it starts."""

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
    instruction_tokens: int = 64
    """Longest instruction that is learned and written, in tokens; what is longer is cut."""

    def __post_init__(self) -> None:
        if self.architecture not in _CHOICES:
            raise UserError(f"There is no architecture '{self.architecture}'.", f"Choose {', '.join(_CHOICES)}.")
        for name in ("lora_rank", "instruction_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be at least 1.")

    def architecture_for(self, subject: "Subject") -> Literal["encoder-decoder", "causal-lora"]:
        """The architecture, 'auto' decided."""
        if self.architecture != "auto":
            return self.architecture
        context = subject.context_length
        room = 2 * self.instruction_tokens  # for an instruction and a soft prompt as long
        reads_enough = not subject.is_encoder_decoder and (context is None or context >= room)
        return "causal-lora" if self.base is None and reads_enough else "encoder-decoder"


@dataclass(frozen=True)
class TranslatorTraining:
    """How a translator is trained."""

    epochs: float = 30.0
    """Passes over the corpus; the learning rate falls to zero over them."""
    batch_size: int = 128
    """Pairs a step, on each process."""
    lr: float = 2e-3
    """Learning rate of Muon and AdamW."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises."""
    paraphrase_share: float = 0.5
    """How often a paraphrase stands in for the reference instruction."""
    noise: float = 0.1
    """Most noise on the soft prompts, in standard deviations of their entries."""
    patience: int = 4
    """Epochs without a lower validation loss after which training stops."""
    pretrain_pairs: int = 0
    """Imitation soft prompts (noised word embeddings) to train on first; 0 for none."""
    recompute: bool = False
    """Compute the inside of each layer of the translator again in the backward pass (gradient checkpointing): much less
    memory, a third more time."""
    bf16: bool = True
    """Compute in bfloat16 where the machine has it."""
    deepspeed: str | None = None
    """A DeepSpeed configuration: 'zero1', 'zero2', 'zero3', 'zero2-offload', 'zero3-offload' or the path of a JSON
    file; AdamW then takes the place of Muon."""
    seed: int = 0
    """Of the order of pairs, the choice of paraphrases and the noise."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "patience"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be above 0.")
        if not 0 <= self.paraphrase_share <= 1:
            raise UserError(f"paraphrase_share is {self.paraphrase_share}.", "It must lie between 0 and 1.")


@dataclass(frozen=True)
class TranslateConfig:
    """How soft prompts are translated."""

    n_candidates: int = 64
    """Candidates asked of the translator for each soft prompt."""
    n_probes: int = 32
    """Inputs on which candidates are compared with the soft prompt, to choose among them."""
    n_checks: int = 16
    """Further inputs on which the chosen text alone is judged: the verdict of inputs that chose it would flatter it.
    Of fewer inputs than are asked for in all, as large a share is kept for it."""
    refine_rounds: int = 2
    """Rounds of local search around the best candidates; it ends early when nothing improves."""
    max_new_tokens: int = 16
    """Longest output the subject may write for a probe input."""
    seed: int = 0
    verify: bool = True
    """Run candidates beside the soft prompt on the subject, and choose and judge by that. Without, no subject is
    needed, and the translator's first guess is given with the verdict 'unverified'."""

    def __post_init__(self) -> None:
        for name in ("n_candidates", "n_probes", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be at least 1.")
