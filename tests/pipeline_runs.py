"""A recipe on tiny random models that goes through every stage in seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from soft2hard.pipeline.judging import EvaluationStage, ReportStage
from soft2hard.pipeline.making import CorporaStage, TranslatorStage
from soft2hard.pipeline.stages import Job, Stage
from tests import tiny_training

STAGES = ("corpora", "translator", "evaluation", "report")
KINDS = {kind.name: kind for kind in (CorporaStage, TranslatorStage, EvaluationStage, ReportStage)}


def settings(subject: Path) -> dict[str, Any]:
    """The recipe as plain values."""
    return {
        "subject": str(subject),
        "tuning": {"n_tokens": 3, "init": "vocabulary", "steps": 2, "batch_size": 2, "eval_every": 2},
        "corpora": {
            "train": {"split": "train", "n_tasks": 4, "n_train": 4, "shard_size": 2},
            "validation": {"split": "validation", "n_tasks": 2, "n_train": 4},
        },
        "translator": {"training": {"epochs": 1, "batch_size": 4, "bf16": False}},
        "evaluation": {
            "tasks": {"dod": "lexical", "n": 2, "n_validation": 0, "n_train": 4},
            "seeds": [0],
            "reference": "none",
            "generator": "none",
            "methods": ["gold", "soft", "greedy"],
        },
    }


def write_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe file beside its subject, with these parts changed."""
    if not (folder / "subject").exists():
        subject = tiny_training.llama_subject()
        subject.model.save_pretrained(folder / "subject")
        subject.tokenizer.save_pretrained(folder / "subject")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings(folder / "subject") | changes), encoding="utf-8")
    return path


def leave_results(stage: Stage, job: Job) -> None:
    """Work that does nothing but leave empty files where a stage leaves its results."""
    for path in stage.results():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def stub(monkeypatch: pytest.MonkeyPatch, *names: str, work: Callable[[Stage, Job], None] = leave_results) -> None:
    """Give the stages of these names, or all, other work."""
    for name in names or STAGES:
        monkeypatch.setattr(KINDS[name], "work", work)


def files_of(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file below a folder with its identity on disk and when it was last written."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}
