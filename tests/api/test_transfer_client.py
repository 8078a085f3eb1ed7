"""The client against a server that does everything wrong: what passes is asked again, what does not is said once."""

import asyncio
import json
import logging
import sys
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from soft2hard.api.answers import Answer, Fault, read_reply, retry_after
from soft2hard.api.asking import Asker, Means, Sender
from soft2hard.api.client import ApiClient, Limiter, Patience, read_key
from soft2hard.api.ledger import Claims, Ledger, Outcome
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel, Layout, Request, make_request
from soft2hard.errors import UserError
from tests.fault_server import KEY, TRANSIENT, FaultServer

QUICK = Patience(attempts=4, timeout=2.0, first_wait=0.01, longest_wait=0.05)


def request(model: ApiModel, word: str = "lion", **parameters: object) -> Request:
    return make_request(model, "Say it.", word, {"temperature": 0, "max_tokens": 5, **parameters})


def ask(
    server: FaultServer, patience: Patience = QUICK, layout: Layout = "chat", key: str = KEY
) -> tuple[Answer | Fault, list[Fault]]:
    """What comes of one request, and the faults met on the way."""
    met: list[Fault] = []

    async def on_fault(fault: Fault) -> None:
        met.append(fault)

    async def go() -> Answer | Fault:
        model = ApiModel("m", server.url, layout)
        async with ApiClient(model, 4, patience, key) as client:
            try:
                return await client.ask(request(model), on_fault)
            except Fault as fault:
                return fault

    return asyncio.run(go()), met


@pytest.mark.parametrize("layout", ["chat", "completion"])
def test_the_body_is_sent_exactly_as_the_request_has_it(layout: Layout):
    model = ApiModel("m", "http://x/v1", layout, parameters={"made_up_field": [1], "top_p": 0.5})
    with FaultServer() as server:
        model = ApiModel("m", server.url, layout, parameters=dict(model.parameters))

        async def go() -> Answer:
            async with ApiClient(model, 1, QUICK, KEY) as client:
                return await client.ask(request(model))

        answer = asyncio.run(go())
    text = "Say it.\nInput: lion\nOutput:"
    asked = {"messages": [{"role": "user", "content": text}]} if layout == "chat" else {"prompt": text}
    settings = {"temperature": 0, "max_tokens": 5, "seed": 0, "made_up_field": [1], "top_p": 0.5}
    assert server.seen == [{"model": "m"} | asked | settings]
    assert (answer.text, answer.input_tokens, answer.output_tokens, answer.refused) == (" lion", 10, 2, False)


def test_every_transient_fault_is_asked_again_until_there_is_an_answer():
    with FaultServer() as server:
        for fault in TRANSIENT:
            server.script, server.outcomes = [fault], []
            answer, met = ask(server)
            assert isinstance(answer, Answer) and answer.text == " lion", fault
            assert server.outcomes == [fault, "ok"] and len(met) == 1, fault


def test_replies_that_the_bare_client_takes_for_answers_are_told_apart():
    kinds = {"html": "html", "empty": "empty", "malformed": "malformed", "list": "malformed",
             "no_choices": "no_choices", "null_choices": "no_choices", "no_message": "malformed",
             "error_200": "error_body", "reset": "connection", "drop": "connection"}  # fmt: skip
    with FaultServer() as server:
        for fault, kind in kinds.items():
            server.script = [fault]
            assert [f.kind for f in ask(server)[1]] == [kind], fault


@pytest.mark.parametrize("fault", ["hang", "trickle"])
def test_a_server_that_hangs_or_trickles_is_left_after_the_time_limit(fault: str):
    with FaultServer([fault]) as server:
        answer, met = ask(server, Patience(attempts=8, timeout=1.0, first_wait=0.01))
    # A busy machine may miss the limit by itself, too.
    assert isinstance(answer, Answer) and {f.kind for f in met} == {"timeout"}


@pytest.mark.parametrize(
    ("fault", "kind", "stops"),
    [("400", "rejected", False), ("422", "rejected", False), ("too_long", "too_long", False), ("401", "auth", True),
     ("404", "unknown_model", True), ("quota", "quota", True), ("quota_200", "quota", True)],
)  # fmt: skip
def test_what_asking_again_would_not_mend_is_asked_once(fault: str, kind: str, stops: bool):
    with FaultServer([fault] * 3) as server:
        result, _ = ask(server)
    assert isinstance(result, Fault)
    assert (result.kind, result.stops, server.outcomes) == (kind, stops, [fault])


@pytest.mark.parametrize("fault", ["policy", "refusal", "filtered"])
def test_a_refusal_is_an_answer_and_is_not_asked_again(fault: str):
    with FaultServer([fault]) as server:
        answer, met = ask(server)
    assert isinstance(answer, Answer) and answer.refused and not met and len(server.seen) == 1


def test_patience_ends():
    with FaultServer(["500"] * 9) as server:
        result, met = ask(server)
    assert isinstance(result, Fault) and len(met) == QUICK.attempts == len(server.seen)


