"""Running a module as a script: its options from its signature, a UserError as one line and exit code 2."""

from collections.abc import Callable

import typer

from soft2hard.errors import UserError


def run_script(main: Callable[..., None]) -> None:
    """Run `main` with the options of the command line (see typer)."""
    try:
        typer.run(main)
    except UserError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(error.exit_code) from None
