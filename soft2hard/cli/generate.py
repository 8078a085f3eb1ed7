"""soft2hard generate: tasks and paraphrases, written by a model behind an API."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from pydantic import Field, NonNegativeFloat, PositiveInt

from soft2hard.cli.common import AtLeast1, Output, flags_of, progress_bar, say
from soft2hard.cli.transfer import parsed_parameters
from soft2hard.errors import UserError
from soft2hard.settings import settings

if TYPE_CHECKING:
    from soft2hard.api.requests import Request
    from soft2hard.data_gen.paraphrasing import Original, Paraphrased
    from soft2hard.data_gen.teacher import Rejected, Teacher


@settings
class Asking:
    """How a teacher is asked."""

    base_url: str = "https://api.openai.com/v1"
    """Endpoint of the teacher, compatible with OpenAI's."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key."""
    parameter: tuple[str, ...] = ()
    """NAME=VALUE (JSON or text) sent with every request; null leaves a default (temperature, max_tokens, seed) out.
    Repeatable."""
    seed: int = 0
    """Sent with every request; another seed has other answers."""
    ledger: Path = Path("runs/generate/ledger.sqlite")
    """Where every answer is kept; a rerun sends only what it lacks, for a larger number too."""
    prices: Path | None = None
    """Table of prices; the one that comes along if not given."""
    max_cost: NonNegativeFloat | None = None
    """US dollars that the ledger's requests may cost in all."""
    concurrency: PositiveInt = 32
    """Requests out at once, at most."""
    timeout: Annotated[float, Field(ge=0.1)] = 120.0
    """Seconds that one attempt may take."""
    attempts: PositiveInt = 8
    """Times that one request is sent, at most."""


Model = Annotated[str, Parameter(alias="-m", help="Name of the teacher, as its endpoint calls it.")]
Plan = Annotated[bool, Parameter(negative=(), help="Print requests, tokens and price; send and write nothing.")]
AskingFlags = flags_of(Asking, "Teacher")

generate = App(name="generate", help="Have a model behind an API write tasks or paraphrases.")


@generate.command(name="keyword-classification")
def keyword_classification(
    *,
    model: Model,
    output: Output,
    n_categories: AtLeast1,
    n_sentences: AtLeast1 = 30,
    licence: str | None = None,
    plan: Plan = False,
    asking: AskingFlags = Asking(),
) -> None:
    """Tasks of saying which of five classes a sentence is about, in the way of arXiv 2605.27642.

    **Example:** `soft2hard generate keyword-classification --model gpt-4.1-mini --n-categories 200 -o keywords --plan`

    Args:
        output: Folder of the collection; new, or made earlier.
        n_categories: Tasks: categories of five classes each.
        n_sentences: Sentences wanted of each class; one with fewer than half of them is not used.
        licence: Licence of the texts, saved with them; the terms of the service if not given.
    """
    from soft2hard.data_gen.dods.keyword_classification import ABOUT, TASKS, read_about
    from soft2hard.data_gen.dods.keyword_classification_generation import (
        Settings,
        first_requests,
        generate,
        identity,
        save,
    )

    settings = Settings(n_categories, n_sentences)
    with _teacher(model, asking) as teacher:
        if plan:
            _print_plan(teacher, first_requests(teacher, settings), "Categories and sentences")
            return
        if (output / ABOUT).is_file():
            made = read_about(output)
            if (made.settings, made.teacher) != (vars(settings), identity(teacher.questions)):
                raise UserError(f"{output} holds a collection made with other settings.", "Choose another folder.")
            print(f"{output / TASKS}: made earlier, {made.counts['tasks']} tasks.")
            return
        _check_free(output)
        _say_price(teacher, first_requests(teacher, settings))
        generated = generate(teacher, settings)
        save(output, generated, teacher, settings, licence)
    splits = ", ".join(f"{n} {split}" for split, n in generated.splits().items())
    print(f"{output / TASKS}: {len(generated.tasks)} tasks ({splits}).")
    _say_rejected(generated.rejected)


