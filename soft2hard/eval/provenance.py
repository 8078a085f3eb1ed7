"""What a run was made with: versions, commit, time."""

import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import soft2hard
from soft2hard import __version__
from soft2hard.eval.config import Evaluation
from soft2hard.eval.methods.registry import options_of
from soft2hard.eval.records import MethodRecord, RunRecord

_LIBRARIES = ("torch", "transformers", "numpy")


def new_run_record(
    config: Evaluation, inputs: Mapping[str, str], unknown_tokens: float = 0.0, dropped: Mapping[str, int] = {}
) -> RunRecord:
    """The record of a run that begins now with these tasks and models (`identity.inputs_of`)."""
    methods = tuple(
        MethodRecord(choice.label, choice.name, options_of(choice.name).source, dict(choice.options))
        for choice in config.methods
    )
    return RunRecord(
        config=config.model_dump(mode="json"),
        methods=methods,
        seeds=config.seeds,
        versions=versions(),
        commit=commit(),
        created=now(),
        inputs=dict(inputs),
        unknown_tokens=unknown_tokens,
        dropped=dict(dropped),
    )


def versions() -> dict[str, str]:
    """Of this package and of the libraries that numbers hang on."""
    return {"soft2hard": __version__} | {name: version(name) for name in _LIBRARIES}


def now() -> str:
    """ISO time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def commit() -> str | None:
    """The commit of this code, with '+' where the tree has changes; None outside a git checkout."""
    where = Path(soft2hard.__file__).parent
    try:
        head = _git("rev-parse", "--short=12", "HEAD", where=where)
        return head + ("+" if _git("status", "--porcelain", "--", ".", where=where) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str, where: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=True)
    return done.stdout.strip()
