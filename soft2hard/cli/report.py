"""soft2hard report: what an evaluation found, as a page and a summary."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soft2hard.cli.common import Output


def report(
    runs: list[Path],
    /,
    *,
    output: Output | None = None,
    transfers: Annotated[list[Path] | None, Parameter(name="--transfer")] = None,
) -> None:
    """Show an evaluation as one HTML page, which works offline, and a Markdown summary.

    **Example:** `soft2hard report runs/before runs/after --output comparison.html`

    Args:
        runs: Output folders of soft2hard evaluate, oldest first. The last one is reported in full, and what changed
            since each one before it, over the tasks that both have.
        output: The page to write, ending in .html; the summary goes beside it, ending in .md. By default report.html
            in the last run's folder.
        transfers: JSON file that soft2hard transfer wrote with prompts of the last run; repeatable.
    """
    from soft2hard.eval.report import load_run, print_summary, write_report
    from soft2hard.eval.transfer.results import TransferResult

    loaded = [load_run(folder) for folder in runs]
    found = [TransferResult.load(path) for path in transfers or []]
    for path in write_report(loaded, output or runs[-1] / "report.html", found):
        print(path)
    print_summary(loaded[-1])