def test_retry_after_is_honoured():
    with FaultServer(["429_after"]) as server:
        server.retry_after = "0.7"
        answer, _ = ask(server)
    assert isinstance(answer, Answer) and server.times[1] - server.times[0] >= 0.7


def test_a_server_that_asks_for_hours_is_given_up_at_once():
    with FaultServer(["429_after"] * 3) as server:
        server.retry_after = "7200"
        started = time.monotonic()
        result, _ = ask(server)
    assert isinstance(result, Fault) and result.retry_after == 7200 and len(server.seen) == 1
    assert time.monotonic() - started < 60


def test_retry_after_is_read_as_seconds_milliseconds_or_a_date():
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert 25 < (retry_after({"retry-after": date}) or 0) <= 30
    assert [retry_after({"retry-after": text}) for text in ("soon", "-1", "nan", "inf")] == [None] * 4
    assert retry_after({}) is None


def test_an_endpoint_that_is_not_there_is_unreachable_after_two_attempts():
    with FaultServer() as server:
        url = server.url
    server.port = int(url.split(":")[2].split("/")[0])
    result, met = ask(server)
    assert isinstance(result, Fault) and result.kind == "unreachable" and len(met) == 2


def test_concurrency_is_bounded_and_falls_to_what_the_headers_allow():
    def headers(server: FaultServer) -> dict[str, str]:
        return {"x-ratelimit-remaining-requests": "2"} if len(server.seen) > 8 else {}

    with FaultServer(latency=0.05, headers=headers) as server:
        model = ApiModel("m", server.url)

        async def go(n: int) -> Limiter:
            async with ApiClient(model, 8, QUICK, KEY) as client:
                await asyncio.gather(*(client.ask(request(model, f"w{i}")) for i in range(n)))
                return client.limiter

        limiter = asyncio.run(go(8))
        assert server.most_active <= 8 and limiter.limit == 8
        limiter = asyncio.run(go(30))
    assert limiter.limit < 3 and server.most_active <= 8


def test_the_limiter_pauses_when_nothing_is_left_until_the_reset_and_halves_once_for_a_burst():
    async def go() -> tuple[float, float, float]:
        limiter = Limiter(16)
        for _ in range(5):
            await limiter.throttled(sent_at=0.0 if limiter.limit == 16 else -1.0, wait=None)
        halved = limiter.limit
        await limiter.answered({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "0m0s300ms"})
        started = time.monotonic()
        async with limiter:
            return halved, time.monotonic() - started, limiter.limit

    halved, waited, limit = asyncio.run(go())
    assert halved == 8 and waited >= 0.29 and limit == 1


def test_the_key_is_in_no_fault_answer_or_log(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG):
        with FaultServer(answer=lambda text: f"your key is {KEY}") as server:
            answer, _ = ask(server)
            server.key = "sk-another-key-entirely"
            fault, met = ask(server)
    assert isinstance(answer, Answer) and isinstance(fault, Fault)
    assert KEY not in answer.text + answer.raw + str(fault) + repr(fault) + str(met)
    assert "[key]" in answer.text and "[key]" in fault.detail
    assert KEY not in caplog.text and len(caplog.text) > 100


def test_a_missing_or_impossible_key_is_said_without_showing_it(monkeypatch: pytest.MonkeyPatch):
    model = ApiModel("m", "https://api.example.com/v1", key_env="MY_KEY")
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError, match="MY_KEY is not set"):
        read_key(model)
    for key in ("sk-ab\ncd", "sk-äöü", "sk ab"):
        monkeypatch.setenv("MY_KEY", key)
        with pytest.raises(UserError) as caught:
            read_key(model)
        assert key not in str(caught.value)
    monkeypatch.delenv("MY_KEY")
    assert read_key(ApiModel("m", "http://127.0.0.1:8000/v1", key_env="MY_KEY")) == "none"
    with pytest.raises(UserError, match="user name, password or query"):
        ApiModel("m", "https://user:secret@api.example.com/v1")


@pytest.mark.parametrize("body", ["", "[]", "null", "{", '{"choices": {}}', '{"choices": [1]}', "\ud800", "<p>"])
def test_no_body_under_status_200_is_taken_for_an_answer(body: str):
    with pytest.raises(Fault):
        read_reply("chat", 200, body, {})


def test_an_empty_text_is_an_answer():
    reply = json.dumps({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]})
    assert read_reply("chat", 200, reply, {}).text == ""


