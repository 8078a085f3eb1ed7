"""A recipe on tiny random models that goes through every stage in seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from soft2hard.pipeline.job import Job
from soft2hard.pipeline.stages import stages_of
from tests import tiny_training

STAGES = ("corpora", "translator", "evaluation", "report")
WORK = {"corpora": "make_corpora", "translator": "make_translator", "evaluation": "evaluate", "report": "report"}
"""Names of the functions of `pipeline.work` that do the stages."""


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


def stub(name: str) -> Callable[[Job], None]:
    """Work that does nothing but leave empty files where a stage leaves its results."""

    def work(job: Job) -> None:
        [stage] = [stage for stage in stages_of(job.recipe, job.layout) if stage.name == name]
        for path in stage.results:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return work


def files_of(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file below a folder with its identity on disk and when it was last written."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}
