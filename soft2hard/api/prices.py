"""What requests cost, from a table that the user can edit. A price that is not in it is unknown, never zero."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soft2hard.api.requests import ApiModel, Request
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

DEFAULT_PRICES = Path(__file__).parent / "prices.yaml"
_MILLION = 1_000_000
_SNAPSHOT = r"-\d{4}-?\d{2}-?\d{2}"


class Price(BaseModel):
    """What a model costs, USD for a million tokens. Discounts on cached input are not counted: it may cost less."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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
        """Whether this is the price of a model at an endpoint."""
        if self.base_url is not None and self.base_url.rstrip("/") != base_url:
            return False
        return re.fullmatch(re.escape(self.model) + f"(?:{_SNAPSHOT})?", model) is not None


class PriceTable(BaseModel):
    """All prices there are; the first that holds counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(ge=1, le=1)
    models: tuple[Price, ...]

    def of(self, base_url: str, model: str) -> Price | None:
        """The price of a model, or None where it is unknown."""
        return next((price for price in self.models if price.holds_for(base_url, model)), None)


def read_prices(path: Path = DEFAULT_PRICES) -> PriceTable:
    """The table in a YAML file. Raises UserError with all its problems at once."""
    try:
        return PriceTable.model_validate(read_yaml(path, "a table of prices"))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the table'}: {e['msg']}" for e in error.errors())
        raise UserError(
            f"{path}: {problems}.", f"Each model needs model, input, output, date and source; see {DEFAULT_PRICES}."
        ) from error


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


def total(costs: Sequence[float | None]) -> float | None:
    """The sum, unknown where a part of it is."""
    known = [cost for cost in costs if cost is not None]
    return sum(known, 0.0) if len(known) == len(costs) else None
