"""The best prompts for the embedded API-side model, behind a real server on this machine, and their rivals.

scripts/optimize_embedded runs/evaluate-embedded
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from scripts.transfer_embedded import LABEL, markdown
from soft2hard.api.asking import Asker
from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel
from soft2hard.checkpoints import embedded_path
from soft2hard.cli.common import AtLeast1
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import run_script
from soft2hard.eval.transfer.candidates import Candidates, read_candidates
from soft2hard.eval.transfer.delivery import Transfer
from soft2hard.eval.transfer.material import PromptRow, gather, reference_points
from soft2hard.eval.transfer.optimized import Arm, Optimization
from soft2hard.eval.transfer.optimizing import OptimizeChoices, Optimizer
from soft2hard.eval.transfer.plan import plan
from soft2hard.eval.transfer.reflecting import Reflective
from soft2hard.eval.transfer.results import collect, result_text
from soft2hard.eval.transfer.serving import served
from soft2hard.eval.transfer.settings import TransferChoices
from soft2hard.lm.subject import Subject
from soft2hard.lm.text_generation import LocalGenerator

_LEDGER = "optimize.sqlite"
_META_PROMPT = "{examples}\nTask:"
"""How this world's models are asked for an instruction; they follow no request in English."""
_ANSWER_TOKENS, _FRAME_TOKENS = 24, 8


def rows_of(found: Optimization, method: str) -> Iterator[PromptRow]:
    for task in found.tasks:
        yield PromptRow(f"{method}/{task.task}", method, task.task, task.prompt)


def all_that_fit(tasks: Sequence[Task], model: Path) -> Iterator[PromptRow]:
    """Few-shot with as many training examples as leave room in the model's context for the longest input."""
    lm = Subject.from_pretrained(model)
    for task in tasks:
        longest = max((example.input for example in task.test), key=len)
        for k in range(len(task.train), 0, -1):
            [row] = reference_points(replace(task, train=task.train[:k]), ("few-shot-all",))
            n_tokens = len(lm.tokenizer.encode(f"{row.prompt}\n{longest}"))
            if n_tokens + _ANSWER_TOKENS + _FRAME_TOKENS <= (lm.context_length or n_tokens):
                yield replace(row, id=f"few-shot, all that fit/{task.name}", method="few-shot, all that fit")
                break


def searched(
    asker: Asker, choices: OptimizeChoices, candidates: Candidates, tasks: Sequence[Task], factor: int, seeds: int
) -> Iterator[tuple[str, Optimization]]:
    """What each search finds, by its name. GEPA from nothing may ask `factor` times as often; from our translation, as
    often, and with as many tokens.
    """
    writer = LocalGenerator(Subject.from_pretrained("embedded"))
    gold = {task.name: [Arm(task.instruction, origin="gold")] for task in tasks}

    def gepa(times: float, starts: Candidates, from_nothing: bool = False) -> Optimization:
        how = replace(choices, max_calls=round(choices.max_calls * times))
        search = Reflective(asker, how, log=print, writer=writer, from_nothing=from_nothing, meta_prompt=_META_PROMPT)
        return search.run(starts, tasks)

    def timed(name: str, search: Callable[[], Optimization]) -> tuple[str, Optimization]:
        started = time.monotonic()
        found = search()
        calls, tokens = (chosen_by(found, of) / len(tasks) for of in ("calls", "tokens"))
        print(f"{name}: {calls:.0f} calls, {tokens:.0f} tokens a task, {time.monotonic() - started:.0f} s", flush=True)
        return name, found

    def ours(seed: int) -> Optimization:
        return Optimizer(asker, replace(choices, seed=seed), log=print).run(candidates, tasks)

    yield (optimized := timed("optimized", lambda: ours(0)))
    for seed in range(1, seeds):
        yield timed(f"optimized, seed {seed}", lambda seed=seed: ours(seed))
    yield timed(f"gepa from nothing, {factor} times the calls", lambda: gepa(factor, candidates, from_nothing=True))
    yield (alike := timed("gepa from our translation", lambda: gepa(1, candidates)))
    dearer = chosen_by(optimized[1], "tokens") / chosen_by(alike[1], "tokens")
    yield timed("gepa from our translation, as many tokens", lambda: gepa(dearer, candidates))
    yield timed("gepa from gold", lambda: gepa(1, gold))


def chosen_by(found: Optimization, what: str) -> int:
    """Calls or tokens of the API model that choosing took; what the local model reflected is not among them."""
    return sum(getattr(stage, what) for task in found.tasks for stage in task.stages if stage.name != "judging")


def main(
    run: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    max_calls: AtLeast1 = 128,
    factor: AtLeast1 = 5,
    seeds: AtLeast1 = 3,
    tasks: AtLeast1 | None = None,
    examples: AtLeast1 = 32,
    port: AtLeast1 = 8643,
) -> None:
    """Optimise a run's translations for the embedded API-side model, let GEPA do as well, and compare all on examples
    that chose nothing.

    Args:
        run: Folder of a finished run of soft2hard evaluate on the embedded subject, with the methods gold and
            translated.
        output: JSON file for all results; RUN/optimize.json.
        max_calls: Requests of each task that may choose.
        factor: How many times as many GEPA may ask for when it starts from nothing.
        seeds: Searches of ours, each with other examples; GEPA searches once.
        tasks: Tasks at most, the first ones; all if not given.
        examples: Test examples of each task at most.
        port: Port of the server; another one would not find earlier answers.
    """
    choices = TransferChoices(n_examples=examples, max_tokens=_ANSWER_TOKENS)
    material = gather(run, choices, references=("none", "few-shot"))
    candidates, wanted, _ = read_candidates(run, [])
    wanted = wanted[:tasks]
    names = {task.name for task in wanted}
    prompts = [row for row in material.prompts if row.task in names and row.seed == 0]
    prompts += all_that_fit(wanted, embedded_path("api_model"))
    with served(embedded_path("api_model"), port, run / "served" / "api_model", 2) as server:
        model = ApiModel(server.name, server.base_url, "completion", label=LABEL)
        search = OptimizeChoices(max_calls, judging=examples, max_tokens=_ANSWER_TOKENS)
        asker = Asker(model, run / _LEDGER, read_prices())
        for name, found in searched(asker, search, candidates, wanted, factor, seeds):
            prompts += rows_of(found, name)
        with Ledger(run / _LEDGER) as ledger:
            of_tasks = {0: [task for task in material.tasks[0] if task.name in names]}
            cells = plan(prompts, of_tasks, [model], choices)
            Transfer(cells, ledger, read_prices(), choices).run()
            result = collect(cells, ledger, material.soft_scores)
    result.save(output or run / "optimize.json")
    print(f"{result_text(result)}\n\n{markdown(result)}")


if __name__ == "__main__":
    run_script(main)
