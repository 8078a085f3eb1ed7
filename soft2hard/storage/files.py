"""Files and folders that appear complete or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soft2hard.errors import UserError

_PERMISSION_BITS = {"file": 0o666, "folder": 0o777}


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an error.

    The temporary file exists, is empty, and has the suffix of `path` (some writers look at it).
    Missing parent folders are made. A file already at `path` is replaced, and stays as it was when
    the block fails.

    Raises:
        UserError: the operating system refuses to write (disk full, no permission, a folder is in
            the way). The temporary file is gone by then.
    """
    target = Path(path)
    with _write_errors_as_user_errors(target):
        _refuse(target.is_dir(), target, "a folder of that name exists")
        temporary = _temporary_sibling(target, "file")
        try:
            yield temporary
            _flush_to_disk(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8 as `atomic_write` does."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary empty folder beside `path`; rename it to `path` when the block ends without an error.

    Missing parent folders are made. With `overwrite`, a folder already at `path` is replaced as a
    whole: all its old files go away, but it stays as it was when the block fails. Without, a
    folder that holds anything is refused, so that a mistyped path cannot cost a user's files.

    Raises:
        UserError: the folder is in use, or the operating system refuses to write (disk full, no
            permission, a file is in the way). The temporary folder is gone by then.
    """
    target = Path(path)
    with _write_errors_as_user_errors(target):
        _refuse(target.exists() and not target.is_dir(), target, "a file of that name exists")
        _refuse(not overwrite and target.is_dir() and any(target.iterdir()), target, "the folder is not empty")
        temporary = _temporary_sibling(target, "folder")
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush_to_disk(file)
            _replace_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _temporary_sibling(target: Path, kind: str) -> Path:
    """Make an empty file or folder in the folder of `target`: renaming is atomic within one file system only."""
    target.parent.mkdir(parents=True, exist_ok=True)
    where: dict = {"dir": target.parent, "prefix": f".{target.stem}."}
    if kind == "file":
        descriptor, name = tempfile.mkstemp(**where, suffix=f".tmp{target.suffix}")
        os.close(descriptor)
    else:
        name = tempfile.mkdtemp(**where, suffix=".tmp")
    # tempfile makes private files; results are to be as readable as any other file of the user.
    os.umask(mask := os.umask(0o077))  # the process's mask can only be read by setting it
    os.chmod(name, _PERMISSION_BITS[kind] & ~mask)
    return Path(name)


def _flush_to_disk(file: Path) -> None:
    """Force the content out before the rename, else a crash could leave the new name on an empty file."""
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


def _replace_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`, which cannot be overwritten by a rename while it has content."""
    if not target.exists():
        os.rename(new, target)
        return
    retired = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
    try:
        os.rename(target, retired)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(retired, target)
            raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def _refuse(condition: bool, target: Path, reason: str) -> None:
    if condition:
        raise UserError(f"Cannot write {target}: {reason}.", "Remove it or choose another path.")


@contextmanager
def _write_errors_as_user_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"Cannot write {target}: {reason}.",
            "Free some space, check the permissions of the folder, or choose another path.",
        ) from error
