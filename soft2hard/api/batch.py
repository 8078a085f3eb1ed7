"""Sending through the Batch API: cheaper, within a day, and paid once whatever happens to this process.

A batch goes from 'new' (its requests are chosen) over 'uploaded' (its file is at the server) and 'running' (its id is
known) to 'done'. Each step is on disk before the next is taken, so a process that is killed leaves its batch to be
found: by its id, or by the name that it was created with.
"""

import asyncio
import contextlib
import json
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from more_itertools import constrained_batches

from soft2hard.api.answers import Answer, Fault, error_fault, read_object, read_reply
from soft2hard.api.asking import Means, Sent
from soft2hard.api.ledger import OPEN_STATES, Claims, Ledger, Outcome
from soft2hard.api.requests import PATHS, ApiModel, Request

NAME_FIELD = "soft2hard_batch"
"""Metadata by which a batch is found again whose id was not stored in time."""
ENDED = ("completed", "failed", "expired", "cancelled")
MOST_REQUESTS = 50_000
MOST_BYTES = 190_000_000
"""Of one input file; the API's own bounds are 50,000 requests and 200 MB."""
_TRIES = 5
"""Batches that one request is put into, at most."""
_CLOCKS_APART = 86400.0  # seconds by which server and we may differ on when a batch was made


@dataclass(frozen=True)
class BatchRow:
    """A batch as the ledger has it."""

    id: int
    name: str
    """Ours, unique; sent as metadata when the batch is created."""
    state: str
    file_id: str | None
    remote_id: str | None
    made: str
    requests: tuple[Request, ...]


