"""How much an analysis tunes and does."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from soft2hard.data_gen.settings import Tuning
from soft2hard.settings import Numbers, settings

Varies = Literal["both", "init", "order"]


@settings
class StudyTuning(Tuning):
    """Tuning with the study's start and patience, and looks close enough together that it can end a tuning."""

    init: str = "vocabulary"
    """Where a prompt starts, as in soft2hard tune."""
    eval_every: PositiveInt = 10
    """Steps between two looks at the validation loss."""
    patience: PositiveInt = 5
    """Looks without improvement after which tuning stops."""
    seed: int = 0
    """Seed of the first tuning and of all else that is random; further tunings count on from it."""


@settings
class Counts:
    """How much is tuned."""

    n_tasks: PositiveInt = 50
    """Tasks to tune, at most."""
    tunings: PositiveInt = 4
    """Tunings of each task."""
    control_tasks: NonNegativeInt = 24
    """Tasks that are also tuned with the start alone varied, with the order alone, from label words, from their
    instruction, and from the common start that comes with the subject."""
    control_tunings: PositiveInt = 2
    """Tunings of each of these."""
    varies: Varies = "both"
    """What differs between the tunings of a task: their start ('init'), the 'order' of examples, or 'both'."""
    snapshots: Numbers = ()
    """Steps at which the soft prompts of all tunings of a task are kept on their way as well, to be read (readings)."""


@settings
class Sizes:
    """How much of each section is done."""

    k: PositiveInt = 3
    """Nearest tokens shown for each position; 3 in the study."""
    experiment_tasks: PositiveInt = 24
    """Tasks at most whose prompts are masked and permuted, or read."""
    orders: PositiveInt = 5
    """Random orders of positions that are tried of each prompt."""
    common_positions: bool = False
    """Compare soft prompts of several lengths over the positions that all have, from the first on; without, they have
    no distances."""
    reading_layers: PositiveInt = 6
    """Source layers, and target layers, evenly spread, that soft prompts are read at where none are named."""