@generate.command
def paraphrases(
    paths: list[Path],
    /,
    *,
    model: Model,
    n: Annotated[AtLeast1, Parameter(name="-n")],
    output: Output,
    dod: str | None = None,
    plan: Plan = False,
    asking: AskingFlags = Asking(),
) -> None:
    """Other phrasings of instructions, so that a translator does not learn a single one.

    **Example:** `soft2hard generate paraphrases mine/ --model gpt-4.1-mini -n 4 -o mine-paraphrased`

    Args:
        paths: Task files or folders of them; with --dod, the folder of the collection.
        n: Paraphrases of each instruction.
        output: For task files: a new folder, for copies that have the paraphrases in their headers. With --dod: a new
            file; as paraphrases.jsonl in the collection's folder it is read with it.
        dod: The collection that TASKS is a folder of, such as keyword-classification.
    """
    from soft2hard.data_gen.paraphrasing import check_names, originals, paraphrase, paraphrase_request
    from soft2hard.data_gen.taskfiles import find_task_files, read_tasks

    if dod is None:
        files = find_task_files(paths)
        check_names(files)
        tasks = read_tasks(files)
    else:
        files, tasks = [], _tasks_of(dod, paths)
    wanted = originals(tasks)
    if not wanted:
        raise UserError(f"None of the {len(tasks)} tasks has an instruction.", "Write some: docs/task-files.md.")
    with _teacher(model, asking) as teacher:
        stages = {"paraphrases": [paraphrase_request(teacher.questions, one, n, 0) for one in wanted]}
        if plan:
            _print_plan(teacher, stages, "Instructions")
            return
        _check_free(output, is_file=dod is not None)
        _say_price(teacher, stages)
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
    _say_rejected(found.rejected)


@contextmanager
def _teacher(name: str, asking: Asking) -> "Iterator[Teacher]":
    """The teacher, with a bar of the answers that are still to come."""
    from soft2hard.api.asking import Asker
    from soft2hard.api.client import Patience
    from soft2hard.api.prices import read_prices
    from soft2hard.api.requests import ApiModel
    from soft2hard.data_gen.teacher import Questions, Teacher

    model = ApiModel(name, asking.base_url, key_env=asking.key_env)
    questions = Questions(model, parsed_parameters(asking.parameter), asking.seed)
    table = read_prices(asking.prices)
    patience = Patience(asking.attempts, asking.timeout)
    with progress_bar() as progress:
        bar, total = progress.add_task("Answers", total=0), 0

        def on_asking(n: int) -> None:
            nonlocal total
            total += n
            progress.update(bar, total=total)

        def on_settled(n: int) -> None:
            progress.advance(bar, n)

        asker = Asker(model, asking.ledger, table, asking.concurrency, patience, asking.max_cost, on_settled)
        yield Teacher(questions, asker, on_asking)


def _print_plan(teacher: "Teacher", stages: "Mapping[str, Sequence[Request]]", what: str) -> None:
    """Print what is to be asked at least, at what price, and a request of each stage; `what` may be asked for again."""
    from soft2hard.api.prices import estimate_table, sample_text

    estimates = teacher.estimates(stages)
    print(estimate_table(estimates, "stage"))
    print(f"{what} that come short are asked for again, which is not in this price; --max-cost bounds it all.")
    print(f"Price of {teacher.questions.model.title}: {estimates[0].price_source}.")
    for one in estimates:
        print(f"\n{sample_text(one)}")


def _say_price(teacher: "Teacher", stages: "Mapping[str, Sequence[Request]]") -> None:
    """Say what is to be asked at least, and at what price, before it is asked."""
    from soft2hard.api.prices import estimate_table

    say(estimate_table(teacher.estimates(stages), "stage"))


def _check_free(output: Path, is_file: bool = False) -> None:
    """Refuse a path that is in use before anything is paid for."""
    in_use = output.exists() and (is_file or not output.is_dir() or any(output.iterdir()))
    if in_use:
        raise UserError(f"{output} is in use.", "Choose a new path, or remove what is there.")


def _say_rejected(rejected: "Sequence[Rejected]") -> None:
    for (kind, reason), n in Counter((item.kind, item.reason) for item in rejected).most_common():
        say(f"rejected: {n} x {kind}, {reason}")
