"""The application: its commands, its help, and what becomes of errors."""

import errno
import os
import re
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter
from pydantic import ValidationError

from soft2hard import __version__
from soft2hard.cli.common import FLAGS
from soft2hard.errors import UserError
from soft2hard.settings import REMEDY, user_error

_INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 plus the number of the signal, as shells have it."""
_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

HELP = """
Turn tuned soft prompts into text prompts that do the same.

A soft prompt is a few vectors tuned in place of an instruction. A translator reads them and writes the instruction \
in words. Every translation is verified: both prompts are run side by side on the subject, the frozen language model \
that the soft prompt was tuned on. The word "embedded" stands for the small models that come with the package.

**A worked example**, offline and in a minute. Let kinds.csv hold the lines input,output; lion,animal; apple,fruit; \
wolf,animal; cherry,fruit; and a dozen more like these. Tune a soft prompt from them, then ask what it says:

    $ soft2hard tune kinds.csv --output prompts
    $ soft2hard translate prompts --examples kinds.csv

prompts/kinds.safetensors: the instruction in words, and a verdict: faithful, doubtful or failed.

For models and tasks of your own: *tune --dod* makes a corpus of soft prompts, *train* a translator from it, and \
*finetune* teaches a translator new tasks.
"""

COMMANDS = {
    "translate": "translate",
    "tune": "tune",
    "train": "train",
    "finetune": "finetune",
    "evaluate": "evaluate",
    "report": "report",
    "certify": "certify",
    "transfer": "transfer",
    "optimize": "optimize",
    "export": "export",
    "push": "hub",
    "pull": "hub",
    "analyze": "analyze",
    "invert": "invert",
    "generate": "generate",
    "classifier": "classifier",
    "run": "run",
}
"""Every command with its module, which is imported when the command or its help is asked for."""

app = App(
    name="soft2hard",
    help=HELP,
    version=f"soft2hard {__version__}",
    help_format="markdown",
    default_parameter=Parameter(negative_iterable=(), negative_none=(), show_env_var=False, allow_repeating=True),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    exit_on_error=False,
    print_error=False,
)
for _name, _module in COMMANDS.items():
    app.command(f"soft2hard.cli.{_module}:{_name}", name=_name, sort_key=len(app._commands))
app.register_install_completion_command(add_to_startup=False, help="Install completion for the shell in use.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exits with status 2 and one line for what a user can fix. Bugs keep their traceback."""
    arguments = _without_rank(sys.argv[1:] if arguments is None else arguments)
    command = next(iter(arguments), "")
    if command not in COMMANDS:
        for name in COMMANDS:
            app[name]  # imports it, so that the list of commands says what each does
    try:
        app(arguments)
    except UserError as error:
        _end(_with_flags(str(error)), UserError.exit_code)
    except CycloptsError as error:
        if isinstance(error.__cause__, ValidationError):
            _end(_with_flags(str(user_error(error.__cause__))), UserError.exit_code)
        shown = f" {command}" if command in COMMANDS else ""
        if isinstance(error, MissingArgumentError) and error.argument is not None and not error.argument.tokens:
            _end(f"{error.argument.name} is missing. See soft2hard{shown} --help.", 2)
        _end(f"{' '.join(str(error).split())} See soft2hard{shown} --help.", 2)
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        where = f" {error.filename}" if error.filename else ""
        _end(f"Cannot read or write{where}: {error.strerror}. Free some space or check the permissions.", 2)
    except KeyboardInterrupt:
        resumes = command != "translate"
        kept = "What is finished is kept: run the same command again to resume." if resumes else "Nothing was saved."
        _end(f"Interrupted. {kept}", _INTERRUPTED)


def _without_rank(arguments: Sequence[str]) -> list[str]:
    """The arguments without the `--local_rank=N` that DeepSpeed's launcher adds; it stands in the environment."""
    ranks = [argument for argument in arguments if argument.startswith("--local_rank=")]
    for rank in ranks:
        os.environ.setdefault("LOCAL_RANK", rank.partition("=")[2])
    return [argument for argument in arguments if argument not in ranks]


def _with_flags(line: str) -> str:
    """A line about settings, with the flags in the place of their names."""
    named = re.compile(r"(?<![\w.])([a-z_]+)(?:\.\d+)?(?= is )")
    return named.sub(lambda found: FLAGS.get(found[1], found[0]), line) if line.endswith(REMEDY) else line


def _end(line: str, status: int) -> None:
    print(line, file=sys.stderr)
    raise SystemExit(status)
