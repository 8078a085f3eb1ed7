"""A recipe that is being run, as its stages see it."""

from collections.abc import Callable
from dataclasses import dataclass

from soft2hard.pipeline.layout import Layout
from soft2hard.pipeline.recipe import Recipe
from soft2hard.workers.cluster import Cluster

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is in all."""


@dataclass(frozen=True)
class Job:
    """A recipe in a folder, and who hears of it."""

    recipe: Recipe
    layout: Layout
    log: Callable[[str], None] = lambda line: None
    """Hears lines for people."""
    on_progress: Progress = lambda what, done, total: None
    workers: int = 1
    """Processes that share the seeds of the evaluation; `log` is then sent to them."""
    cluster: Cluster | None = None
    """Ray cluster whose workers make the corpora and the evaluation."""
