"""What soft2hard analyze works on, by the names on the command line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soft2hard.cli.common import load_subject
from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.data_gen.tasks import Task
    from soft2hard.eval.analysis.material import Table
    from soft2hard.lm.subject import Subject
    from soft2hard.translator.model import Translator
    from soft2hard.workers.subject_workers import SubjectWorkers


def chosen_tasks(
    dod: str | None, folder: Path | None, examples: list[Path] | None, n: int | None, seed: int
) -> tuple["Task", ...]:
    """Tasks of a collection or of task files; raises UserError for a collection that there is not, or whose folder is
    not given."""
    from soft2hard.data_gen.taskfiles import read_tasks
    from soft2hard.eval.cases import drawn_tasks
    from soft2hard.eval.config import DODS, Tasks

    if dod is None:
        return tuple(read_tasks(examples or [], seed))[:n] if examples else ()
    if dod not in DODS:
        raise UserError(f"There is no collection '{dod}'.", f"There are {', '.join(DODS)}.")
    if dod != "lexical" and folder is None:
        raise UserError(f"The files of '{dod}' are published elsewhere.", "Give --dod-folder; see docs/datasets.md.")
    return tuple(drawn_tasks(Tasks(dod=dod, folder=folder, n=n), "test", seed))


def chosen_translator(name: str | None, subject_name: str | None, subject: "Subject | None") -> "Translator | None":
    """The translator by its name on the command line, beside a subject by its name; None for 'none'.

    Raises UserError where it was trained for another subject than the one that is loaded.
    """
    from soft2hard.translator.model import Translator

    chosen = name or ("embedded" if subject_name == "embedded" else "none")
    if chosen == "none":
        return None
    return Translator.from_pretrained(chosen, subject=subject)


def chosen_table(name: str | None) -> "Subject | Table | None":
    """A table of embeddings by its file, or a model by folder or name."""
    from soft2hard.eval.analysis.embedding_table import read_embedding_table
    from soft2hard.eval.analysis.material import Table
    from soft2hard.prompts.files import SUFFIXES

    if name is None:
        return None
    if Path(name).suffix.lower() in SUFFIXES and not Path(name).is_file():
        raise UserError(f"There is no file {name}.", "Give --table a file of embeddings, or a model by folder or name.")
    return Table(name, read_embedding_table(Path(name))) if Path(name).is_file() else load_subject(name)


@contextmanager
def workers_of(
    name: str | None, subject: "Subject | None", loading: Mapping[str, Any], n: int | None
) -> "Iterator[SubjectWorkers | None]":
    """So many processes that each hold the subject of this name, or as many as suit it; None without a subject."""
    from soft2hard.workers.subject_workers import SubjectWorkers, usual_workers

    if subject is None:
        yield None
        return
    make = partial(load_subject, name, fast=True, loading=loading)
    with SubjectWorkers(subject, n or usual_workers(subject), make) as workers:
        yield workers


def identities(
    tasks: tuple["Task", ...],
    subject: "Subject | None",
    translator: "Translator | None",
    table: "Subject | Table | None" = None,
) -> dict[str, Any]:
    """By what tasks and models are known again, so that a folder is gone on with only where they are the same."""
    from soft2hard.data_gen.taskfiles import content_hash
    from soft2hard.eval.identity import translator_fingerprint

    return {
        "command": "analyze",
        "tasks": content_hash(tasks),
        "subject": None if subject is None else subject.fingerprint,
        "translator": None if translator is None else translator_fingerprint(translator),
        "embeddings": None if table is None else _fingerprint(table),
    }


def _fingerprint(table: "Subject | Table") -> str:
    from soft2hard.eval.analysis.material import Table

    return sha256(table.rows.float().numpy().tobytes()).hexdigest() if isinstance(table, Table) else table.fingerprint
