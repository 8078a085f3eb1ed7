"""A batch cut into runs of instructions of like length, so that little of what a decoder reads is padding.

Batches stay as they were drawn: mixed, which teaches more than batches of like length do. How many runs a batch has
hangs on its size alone, so that all processes pass through the model equally often, as ZeRO-3 needs it.
"""

from collections.abc import Sequence

import numpy as np

_MOST_RUNS = 6
_FEWEST_PAIRS = 8
"""In a run, on average: smaller passes would keep a machine less busy."""


def n_runs(n_pairs: int) -> int:
    """Runs of a batch of so many pairs."""
    return max(1, min(_MOST_RUNS, n_pairs // _FEWEST_PAIRS))


def runs_of_like_length(lengths: Sequence[int], n: int) -> list[list[int]]:
    """Indices of the items in `n` runs, shortest items first, cut where the least is padded.

    None is empty where there are at least `n` items.
    """
    order = np.argsort(lengths, kind="stable")
    ends = np.arange(1, len(order) + 1)
    longest = np.asarray(lengths)[order]
    # cost[i]: places of the first i + 1 items in as many runs as were cut so far; cuts: where the last of them begins.
    cost = ends * longest
    cuts: list[np.ndarray] = []
    for _ in range(1, min(n, len(order))):
        # A last run from item j to i, after the best runs of all before j.
        places = np.where(ends[:, None] > ends[None] - 1, (ends[:, None] - ends[None] + 1) * longest[:, None], np.inf)
        total = places + np.concatenate([[np.inf], cost[:-1]])[None]
        cuts.append(total.argmin(1))
        cost = total.min(1)
    bounds = [len(order)]
    for begin in reversed(cuts):
        bounds.append(int(begin[bounds[-1] - 1]))
    bounds = [0, *reversed(bounds)]
    return [order[start:end].tolist() for start, end in zip(bounds, bounds[1:], strict=False)]
