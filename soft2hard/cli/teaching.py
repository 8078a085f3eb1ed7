"""What the commands that ask a teacher share: its options, the price of a plan, and what was rejected."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soft2hard.cli.common import progress_bar, say
from soft2hard.cli.transfer import parsed_parameters
from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.api.requests import Request
    from soft2hard.data_gen.teacher import Rejected, Teacher

Model = Annotated[str, typer.Option("--model", "-m", help="Name of the teacher, as its endpoint calls it.")]
BaseUrl = Annotated[str, typer.Option(help="Endpoint of the teacher, compatible with OpenAI's.")]
KeyEnv = Annotated[str, typer.Option(help="Environment variable that holds the key.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        help="NAME=VALUE (JSON or text) sent with every request; null leaves a default (temperature, max_tokens, seed) "
        "out. Repeatable.",
    ),
]
Seed = Annotated[int, typer.Option(help="Sent with every request; another seed has other answers.")]
LedgerFile = Annotated[
    Path, typer.Option(help="Where every answer is kept; a rerun sends only what it lacks, for a larger number too.")
]
Prices = Annotated[Path | None, typer.Option(help="Table of prices; the one that comes along if not given.")]
Plan = Annotated[bool, typer.Option("--plan", help="Print requests, tokens and price; send and write nothing.")]
MaxCost = Annotated[float | None, typer.Option(min=0, help="US dollars that the ledger's requests may cost in all.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests out at once, at most.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that one attempt may take.")]
Attempts = Annotated[int, typer.Option(min=1, help="Times that one request is sent, at most.")]

OPENAI = "https://api.openai.com/v1"
LEDGER = Path("runs/generate/ledger.sqlite")


@dataclass(frozen=True)
class Call:
    """How a teacher is called; see the options of these names."""

    model: str
    base_url: str
    key_env: str
    parameters: Sequence[str]
    seed: int
    ledger: Path
    prices: Path | None
    max_cost: float | None
    concurrency: int
    timeout: float
    attempts: int


@contextmanager
def teacher_of(call: Call) -> "Iterator[Teacher]":
    """The teacher, with a bar of the answers that are still to come."""
    from soft2hard.api.asking import Asker
    from soft2hard.api.client import Patience
    from soft2hard.api.prices import read_prices
    from soft2hard.api.requests import ApiModel
    from soft2hard.data_gen.teacher import Questions, Teacher

    model = ApiModel(call.model, call.base_url, key_env=call.key_env)
    questions = Questions(model, parsed_parameters(call.parameters), call.seed)
    table = read_prices(call.prices)
    patience = Patience(call.attempts, call.timeout)
    with progress_bar() as progress:
        bar, total = progress.add_task("Answers", total=0), 0

        def on_asking(n: int) -> None:
            nonlocal total
            total += n
            progress.update(bar, total=total)

        def on_settled(n: int) -> None:
            progress.advance(bar, n)

        asker = Asker(model, call.ledger, table, call.concurrency, patience, call.max_cost, on_settled)
        yield Teacher(questions, asker, on_asking)


def print_plan(teacher: "Teacher", stages: "Mapping[str, Sequence[Request]]", what: str) -> None:
    """Print what is to be asked at least, at what price, and a request of each stage; `what` may be asked for again."""
    from soft2hard.api.prices import estimate_table, sample_text

    estimates = teacher.estimates(stages)
    print(estimate_table(estimates, "stage"))
    print(f"{what} that come short are asked for again, which is not in this price; --max-cost bounds it all.")
    print(f"Price of {teacher.questions.model.title}: {estimates[0].price_source}.")
    for one in estimates:
        print(f"\n{sample_text(one)}")


def say_price(teacher: "Teacher", stages: "Mapping[str, Sequence[Request]]") -> None:
    """Say what is to be asked at least, and at what price, before it is asked."""
    from soft2hard.api.prices import estimate_table

    say(estimate_table(teacher.estimates(stages), "stage"))


def check_free(output: Path, is_file: bool = False) -> None:
    """Refuse a path that is in use before anything is paid for."""
    in_use = output.exists() and (is_file or not output.is_dir() or any(output.iterdir()))
    if in_use:
        raise UserError(f"{output} is in use.", "Choose a new path, or remove what is there.")


def say_rejected(rejected: "Sequence[Rejected]") -> None:
    for (kind, reason), n in Counter((item.kind, item.reason) for item in rejected).most_common():
        say(f"rejected: {n} x {kind}, {reason}")
