"""soft2hard generate: tasks and paraphrases, written by a model behind an API."""

from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from pydantic import Field, NonNegativeFloat, PositiveInt

from soft2hard.cli.common import AtLeast1, Output, flags_of, parsed_pairs, progress_bar, say
from soft2hard.errors import UserError
from soft2hard.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from soft2hard.api.requests import Request
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
        first_requests,
        generate,
        identity,
        save,
        splits,
    )

    settings = {"n_categories": n_categories, "n_sentences": n_sentences}
    with _teacher(model, asking) as teacher:
        if (output / ABOUT).is_file() and not plan:
            made = read_about(output)
            if (made.settings, made.teacher) != (settings, identity(teacher)):
                raise UserError(f"{output} holds a collection made with other settings.", "Choose another folder.")
            print(f"{output / TASKS}: made earlier, {made.counts['tasks']} tasks.")
            return
        if _is_plan(plan, output, teacher, first_requests(teacher, **settings)):
            return
        tasks, rejected = generate(teacher, **settings)
        save(output, tasks, rejected, teacher, settings, licence)
    by_split = ", ".join(f"{n} {split}" for split, n in splits(tasks).items())
    print(f"{output / TASKS}: {len(tasks)} tasks ({by_split}).")
    _say_rejected(rejected)


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
    from soft2hard.data_gen.paraphrasing import check_names, originals, paraphrase, paraphrase_request, save
    from soft2hard.data_gen.taskfiles import find_task_files, read_tasks

    files = find_task_files(paths) if dod is None else []
    check_names(files)
    tasks = read_tasks(files) if dod is None else _tasks_of(dod, paths)
    wanted = originals(tasks)
    if not wanted:
        raise UserError(f"None of the {len(tasks)} tasks has an instruction.", "Write some: docs/task-files.md.")
    with _teacher(model, asking) as teacher:
        stages = {"paraphrases": [paraphrase_request(teacher, one, n, 0) for one in wanted]}
        if _is_plan(plan, output, teacher, stages, is_file=dod is not None):
            return
        found, rejected = paraphrase(teacher, wanted, n)
    instructions = [task.instruction for task in tasks]
    save(output, found, rejected, list(zip(files, instructions, strict=True)) if dod is None else None)
    print(f"{output}: {sum(map(len, found.values()))} paraphrases of {len(wanted)} instructions.")
    if short := sum(len(some) < n for some in found.values()):
        say(f"{short} instructions have fewer than {n}.")
    _say_rejected(rejected)


def _tasks_of(dod: str, paths: "Sequence[Path]") -> list:
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


@contextmanager
def _teacher(name: str, asking: Asking) -> "Iterator[Teacher]":
    """The teacher, with a bar of the answers that are still to come."""
    from soft2hard.api.asking import Asker
    from soft2hard.api.client import Patience
    from soft2hard.api.prices import read_prices
    from soft2hard.api.requests import ApiModel
    from soft2hard.data_gen.teacher import Teacher

    model = ApiModel(name, asking.base_url, key_env=asking.key_env)
    parameters, prices = parsed_pairs(asking.parameter, "--parameter"), read_prices(asking.prices)
    patience = Patience(asking.attempts, asking.timeout)
    with progress_bar() as progress:
        bar = progress.add_task("Answers", total=0)
        asker = Asker(
            model, asking.ledger, prices, asking.concurrency, patience, asking.max_cost,
            on_settled=lambda n: progress.advance(bar, n),
        )  # fmt: skip
        yield Teacher(asker, parameters, asking.seed, lambda n: progress.update(bar, total=progress.tasks[0].total + n))


def _is_plan(
    plan: bool, output: Path, teacher: "Teacher", stages: "Mapping[str, Sequence[Request]]", is_file: bool = False
) -> bool:
    """Tell what is to be asked at least, and at what price; with `plan`, a request of each stage as well.

    Raises UserError for a path that is in use, before anything is paid for, unless it is a plan alone.
    """
    from soft2hard.api.prices import estimate_table, sample_text

    if not plan and output.exists() and (is_file or not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is in use.", "Choose a new path, or remove what is there.")
    estimates = [teacher.asker.estimate(requests, stage) for stage, requests in stages.items()]
    if not plan:
        say(estimate_table(estimates, "stage"))
        return False
    print(estimate_table(estimates, "stage"))
    print("What comes short is asked for again, which is not in this price; --max-cost bounds it all.")
    print(f"Price of {teacher.model.title}: {estimates[0].price_source}.")
    for one in estimates:
        print(f"\n{sample_text(one)}")
    return True


def _say_rejected(rejected: "Sequence[Rejected]") -> None:
    for (kind, reason), n in Counter((item.kind, item.reason) for item in rejected).most_common():
        say(f"rejected: {n} x {kind}, {reason}")
