"""The Batch API: everything is answered once, whatever becomes of batches and of this process."""

import asyncio
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from soft2hard.api.answers import Fault
from soft2hard.api.asking import Means, Sent
from soft2hard.api.batch import BatchSender, adopted, any_open, input_line, read_lines, split
from soft2hard.api.client import ApiClient, Patience
from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import Price
from soft2hard.api.requests import ApiModel, Request, make_request
from tests.fault_server import KEY, BatchScript, FaultServer

QUICK = Patience(attempts=4, timeout=5.0, first_wait=0.01, longest_wait=0.05)
PRICE = Price(model="m", input=1e6, output=1e6, batch=0.5, date="2026-01-01", source="a test")


def model(server: FaultServer) -> ApiModel:
    return ApiModel("m", server.url)


def requests(server: FaultServer, n: int) -> list[Request]:
    return [make_request(model(server), "Say it.", f"w{i}", {"max_tokens": 5}) for i in range(n)]


def send(server: FaultServer, path: Path, n: int, price: Price | None = None, max_cost: float | None = None) -> Sent:
    async def go(ledger: Ledger) -> Sent:
        async with ApiClient(model(server), 4, QUICK, KEY) as client:
            return await BatchSender(Means(client, ledger, price, max_cost), poll_seconds=0.02).send(
                requests(server, n)
            )

    with Ledger(path) as ledger:
        return asyncio.run(go(ledger))


def texts(server: FaultServer, path: Path, n: int) -> list[str | None]:
    with Ledger(path) as ledger:
        found = ledger.answers(r.key for r in requests(server, n))
    return [found[r.key].text if r.key in found else None for r in requests(server, n)]


def all_answers(n: int) -> list[str]:
    return [f" w{i}" for i in range(n)]


def test_results_in_any_order_find_their_requests_and_a_rerun_sends_nothing(tmp_path: Path):
    with FaultServer(key=KEY) as server:
        for _ in range(2):
            assert not send(server, tmp_path / "l", 20).faults
        assert texts(server, tmp_path / "l", 20) == all_answers(20)
        assert len(server.batches) == 1 and set(server.paid.values()) == {1} and not server.seen


def test_what_failed_expired_or_was_passed_over_is_sent_again_and_nothing_else_is(tmp_path: Path):
    scripts = [
        BatchScript(failing={0: "500", 1: "429", 2: "silent", 3: "policy", 4: "400"}),
        BatchScript(status="expired", answered=1),
        BatchScript(),
    ]
    with FaultServer(batches=scripts) as server:
        sent = send(server, tmp_path / "l", 8)
        sizes = [len(server.files[b["input_file_id"]].splitlines()) for b in server.batches.values()]
        assert sizes == [8, 3, 2]
        found = texts(server, tmp_path / "l", 8)
        assert set(server.paid.values()) == {1}
    assert [kind.kind for kind in sent.faults.values()] == ["rejected"]
    assert found.count(None) == 1 and found.count("flagged by policy") == 1
    assert len([t for t in found if t and t.startswith(" w")]) == 6


def test_a_failed_batch_is_tried_again_in_halves_where_the_queue_was_full_and_else_not(tmp_path: Path):
    for code, kind, sizes in (("token_limit_exceeded", None, [4, 2, 2]), ("invalid_json_line", "rejected", [4])):
        script = BatchScript(status="failed", errors=[{"code": code, "message": "no"}])
        with FaultServer(batches=[script]) as server:
            sent = send(server, tmp_path / code, 4)
            assert [len(server.files[b["input_file_id"]].splitlines()) for b in server.batches.values()] == sizes
            assert {fault.kind for fault in sent.faults.values()} == ({kind} if kind else set())


def test_an_exhausted_quota_makes_one_batch_and_stops(tmp_path: Path):
    script = BatchScript(status="failed", errors=[{"code": "insufficient_quota", "message": "no"}])
    with FaultServer(batches=[script]) as server:
        sent = send(server, tmp_path / "l", 3)
        assert len(server.batches) == 1 and {fault.kind for fault in sent.faults.values()} == {"quota"}


def test_a_batch_whose_reply_was_lost_is_found_by_its_name_and_not_made_twice(tmp_path: Path):
    with FaultServer(batches=[BatchScript(lose_reply=True)]) as server:
        assert not send(server, tmp_path / "l", 5).faults
        assert len(server.batches) == 1 and texts(server, tmp_path / "l", 5) == all_answers(5)


