"""soft2hard transfer: prompts x tasks on models behind an API."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soft2hard.cli.common import progress_bar, say
from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.api.requests import ApiModel
    from soft2hard.eval.transfer.plan import Judge


def transfer(
    prompts: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PROMPTS]",
            help="A .jsonl or .csv file with id, method, task and prompt, or the folder of a run of evaluate, which "
            "brings its tasks. Without it only the reference points are asked.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Name of a model, as its endpoint calls it; repeatable.")
    ] = None,
    models_file: Annotated[
        Path | None,
        typer.Option(
            help="YAML list of models, each with name and, if need be, base_url, layout, key_env, label, "
            "parameters; instead of --model."
        ),
    ] = None,
    base_url: Annotated[str, typer.Option(help="Endpoint of the models given by --model.")] = (
        "https://api.openai.com/v1"
    ),
    key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    layout: Annotated[str, typer.Option(help="'chat': one user message; 'completion': plain text.")] = "chat",
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method of PROMPTS to ask with, repeatable; all of them if not given."),
    ] = None,
    n_examples: Annotated[
        int | None, typer.Option("--examples", min=1, help="Test examples of each task at most; all if not given.")
    ] = None,
    tasks: Annotated[
        list[Path] | None, typer.Option(help="Task files or folders of them; the embedded world's if not given.")
    ] = None,
    n_tasks: Annotated[int, typer.Option(min=1, help="Without --tasks: test tasks of the embedded world.")] = 30,
    references: Annotated[
        str, typer.Option(help="Reference points asked for each task, where PROMPTS lacks them; '' for none.")
    ] = "none,gold,few-shot",
    shots: Annotated[int, typer.Option(min=0, help="Examples shown by few-shot.")] = 8,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            help="NAME=VALUE (JSON or text) sent with every request; null leaves a default "
            "(temperature, max_tokens, seed, stop) out. Repeatable.",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Askings of each question, each with a seed of its own.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed sent with the first asking; of the examples shown, too.")] = 0,
    ledger: Annotated[Path, typer.Option(help="Where every answer is kept; a rerun sends only what it lacks.")] = Path(
        "runs/transfer/ledger.sqlite"
    ),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for all results.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Table of prices; the one that comes along if not given.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="Also let this model say of every answer whether it is right; at --judge-url.")
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="Endpoint of the judge; --base-url if not given.")] = None,
    judge_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the judge's key; --key-env if not given.")
    ] = None,
    judge_prompt: Annotated[
        Path | None,
        typer.Option(
            help="File with the judge's prompt: {input} and {answer}, and {instruction} and {reference} if wanted."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print requests, tokens and price; send nothing.")] = False,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="US dollars that the ledger's requests may cost in all.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests out at once, to each model, at most.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one attempt may take.")] = 120.0,
    attempts: Annotated[int, typer.Option(min=1, help="Times that one request is sent, at most.")] = 8,
    batch: Annotated[
        bool, typer.Option("--batch", help="Through the Batch API: cheaper, within a day; resumes where it was killed.")
    ] = False,
    poll_seconds: Annotated[float, typer.Option(min=0.01, help="Seconds between looks at a batch.")] = 30.0,
) -> None:
    """Ask models behind an API, score their answers, and keep every one of them.

    [bold]Example:[/bold] soft2hard transfer prompts.jsonl --tasks mine/ --model gpt-4.1-mini --dry-run
    """
    from soft2hard.api.client import Patience
    from soft2hard.api.ledger import Ledger
    from soft2hard.api.prices import read_prices
    from soft2hard.eval.transfer.delivery import Sending, Transfer, judge_answers
    from soft2hard.eval.transfer.material import Wanted, gather
    from soft2hard.eval.transfer.plan import Asking, estimates, plan
    from soft2hard.eval.transfer.results import collect, estimate_text, result_text

    names = tuple(name.strip() for name in references.split(",") if name.strip())
    wanted = Wanted(prompts, tuple(tasks or ()), n_tasks, names, shots, seed, tuple(methods or ()), n_examples)
    material = gather(wanted)
    judging = _judge(judge, judge_url or base_url, judge_key_env or key_env, judge_prompt)
    asking = Asking(parsed_parameters(parameters or []), max_tokens, repeats, seed)
    cells = plan(material.prompts, material.tasks, _models(models, models_file, base_url, key_env, layout), asking)
    table = read_prices(prices)
    if dry_run and not ledger.exists():
        print(estimate_text(estimates(cells, None, table, batch)))
        return
    with Ledger(ledger) as book:
        if dry_run:
            print(estimate_text(estimates(cells, book, table, batch)))
            return
        sending = Sending(concurrency, max_cost, batch, poll_seconds, Patience(attempts, timeout))
        with progress_bar() as progress:
            totals = {e.model: e.n_requests for e in estimates(cells, None, table)}
            bars = {title: progress.add_task(title, total=n) for title, n in totals.items()}
            delivery = Transfer(
                cells, book, table, sending, lambda title, n: progress.advance(bars[title], n), say
            ).run()
            result = collect(cells, book, material.soft_scores)
            if judging is not None and not delivery.stopped:
                result = replace(result, judged=judge_answers(cells, book, table, sending, judging, say))
        if output is not None:
            result.save(output)
    print(result_text(result))
    for kind, n in delivery.faults.items():
        say(f"{n} requests were given up ({kind.replace('_', ' ')}); run the same command again to ask them once more.")
    if delivery.over_budget:
        say(f"Stopped before --max-cost {max_cost:g} might have been passed; raise it to go on.")
    if delivery.stopped:
        raise delivery.stopped[0]


def _judge(name: str | None, url: str, key_env: str, prompt: Path | None) -> "Judge | None":
    from soft2hard.api.requests import ApiModel
    from soft2hard.eval.transfer.plan import Judge, read_judge_prompt

    if name is None:
        if prompt is not None:
            raise UserError("There is a --judge-prompt but no --judge.", "Name the model that is to judge.")
        return None
    return Judge(ApiModel(name, url, "chat", key_env, label=f"judge {name}"), read_judge_prompt(prompt))


def parsed_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is not JSON is a text."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UserError(f"'{pair}' is not NAME=VALUE.", "Write, say, --parameter top_p=0.9.")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def _models(names: list[str] | None, path: Path | None, base_url: str, key_env: str, layout: str) -> "list[ApiModel]":
    from soft2hard.api.requests import ApiModel, read_models

    if layout not in ("chat", "completion"):
        raise UserError(f"There is no layout '{layout}'.", "Choose chat or completion.")
    if (names is None or not names) == (path is None):
        raise UserError("Either --model or --models-file is needed, and not both.", "Name at least one model.")
    if path is not None:
        return read_models(path)
    return [ApiModel(name, base_url, layout, key_env) for name in dict.fromkeys(names or [])]
