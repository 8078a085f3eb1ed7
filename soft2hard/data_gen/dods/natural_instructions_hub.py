"""Super-NaturalInstructions as a table on the hub: the English tasks of the default split, a row an output."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from soft2hard.data_gen.dods.sources import Records, read_hub
from soft2hard.errors import UserError

HUB_NAME = "Muennighoff/natural-instructions"
_COLUMNS = ("task_name", "id", "definition", "inputs", "targets")


@dataclass(frozen=True)
class HubTask:
    """A task's definition and its instances, each with all its right outputs, in the order of the table."""

    definition: str
    instances: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class HubTasks:
    """The tasks of one of the table's two parts, each read when it is asked for."""

    records: Records
    rows_of: Mapping[str, Int[np.ndarray, "_n_rows"]]
    """Numbers of a task's rows, by its name."""

    def task(self, name: str) -> HubTask:
        """A task by its name. Raises UserError where its rows hold something else than text."""
        rows = [self.records.rows[int(i)] for i in self.rows_of[name]]
        if not all(isinstance(row[column], str) for row in rows for column in _COLUMNS):
            raise UserError(f"{self.records.origin}: {name} holds something else than text.", "Give another dataset.")
        outputs: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            outputs.setdefault((row["id"], row["inputs"]), []).append(row["targets"])
        return HubTask(rows[0]["definition"], tuple((input, tuple(of)) for (_, input), of in outputs.items()))


def read_hub_tasks(hub_name: str, part: Literal["train", "test"]) -> HubTasks:
    """The training or the test tasks of the default split. Raises UserError where the table is not to be had."""
    records = read_hub(hub_name, split=part, columns=_COLUMNS)
    lacking = [column for column in _COLUMNS if column not in records.columns]
    if lacking:
        raise UserError(f"{records.origin} has no column {lacking[0]}.", f"It must have {', '.join(_COLUMNS)}.")
    names, of_row = np.unique(np.asarray(records.rows["task_name"]), return_inverse=True)
    order = np.argsort(of_row, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(of_row, minlength=len(names)))[:-1])
    return HubTasks(records, {str(name): rows for name, rows in zip(names, parts, strict=True)})
