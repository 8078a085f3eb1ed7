"""The one exception for mistakes a user can fix; anything else is a bug and keeps its traceback.

`first_line` quotes errors of other libraries in it; `run_script` prints it where a module is run as a script.
"""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A problem and its remedy, printed as one line without a traceback.

    Args:
        problem: The mistake, naming the file, value or shape at fault; ends in a full stop.
        remedy: The user's next step; ends in a full stop.

    White space is collapsed, because messages of other libraries, quoted in `problem`, often have
    several lines.
    """

    exit_code = 2
    """Exit status of the command line after printing this error."""

    def __init__(self, problem: str, remedy: str):
        self.problem = " ".join(problem.split())
        self.remedy = " ".join(remedy.split())
        # All arguments go to Exception, so that the error survives pickling between processes.
        super().__init__(problem, remedy)

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


def first_line(error: BaseException) -> str:
    """The message of another library's error, short enough for one line."""
    if "ignore_mismatched_sizes" in str(error):
        return "its weights have other shapes than its config.json says"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")[:200]


def run_script(main: Callable[..., None]) -> None:
    """Run `main` with the options of the command line, which its signature and docstring describe (see cyclopts)."""
    from cyclopts import App, CycloptsError, Parameter

    app = App(result_action="return_value", exit_on_error=False, print_error=False, version_flags=())
    app.default_parameter = Parameter(negative_iterable=(), negative_none=(), allow_repeating=True)
    app.default(main)
    try:
        app()
    except (UserError, CycloptsError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(UserError.exit_code) from None
