"""soft2hard certify: whether a translator reads the vectors of soft prompts, or guesses."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from soft2hard.cli.common import TranslatorName, flags_of, quiet, say
from soft2hard.eval.certificate import FIGURES, CertificateSettings, pooled

if TYPE_CHECKING:
    from soft2hard.eval.certificate import Certificate


def certify(
    runs: list[Path],
    /,
    *,
    translator: TranslatorName | None = None,
    rivals: Annotated[list[Path] | None, Parameter(name="--rival")] = None,
    asked: flags_of(CertificateSettings, "How much is read") = CertificateSettings(),
) -> None:
    """Find out whether a translator reads the vectors, or guesses from what tasks usually are.

    It is given other things in the place of each soft prompt of an evaluation (another task's, shuffled positions,
    noise; and either part alone, where it also reads what soft prompts do), beside translators that were trained to
    read other things (soft2hard train --reads). How likely each finds the right instruction, what each writes, and how
    the subject acts on that are set side by side, over the same tasks. The result is a table here,
    RUN/certificate.json, and a part of RUN's report; of several runs also a table over all their tasks.

    **Example:** `soft2hard certify runs/evaluation --rival translators/examples/translator --wayward 32`

    Args:
        runs: Folder of a finished soft2hard evaluate, whose tasks and soft prompts are read; run again to resume.
        translator: The translator; the evaluation's own if not given. Otherwise as in soft2hard translate.
        rivals: A translator trained on the same corpus with another --reads than the certified one; repeatable.
    """
    quiet()
    from soft2hard.eval.certifying import certify as make
    from soft2hard.eval.certifying import check_poolable

    check_poolable(runs, translator)
    found = []
    for run in runs:
        found.append(make(run, asked, translator, rivals or (), say))
        _print(found[-1], str(run))
        say(f"Kept in {run}; soft2hard report {run} shows it")
    if len(found) > 1:
        _print(pooled(found), f"all {len(found)} runs")


def _print(certificate: "Certificate", of: str) -> None:
    from rich.console import Console
    from rich.table import Table

    figures = [f for f in FIGURES if any(certificate.interval(read, f) for read in certificate.reads)]
    table = Table(f"read ({of}, {certificate.n_tasks} tasks)", *(FIGURES[figure] for figure in figures), box=None)
    for read in certificate.reads:
        found = (certificate.interval(read, figure) for figure in figures)
        table.add_row(read, *("–" if one is None else str(one) for one in found))
    console = Console()
    console.print(table)
    for sentence in certificate.sentences():
        console.print(sentence)
