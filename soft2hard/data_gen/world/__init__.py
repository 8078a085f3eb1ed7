"""The embedded world: a small language in which everything runs offline, and the settings of its language models."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from soft2hard.data_gen.settings import Tuning
from soft2hard.settings import settings

FINAL_EXAMPLES = 256
"""Training examples of each task whose soft prompt is shown or evaluated; with 64, accuracy on lists is 0.1 lower
(docs/experiments.md)."""
FINAL_TUNING = Tuning(n_tokens=8, init="learned", steps=300, batch_size=8, lr=1.2, eval_every=25, patience=8)
"""How these soft prompts are tuned: until nothing is gained any more."""


@settings
class WorldModel:
    """A language model of the world: what it is, and how it is trained from nothing."""

    architecture: Literal["llama", "gpt_neox"]
    """'llama' or 'gpt_neox'."""
    width: Annotated[int, Field(ge=64, multiple_of=64)]
    """Of the embeddings; heads are 64 wide."""
    layers: PositiveInt
    steps: PositiveInt
    """Steps of training."""
    pieces: int | None = None
    """Size of a SentencePiece vocabulary, trained on the world's text; None: the model reads whole words."""
    rows: PositiveInt = 64
    """Rows a step."""
    row_length: PositiveInt = 64
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


@settings
class World:
    """The language models of a world, and where its soft prompts start."""

    subject: WorldModel
    api_model: WorldModel
    start_text: str = "fruit alpha first reverse capital yes number keep"
    """Words, one a virtual token, from whose embeddings soft prompts are tuned, so that all lie in one region. Words
    of many kinds: prompts tuned from them reach a lower loss than from a sentence of function words."""
