"""How much an analysis tunes and does."""

from pydantic import NonNegativeInt, PositiveInt

from soft2hard.settings import settings


@settings
class Counts:
    """How much is tuned."""

    n_tasks: PositiveInt = 50
    """Tasks to tune, at most."""
    tunings: PositiveInt = 4
    """Tunings of each task, start and order of examples varied."""
    control_tasks: NonNegativeInt = 24
    """Tasks that are also tuned with the start alone varied, with the order alone, from label words, from their
    instruction, and from the common start that comes with the subject."""
    control_tunings: PositiveInt = 2
    """Tunings of each of these."""


@settings
class Sizes:
    """How much of each section is done."""

    k: PositiveInt = 3
    """Nearest tokens shown for each position; 3 in the study."""
    experiment_tasks: PositiveInt = 24
    """Tasks at most whose prompts are masked and permuted."""
    orders: PositiveInt = 5
    """Random orders of positions that are tried of each prompt."""
