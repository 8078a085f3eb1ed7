"""Prices: from the list of genai-prices and the user's own table; unknown ones are never zero."""

import socket
from pathlib import Path

import pytest

from soft2hard.api.prices import Price, PriceTable, estimate, money, read_prices, total
from soft2hard.api.requests import ApiModel, make_request
from soft2hard.errors import UserError

OPENAI = "https://api.openai.com/v1"
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai"
OWN = """
schema_version: 1
models:
  - {model: gpt-4.1, base_url: "https://api.openai.com/v1", input: 1, output: 2, date: 2026-01-01, source: mine}
  - {model: m, input: 1000, output: 10000, batch: 0.5, date: 2026-01-01, source: a test}
"""


def test_listed_prices_have_a_source_and_hold_for_snapshots_at_the_vendors_endpoint_without_the_network(
    monkeypatch: pytest.MonkeyPatch,
):
    def refuse(*_: object) -> None:
        raise AssertionError("a price was looked for in the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    table = read_prices()
    found = table.of(OPENAI, "gpt-4.1-mini-2025-04-14")
    assert found is not None and found.model == "gpt-4.1-mini"
    assert found.cost(1_000_000, 500_000) == pytest.approx(0.40 + 0.80)
    assert found.cost(1_000_000, 500_000, batch=True) == pytest.approx(0.60)
    assert found.date is None or found.date.year >= 2026
    assert "genai-prices" in found.origin and "https://" in found.origin
    assert table.of(OPENAI, "gpt-4.1-mini-audio") is None
    assert table.of("http://127.0.0.1:8000/v1", "gpt-4.1-mini") is None
    embeddings = table.of(OPENAI, "text-embedding-3-small")
    assert embeddings is None, "no price for answers"


def test_a_price_that_rises_with_the_length_of_the_input_counts_for_each_request_apart():
    price = read_prices().of(GOOGLE, "gemini-2.5-pro")
    assert price is not None
    short, long = price.cost(1000, 0), price.cost(1_000_000, 0)
    assert long > 1.5 * 1000 * short
    requests = [make_request(ApiModel("m"), "word " * 2000, f"w{i}", {"max_tokens": 1}) for i in range(300)]
    tokens = [request.about_input_tokens for request in requests]
    found = estimate("m", requests, {}, price)
    assert sum(tokens) > 500_000 and found.price == pytest.approx(sum(price.cost(n, 1) for n in tokens))
    assert found.price < 0.7 * price.cost(sum(tokens), len(tokens))


def test_the_users_own_table_goes_before_the_list_and_shows_date_and_source(tmp_path: Path):
    (tmp_path / "prices.yaml").write_text(OWN)
    table = read_prices(tmp_path / "prices.yaml")
    own, listed = table.of(OPENAI, "gpt-4.1"), table.of(OPENAI, "gpt-4.1-mini")
    assert own is not None and own.cost(1_000_000, 0) == 1 and own.origin == "2026-01-01, mine"
    assert listed is not None and "genai-prices" in listed.origin
    assert table.of("http://anywhere/v1", "m") is not None and table.of("http://anywhere/v1", "gpt-4.1") is None
    snapshot = table.of(OPENAI, "gpt-4.1-2025-04-14")
    assert snapshot is not None and snapshot.origin == "2026-01-01, mine"


def test_an_unknown_price_is_unknown_and_never_zero():
    assert (money(None), money(0.0), total([1.0, None]), total([])) == ("unknown", "$0.00", None, 0.0)
    assert PriceTable(schema_version=1, models=()).of(OPENAI, "m") is None


def test_the_bound_of_a_request_is_never_below_what_it_costs():
    price = Price(model="m", input=1.0, output=10.0, date="2026-01-01", source="a test")
    model = ApiModel("m")
    request = make_request(model, "Sag es. ÄÖÜ 日本語", "w", {"max_tokens": 7})
    one_token_a_byte = len(request.content.encode())
    bound = price.bound(request)
    assert bound is not None and bound >= price.cost(one_token_a_byte, 7)
    assert price.bound(make_request(model, "a", "w", {})) is None


@pytest.mark.parametrize(
    "text",
    ["models: 3", "schema_version: 2\nmodels: []", "{", "schema_version: 1\nmodels: [{model: m, input: -1, output: 1, "
     "date: 2026-01-01, source: x}]", "schema_version: 1\nmodels: [{model: m, input: 1, output: 1, source: x}]"],
)  # fmt: skip
def test_a_table_of_prices_with_mistakes_is_a_user_error(tmp_path: Path, text: str):
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(UserError):
        read_prices(tmp_path / "prices.yaml")
