"""The embedded world: a small language in which everything runs offline, and the settings of its language models."""

from dataclasses import dataclass

from soft2hard.data_gen.tuning import Tuning
from soft2hard.errors import UserError

FINAL_EXAMPLES = 256
"""Training examples of each task whose soft prompt is shown or evaluated; with 64, accuracy on lists is 0.1 lower
(docs/experiments.md)."""
FINAL_TUNING = Tuning(n_tokens=8, init="learned", steps=300, batch_size=8, lr=1.2, eval_every=25, patience=8)
"""How these soft prompts are tuned: until nothing is gained any more."""


@dataclass(frozen=True)
class WorldModel:
    """A language model of the world: what it is, and how it is trained from nothing."""

    architecture: str
    """'llama' or 'gpt_neox'."""
    width: int
    """Of the embeddings; heads are 64 wide."""
    layers: int
    steps: int
    """Steps of training."""
    pieces: int | None = None
    """Size of a SentencePiece vocabulary, trained on the world's text; None: the model reads whole words."""
    rows: int = 64
    """Rows a step."""
    row_length: int = 64
    """Tokens a row."""
    muon_lr: float = 0.004
    """Learning rate of the hidden matrices."""
    adam_lr: float = 2.5e-3
    """Learning rate of all other weights."""
    warmup: int = 100
    """Steps over which the learning rates rise."""
    decay_share: float = 0.5
    """The last share of the steps, over which the learning rates fall linearly to zero."""
    few_shot_share: float = 0.15
    """Share of rows that show examples without an instruction."""
    induction_share: float = 0.0
    """Share of rows that show examples and then their instruction."""
    copy_share: float = 0.1
    """Share of the rows that only ask for copying (six tenths in the first `facts_share` of the steps)."""
    facts_share: float = 0.1
    """Share of the steps, at the start, that show single-word families and copying only."""
    seed: int = 0
    """Of the first weights and of the rows."""
    save_every_s: float = 120.0
    """Seconds between checkpoints."""

    def __post_init__(self) -> None:
        if self.architecture not in ("llama", "gpt_neox"):
            raise UserError(f"There is no architecture '{self.architecture}'.", "Choose llama or gpt_neox.")
        if self.width < 64 or self.width % 64:
            raise UserError(f"The width is {self.width}.", "Choose a multiple of 64.")
        for name in ("layers", "steps", "rows", "row_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be at least 1.")


@dataclass(frozen=True)
class World:
    """The language models of a world, and where its soft prompts start."""

    subject: WorldModel
    api_model: WorldModel
    start_text: str = "fruit alpha first reverse capital yes number keep"
    """Words, one a virtual token, from whose embeddings soft prompts are tuned, so that all lie in one region. Words
    of many kinds: prompts tuned from them reach a lower loss than from a sentence of function words."""
