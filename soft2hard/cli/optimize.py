"""soft2hard optimize: the best text for a model behind an API, at a price agreed before."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from soft2hard.cli.common import AtLeast1, Output, flags_of, parsed_pairs, say
from soft2hard.cli.transfer import Seconds
from soft2hard.errors import UserError
from soft2hard.eval.transfer.optimizing import OptimizeChoices


def optimize(
    candidates: Path,
    /,
    *,
    model: Annotated[str, Parameter(alias="-m")],
    output: Output,
    tasks: list[Path] | None = None,
    method: str = "translated",
    by: Literal["halving", "gepa"] = "halving",
    from_nothing: Annotated[bool, Parameter(negative=())] = False,
    reflection_model: str | None = None,
    reflection_url: str | None = None,
    reflection_key_env: str | None = None,
    meta_prompt: str | None = None,
    base_url: str = "https://api.openai.com/v1",
    key_env: str = "OPENAI_API_KEY",
    layout: str = "chat",
    choices: flags_of(OptimizeChoices, "Candidates, requests and cost") = OptimizeChoices(),
    parameters: Annotated[list[str] | None, Parameter(name="--parameter")] = None,
    ledger: Path = Path("runs/transfer/ledger.sqlite"),
    prices: Path | None = None,
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
        method: Of a run, whose texts are taken.
        by: halving: the candidates compete; gepa: the rival that rewrites each task's first candidate by reflection
            (package gepa), with --max-calls answers.
        from_nothing: gepa starts from a sentence that says nothing.
        reflection_model: The model that reflects for gepa; the model itself if not given. What it is asked does not
            count among --max-calls, but towards --max-cost.
        reflection_url: Its endpoint; --base-url if not given.
        reflection_key_env: Environment variable that holds its key; --key-env if not given.
        meta_prompt: For gepa, the request to a reflection model that is no chat model, with {examples} where pairs of
            input and output go; GEPA's own request if not given.
        base_url: Endpoint of the model.
        key_env: Environment variable that holds the key.
        layout: 'chat': one user message; 'completion': plain text.
        parameters: NAME=VALUE sent with every request, as in soft2hard transfer; repeatable.
        ledger: Where every answer is kept.
        prices: Table of prices; the one that comes along if not given.
        timeout: Seconds that one attempt may take.
        attempts: Times that one request is sent, at most.
    """
    from soft2hard.api.asking import Asker
    from soft2hard.api.client import Patience, read_key
    from soft2hard.api.prices import read_prices
    from soft2hard.api.requests import ApiModel
    from soft2hard.api.text_generation import ApiGenerator
    from soft2hard.cli.transfer import check_layout
    from soft2hard.data_gen.taskfiles import read_tasks
    from soft2hard.eval.transfer.candidates import read_candidates
    from soft2hard.eval.transfer.optimizing import Optimizer
    from soft2hard.eval.transfer.reflecting import Reflective

    check_layout(layout)
    found, wanted = read_candidates(candidates, read_tasks(list(tasks)) if tasks else [], method)
    asked = ApiModel(model, base_url, layout, key_env)
    read_key(asked)
    patience = Patience(attempts, timeout)
    asker = Asker(asked, ledger, read_prices(prices), choices.concurrency, patience, choices.max_cost)
    how = (asker, choices, parsed_pairs(parameters or [], "--parameter"), say)
    if by == "gepa":
        reflects = ApiModel(
            reflection_model or model, reflection_url or base_url, "chat", reflection_key_env or key_env
        )  # fmt: skip
        writer = ApiGenerator(reflects, ledger, choices.concurrency, patience, say, choices.max_cost)
        writer.check()
        optimizer = Reflective(*how, writer=writer, from_nothing=from_nothing, meta_prompt=meta_prompt)
    elif from_nothing or reflection_model or meta_prompt:
        said = "--from-nothing, --reflection-model and --meta-prompt are for gepa."
        raise UserError(said, "Add --by gepa, or leave them out.")
    else:
        optimizer = Optimizer(*how)
    result = optimizer.run(found, wanted)
    result.save(output)
    print(result.text())
