"""How soft prompts are tuned: the settings alone, so that they can be read and checked without PyTorch."""

from dataclasses import dataclass

from soft2hard.errors import UserError

START_FILE = "initial_prompt.safetensors"
"""A subject's folder may hold under this name the common start of the prompts its translator was trained on."""


@dataclass(frozen=True)
class Tuning:
    """How soft prompts are tuned."""

    n_tokens: int = 8
    """Virtual tokens of each soft prompt."""
    init: str = "auto"
    """Where a prompt starts: 'vocabulary' (random tokens), 'labels' (the task's label words), 'instruction' (the
    tokens of the task's instruction), 'text:...' (the tokens of a text), 'learned' (the common start that comes with
    the subject), the path of a saved soft prompt, or 'auto': learned where there is one of this length, else
    vocabulary."""
    steps: int = 150
    """The most steps a prompt is tuned for; the learning rate falls to zero over them."""
    batch_size: int = 8
    """Examples a step."""
    lr: float = 1.0
    """Adam's learning rate, in units of the root mean square of the subject's embeddings."""
    warmup: int = 5
    """Steps over which the learning rate rises."""
    eval_every: int = 25
    """Steps between two looks at the validation loss."""
    patience: int = 3
    """Looks without improvement after which tuning stops."""
    good_enough: float = 0.005
    """Validation loss, in nats a token, at which there is nothing left to gain."""
    slots: int = 64
    """Prompts tuned at once; 0: as many as a trial finds memory for. What they become does not depend on it."""
    seed: int = 0
    """Of initialisation and order of examples."""

    def __post_init__(self) -> None:
        for name in ("n_tokens", "steps", "batch_size", "eval_every", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be at least 1.")
        if self.slots < 0:
            raise UserError(f"slots is {self.slots}.", "It must be 0 (by a trial) or more.")
        if not self.lr > 0:
            raise UserError(f"The learning rate is {self.lr}.", "It must be above 0.")
