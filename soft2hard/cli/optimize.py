"""soft2hard optimize: the best text for a model behind an API, at a price agreed before."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from soft2hard.cli.common import AtLeast1, Output, flags_of, parsed_pairs, say
from soft2hard.cli.transfer import Seconds
from soft2hard.errors import UserError
from soft2hard.eval.transfer.optimizing import OptimizeChoices

_REMEDIES = {
    "rejected": "Set what it wants with --reflection-parameter; null leaves a default out.",
    "too_long": "Name a model with a longer context with --reflection-model.",
    "key": "Set it, or name another with --reflection-key-env.",
}


def optimize(
    candidates: Path,
    /,
    *,
    model: Annotated[str, Parameter(alias="-m")],
    output: Output,
    tasks: list[Path] | None = None,
    n_tasks: AtLeast1 | None = None,
    method: str = "translated",
    by: Literal["halving", "gepa", "mipro"] = "halving",
    from_nothing: Annotated[bool, Parameter(negative=())] = False,
    reflection_model: str | None = None,
    reflection_url: str | None = None,
    reflection_layout: str | None = None,
    reflection_key_env: str | None = None,
    reflection_parameters: Annotated[list[str] | None, Parameter(name="--reflection-parameter")] = None,
    meta_prompt: str | None = None,
    base_url: str = "https://api.openai.com/v1",
    key_env: str = "OPENAI_API_KEY",
    layout: str = "chat",
    choices: flags_of(OptimizeChoices, "Candidates, requests and cost") = OptimizeChoices(),
    parameters: Annotated[list[str] | None, Parameter(name="--parameter")] = None,
    ledger: Path = Path("runs/transfer/ledger.sqlite"),
    prices: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    timeout: Seconds = 120.0,
    attempts: AtLeast1 = 8,
) -> None:
    """Find the best prompt for a model behind an API among a translation's texts, with and without demonstrations.

    Candidates compete on the model itself: all on a few examples, the better half on more, until one is left. What won
    is judged on examples that chose nothing. Every answer is kept in the ledger: the same command resumes after a kill
    and asks for nothing twice.

    **Example:** `soft2hard optimize translation.json --tasks kinds.csv --model gpt-4.1-mini --max-cost 1 -o best.json`

    Args:
        candidates: What soft2hard translate --json -o wrote; a .jsonl or .csv file of prompts with id, method, task and
            prompt; or the folder of a run of evaluate, which brings its tasks.
        model: Name of the model, as its endpoint calls it.
        output: JSON file for the prompts and all figures; soft2hard export reads it.
        tasks: Task files or folders of them; a translation is for the task of its soft prompt's name.
        n_tasks: Tasks at most, the first ones; all if not given.
        method: Of a run, whose texts are taken.
        by: halving: the candidates compete; gepa, mipro: a rival that rewrites each task's first candidate, with
            --max-calls answers: by reflection on wrong answers (package gepa), or by proposals and a Bayesian search
            over them and demonstrations (MIPROv2, package dspy).
        from_nothing: The rival starts from a sentence that says nothing.
        reflection_model: The model that writes for the rival; the model itself if not given. What it is asked does
            not count among --max-calls, but towards --max-cost.
        reflection_url: Its endpoint; --base-url if not given.
        reflection_layout: Its layout, chat or completion; chat if not given, or --layout where it is the model itself.
        reflection_key_env: Environment variable that holds its key; --key-env if not given.
        reflection_parameters: NAME=VALUE sent with its requests alone; repeatable. Without --reflection-model, those of
            --parameter hold for it too.
        meta_prompt: The request to a reflection model that is no chat model, with {examples} where pairs of input and
            output go; the rival's own request if not given.
        base_url: Endpoint of the model.
        key_env: Environment variable that holds the key.
        layout: 'chat': one user message; 'completion': plain text.
        parameters: NAME=VALUE sent with every request, as in soft2hard transfer; repeatable.
        ledger: Where every answer is kept.
        prices: Table of prices; the one that comes along if not given.
        dry_run: Print how many requests there may be and what they may cost at most; send nothing.
        timeout: Seconds that one attempt may take.
        attempts: Times that one request is sent, at most.
    """
    from soft2hard.api.asking import Asker
    from soft2hard.api.client import Patience, read_key
    from soft2hard.api.prices import money, read_prices
    from soft2hard.api.requests import ApiModel
    from soft2hard.cli.transfer import check_layout
    from soft2hard.data_gen.taskfiles import read_tasks
    from soft2hard.eval.methods.options import SearchOptions
    from soft2hard.eval.transfer.candidates import read_candidates
    from soft2hard.eval.transfer.optimizing import Optimizer

    for one in filter(None, (layout, reflection_layout)):
        check_layout(one)
    rival_alone = {
        "--from-nothing": from_nothing, "--reflection-model": reflection_model, "--reflection-url": reflection_url,
        "--reflection-layout": reflection_layout,
        "--reflection-key-env": reflection_key_env, "--reflection-parameter": reflection_parameters,
        "--meta-prompt": meta_prompt,
    }  # fmt: skip
    if by == "halving" and (useless := [flag for flag, value in rival_alone.items() if value]):
        raise UserError(f"{useless[0]} is for rivals.", "Add --by gepa or --by mipro, or leave it out.")
    if by != "halving" and choices.paraphrases:
        raise UserError(f"--paraphrases is for halving, and {by} writes texts itself.", "Leave it out.")
    if by != "halving" and dry_run:
        raise UserError(f"What {by} asks is not known before it is asked.", "Bound it with --max-calls and --max-cost.")
    SearchOptions(meta_prompt=meta_prompt)  # refuses one without a place for examples
    found, wanted, made_under = read_candidates(candidates, read_tasks(list(tasks)) if tasks else [], method, say)
    wanted = wanted[:n_tasks]
    choices = replace(choices, template=choices.asking.under(made_under).template)
    if left_out := [name for name in found if name not in {task.name for task in wanted}]:
        say(f"{len(left_out)} candidates are for none of the tasks and are left out, such as '{left_out[0]}'.")
    asked = ApiModel(model, base_url, layout, key_env)
    if not dry_run:
        read_key(asked)
    sent = parsed_pairs(parameters or [], "--parameter")
    patience = Patience(attempts, timeout)
    asker = Asker(asked, ledger, read_prices(prices), choices.concurrency, patience, choices.max_cost)
    how = (asker, choices, sent, say)
    if dry_run:
        n_requests, cost = Optimizer(*how).most(found, wanted)
        print(f"Tasks: {len(wanted)}. {n_requests} requests at most; price at most: {money(cost)}. Nothing was sent.")
        return
    if by == "halving":
        optimizer = Optimizer(*how)
    else:
        from soft2hard.api.text_generation import ApiGenerator  # these load PyTorch
        from soft2hard.eval.transfer.reflecting import Reflective

        of_reflection = parsed_pairs(reflection_parameters or [], "--reflection-parameter")
        reflects = ApiModel(
            reflection_model or model, reflection_url or base_url,
            reflection_layout or ("chat" if reflection_model else layout), reflection_key_env or key_env,
            parameters=of_reflection if reflection_model else {**sent, **of_reflection},
        )  # fmt: skip
        writer = ApiGenerator(replace(asker, model=reflects), say, remedies=_REMEDIES)
        writer.check(anew=True)  # that the model answers in another layout says nothing
        optimizer = Reflective(*how, writer=writer, from_nothing=from_nothing, meta_prompt=meta_prompt, by=by)
    result = optimizer.run(found, wanted)
    result.save(output)
    print(f"{result.text()}\nAll of it is in {output}; soft2hard export writes the prompts for other programs.")
