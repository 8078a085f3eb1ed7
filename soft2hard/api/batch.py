"""Sending through the Batch API: cheaper, within a day, and paid once whatever happens to this process."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from soft2hard.api.answers import Answer, Fault, error_fault, json_object
from soft2hard.api.batch_files import MOST_REQUESTS, endpoint_of, input_line, parts, read_lines, read_results
from soft2hard.api.batch_rows import BatchRow, advance, any_open, finish, make_batch, open_batches
from soft2hard.api.claims import drop_dead_claims
from soft2hard.api.client import ApiClient
from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import Price
from soft2hard.api.requests import Request
from soft2hard.api.sending import Sent

NAME_FIELD = "soft2hard_batch"
"""Metadata by which a batch is found again whose id was not stored in time."""
ENDED = ("completed", "failed", "expired", "cancelled")
_TRIES = 5
"""Batches that one request is put into, at most."""
_CLOCKS_APART = 86400.0  # seconds by which server and we may differ on when a batch was made


class BatchSender:
    """Sends requests of one model in batches, and collects those that earlier processes have left."""

    def __init__(
        self,
        client: ApiClient,
        ledger: Ledger,
        price: Price | None,
        max_cost: float | None = None,
        poll_seconds: float = 30.0,
        on_settled: Callable[[int], None] = lambda n: None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._client, self._ledger, self._price, self._max_cost = client, ledger, price, max_cost
        self._poll_seconds, self._on_settled, self._log = poll_seconds, on_settled, log
        self._tries: Counter[str] = Counter()
        self._largest = MOST_REQUESTS
        self._stop_event = asyncio.Event()
        self.sent = Sent()

    def stop(self) -> None:
        """Make no more batches; those under way stay at the server, to be collected by a rerun."""
        self._client.stopped = True
        self._stop_event.set()

    @property
    def _stopped(self) -> bool:
        return self._stop_event.is_set()

    async def send(self, requests: Sequence[Request]) -> Sent:
        """Have all requests answered. Raises Fault where the endpoint refuses batches."""
        while not self._stopped:
            await self.collect()
            if self._stopped:
                break
            made, busy = await self._make([r for r in requests if self._may_try(r)])
            if not made and not busy:
                break
            if not made:  # another process is asking them
                await self._sleep()
                await asyncio.to_thread(drop_dead_claims, self._ledger)
        return self.sent

    async def collect(self) -> None:
        """See all batches under way to their end, those of other processes too."""
        while not self._stopped and any_open(self._ledger, self._client.model):
            rows = await asyncio.to_thread(open_batches, self._ledger, self._client.model)
            await asyncio.gather(*(self._see_through(row) for row in rows))
            if not rows:  # another process is about to create one
                await self._sleep()

    def _may_try(self, request: Request) -> bool:
        fault = self.sent.faults.get(request.key)
        return fault is None or (fault.is_transient and self._tries[request.key] < _TRIES)

    async def _make(self, requests: Sequence[Request]) -> tuple[bool, bool]:
        """Put requests into new batches and see these through; whether there were any, and whether some are busy."""
        rows: list[BatchRow] = []
        busy = False
        for part in parts(requests, self._largest):
            model = self._client.model
            row, claims = await asyncio.to_thread(make_batch, self._ledger, model, part, self._price, self._max_cost)
            self.sent.over_budget = bool(claims.too_dear)
            rows += [row] if row else []
            busy = busy or bool(claims.busy)
            if claims.too_dear:
                break
        await asyncio.gather(*(self._see_through(row) for row in rows))
        return bool(rows), busy

    async def _see_through(self, row: BatchRow) -> None:
        """Take a batch from wherever it is to its end."""
        is_fresh = row.state == "new"
        if row.state == "new":
            file_id = await self._upload(row)
            row = await asyncio.to_thread(advance, self._ledger, row, "uploaded", file_id=file_id)
        if row.state == "uploaded":
            remote_id = await self._create(row, is_fresh)
            row = await asyncio.to_thread(advance, self._ledger, row, "running", remote_id=remote_id)
            self._log(f"{self._client.model.title}: batch {remote_id} of {len(row.requests)} requests")
        batch = await self._poll(row)
        if batch is None:
            return  # stopped; the batch stays open
        results = await self._results(row, batch)
        await asyncio.to_thread(finish, self._ledger, row, results, self._price)
        self._take_note(results)

    def _take_note(self, results: dict[str, Answer | Fault]) -> None:
        for key, result in results.items():
            # A queue that is full says nothing about a request, unless it has no room for this one alone.
            self._tries[key] += not _is_full(result) or len(results) == 1
            if isinstance(result, Fault):
                self.sent.faults[key] = result
                if result.stops:
                    self.stop()
            else:
                self.sent.faults.pop(key, None)
                self._on_settled(1)

    async def _upload(self, row: BatchRow) -> str:
        content = b"".join(map(input_line, row.requests))
        send = self._client.api.files.with_raw_response.create
        reply = await self._patiently(lambda: send(file=(f"{row.name}.jsonl", content), purpose="batch"))
        return reply["id"]

    async def _create(self, row: BatchRow, is_fresh: bool) -> str:
        """Create the batch, or find it where an earlier attempt did, whose reply was lost."""
        send = self._client.api.batches.with_raw_response.create
        assert row.file_id is not None
        file_id, may_exist = row.file_id, not is_fresh

        async def attempt() -> str:
            nonlocal may_exist
            found = await self._find(row) if may_exist else None
            may_exist = True
            if found:
                return found
            reply = await self._once(
                lambda: send(
                    input_file_id=file_id,
                    endpoint=endpoint_of(self._client.model.layout),  # type: ignore[arg-type]
                    completion_window="24h",
                    metadata={NAME_FIELD: row.name},
                )
            )
            return reply["id"]

        return await self._client.patiently(attempt)

    async def _find(self, row: BatchRow) -> str | None:
        """The id of the batch of this name at the server, newest first, or None."""
        oldest = datetime.fromisoformat(row.made).timestamp() - _CLOCKS_APART
        send = self._client.api.batches.with_raw_response.list
        after: dict[str, Any] = {}
        while True:
            page = await self._once(lambda after=after: send(limit=100, **after))
            batches = page.get("data") or []
            for batch in batches:
                if (batch.get("metadata") or {}).get(NAME_FIELD) == row.name:
                    return batch["id"]
            if not batches or not page.get("has_more") or batches[-1].get("created_at", 0) < oldest:
                return None
            after = {"after": batches[-1]["id"]}

    async def _poll(self, row: BatchRow) -> dict | None:
        """The batch once it has ended, or None when stopped before."""
        send = self._client.api.batches.with_raw_response.retrieve
        assert row.remote_id is not None
        remote_id = row.remote_id
        while not self._stopped:
            batch = await self._patiently(lambda: send(remote_id))
            if batch.get("status") in ENDED:
                return batch
            await self._sleep()
        return None

    async def _results(self, row: BatchRow, batch: dict) -> dict[str, Answer | Fault]:
        """What came of each request; where nothing is said of one, the fault that the batch's status stands for."""
        files = [batch[name] for name in ("output_file_id", "error_file_id") if batch.get(name)]
        lines = [line for file_id in files for line in await self._download(file_id)]
        results = read_results(row.by_key, lines)
        rest = _fault_of_rest(batch)
        if _is_full(rest):
            self._largest = max(1, len(row.requests) // 2)
            await self._sleep()
        return {request.key: results.get(request.key, rest) for request in row.requests}

    async def _download(self, file_id: str) -> list[dict]:
        send = self._client.api.files.with_raw_response.content

        async def attempt() -> list[dict]:
            response = await self._client.call(send(file_id))
            if response.status_code >= 400:
                raise error_fault(response.status_code, _error_of(response.text), response.headers)
            return read_lines(self._client.redact(response.text))

        return await self._client.patiently(attempt)

    async def _patiently(self, send: Callable[[], Awaitable[Any]]) -> dict:
        return await self._client.patiently(lambda: self._once(send))

    async def _once(self, send: Callable[[], Awaitable[Any]]) -> dict:
        """The reply to one call as an object. Raises Fault."""
        response = await self._client.call(send())
        text = self._client.redact(response.text)
        if response.status_code >= 400:
            raise error_fault(response.status_code, _error_of(text), response.headers)
        value = json_object(response.status_code, text, response.headers)
        if value.get("error") and "id" not in value:
            raise error_fault(response.status_code, value["error"], response.headers)
        if "id" not in value and "data" not in value:
            raise Fault("malformed", "the reply has no id", response.status_code)
        return value

    async def _sleep(self) -> None:
        """Wait until it is time for another look, or until stopped."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop_event.wait(), self._poll_seconds)


def _is_full(result: Answer | Fault) -> bool:
    return isinstance(result, Fault) and result.kind == "queue_full"


def _error_of(body: str) -> Any:
    try:
        value = json.loads(body)
    except ValueError:
        return body
    return value.get("error", value) if isinstance(value, dict) else body


def _fault_of_rest(batch: dict) -> Fault:
    """What befell requests of an ended batch that neither of its files speaks of."""
    status = batch["status"]
    if status == "failed":
        errors = (batch.get("errors") or {}).get("data") or [{"message": "the batch failed"}]
        if errors[0].get("code") == "token_limit_exceeded":  # a matter of time, or of size
            return Fault("queue_full", str(errors[0].get("message")))
        return error_fault(400, errors[0])
    if status == "cancelled":
        return Fault("rejected", "the batch was cancelled")
    if status == "expired":
        return Fault("expired", "the batch expired before its turn")
    return Fault("lost", "the batch's results do not speak of it")
