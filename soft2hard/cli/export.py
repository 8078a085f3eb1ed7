"""soft2hard export: prompts in the forms in which other programs read them."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soft2hard.cli.common import Output, say
from soft2hard.eval.transfer.exporting import Form


def export(
    prompts: Path,
    /,
    *,
    to: Annotated[Form, Parameter(show_choices=True)] = "text",
    output: Output,
    tasks: list[Path] | None = None,
) -> None:
    """Write prompts for other programs: text, a chat completion, DSPy, GEPA, Inspect or promptfoo.

    **Example:** `soft2hard export best.json --to promptfoo --tasks kinds.csv -o promptfooconfig.yaml`

    Args:
        prompts: What soft2hard optimize, or soft2hard translate --json -o, wrote.
        to: text: the message with {input} where the input goes; openai: the body of a chat completion, likewise; dspy:
            the state of dspy.Predict("input -> output"), for its load; gepa: a seed candidate of its default adapter;
            inspect: a Python file with a task of Inspect; promptfoo: a configuration.
        output: The file; of several prompts a new folder.
        tasks: Task files, whose test examples go along (inspect, which needs them, and promptfoo).
    """
    from soft2hard.data_gen.taskfiles import read_tasks
    from soft2hard.eval.transfer.exporting import export as write
    from soft2hard.eval.transfer.exporting import read_exported

    if to == "promptfoo" and not tasks:
        say("Without --tasks the configuration has no test examples, only a place for them.")
    for path in write(read_exported(prompts), to, output, read_tasks(list(tasks)) if tasks else []):
        print(path)
