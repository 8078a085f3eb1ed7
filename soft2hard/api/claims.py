"""Claims: who is about to send what, so that no two processes send the same and no limit on cost is passed."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from soft2hard.api.ledger import Ledger
from soft2hard.api.requests import Request

OPEN_STATES = ("new", "uploaded", "running")
"""States of a batch whose items are not to be sent again; the other is 'done'."""
_OPEN = ", ".join(f"'{state}'" for state in OPEN_STATES)
_COMMITTED = f"""
SELECT (SELECT coalesce(sum(coalesce(price, bound)), 0.0) FROM answer)
     + (SELECT coalesce(sum(bound), 0.0) FROM fault)
     + (SELECT coalesce(sum(bound), 0.0) FROM claim)
     + (SELECT coalesce(sum(bound), 0.0) FROM batch_item JOIN batch ON id = batch WHERE state IN ({_OPEN}))
"""


@dataclass(frozen=True)
class Claims:
    """What became of an attempt to claim requests; each is in one of the four, in the order given."""

    taken: list[Request] = field(default_factory=list)
    answered: list[Request] = field(default_factory=list)
    busy: list[Request] = field(default_factory=list)
    """Claimed by a process, or in a batch under way."""
    too_dear: list[Request] = field(default_factory=list)
    """Would pass the limit on cost."""


def claim(
    ledger: Ledger, requests: Sequence[Request], bounds: Sequence[float | None], max_cost: float | None = None
) -> Claims:
    """Take the requests that nobody has answered or is about to, as far as `max_cost` (USD) goes.

    `bounds` say what each may cost at most; they are needed where there is a `max_cost`. What all requests of the
    ledger have cost or may have cost counts, and so does what other processes have under way.
    """
    with ledger.transaction() as database:
        claims = sort_out(database, requests, bounds, max_cost)
        bound = dict(zip((request.key for request in requests), bounds, strict=True))
        for request in claims.taken:
            ledger.add(database, request)
            database.execute("INSERT INTO claim VALUES (?, ?, ?)", (request.key, ledger.run, bound[request.key]))
    return claims


def sort_out(
    database: sqlite3.Connection, requests: Sequence[Request], bounds: Sequence[float | None], max_cost: float | None
) -> Claims:
    """Which requests may be sent, within a transaction; a request that comes twice is busy the second time."""
    claims, taken = Claims(), set()
    budget = None if max_cost is None else max_cost - float(database.execute(_COMMITTED).fetchone()[0])
    for request, bound in zip(requests, bounds, strict=True):
        if _is_answered(database, request.key):
            claims.answered.append(request)
        elif request.key in taken or _is_busy(database, request.key):
            claims.busy.append(request)
        elif budget is not None and (bound is None or bound > budget):
            claims.too_dear.append(request)
        else:
            claims.taken.append(request)
            taken.add(request.key)
            budget = None if budget is None else budget - (bound or 0.0)
    return claims


def drop_dead_claims(ledger: Ledger) -> int:
    """End the claims of processes that are gone, and note their requests as possibly paid; how many there were."""
    with ledger.transaction() as database:
        runs = [run for (run,) in database.execute("SELECT DISTINCT run FROM claim") if not ledger.is_alive(run)]
        return sum(ledger.end_claims(database, run) for run in runs)


def _is_answered(database: sqlite3.Connection, key: str) -> bool:
    return database.execute("SELECT 1 FROM answer WHERE key = ?", (key,)).fetchone() is not None


def _is_busy(database: sqlite3.Connection, key: str) -> bool:
    in_batch = f"SELECT 1 FROM batch_item JOIN batch ON id = batch WHERE key = ? AND state IN ({_OPEN})"
    queries = ("SELECT 1 FROM claim WHERE key = ?", in_batch)
    return any(database.execute(query, (key,)).fetchone() for query in queries)
