"""What requests come to before they are sent: how many, how long, at what price."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import PriceTable, money, total
from soft2hard.api.requests import ApiModel, Request


@dataclass(frozen=True)
class Estimate:
    """What a list of requests to one model comes to."""

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
    model: ApiModel,
    requests: Sequence[Request],
    ledger: Ledger | None,
    prices: PriceTable,
    batch: bool = False,
    title: str | None = None,
) -> Estimate:
    """What distinct requests to a model come to, of which there is at least one; without a ledger none is answered."""
    stored = ledger.answers(r.key for r in requests) if ledger else {}
    to_send = [r for r in requests if r.key not in stored]
    n_in = sum(r.about_input_tokens for r in to_send)
    limits = [r.most_output_tokens for r in to_send]
    n_out = None if any(limit is None for limit in limits) else sum(limit or 0 for limit in limits)
    price = prices.of(model.base_url, model.name)
    cost = None if price is None or n_out is None else price.cost(n_in, n_out, batch)
    source = f"{price.date.isoformat()}, {price.source}" if price else "unknown"
    return Estimate(title or model.title, len(requests), len(stored), n_in, n_out, cost, source, requests[0])


def estimate_table(estimates: Sequence[Estimate], head: str = "model") -> str:
    """Requests, tokens and price of each, and the price of all, as Markdown; `head` says what the rows are."""
    lines = [
        f"| {head} | requests | answered already | input tokens, about | output tokens, at most "
        "| price, about at most |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {table_cell(e.model)} | {e.n_requests} | {e.n_stored} | {e.input_tokens} | "
        f"{'no limit' if e.output_tokens is None else e.output_tokens} | {money(e.price)} |"
        for e in estimates
    ]
    return "\n".join([*lines, "", f"Price of all: {money(total([e.price for e in estimates]))}."])


def sample_text(e: Estimate) -> str:
    """One request exactly as it would be sent."""
    shown = json.dumps(e.sample.body, indent=1, ensure_ascii=False)
    return f"The first request for {e.model}, as sent to {e.sample.base_url}:\n{shown}"


def table_cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|")
