"""The cost of requests, before they are sent and after. A price that nobody knows is unknown, never zero.

Prices come from the list in the package `genai-prices`, read from disk and never from the network, and from a table
of the user's own, which goes first.
"""

import datetime
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from soft2hard.api.requests import ApiModel, Request, problems
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

N = TypeVar("N", int, float)
_MILLION = 1_000_000
_SNAPSHOT = r"-\d{4}-?\d{2}-?\d{2}"
_DATE = r"\b20\d\d-\d\d-\d\d\b"


class Price(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """The cost of a model, USD for a million tokens. Discounts on cached input are not counted: it may cost less."""

    model: str = Field(min_length=1)
    base_url: str | None = None
    """The endpoint the price holds for; None: any."""
    input: float = Field(ge=0)
    output: float = Field(ge=0)
    batch: float | None = Field(None, ge=0, le=1)
    """Factor for the Batch API; None: no discount is known, and the full price is counted."""
    date: datetime.date
    """When the price was read."""
    source: str = Field(min_length=1)

    def cost(self, input_tokens: int, output_tokens: int, batch: bool = False) -> float:
        """USD."""
        factor = self.batch if batch and self.batch is not None else 1.0
        return factor * (input_tokens * self.input + output_tokens * self.output) / _MILLION

    def bound(self, request: Request, batch: bool = False) -> float | None:
        """USD that a request can cost at most; None where its parameters put no limit to the answer."""
        most = request.most_output_tokens
        return None if most is None else self.cost(request.most_input_tokens, most, batch)

    def holds_for(self, base_url: str, model: str) -> bool:
        """True if this is the price of a model at an endpoint."""
        if self.base_url is not None and self.base_url.rstrip("/") != base_url:
            return False
        return re.fullmatch(re.escape(self.model) + f"(?:{_SNAPSHOT})?", model) is not None

    @property
    def origin(self) -> str:
        """Date, where it is known, and source."""
        return f"{self.date.isoformat()}, {self.source}" if self.date else self.source


class ListedPrice(Price):
    """A price of the list in `genai-prices`, which may rise with the length of the input."""

    date: datetime.date | None
    """The last date that the list gives for the model: when its price was checked, or from when it holds."""
    online: Any
    """`genai_prices.types.ModelPrice`."""
    in_batches: Any

    def cost(self, input_tokens: int, output_tokens: int, batch: bool = False) -> float:
        """USD."""
        from genai_prices import Usage

        price = self.in_batches if batch else self.online
        return float(price.calc_price(Usage(input_tokens=input_tokens, output_tokens=output_tokens))["total_price"])


class PriceTable(BaseModel, extra="forbid", frozen=True):
    """A user's prices, of which the first that holds counts; where none does, the list of `genai-prices`."""

    schema_version: int = Field(ge=1, le=1)
    models: tuple[Price, ...]

    def of(self, base_url: str, model: str) -> Price | None:
        """The price of a model, or None where it is unknown."""
        own = next((price for price in self.models if price.holds_for(base_url, model)), None)
        return own or _listed(base_url, model)


def _listed(base_url: str, name: str) -> ListedPrice | None:
    """The price in the list that comes with `genai-prices`. A model counts at the endpoints of its vendor alone."""
    from genai_prices.data_snapshot import get_snapshot  # here, since it takes a third of a second

    try:
        provider, model = get_snapshot().find_provider_model(name, None, None, base_url)
    except LookupError:
        return None
    now = datetime.datetime.now(datetime.timezone.utc)
    online = model.get_prices(now)
    if online.input_mtok is None or online.output_mtok is None:
        return None  # not a model that reads and writes text
    variants = getattr(model, "price_variants", None) or []  # older versions know no prices of batches
    parts = [*variants, *(model.prices if isinstance(model.prices, list) else [])]
    dates = [start for part in parts if (start := getattr(part.constraint, "start_date", None))]
    dates += map(datetime.date.fromisoformat, re.findall(_DATE, model.price_comments or ""))
    return ListedPrice(
        model=model.id,
        input=float(getattr(online.input_mtok, "base", online.input_mtok)),
        output=float(getattr(online.output_mtok, "base", online.output_mtok)),
        date=max((date for date in dates if date <= now.date()), default=None),
        source=f"genai-prices {version('genai-prices')}, {(provider.pricing_urls or [provider.name])[0]}",
        online=online,
        in_batches=model.get_prices(now, {"processing": "batch"}) if variants else online,
    )


def read_prices(path: Path | None = None) -> PriceTable:
    """The user's table in a YAML file, or none of his own. Raises UserError with all its problems at once."""
    if path is None:
        return PriceTable(schema_version=1, models=())
    try:
        return PriceTable.model_validate(read_yaml(path, "a table of prices"))
    except ValidationError as error:
        remedy = "Each model needs model, input, output, date and source; docs/transfer.md shows a table."
        raise UserError(f"{path}: {problems(error)}.", remedy) from error


def check_limit(model: ApiModel, price: Price | None, requests: Sequence[Request], max_cost: float | None) -> None:
    """Raise UserError where a limit on cost (USD) could not be kept: an unknown price, or answers of any length."""
    if max_cost is None:
        return
    if price is None:
        raise UserError(
            f"The price of '{model.title}' is unknown, so --max-cost cannot be kept.",
            "Add the model to a table of prices (--prices), or leave --max-cost out.",
        )
    if any(request.most_output_tokens is None for request in requests):
        raise UserError(
            f"Nothing bounds the answers of '{model.title}', so --max-cost cannot be kept.",
            "Set max_tokens or max_completion_tokens.",
        )


def money(usd: float | None) -> str:
    """A sum for people; None is 'unknown'."""
    if usd is None:
        return "unknown"
    return f"${usd:.2f}" if usd >= 1 or usd == 0 else f"${usd:.2g}" if usd >= 1e-4 else f"${usd:.1e}"


def total(parts: Sequence[N | None]) -> N | None:
    """The sum, unknown where a part of it is."""
    return None if None in parts else sum(parts)


@dataclass(frozen=True)
class Estimate:
    """Number, length and price of a list of requests to one model, before they are sent."""

    model: str
    """Its title, or what else the list is called by."""
    n_requests: int
    """Distinct ones: what is asked alike twice is sent once."""
    n_stored: int
    """Of these, answered already."""
    input_tokens: int
    """Of those to be sent, about: four bytes a token."""
    output_tokens: int | None
    """At most; None where the parameters set no limit."""
    price: float | None
    """USD, for about these input tokens and answers of full length; None where unknown."""
    price_source: str
    """Date and source of the price, or 'unknown'."""
    sample: Request
    """One of the requests, to be shown exactly as sent."""


def estimate(
    title: str, requests: Sequence[Request], stored: Collection[str], price: Price | None, batch: bool = False
) -> Estimate:
    """The estimate of distinct requests, at least one; `stored` are keys of those that are answered already."""
    to_send = [request for request in requests if request.key not in stored]
    tokens = [(request.about_input_tokens, request.most_output_tokens) for request in to_send]
    costs = [None if price is None or n_out is None else price.cost(n_in, n_out, batch) for n_in, n_out in tokens]
    n_in, n_out = sum(n_in for n_in, _ in tokens), total([n_out for _, n_out in tokens])
    cost, source = (None, "unknown") if price is None else (total([0.0, *costs]), price.origin)
    return Estimate(title, len(requests), len(requests) - len(to_send), n_in, n_out, cost, source, requests[0])


def estimate_table(estimates: Sequence[Estimate], head: str = "model") -> str:
    """Requests, tokens and price of each, and the price of all, as Markdown; `head` says what the rows are."""
    columns = ("requests", "answered already", "input tokens, about", "output tokens, at most", "price, about at most")
    rows = [
        (e.model, e.n_requests, e.n_stored, e.input_tokens,
         "no limit" if e.output_tokens is None else e.output_tokens, money(e.price))
        for e in estimates
    ]  # fmt: skip
    price = money(total([e.price for e in estimates]))
    return "\n".join([*table((head, *columns), rows), "", f"Price of all: {price}."])


def sample_text(e: Estimate) -> str:
    """One request exactly as it would be sent."""
    shown = json.dumps(e.sample.body, indent=1, ensure_ascii=False)
    return f"The first request for {e.model}, as sent to {e.sample.base_url}:\n{shown}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    cells = (" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in (head, *rows))
    first, *rest = (f"| {line} |" for line in cells)
    return [first, "|" + "---|" * len(head), *rest]