class BatchSender:
    """Sends requests of one model in batches, and collects those that earlier processes have left."""

    def __init__(
        self, means: Means, poll_seconds: float = 30.0, log: Callable[[str], None] = lambda line: None
    ) -> None:
        self._means, self._client, self._ledger = means, means.client, means.ledger
        self._poll_seconds, self._log = poll_seconds, log
        self._tries: Counter[str] = Counter()
        self._largest = MOST_REQUESTS
        self._stopped = asyncio.Event()
        self.sent = Sent()

    def stop(self) -> None:
        """Make no more batches; those under way stay at the server, to be collected by a rerun."""
        self._client.stopped = True
        self._stopped.set()

    async def send(self, requests: Sequence[Request]) -> Sent:
        """Have all requests answered. Raises Fault where the endpoint refuses batches."""
        while not self._stopped.is_set():
            await self.collect()
            if self._stopped.is_set():
                break
            claims = await asyncio.to_thread(self._make, [request for request in requests if self._may_try(request)])
            if not any(one.taken or one.busy for one in claims):
                break
            if not any(one.taken for one in claims):  # another process is asking them
                await self._sleep()
                await asyncio.to_thread(self._ledger.drop_dead_claims)
        return self.sent

    async def collect(self) -> None:
        """See all batches under way to their end, those of other processes too."""
        while not self._stopped.is_set() and any_open(self._ledger, self._client.model):
            rows = await asyncio.to_thread(adopted, self._ledger, self._client.model)
            await asyncio.gather(*map(self._see_through, rows))
            if not rows:  # another process is about to create one
                await self._sleep()

    def _may_try(self, request: Request) -> bool:
        fault = self.sent.faults.get(request.key)
        return fault is None or (fault.is_transient and self._tries[request.key] < _TRIES)

    def _make(self, requests: Sequence[Request]) -> list[Claims]:
        """Put requests into new batches in the ledger, as far as the limit on cost goes."""
        made: list[Claims] = []
        for part in split(requests, self._largest):
            bounds = [self._means.bound(request, batch=True) for request in part]
            made.append(self._ledger.claim(part, bounds, self._means.max_cost, batch=uuid.uuid4().hex))
            self.sent.over_budget = bool(made[-1].too_dear)
            if self.sent.over_budget:
                break
        return made

    async def _see_through(self, row: BatchRow) -> None:
        """Take a batch from wherever it is to its end."""
        may_exist = row.state != "new"
        if row.state == "new":
            row = await self._advance(row, "uploaded", file_id=await self._upload(row))
        if row.state == "uploaded":
            row = await self._advance(row, "running", remote_id=await self._create(row, may_exist))
            self._log(f"{self._client.model.title}: batch {row.remote_id} of {len(row.requests)} requests")
        batch = await self._poll(row)
        if batch is None:
            return  # stopped; the batch stays open
        results = await self._results(row, batch)
        await asyncio.to_thread(self._finish, row, results)
        for key, result in results.items():
            # A queue that is full says nothing about a request, unless it has no room for this one alone.
            self._tries[key] += not _is_full(result) or len(results) == 1
            if isinstance(result, Fault):
                self.sent.faults[key] = result
                if result.stops:
                    self.stop()
            else:
                self.sent.faults.pop(key, None)
                self._means.on_settled(1)

    async def _advance(self, row: BatchRow, state: str, **columns: str) -> BatchRow:
        """Write down that a batch has come to a state; `columns`: its file_id or remote_id."""
        moved = replace(row, state=state, **columns)
        with self._ledger.transaction() as database:
            database.execute(
                "UPDATE batch SET state = ?, file_id = ?, remote_id = ? WHERE id = ? AND state != 'done'",
                (moved.state, moved.file_id, moved.remote_id, moved.id),
            )
        return moved

    def _finish(self, row: BatchRow, results: Mapping[str, Answer | Fault]) -> None:
        """Store the results of a batch and end it, in one transaction; nothing where another process has done so."""
        with self._ledger.transaction() as database:
            if database.execute("SELECT state FROM batch WHERE id = ?", (row.id,)).fetchone() == ("done",):
                return
            for request in row.requests:
                result, bound = results[request.key], self._means.bound(request, batch=True)
                result = self._means.priced(result, batch=True) if isinstance(result, Answer) else result
                self._ledger.write(database, Outcome(request, result, bound, via="batch"))
            database.execute("UPDATE batch SET state = 'done' WHERE id = ?", (row.id,))

    async def _upload(self, row: BatchRow) -> str:
        content = b"".join(map(input_line, row.requests))
        send = self._client.api.files.with_raw_response.create
        reply = await self._patiently(lambda: send(file=(f"{row.name}.jsonl", content), purpose="batch"))
        return reply["id"]

    async def _create(self, row: BatchRow, may_exist: bool) -> str:
        """Create the batch, or find it where an earlier attempt did, whose reply was lost."""
        settings: dict[str, Any] = {
            "input_file_id": row.file_id,
            "endpoint": f"/v1{PATHS[self._client.model.layout]}",
            "completion_window": "24h",
            "metadata": {NAME_FIELD: row.name},
        }

        async def attempt() -> str:
            nonlocal may_exist
            found = await self._find(row) if may_exist else None
            may_exist = True
            return found or (await self._once(self._client.api.batches.with_raw_response.create(**settings)))["id"]

        return await self._client.patiently(attempt)

    async def _find(self, row: BatchRow) -> str | None:
        """The id of the batch of this name at the server, newest first, or None."""
        oldest = datetime.fromisoformat(row.made).timestamp() - _CLOCKS_APART
        after: dict[str, Any] = {}
        while True:
            page = await self._once(self._client.api.batches.with_raw_response.list(limit=100, **after))
            batches = page.get("data") or []
            for batch in batches:
                if (batch.get("metadata") or {}).get(NAME_FIELD) == row.name:
                    return batch["id"]
            if not batches or not page.get("has_more") or batches[-1].get("created_at", 0) < oldest:
                return None
            after = {"after": batches[-1]["id"]}

    async def _poll(self, row: BatchRow) -> dict | None:
        """The batch once it has ended, or None when stopped before."""
        while not self._stopped.is_set():
            batch = await self._patiently(lambda: self._client.api.batches.with_raw_response.retrieve(row.remote_id))
            if batch.get("status") in ENDED:
                return batch
            await self._sleep()
        return None

    async def _results(self, row: BatchRow, batch: dict) -> dict[str, Answer | Fault]:
        """The result of each request; where nothing is said of one, the fault that the batch's status stands for."""
        files = [batch[name] for name in ("output_file_id", "error_file_id") if batch.get(name)]
        lines = [line for id in files for line in await self._client.patiently(lambda id=id: self._download(id))]
        requests = {request.key: request for request in row.requests}
        results: dict[str, Answer | Fault] = {}
        for line in lines:  # lines of others are passed over; of two lines for one, an answer counts
            request = requests.get(line["custom_id"])
            if request is not None and not isinstance(results.get(request.key), Answer):
                results[request.key] = _read_line(request, line)
        rest = _fault_of_rest(batch)
        if _is_full(rest):
            self._largest = max(1, len(row.requests) // 2)
            await self._sleep()
        return {key: results.get(key, rest) for key in requests}

    async def _download(self, file_id: str) -> list[dict]:
        response = await self._client.call(self._client.api.files.with_raw_response.content(file_id))
        text = self._client.redact(response.text)
        if response.status_code >= 400:
            read_object(response.status_code, text, response.headers)
        return read_lines(text)

    async def _patiently(self, send: Callable[[], Awaitable[Any]]) -> dict:
        return await self._client.patiently(lambda: self._once(send()))

    async def _once(self, sending: Awaitable[Any]) -> dict:
        """The reply to one call as an object. Raises Fault."""
        response = await self._client.call(sending)
        value = read_object(response.status_code, self._client.redact(response.text), response.headers)
        if "id" not in value and "data" not in value:
            raise Fault("malformed", "the reply has no id", response.status_code)
        return value

    async def _sleep(self) -> None:
        """Wait until it is time for another look, or until stopped."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), self._poll_seconds)


def _is_full(result: Answer | Fault) -> bool:
    return isinstance(result, Fault) and result.kind == "queue_full"


def _fault_of_rest(batch: dict) -> Fault:
    """The fault of those requests of an ended batch that neither of its files speaks of."""
    if batch["status"] == "failed":
        error = ((batch.get("errors") or {}).get("data") or [{"message": "the batch failed"}])[0]
        is_full = error.get("code") == "token_limit_exceeded"  # a matter of time, or of size
        return Fault("queue_full", str(error.get("message"))) if is_full else error_fault(400, error)
    if batch["status"] == "cancelled":
        return Fault("rejected", "the batch was cancelled")
    if batch["status"] == "expired":
        return Fault("expired", "the batch expired before its turn")
    return Fault("lost", "the batch's results do not speak of it")


# --- files: requests as lines going in, replies as lines coming out in any order ----------------


def input_line(request: Request) -> bytes:
    """A request as a line of an input file, told by its key."""
    line = {"custom_id": request.key, "method": "POST", "url": f"/v1{PATHS[request.layout]}", "body": request.body}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def split(requests: Sequence[Request], most: int = MOST_REQUESTS) -> Iterable[tuple[Request, ...]]:
    """The requests in runs of at most `most` that each fit one input file."""
    return constrained_batches(requests, MOST_BYTES, most, lambda request: len(input_line(request)), strict=False)


def read_lines(text: str) -> list[dict]:
    """The lines of an output or error file. Raises Fault where one is not an object with a custom_id."""
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            value: Any = None
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
            if not isinstance(value, dict) or not isinstance(value.get("custom_id"), str):
                raise Fault("malformed", f"line {number} of a batch's results is damaged")
            lines.append(value)
    return lines


def _read_line(request: Request, line: dict) -> Answer | Fault:
    response, error = line.get("response"), line.get("error")
    if isinstance(response, dict):
        body, status = response.get("body"), response.get("status_code")
        text = body if isinstance(body, str) else json.dumps(body)
        try:
            return read_reply(request.layout, status if isinstance(status, int) else 200, text, {})
        except Fault as fault:
            return fault
    if isinstance(error, dict) and error.get("code") in ("batch_expired", "batch_cancelled"):
        return Fault("expired", str(error.get("message") or error["code"]))
    return error_fault(500, error or "neither response nor error")


# --- rows of the ledger --------------------------------------------------------------------------

_OPEN = f"FROM batch WHERE base_url = ? AND model = ? AND layout = ? AND state IN {OPEN_STATES} ORDER BY id"


def any_open(ledger: Ledger, model: ApiModel) -> bool:
    """True if a model has batches under way, whoever looks after them."""
    return bool(ledger.rows(f"SELECT 1 {_OPEN}", (model.base_url, model.name, model.layout)))


def adopted(ledger: Ledger, model: ApiModel) -> list[BatchRow]:
    """Batches of a model under way that this process may look after, adopting those whose process is gone.

    A batch that is running at the server may be looked after by several processes; before that only by one.
    """
    found = []
    with ledger.transaction() as database:
        columns = f"SELECT run, id, name, state, file_id, remote_id, made {_OPEN}"
        rows = database.execute(columns, (model.base_url, model.name, model.layout)).fetchall()
        for run, id, name, state, *rest in rows:
            is_dead = not ledger.is_alive(run)
            if is_dead:
                database.execute("UPDATE batch SET run = ? WHERE id = ?", (ledger.run, id))
            if is_dead or run == ledger.run or state == "running":
                query = "SELECT body, repeat FROM batch_item JOIN request USING (key) WHERE batch = ? ORDER BY key"
                items = database.execute(query, (id,))
                requests = (Request(model.base_url, model.layout, json.loads(body), n) for body, n in items)
                found.append(BatchRow(id, name, state, *rest, tuple(requests)))
    return found