def test_a_ledger_that_fails_in_mid_run_ends_the_run_after_the_answers_that_are_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They are paid for, so they are waited for and stored."""
    n_claims, claim = 0, Ledger.claim

    def failing(self: Ledger, *arguments: Any) -> Claims:
        nonlocal n_claims
        n_claims += 1
        if n_claims == 3:
            raise UserError("The disk is full.", "Free some space.")
        return claim(self, *arguments)

    monkeypatch.setattr(Ledger, "claim", failing)
    with FaultServer(latency=0.2) as server, Ledger(tmp_path / "ledger") as ledger:
        model = ApiModel("m", server.url)
        some = [request(model, f"w{i}") for i in range(20)]

        async def go() -> None:
            async with ApiClient(model, 4, QUICK, KEY) as client:
                await Sender(Means(client, ledger)).send(some, 4)

        with pytest.raises(UserError, match="disk is full"):
            asyncio.run(go())
        assert len(ledger.answers(one.key for one in some)) == len(server.seen) == sum(server.paid.values()) >= 4


# --- replies that hold no answer, or more than one ---------------------------------------------------


def reply(message: dict[str, Any], finish: str = "stop", usage: dict | None = None, **choice: object) -> str:
    """A chat completion under status 200."""
    choices = [{"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish} | choice]
    return json.dumps({"choices": choices} | ({"usage": usage} if usage else {}))


@pytest.mark.parametrize(
    ("message", "finish", "lack"),
    [
        ({"content": None, "reasoning_content": "let me think"}, "length", "cut off"),
        ({"content": "<think>Let me th"}, "length", "cut off"),
        ({"content": "", "reasoning_content": "it is an animal"}, "stop", "no text"),
        ({"content": " \n"}, "stop", "no text"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, "stop", "no text"),
        ({"content": None, "tool_calls": [{"function": {"name": "answer"}}]}, "tool_calls", "no text"),
        ({"content": "animal"}, "length", None),
        ({"content": None, "refusal": "I cannot."}, "stop", None),
    ],
)
def test_a_reply_without_words_says_what_it_lacks(message: dict, finish: str, lack: str | None):
    assert read_reply("chat", 200, reply(message, finish), {}).without_thinking().lack == lack


@pytest.mark.parametrize(
    "content",
    ["animal", "<think>\nA lion.\n</think>\n\nanimal", "A lion.\n</think>\nanimal",
     [{"type": "thinking"}, {"type": "text", "text": "animal"}]],
)  # fmt: skip
def test_the_answer_is_what_stands_after_the_thinking_or_in_the_parts_that_are_text(content: str | list):
    found = read_reply("chat", 200, reply({"content": content}), {})
    assert found.without_thinking().text == "animal"
    assert (found.input_tokens, found.output_tokens) == (None, None), "usage that is not given is unknown, not zero"


def test_thinking_is_stored_and_given_where_it_is_asked_for(tmp_path: Path):
    text = "<think>A lion.</think> animal <think>no</think>"
    with FaultServer(answer=lambda asked: text) as server:
        one = request(ApiModel("m", server.url))
        answer, _ = ask(server)
    for keep, wanted in ((False, "animal <think>no</think>"), (True, text)):
        with Ledger(tmp_path / "ledger", keep) as ledger:
            assert isinstance(answer, Answer)
            ledger.store([Outcome(one, answer)])
            assert ledger.answers([one.key])[one.key].text == wanted


def test_a_choice_with_an_error_is_a_passing_fault_and_asked_again():
    failed = {"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}
    for choice in ({}, {"error": {"code": 502, "message": "Provider returned error"}}):
        body = json.loads(json.dumps(failed))
        body["choices"][0] |= choice
        with pytest.raises(Fault) as caught:
            read_reply("chat", 200, json.dumps(body), {})
        assert caught.value.is_transient
    with FaultServer(["choice_error"]) as server:
        answer, met = ask(server)
    assert isinstance(answer, Answer) and answer.text == " lion" and [f.kind for f in met] == ["server_error"]


def test_half_a_character_is_replaced_so_that_the_answers_beside_it_are_kept(tmp_path: Path):
    with FaultServer(answer=lambda text: "animal\ud83d" if "w1" in text else "fruit") as server:
        model = ApiModel("m", server.url)
        some = [request(model, f"w{i}") for i in range(4)]
        for _ in range(2):
            found = Asker(model, tmp_path / "ledger", read_prices()).ask(some)
            assert [found.answers[r.key].text for r in some] == ["fruit", "animal\ufffd", "fruit", "fruit"]
        assert len(server.seen) == 4


def test_a_key_that_is_refused_as_a_bad_request_is_a_matter_of_the_key():
    body = '[{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}]'
    with pytest.raises(Fault) as caught:
        read_reply("chat", 400, body, {})
    assert caught.value.kind == "auth" and "API key not valid" in caught.value.detail


@pytest.mark.parametrize(
    ("name", "value"), [("ALL_PROXY", "socks5://127.0.0.1:9"), ("ALL_PROXY", "odd://x"), ("SSL_CERT_FILE", "/no/file")]
)
def test_a_proxy_or_certificate_of_the_environment_that_cannot_be_used_is_one_line(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv(name, value)
    if value.startswith("socks"):
        monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(UserError, match=f"No connection .*{name}"):
        Asker(ApiModel("m", "http://127.0.0.1:1/v1"), tmp_path / "ledger", read_prices()).ask([request(ApiModel("m"))])
