"""What a new translator is made of, how it is trained, and how soft prompts are translated."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from soft2hard.settings import Numbers, settings

if TYPE_CHECKING:
    from soft2hard.lm.subject import Subject

MIN_PROBES = 4
"""Inputs below which there is no telling two texts apart."""


@settings
class Design:
    """What a new translator is made of."""

    architecture: Literal["auto", "encoder-decoder", "causal-lora"] = "auto"
    """encoder-decoder: an encoder reads the soft prompt, a decoder writes. causal-lora: a frozen causal language
    model, by default the subject itself, continues the soft prompt under low-rank adapters. auto: encoder-decoder
    where there is a base or the subject is no causal language model that can read enough, else causal-lora, which
    learns more from as many pairs (docs/experiments.md)."""
    base: str | None = None
    """A checkpoint to start from, a folder or a name: an encoder-decoder (such as google/t5-v1_1-base), or a causal
    language model for causal-lora. By default an encoder-decoder starts from the subject's own weights, or as a small
    random T5 where it cannot, and causal-lora from the subject."""
    hidden_layers: Numbers = ()
    """Layers of the subject, such as 8,16, whose hidden states over the soft prompt are read beside its vectors. The
    translator then needs its subject to translate."""
    lora_rank: PositiveInt = 64
    """Rank of the adapters of causal-lora."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of an encoder-decoder that does not start from a base, and of adapters."""
    instruction_tokens: PositiveInt = 64
    """Longest instruction that is learned and written, in tokens; what is longer is cut."""

    def architecture_for(self, subject: "Subject") -> Literal["encoder-decoder", "causal-lora"]:
        """The architecture, 'auto' decided."""
        if self.architecture != "auto":
            return self.architecture
        context = subject.context_length
        room = 2 * self.instruction_tokens  # for an instruction and a soft prompt as long
        reads_enough = not subject.is_encoder_decoder and (context is None or context >= room)
        return "causal-lora" if self.base is None and reads_enough else "encoder-decoder"


@settings
class TranslatorTraining:
    """How a translator is trained."""

    epochs: PositiveFloat = 30.0
    """Passes over the corpus; the learning rate falls to zero over them."""
    batch_size: PositiveInt = 128
    """Pairs a step, on each process."""
    lr: PositiveFloat = 2e-3
    """Learning rate of Muon and AdamW."""
    warmup_steps: NonNegativeInt = 100
    """Steps over which the learning rate rises."""
    paraphrase_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often a paraphrase stands in for the reference instruction."""
    noise: NonNegativeFloat = 0.1
    """Most noise on the soft prompts, in standard deviations of their entries."""
    patience: PositiveInt = 4
    """Epochs without a lower validation loss after which training stops."""
    pretrain_pairs: NonNegativeInt = 0
    """Imitation soft prompts (noised word embeddings) to train on first; 0 for none."""
    recompute: bool = False
    """Compute the inside of each layer of the translator again in the backward pass (gradient checkpointing): much
    less memory, a third more time."""
    bf16: bool = True
    """Compute in bfloat16 where the machine has it."""
    deepspeed: str | None = None
    """A DeepSpeed configuration: 'zero1', 'zero2', 'zero3', 'zero2-offload', 'zero3-offload' or the path of a JSON
    file; AdamW then takes the place of Muon."""
    seed: int = 0
    """Seed of the order of pairs, the choice of paraphrases, noise and dropout."""


@settings
class TranslateConfig:
    """How soft prompts are translated."""

    n_candidates: PositiveInt = 64
    """Candidates asked of the translator for each soft prompt."""
    n_probes: PositiveInt = 32
    """Inputs on which candidates are compared with the soft prompt, to choose among them."""
    n_checks: NonNegativeInt = 16
    """Further inputs on which the chosen text alone is judged: the verdict of inputs that chose it would flatter it.
    Of fewer inputs than are asked for in all, as large a share is kept for it."""
    refine_rounds: NonNegativeInt = 2
    """Rounds of local search around the best candidates; it ends early when nothing improves."""
    max_new_tokens: PositiveInt = 16
    """Longest output the subject may write for a probe input."""
    seed: int = 0
    """Seed of the candidates and of invented inputs."""
    verify: bool = True
    """Run candidates beside the soft prompt on the subject, and choose and judge by that. Without, no subject is
    needed, and the translator's first guess is given with the verdict 'unverified'."""
