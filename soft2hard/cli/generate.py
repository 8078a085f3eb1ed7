"""soft2hard generate: tasks and paraphrases, written by a model behind an API."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soft2hard.cli.common import say
from soft2hard.cli.teaching import (
    LEDGER,
    OPENAI,
    Attempts,
    BaseUrl,
    Call,
    Concurrency,
    KeyEnv,
    LedgerFile,
    MaxCost,
    Model,
    Parameters,
    Plan,
    Prices,
    Seed,
    Timeout,
    check_free,
    print_plan,
    say_price,
    say_rejected,
    teacher_of,
)
from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.data_gen.paraphrasing import Original, Paraphrased

generate = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Have a model behind an API write tasks or paraphrases."
)


@generate.command("keyword-classification")
def keyword_classification(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the collection; new, or made earlier.")],
    n_categories: Annotated[int, typer.Option(min=1, help="Tasks: categories of five classes each.")],
    n_sentences: Annotated[
        int, typer.Option(min=1, help="Sentences wanted of each class; one with fewer than half of them is not used.")
    ] = 30,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the texts, saved with them; the terms of the service if not given.")
    ] = None,
    base_url: BaseUrl = OPENAI,
    key_env: KeyEnv = "OPENAI_API_KEY",
    parameters: Parameters = None,
    seed: Seed = 0,
    ledger: LedgerFile = LEDGER,
    prices: Prices = None,
    plan: Plan = False,
    max_cost: MaxCost = None,
    concurrency: Concurrency = 32,
    timeout: Timeout = 120.0,
    attempts: Attempts = 8,
) -> None:
    """Tasks of saying which of five classes a sentence is about, in the way of arXiv 2605.27642.

    [bold]Example:[/bold] soft2hard generate keyword-classification --model gpt-4.1-mini --n-categories 200 \
-o keywords --plan
    """
    from soft2hard.data_gen.dods.keyword_classification import ABOUT, TASKS, read_about
    from soft2hard.data_gen.dods.keyword_classification_generation import (
        Settings,
        first_requests,
        generate,
        identity,
        save,
    )

    call = Call(
        *(model, base_url, key_env, parameters or (), seed, ledger, prices, max_cost, concurrency, timeout, attempts)
    )
    settings = Settings(n_categories, n_sentences)
    with teacher_of(call) as teacher:
        if plan:
            print_plan(teacher, first_requests(teacher, settings), "Categories and sentences")
            return
        if (output / ABOUT).is_file():
            made = read_about(output)
            if (made.settings, made.teacher) != (vars(settings), identity(teacher.questions)):
                raise UserError(f"{output} holds a collection made with other settings.", "Choose another folder.")
            print(f"{output / TASKS}: made earlier, {made.counts['tasks']} tasks.")
            return
        check_free(output)
        say_price(teacher, first_requests(teacher, settings))
        generated = generate(teacher, settings)
        save(output, generated, teacher, settings, licence)
    splits = ", ".join(f"{n} {split}" for split, n in generated.splits().items())
    print(f"{output / TASKS}: {len(generated.tasks)} tasks ({splits}).")
    say_rejected(generated.rejected)


@generate.command()
def paraphrases(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="TASKS...", help="Task files or folders of them; with --dod, the folder of the collection."
        ),
    ],
    model: Model,
    n: Annotated[int, typer.Option("-n", min=1, help="Paraphrases of each instruction.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="For task files: a new folder, for copies that have the paraphrases in their headers. With --dod: a "
            "new file; as paraphrases.jsonl in the collection's folder it is read with it.",
        ),
    ],
    dod: Annotated[
        str | None, typer.Option(help="The collection that TASKS is a folder of, such as keyword-classification.")
    ] = None,
    base_url: BaseUrl = OPENAI,
    key_env: KeyEnv = "OPENAI_API_KEY",
    parameters: Parameters = None,
    seed: Seed = 0,
    ledger: LedgerFile = LEDGER,
    prices: Prices = None,
    plan: Plan = False,
    max_cost: MaxCost = None,
    concurrency: Concurrency = 32,
    timeout: Timeout = 120.0,
    attempts: Attempts = 8,
) -> None:
    """Other phrasings of instructions, so that a translator does not learn a single one.

    [bold]Example:[/bold] soft2hard generate paraphrases mine/ --model gpt-4.1-mini -n 4 -o mine-paraphrased
    """
    from soft2hard.data_gen.paraphrasing import check_names, originals, paraphrase, paraphrase_request
    from soft2hard.data_gen.taskfiles import find_task_files, read_tasks

    call = Call(
        *(model, base_url, key_env, parameters or (), seed, ledger, prices, max_cost, concurrency, timeout, attempts)
    )
    if dod is None:
        files = find_task_files(paths)
        check_names(files)
        tasks = read_tasks(files)
    else:
        files, tasks = [], _tasks_of(dod, paths)
    wanted = originals(tasks)
    if not wanted:
        raise UserError(f"None of the {len(tasks)} tasks has an instruction.", "Write some: docs/task-files.md.")
    with teacher_of(call) as teacher:
        stages = {"paraphrases": [paraphrase_request(teacher.questions, one, n, 0) for one in wanted]}
        if plan:
            print_plan(teacher, stages, "Instructions")
            return
        check_free(output, is_file=dod is not None)
        say_price(teacher, stages)
        found = paraphrase(teacher, wanted, n)
    instructions = [task.instruction for task in tasks]
    _save_paraphrases(output, list(zip(files, instructions, strict=True)) if files else None, found)
    _say_paraphrases(output, found, wanted, n)


def _tasks_of(dod: str, paths: Sequence[Path]) -> list:
    """All tasks of a collection."""
    from soft2hard.data_gen.dods.registry import FOLDER_DODS
    from soft2hard.data_gen.tasks import SPLITS

    if dod not in FOLDER_DODS:
        raise UserError(f"There is no collection '{dod}'.", f"There are {', '.join(FOLDER_DODS)}.")
    if len(paths) != 1 or not paths[0].exists():
        raise UserError(
            f"--dod {dod} takes one folder, and '{' '.join(map(str, paths))}' is none.", "Give the collection's folder."
        )
    collection = FOLDER_DODS[dod](paths[0])
    return [task for split in SPLITS for task in collection.tasks(split)]


def _save_paraphrases(output: Path, files: list[tuple[Path, str]] | None, found: "Paraphrased") -> None:
    from soft2hard.data_gen.paraphrasing import write_task_files
    from soft2hard.data_gen.teacher import json_lines
    from soft2hard.storage.files import atomic_write

    rejected = json_lines([asdict(item) for item in found.rejected])
    if files is not None:
        # Not .jsonl, since that would be one of the folder's task files.
        write_task_files(output, files, found.texts, {"rejected.txt": rejected})
        return
    rows = [{"instruction": text, "paraphrases": list(some)} for text, some in found.texts.items() if some]
    for path, text in ((output.with_name(f"{output.stem}.rejected.txt"), rejected), (output, json_lines(rows))):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _say_paraphrases(output: Path, found: "Paraphrased", wanted: "Sequence[Original]", n: int) -> None:
    counts = [len(found.texts[original.instruction]) for original in wanted]
    print(f"{output}: {sum(counts)} paraphrases of {len(wanted)} instructions.")
    if short := sum(count < n for count in counts):
        say(f"{short} instructions have fewer than {n}.")
    say_rejected(found.rejected)
