"""A run's prompts on the embedded API-side model, behind a real server on this machine.

scripts/transfer_embedded runs/evaluate-embedded
"""

import os
import time
from pathlib import Path
from statistics import fmean
from typing import Annotated

from cyclopts import Parameter

from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel
from soft2hard.checkpoints import embedded_path
from soft2hard.cli.common import AtLeast1
from soft2hard.errors import run_script
from soft2hard.eval.intervals import Interval, ratio_interval
from soft2hard.eval.metrics.task_score import normalise_answer
from soft2hard.eval.transfer.delivery import Transfer
from soft2hard.eval.transfer.material import gather
from soft2hard.eval.transfer.plan import plan
from soft2hard.eval.transfer.results import TransferResult, collect, result_text
from soft2hard.eval.transfer.serving import served
from soft2hard.eval.transfer.settings import TransferChoices

LABEL = "API-side model"
_LEDGER = "transfer.sqlite"


def of_gold(result: TransferResult) -> dict[str, Interval]:
    """Each method's score over the gold instructions', on common tasks; embedded tasks are scored by exact match."""
    right: dict[str, dict[str, list[bool]]] = {}
    for answer in result.answers:
        if answer.normalised is not None:
            of_method = right.setdefault(answer.method, {}).setdefault(answer.task, [])
            of_method.append(answer.normalised == normalise_answer(answer.wanted))
    shares = {method: {task: fmean(values) for task, values in of.items()} for method, of in right.items()}
    gold = shares.get("gold", {})
    common = {method: [task for task in of if task in gold] for method, of in shares.items()}
    return {
        method: ratio_interval([shares[method][task] for task in tasks], [gold[task] for task in tasks])
        for method, tasks in common.items()
        if any(gold[task] for task in tasks)
    }


def markdown(result: TransferResult) -> str:
    """The README's table."""
    shares = of_gold(result)
    lines = ["| method | on the subject | on the API-side model | of gold there |", "|---|---|---|---|"]
    if result.soft_prompt:
        lines.append(f"| soft prompt | {result.soft_prompt} | cannot be sent | |")
    for row in result.rows:
        subject = "" if row.subject_score is None else f"{row.subject_score:.3f}"
        lines.append(f"| {row.method} | {subject} | {row.score.interval or '–'} | {shares.get(row.method, '–')} |")
    return "\n".join(lines)


def main(
    run: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    methods: Annotated[tuple[str, ...], Parameter(name="--method")] = (),
    examples: AtLeast1 = 4,
    port: AtLeast1 = 8642,
    concurrency: AtLeast1 = 32,
) -> None:
    """Serve the embedded API-side model, ask it with the run's prompts, and print the table.

    Args:
        run: Folder of a finished run of soft2hard evaluate on the embedded subject.
        output: JSON file for all results; RUN/transfer.json.
        methods: A method of the run, repeatable; all if not given.
        examples: Test examples of each task at most.
        port: Port of the server; another one would not find earlier answers.
        concurrency: Requests out at once, at most.
    """
    started = time.monotonic()
    choices = TransferChoices(methods=tuple(methods), n_examples=examples, max_tokens=24, concurrency=concurrency)
    material = gather(run, choices, references=())
    threads = os.cpu_count() or 1
    server_of = served(embedded_path("api_model"), port, run / "served" / "api_model", threads)
    with server_of as server, Ledger(run / _LEDGER) as ledger:
        model = ApiModel(server.name, server.base_url, "completion", label=LABEL)
        cells = plan(material.prompts, material.tasks, [model], choices)
        Transfer(cells, ledger, read_prices(), choices).run()
        result = collect(cells, ledger, material.soft_scores)
    result.save(output or run / "transfer.json")
    print(f"{result_text(result)}\n\n{markdown(result)}")
    print(f"\n{len(cells)} cells in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run_script(main)
