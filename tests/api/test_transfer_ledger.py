"""The ledger: what is paid for is kept, found by what was asked, and never bought twice."""

import multiprocessing
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from soft2hard.api.answers import Answer, Fault
from soft2hard.api.batch import any_open
from soft2hard.api.ledger import SCHEMA_VERSION, Ledger, Outcome, Spent
from soft2hard.api.requests import ApiModel, Request, make_request, text_request
from soft2hard.errors import UserError
from tests.paths import ROOT

MODEL = ApiModel("m", "http://127.0.0.1:1/v1")


def requests(n: int, **parameters: object) -> list[Request]:
    return [make_request(MODEL, "Say it.", f"w{i}", {"max_tokens": 5, **parameters}) for i in range(n)]


def answer(text: str = "x", price: float | None = None) -> Answer:
    return Answer(text, False, "stop", 10, 2, "{}", price)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_the_key_tells_apart_all_that_may_change_an_answer():
    base = {"temperature": 0}
    other_models = [
        ApiModel("n", MODEL.base_url),
        ApiModel("m", "http://h/v1"),
        ApiModel("m", MODEL.base_url, "completion"),
    ]
    variants = [
        make_request(MODEL, "a", "w", base),
        make_request(MODEL, "b", "w", base),
        make_request(MODEL, None, "w", base),
        make_request(MODEL, "a", "v", base),
        make_request(MODEL, "a", "w", {"temperature": 1}),
        make_request(MODEL, "a", "w", base | {"top_p": 1}),
        make_request(MODEL, "a", "w", base | {"seed": None}),
        make_request(MODEL, "a", "w", base | {"seed": None}, repeat=1),
        make_request(MODEL, "a", "w", base, seed=1),
        *(make_request(model, "a", "w", base) for model in other_models),
    ]
    assert len({r.key for r in variants}) == len(variants)
    assert variants[0].key == make_request(MODEL, "a", "w", dict(base)).key
    assert len(variants[0].key) == 64


def test_what_is_stored_is_there_after_reopening_and_is_not_claimed_again(path: Path):
    first, second = requests(2)
    with Ledger(path) as ledger:
        assert ledger.claim([first, second], [None, None]).taken == [first, second]
        ledger.store([Outcome(first, answer("raw  Text.", 0.25))], release=[second])
    with Ledger(path) as ledger:
        assert ledger.answers([first.key, second.key]).keys() == {first.key}
        stored = ledger.answers([first.key])[first.key]
        assert (stored.text, stored.price, stored.input_tokens) == ("raw  Text.", 0.25, 10)
        claims = ledger.claim([first, second], [None, None])
        assert (claims.answered, claims.taken) == ([first], [second])
        ledger.store(release=[second])
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_first_answer_stays(path: Path):
    (request,) = requests(1)
    with Ledger(path) as ledger:
        ledger.store([Outcome(request, answer("first"))])
        ledger.store([Outcome(request, answer("second"))])
        assert ledger.answers([request.key])[request.key].text == "first"


def test_of_two_open_ledgers_one_has_a_request_and_the_other_finds_it_busy(path: Path):
    some = requests(3)
    with Ledger(path) as one, Ledger(path) as other:
        assert one.claim(some[:2], [None] * 2).taken == some[:2]
        claims = other.claim(some, [None] * 3)
        assert (claims.taken, claims.busy) == (some[2:], some[:2])
        assert other.drop_dead_claims() == 0
        one.store([Outcome(some[0], answer())], release=[some[1]])
        claims = other.claim(some[:2], [None] * 2)
        assert (claims.answered, claims.taken) == ([some[0]], [some[1]])


