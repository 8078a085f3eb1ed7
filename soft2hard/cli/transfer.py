"""soft2hard transfer: prompts x tasks on models behind an API."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from soft2hard.cli.common import AtLeast1, Output, flags_of, parsed_pairs, progress_bar, say
from soft2hard.errors import UserError
from soft2hard.eval.transfer.settings import TransferChoices

if TYPE_CHECKING:
    from soft2hard.api.requests import ApiModel
    from soft2hard.eval.transfer.plan import Judge

Seconds = Annotated[float, Parameter(validator=Number(gt=0))]


def transfer(
    prompts: Path | None = None,
    /,
    *,
    models: Annotated[list[str] | None, Parameter(name="--model", alias="-m")] = None,
    models_file: Path | None = None,
    base_url: str = "https://api.openai.com/v1",
    key_env: str = "OPENAI_API_KEY",
    layout: str = "chat",
    tasks: list[Path] | None = None,
    n_tasks: AtLeast1 = 30,
    references: str = "none,gold,few-shot",
    choices: flags_of(TransferChoices, "Questions and cost", methods="method", n_examples="examples") = (
        TransferChoices()
    ),
    parameters: Annotated[list[str] | None, Parameter(name="--parameter")] = None,
    seed: int = 0,
    ledger: Path = Path("runs/transfer/ledger.sqlite"),
    output: Output | None = None,
    prices: Path | None = None,
    judge: str | None = None,
    judge_url: str | None = None,
    judge_key_env: str | None = None,
    judge_prompt: Path | None = None,
    keep_thinking: bool = False,
    dry_run: bool = False,
    timeout: Seconds = 120.0,
    attempts: AtLeast1 = 8,
) -> None:
    """Ask models behind an API, score their answers, and keep every one of them.

    **Example:** `soft2hard transfer prompts.jsonl --tasks mine/ --model gpt-4.1-mini --dry-run`

    Args:
        prompts: A .jsonl or .csv file with id, method, task and prompt, or the folder of a run of evaluate, which
            brings its tasks. Without it only the reference points are asked.
        models: Name of a model, as its endpoint calls it; repeatable.
        models_file: YAML list of models, each with name and, if need be, base_url, layout, key_env, label,
            parameters; instead of --model.
        base_url: Endpoint of the models given by --model.
        key_env: Environment variable that holds the key.
        layout: 'chat': one user message; 'completion': plain text.
        tasks: Task files or folders of them; the embedded world's if not given.
        n_tasks: Without --tasks: test tasks of the embedded world.
        references: Reference points asked for each task, where PROMPTS lacks them: none, gold, few-shot, few-shot-all
            (every training example); '' for none.
        parameters: NAME=VALUE (JSON or text) sent with every request; null leaves a default (temperature, max_tokens,
            seed, stop) out. Repeatable.
        seed: Seed sent with the first asking; of the examples shown, too.
        ledger: Where every answer is kept; a rerun sends only what it lacks.
        output: JSON file for all results.
        prices: Table of prices; the one that comes along if not given.
        judge: Also let this model say of every answer whether it is right; at --judge-url.
        judge_url: Endpoint of the judge; --base-url if not given.
        judge_key_env: Environment variable that holds the judge's key; --key-env if not given.
        judge_prompt: File with the judge's prompt: {input} and {answer}, and {instruction} and {reference} if wanted.
        keep_thinking: Score answers with the `<think>...</think>` that reasoning models put before them.
        dry_run: Print requests, tokens and price; send nothing.
        timeout: Seconds that one attempt may take.
        attempts: Times that one request is sent, at most.
    """
    from soft2hard.api.client import Patience
    from soft2hard.api.ledger import Ledger
    from soft2hard.api.prices import read_prices
    from soft2hard.eval.transfer.delivery import Transfer, judge_answers
    from soft2hard.eval.transfer.material import gather
    from soft2hard.eval.transfer.plan import estimates, plan
    from soft2hard.eval.transfer.results import collect, estimate_text, result_text

    names = tuple(name.strip() for name in references.split(",") if name.strip())
    material = gather(prompts, choices, tasks=tasks or (), n_tasks=n_tasks, references=names, seed=seed)
    choices = material.choices
    judging = _judge(judge, judge_url or base_url, judge_key_env or key_env, judge_prompt)
    named, sent = _models(models, models_file, base_url, key_env, layout), parsed_pairs(parameters or [], "--parameter")
    cells = plan(material.prompts, material.tasks, named, choices, sent, seed)
    table = read_prices(prices)
    if dry_run and not ledger.exists():
        print(estimate_text(estimates(cells, None, table, choices.batch)))
        return
    with Ledger(ledger, keep_thinking) as book:
        if dry_run:
            print(estimate_text(estimates(cells, book, table, choices.batch)))
            return
        sending = (choices, Patience(attempts, timeout))
        with progress_bar() as progress:
            totals = {e.model: e.n_requests for e in estimates(cells, None, table)}
            bars = {title: progress.add_task(title, total=n) for title, n in totals.items()}
            delivery = Transfer(
                cells, book, table, *sending, lambda title, n: progress.advance(bars[title], n), say
            ).run()
            result = collect(cells, book, material.soft_scores)
            if judging is not None and not delivery.stopped:
                result = replace(result, judged=judge_answers(cells, book, table, judging, *sending, say))
        if output is not None:
            result.save(output)
    print(result_text(result))
    for kind, n in delivery.faults.items():
        say(f"{n} requests were given up ({kind.replace('_', ' ')}); run the same command again to ask them once more.")
    if delivery.over_budget:
        say(f"Stopped before --max-cost {choices.max_cost:g} might have been passed; raise it to continue.")
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


def check_layout(layout: str) -> None:
    """Raise UserError for a layout that there is not."""
    if layout not in ("chat", "completion"):
        raise UserError(f"There is no layout '{layout}'.", "Choose chat or completion.")


def _models(names: list[str] | None, path: Path | None, base_url: str, key_env: str, layout: str) -> "list[ApiModel]":
    from soft2hard.api.requests import ApiModel, read_models

    check_layout(layout)
    if (names is None or not names) == (path is None):
        raise UserError("Either --model or --models-file is needed, and not both.", "Name at least one model.")
    if path is not None:
        return read_models(path)
    return [ApiModel(name, base_url, layout, key_env) for name in dict.fromkeys(names or [])]
