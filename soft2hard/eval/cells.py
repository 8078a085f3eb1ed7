"""The cells of a run on disk: one line an outcome, so that a killed run loses at most the line being written."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Case, Cost, Outcome
from soft2hard.eval.records import PromptKind
from soft2hard.prompts.soft_prompt import Prompt
from soft2hard.storage.files import atomic_write


class CellFile:
    """Outcomes of one method under one seed, by task, in the order in which they came."""

    def __init__(self, folder: Path, label: str, seed: int):
        self.path = folder / "cells" / str(seed) / f"{_file_name(label)}.jsonl"

    def read(self, cases: dict[str, Case], keep_failed: bool = True) -> dict[str, Outcome]:
        """Finished outcomes by task; a line cut short by a kill, and failures by wish, are dropped from the file."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text(encoding="utf-8").split("\n")
        try:
            records = [json.loads(line) for line in lines[:-1]]
            kept = [record for record in records if keep_failed or record["failure"] is None]
            if lines[-1] or len(kept) < len(records):
                with atomic_write(self.path) as temporary:
                    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            records = kept
            return {r["task"]: _outcome(r, cases[r["task"]]) for r in records if r["task"] in cases}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is damaged.", "Remove it: its cells are made again.") from error

    def n_lines(self) -> int:
        """Finished outcomes, for a progress bar."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def append(self, case: Case, outcome: Outcome) -> None:
        """Add one outcome; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_record(case, outcome)) + "\n")


def kind_of(prompt: Prompt) -> PromptKind:
    """'soft', 'hard' or 'none'."""
    return "none" if prompt is None else "hard" if isinstance(prompt, str) else "soft"


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):02x}" for c in label)


def _record(case: Case, outcome: Outcome) -> dict[str, Any]:
    kind = kind_of(outcome.prompt)
    return {
        "task": case.task.name,
        "kind": kind,
        "prompt": outcome.prompt if kind == "hard" else None,
        "cost": asdict(outcome.cost),
        "trace": outcome.trace,
        "failure": outcome.failure,
    }


def _outcome(record: dict[str, Any], case: Case) -> Outcome:
    # The only soft prompts that come out are those that went in.
    prompt = case.soft_prompt if record["kind"] == "soft" else record["prompt"]
    return Outcome(prompt, Cost(**record["cost"]), record["trace"], record["failure"])
