"""The command line as a user calls it, in this process."""

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from soft2hard.cli import main


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit status."""

    exit_code: int
    stdout: str
    stderr: str
    output: str
    """Both, in the order in which they were printed."""


class _Copied(io.StringIO):
    def __init__(self, copy: io.StringIO):
        super().__init__()
        self.copy = copy

    def write(self, text: str) -> int:
        self.copy.write(text)
        return super().write(text)


def run(*arguments: object) -> Result:
    """Run a command; an error that is no exit is raised."""
    both, status = io.StringIO(), 0
    out, err = _Copied(both), _Copied(both)
    with redirect_stdout(out), redirect_stderr(err), mock.patch.dict(os.environ, {"COLUMNS": "80"}):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    return Result(status, out.getvalue(), err.getvalue(), both.getvalue())
