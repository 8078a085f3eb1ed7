"""Batches in the ledger: which requests are in which, and how far each has come.

A batch goes from 'new' (its requests are chosen) over 'uploaded' (its file is at the server) and 'running' (its id is
known) to 'done'. Each step is on disk before the next is taken, so a process that is killed leaves its batch to be
found: by its id, or by the name that it was created with.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from soft2hard.api.answers import Answer, Fault
from soft2hard.api.claims import OPEN_STATES, Claims, sort_out
from soft2hard.api.ledger import Ledger, Outcome, now
from soft2hard.api.prices import Price
from soft2hard.api.requests import ApiModel, Request


@dataclass(frozen=True)
class BatchRow:
    """A batch as the ledger has it."""

    id: int
    name: str
    """Ours, unique; sent as metadata when the batch is created."""
    run: int
    """The process that looks after it."""
    state: str
    file_id: str | None
    remote_id: str | None
    made: str
    requests: tuple[Request, ...]

    @property
    def by_key(self) -> dict[str, Request]:
        return {request.key: request for request in self.requests}


def make_batch(
    ledger: Ledger, model: ApiModel, requests: Sequence[Request], price: Price | None, max_cost: float | None
) -> tuple[BatchRow | None, Claims]:
    """Put what may be sent of the requests into a new batch, as `claim` would; None where there is nothing."""
    bounds = [price.bound(request, batch=True) if price else None for request in requests]
    bound = dict(zip((request.key for request in requests), bounds, strict=True))
    with ledger.transaction() as database:
        claims = sort_out(database, requests, bounds, max_cost)
        if not claims.taken:
            return None, claims
        name, made = uuid.uuid4().hex, now()
        row = (name, ledger.run, model.base_url, model.name, model.layout, made)
        batch = database.execute("INSERT INTO batch VALUES (NULL, ?, ?, ?, ?, ?, NULL, NULL, 'new', ?)", row).lastrowid
        assert batch is not None
        for request in claims.taken:
            ledger.add(database, request)
            database.execute("INSERT INTO batch_item VALUES (?, ?, ?)", (batch, request.key, bound[request.key]))
    return BatchRow(batch, name, ledger.run, "new", None, None, made, tuple(claims.taken)), claims


def open_batches(ledger: Ledger, model: ApiModel) -> list[BatchRow]:
    """Batches of a model under way that this process may look after, adopting those whose process is gone.

    A batch that is running at the server may be looked after by several processes; before that only by one.
    """
    places = ", ".join("?" * len(OPEN_STATES))
    query = (
        "SELECT id, name, run, state, file_id, remote_id, made FROM batch "
        f"WHERE base_url = ? AND model = ? AND layout = ? AND state IN ({places}) ORDER BY id"
    )
    mine = []
    with ledger.transaction() as database:
        for id, name, run, *rest in database.execute(
            query, (model.base_url, model.name, model.layout, *OPEN_STATES)
        ).fetchall():
            state = rest[0]
            if run != ledger.run and not ledger.is_alive(run):
                database.execute("UPDATE batch SET run = ? WHERE id = ?", (ledger.run, id))
                run = ledger.run
            if run == ledger.run or state == "running":
                items = database.execute(
                    "SELECT body, repeat FROM batch_item JOIN request USING (key) WHERE batch = ? ORDER BY key", (id,)
                )
                requests = tuple(
                    Request(model.base_url, model.layout, json.loads(body), repeat) for body, repeat in items
                )
                mine.append(BatchRow(id, name, run, *rest, requests))
    return mine


def any_open(ledger: Ledger, model: ApiModel) -> bool:
    """Whether a model has batches under way, whoever looks after them."""
    places = ", ".join("?" * len(OPEN_STATES))
    query = f"SELECT 1 FROM batch WHERE base_url = ? AND model = ? AND layout = ? AND state IN ({places})"
    with ledger.transaction() as database:
        row = database.execute(query, (model.base_url, model.name, model.layout, *OPEN_STATES)).fetchone()
    return row is not None


def advance(ledger: Ledger, row: BatchRow, state: str, **columns: str) -> BatchRow:
    """Write down that a batch has come to a state; `columns`: its file_id or remote_id."""
    moved = replace(row, state=state, **columns)
    with ledger.transaction() as database:
        database.execute(
            "UPDATE batch SET state = ?, file_id = ?, remote_id = ? WHERE id = ? AND state != 'done'",
            (moved.state, moved.file_id, moved.remote_id, moved.id),
        )
    return moved


def finish(ledger: Ledger, row: BatchRow, results: Mapping[str, Answer | Fault], price: Price | None) -> None:
    """Store what came of a batch and end it, in one transaction; nothing where another process has done so."""
    requests = row.by_key
    with ledger.transaction() as database:
        (state,) = database.execute("SELECT state FROM batch WHERE id = ?", (row.id,)).fetchone()
        if state == "done":
            return
        for key, result in results.items():
            bound = price.bound(requests[key], batch=True) if price else None
            ledger.write(database, Outcome(requests[key], result, _cost(result, price), bound, via="batch"))
        database.execute("UPDATE batch SET state = 'done' WHERE id = ?", (row.id,))


def _cost(result: Answer | Fault, price: Price | None) -> float | None:
    if isinstance(result, Fault) or price is None or result.input_tokens is None or result.output_tokens is None:
        return None
    return price.cost(result.input_tokens, result.output_tokens, batch=True)