def test_claims_of_a_killed_process_are_freed_and_counted_as_possibly_paid(path: Path):
    (request,) = requests(1)
    code = (
        "import os, signal, sys; from tests.api.test_transfer_ledger import *\n"
        "ledger = Ledger(sys.argv[1]); ledger.claim(requests(1), [0.5]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT)
    assert killed.returncode == -9
    with Ledger(path) as ledger:
        assert ledger.claim([request], [0.5]).busy == [request]
        assert ledger.drop_dead_claims() == 1
        assert ledger.claim([request], [0.5]).taken == [request]
        assert ledger.spent().possible == 0.5
        assert [p.name for p in path.parent.glob("*.run-*")] == [f"{path.name}.run-{ledger.run}"]


def test_processes_that_claim_at_once_share_the_requests_out(path: Path):
    Ledger(path).close()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        taken = pool.map(_claim_all, [path] * 3)
    assert sorted(sum(taken, [])) == sorted(r.key for r in requests(40))


def _claim_all(path: Path) -> list[str]:
    """The keys this process got, answering each."""
    got = []
    with Ledger(path) as ledger:
        for request in requests(40):
            if ledger.claim([request], [None]).taken:
                ledger.store([Outcome(request, answer())])
                got.append(request.key)
    return got


def test_a_limit_on_cost_counts_answers_losses_and_what_others_have_under_way(path: Path):
    some = requests(8)
    with Ledger(path) as one, Ledger(path) as other:
        assert len(one.claim(some[:2], [0.25] * 2, 1.0).taken) == 2
        claims = other.claim(some[2:], [0.25] * 6, 1.0)
        assert (claims.taken, claims.too_dear) == (some[2:4], some[4:])
        one.store([Outcome(some[0], answer(price=0.125), bound=0.25)])
        one.store([Outcome(some[1], Fault("timeout", "lost"), bound=0.125)], release=[some[1]])
        assert one.claim(some[4:], [0.25] * 4, 1.0).taken == some[4:5]  # 0.125 + 0.125 + 0.5 are gone
        other.store([Outcome(some[2], Fault("rate_limited", "cost nothing"), bound=0.25)], release=some[2:4])
        assert one.claim(some[5:], [0.25] * 3, 1.0).taken == some[5:7]


def test_what_an_earlier_version_paid_for_is_found_and_its_open_claims_and_batches_are_taken_over(path: Path):
    """The file was written by the first release: an answer, a refusal, a lost one, a claim and a batch under way."""
    with sqlite3.connect(path) as database:
        database.executescript((ROOT / "tests" / "api" / "ledger_of_version_1.sql").read_text(encoding="utf-8"))
    database.close()
    chat = ApiModel("m", "https://api.example.com/v1/", parameters={"top_p": 0.5})
    plain = ApiModel("m", "https://api.example.com/v1", "completion", parameters={"seed": None})
    answered = make_request(chat, "Sag es: ä „日本“", 'w "0"', {"temperature": 0, "max_tokens": 5})
    refused = make_request(chat, None, "w1", {"max_tokens": 5}, repeat=1, seed=3)
    lost = make_request(plain, "Say it.", "w2", {"stop": ["\n"]})
    batched, claimed = (text_request(chat, f"Write {n} sentences.", {"temperature": 1}) for n in (3, 4))
    everything = [answered, refused, lost, batched, claimed]
    with Ledger(path) as ledger:
        found = ledger.answers(request.key for request in everything)
        assert found == {
            answered.key: Answer(" raw  Text.\n", False, "stop", 10, 2, price=0.25),
            refused.key: Answer("I cannot.", True, "content_filter", None, None),
        }
        assert ledger.last_faults([lost.key]) == {lost.key: ("timeout", "no reply within 2 s")}
        assert ledger.spent() == Spent(0.25, 1, 0.125) and any_open(ledger, chat)
        assert ledger.claim(everything, [None] * 5).busy == [batched, claimed]
        assert ledger.drop_dead_claims() == 1 and ledger.spent().possible == 0.125 + 0.0625
        assert ledger.claim([claimed], [None]).taken == [claimed]


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(path: Path):
    Ledger(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="newer version"):
        Ledger(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read" * 30, None])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(path: Path, content: bytes | None):
    if content is None:
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE mine (x)")
        database.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(UserError):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_full_disk_is_one_clear_error_and_what_was_stored_before_is_kept(path: Path):
    some = requests(200)
    with Ledger(path) as ledger:
        ledger.store([Outcome(some[0], answer())])
        (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match="full.*what was stored before is kept"):
            ledger.store([Outcome(request, answer("y" * 1000)) for request in some])
        assert ledger.answers(r.key for r in some).keys() == {some[0].key}
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_a_folder_that_cannot_be_written_to_is_a_user_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot use the ledger"):
        Ledger(tmp_path / "file" / "ledger.sqlite")