def test_damaged_result_files_are_downloaded_again(tmp_path: Path):
    with FaultServer(["malformed"]) as server:
        assert not send(server, tmp_path / "l", 5).faults
        assert len(server.batches) == 1 and set(server.paid.values()) == {1}


@pytest.mark.parametrize("state", ["new", "uploaded", "created", "running"])
def test_a_batch_is_picked_up_from_wherever_a_killed_process_left_it(tmp_path: Path, state: str):
    with FaultServer() as server:
        process = multiprocessing.get_context("fork").Process(target=_leave, args=(server.url, tmp_path / "l", state))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert not send(server, tmp_path / "l", 6).faults
        assert len(server.batches) == 1 and set(server.paid.values()) == {1}
        assert texts(server, tmp_path / "l", 6) == all_answers(6)


def _leave(url: str, path: Path, state: str) -> None:
    """Take a batch as far as `state`, then be killed. 'created': the server has it, its id was not stored."""
    server = FaultServer(port=int(url.split(":")[2].split("/")[0]))
    ledger = Ledger(path)
    ledger.claim(requests(server, 6), [None] * 6, batch="mine")
    [row] = adopted(ledger, model(server))

    async def go() -> None:
        async with ApiClient(model(server), 4, QUICK, KEY) as client:
            sender = BatchSender(Means(client, ledger))
            file_id = await sender._upload(row)
            uploaded = await sender._advance(row, "uploaded", file_id=file_id)
            if state != "uploaded":
                remote_id = await sender._create(uploaded, False)
                if state == "running":
                    await sender._advance(uploaded, "running", remote_id=remote_id)

    if state != "new":
        asyncio.run(go())
    os.kill(os.getpid(), signal.SIGKILL)


def test_two_processes_with_the_same_requests_make_one_batch(tmp_path: Path):
    with FaultServer(batches=[BatchScript(polls=5)]) as server:
        Ledger(tmp_path / "l").close()
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=send, args=(server, tmp_path / "l", 10)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [p.exitcode for p in processes] == [0, 0]
        assert len(server.batches) == 1 and set(server.paid.values()) == {1}
        assert texts(server, tmp_path / "l", 10) == all_answers(10)


def test_requests_in_a_batch_under_way_are_not_sent_online(tmp_path: Path):
    with FaultServer() as server, Ledger(tmp_path / "l") as ledger:
        some = requests(server, 3)
        ledger.claim(some[:2], [None] * 2, batch="mine")
        claims = ledger.claim(some, [None] * 3)
        assert (claims.taken, claims.busy) == (some[2:], some[:2]) and any_open(ledger, model(server))


def test_the_batch_price_and_the_limit_on_cost_hold(tmp_path: Path):
    with FaultServer() as server:
        bound = PRICE.bound(requests(server, 1)[0], batch=True)
        assert bound is not None
        limit = 1.2 * bound
        sent = send(server, tmp_path / "l", 6, PRICE, max_cost=limit)
        with Ledger(tmp_path / "l") as ledger:
            answers = ledger.answers(r.key for r in requests(server, 6))
            known = ledger.spent().known
    # Every answer costs 0.5 * (10 + 2) dollars, less than its bound, so that a second batch has room for one more.
    assert {a.price for a in answers.values()} == {6.0} and known == 6.0 * len(answers)
    assert sent.over_budget and len(answers) == 2 and known <= limit < known + bound


def test_files_hold_as_many_requests_as_the_api_takes_and_no_key(monkeypatch: pytest.MonkeyPatch):
    model = ApiModel("m")
    request = make_request(model, "Say it.", "w", {})
    assert b'"custom_id": "' + request.key.encode() in input_line(request) and KEY.encode() not in input_line(request)
    assert [len(part) for part in split([request] * 7, 3)] == [3, 3, 1]
    monkeypatch.setattr("soft2hard.api.batch.MOST_BYTES", 2 * len(input_line(request)))
    assert [len(part) for part in split([request] * 5)] == [2, 2, 1]
    with pytest.raises(Fault):
        read_lines('{"custom_id": "a"}\n{"custom')


def test_a_killed_process_that_was_polling_loses_nothing(tmp_path: Path):
    with FaultServer(batches=[BatchScript(polls=10**6)]) as server:
        process = multiprocessing.get_context("fork").Process(target=send, args=(server, tmp_path / "l", 4))
        process.start()
        deadline = time.monotonic() + 60
        while not server._polls and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        server.batches["batch-0"]["_script"].polls = 0
        assert not send(server, tmp_path / "l", 4).faults
        assert len(server.batches) == 1 and set(server.paid.values()) == {1}
