"""The application: its commands, its help, and what becomes of errors."""

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soft2hard.cli.analyze import analyze
from soft2hard.cli.evaluate import evaluate
from soft2hard.cli.finetune import finetune
from soft2hard.cli.generate import generate
from soft2hard.cli.hub import pull, push
from soft2hard.cli.report import report
from soft2hard.cli.run import run
from soft2hard.cli.train import train
from soft2hard.cli.transfer import transfer
from soft2hard.cli.translate import translate
from soft2hard.cli.tune import tune
from soft2hard.errors import UserError

_INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 plus the number of the signal, as shells have it."""
_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

HELP = """
Turn tuned soft prompts into text prompts that do the same.

A soft prompt is a few vectors tuned in place of an instruction. A translator reads them and writes the instruction \
in words. Every translation is verified: both prompts are run side by side on the subject, the frozen language model \
that the soft prompt was tuned on. The word "embedded" stands for the small models that come with the package.

[bold]A worked example[/bold], offline and in a minute. Let kinds.csv hold the lines input,output; lion,animal; \
apple,fruit; wolf,animal; cherry,fruit; and a dozen more like these. Tune a soft prompt from them, then ask what it \
says:

[cyan]$ soft2hard tune kinds.csv --output prompts[/cyan]

[cyan]$ soft2hard translate prompts --examples kinds.csv[/cyan]

prompts/kinds.safetensors: the instruction in words, and a verdict: faithful, doubtful or failed.

For models and tasks of your own: [cyan]tune --dod[/cyan] makes a corpus of soft prompts, [cyan]train[/cyan] a \
translator from it, and [cyan]finetune[/cyan] teaches a translator new tasks.
"""


class _Commands(TyperGroup):
    """Ends in one line for what a user can mend; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _end(str(error), UserError.exit_code)
        except OSError as error:
            if error.errno not in _MACHINE_ERRORS:
                raise
            where = f" {error.filename}" if error.filename else ""
            _end(f"Cannot read or write{where}: {error.strerror}. Free some space or check the permissions.", 2)
        except KeyboardInterrupt:
            resumes = ctx.invoked_subcommand != "translate"
            kept = "What is finished is kept: run the same command again to go on." if resumes else "Nothing was saved."
            _end(f"Interrupted. {kept}", _INTERRUPTED)


def _end(line: str, status: int) -> None:
    typer.echo(line, err=True)
    raise typer.Exit(status)


app = typer.Typer(
    cls=_Commands,
    name="soft2hard",
    help=HELP,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command()(translate)
app.command()(tune)
app.command()(train)
app.command()(finetune)
app.command()(evaluate)
app.command()(report)
app.command()(transfer)
app.command()(push)
app.command()(pull)
app.command()(analyze)
app.add_typer(generate, name="generate")
app.command()(run)


def _print_version(wanted: bool) -> bool:
    if wanted:
        from soft2hard import __version__

        typer.echo(f"soft2hard {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command; the help is `HELP`."""
