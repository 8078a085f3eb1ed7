"""How much an analysis does."""

from typing import Annotated

from pydantic import Field, PositiveInt

from soft2hard.settings import settings


@settings
class Sizes:
    """How much of each section is done."""

    k: PositiveInt = 3
    """Nearest tokens shown for each position; 3 in the study."""
    experiment_tasks: PositiveInt = 24
    """Tasks at most whose prompts are masked and permuted, and which are tuned again from stored prompts."""
    orders: PositiveInt = 5
    """Random orders of positions that are tried of each prompt."""
    points: Annotated[int, Field(ge=2)] = 9
    """Points on the line between two prompts, ends included."""
    early_steps: PositiveInt = 10
    """Steps after which a new task's prompt is compared with the stored ones."""
