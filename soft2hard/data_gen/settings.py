"""How soft prompts are tuned, and which tasks a corpus of them is made from."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from soft2hard.settings import Numbers, settings, some_of


@settings
class Tuning:
    """How soft prompts are tuned."""

    n_tokens: PositiveInt = 8
    """Virtual tokens of each soft prompt."""
    init: str = "auto"
    """Where a prompt starts: 'vocabulary' (random tokens), 'labels' (the task's label words), 'instruction' (the
    tokens of the task's instruction), 'text:...' (the tokens of a text), 'learned' (the common start that comes with
    the subject), the path of a saved soft prompt, or 'auto': learned where there is one of this length, else
    vocabulary."""
    steps: PositiveInt = 150
    """The most steps a prompt is tuned for; the learning rate falls to zero over them."""
    batch_size: PositiveInt = 8
    """Examples a step."""
    lr: PositiveFloat = 1.0
    """Adam's learning rate, in units of the root mean square of the subject's embeddings."""
    warmup: NonNegativeInt = 5
    """Steps over which the learning rate rises."""
    eval_every: PositiveInt = 25
    """Steps between two looks at the validation loss."""
    patience: PositiveInt = 3
    """Looks without improvement after which tuning stops."""
    good_enough: float = 0.005
    """Validation loss, in nats a token, at which there is nothing left to gain."""
    pull: NonNegativeFloat = 0.0
    """Weight of a pull towards the start: of the mean squared distance of the vectors from it, in units of the mean
    squared length of the subject's embeddings (Khashabi et al. 2022, arXiv 2112.08348)."""
    slots: NonNegativeInt = 64
    """Prompts tuned at once; 0: as many as a trial finds memory for. The results do not depend on it."""
    seed: int = 0
    """Seed of the starting points and of the order of examples."""


@settings
class CorpusSettings:
    """The tasks of a corpus, and how it is saved."""

    split: Literal["train", "validation", "test"]
    """Train translators on 'train', stop them by 'validation', score on 'test'."""
    n_tasks: PositiveInt
    """Tasks to take."""
    dod: str = "lexical"
    """Collection (dataset of datasets) that they come from."""
    folder: Path | None = None
    """Where the published files of the collection lie; 'lexical' has none, and some come from the hub without one."""
    dod_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the collection, such as {max_words: 60, sizes: {test: all}} (docs/datasets.md)."""
    tuning: some_of(Tuning) = Field(default_factory=dict)
    """Fields of `Tuning` over those that all corpora share."""
    snapshot_steps: Numbers = ()
    """Steps at which prompts on the way are kept as well: more pairs for little work."""
    shard_size: PositiveInt = 512
    """Tasks saved at a time, and so lost at most by a kill."""
    task_seed: int = 0
    """Seed of the choice of tasks and of their examples."""
    n_train: PositiveInt = 64
    """Training examples of each task of 'lexical'; others bring their own number."""
