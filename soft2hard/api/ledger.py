"""The ledger: every request, answer, refusal, fault, token count and price, on disk as it comes.

One SQLite file in WAL mode, which several processes of one machine may share. A process *claims* requests before it
sends them, so that no two send the same; a claim lasts as long as its process, which holds a lock on a file beside the
ledger that the operating system drops at its death. The key of an endpoint is never part of what is stored.
"""

import glob
import os
import socket
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from soft2hard.api.answers import MAYBE_PAID, Answer, Fault
from soft2hard.api.ledger_schema import check, make_tables
from soft2hard.api.liveness import hold, is_held
from soft2hard.api.requests import Request
from soft2hard.errors import UserError

_WAIT_FOR_OTHERS = 60.0  # seconds that one process may hold the file


@dataclass(frozen=True)
class Outcome:
    """What came of one sending of a request."""

    request: Request
    result: Answer | Fault
    price: float | None = None
    """USD; None where it is unknown."""
    bound: float | None = None
    """USD that it may have cost at most; None where there is no price."""
    via: str = "online"


@dataclass(frozen=True)
class StoredAnswer:
    """An answer as the ledger has it."""

    text: str
    refused: bool
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    price: float | None


@dataclass(frozen=True)
class Spent:
    """What the ledger's requests have cost."""

    known: float
    """USD, of the answers whose price is known."""
    unknown: int
    """Answers whose price is not known."""
    possible: float
    """USD that lost answers may have cost besides, at most."""


class Ledger:
    """An open ledger, made where there is none. Its methods may be called from any thread.

    Raises UserError where the file is no ledger, comes from a newer version, or cannot be written to; what it holds
    stays as it was.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.path, timeout=_WAIT_FOR_OTHERS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
                self.run = self._register()
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Requests still claimed count as lost, since their answers were not waited for."""
        with self._lock:
            try:
                with self._errors(), self.transaction() as database:
                    self.end_claims(database, self.run)
            finally:
                self._database.close()
                self._mark.unlink(missing_ok=True)
                os.close(self._lock_descriptor)

    def store(self, outcomes: Iterable[Outcome] = (), release: Iterable[Request] = ()) -> None:
        """Write outcomes down, in one transaction; answers and `release` end their claims."""
        with self.transaction() as database:
            for outcome in outcomes:
                self.write(database, outcome)
            database.executemany("DELETE FROM claim WHERE key = ?", [(request.key,) for request in release])

    def write(self, database: sqlite3.Connection, outcome: Outcome) -> None:
        """Write one outcome down within a transaction. The first answer to a request stays."""
        key, result = outcome.request.key, outcome.result
        self.add(database, outcome.request)
        if isinstance(result, Fault):
            bound = outcome.bound if result.kind in MAYBE_PAID else 0.0
            row = (key, result.kind, result.status, result.detail, bound, outcome.via, now())
            database.execute("INSERT INTO fault VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
            return
        row = (
            *(key, result.text, result.refused, result.finish_reason, result.input_tokens, result.output_tokens),
            *(outcome.price, outcome.bound, outcome.via, result.raw, now()),
        )
        database.execute(f"INSERT OR IGNORE INTO answer VALUES ({', '.join('?' * 11)})", row)
        database.execute("DELETE FROM claim WHERE key = ?", (key,))

    def answers(self, keys: Iterable[str]) -> dict[str, StoredAnswer]:
        """The answers there are, refusals among them, by key."""
        query = "SELECT key, text, refused, finish_reason, input_tokens, output_tokens, price FROM answer WHERE key IN "
        return {
            key: StoredAnswer(text, bool(refused), *rest) for key, text, refused, *rest in self._select(query, keys)
        }

    def last_faults(self, keys: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Kind and detail of the last fault each request met, for those that met one."""
        query = "SELECT key, kind, detail FROM fault WHERE key IN {} ORDER BY id"
        return {key: (kind, detail) for key, kind, detail in self._select(query, keys)}

    def has_answer_of(self, base_url: str, model: str) -> bool:
        """Whether a model has ever answered."""
        query = "SELECT 1 FROM answer JOIN request USING (key) WHERE base_url = ? AND model = ? AND NOT refused LIMIT 1"
        with self._lock, self._errors():
            return self._database.execute(query, (base_url, model)).fetchone() is not None

    def spent(self) -> Spent:
        """What all requests of this ledger have cost."""
        with self._lock, self._errors():
            known, unknown = self._database.execute(
                "SELECT coalesce(sum(price), 0.0), coalesce(sum(price IS NULL), 0) FROM answer"
            ).fetchone()
            (possible,) = self._database.execute("SELECT coalesce(sum(bound), 0.0) FROM fault").fetchone()
        return Spent(float(known), int(unknown), float(possible))

    @staticmethod
    def end_claims(database: sqlite3.Connection, run: int) -> int:
        """End the claims of a process within a transaction, as possibly paid; how many there were."""
        detail = "the process ended before an answer was stored"
        count = database.execute(
            "INSERT INTO fault SELECT NULL, key, 'lost', NULL, ?, bound, 'online', ? FROM claim WHERE run = ?",
            (detail, now(), run),
        ).rowcount
        database.execute("DELETE FROM claim WHERE run = ?", (run,))
        return count

    def is_alive(self, run: int) -> bool:
        """Whether the process of a run is still there."""
        return run == self.run or is_held(_mark(self.path, run))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that the block writes, or nothing of it; other processes wait."""
        with self._lock, self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _prepare(self) -> None:
        check(self._database, self.path)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")  # a paid answer survives a power cut too
        with self.transaction() as database:
            make_tables(database)

    def _register(self) -> int:
        """Enter this process, and take the lock by which others know that it lives."""
        with self.transaction() as database:
            for path in self.path.parent.glob(f"{glob.escape(self.path.name)}.run-*"):
                is_held(path)
            row = (socket.gethostname(), os.getpid(), now())
            run = database.execute("INSERT INTO run VALUES (NULL, ?, ?, ?)", row).lastrowid
            assert run is not None
            self._mark = _mark(self.path, run)
            self._lock_descriptor = hold(self._mark)
        return run

    @staticmethod
    def add(database: sqlite3.Connection, request: Request) -> None:
        """Write a request down within a transaction, if it is not there yet."""
        row = (request.key, request.base_url, request.model, request.layout, request.canonical, request.repeat, now())
        database.execute("INSERT OR IGNORE INTO request VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _select(self, query: str, keys: Iterable[str]) -> Iterator[tuple]:
        """Rows of a query over some keys, a part at a time: SQLite bounds the variables of one query."""
        wanted = list(dict.fromkeys(keys))
        template = query if "{}" in query else query + "{}"
        for start in range(0, len(wanted), 900):
            part = wanted[start : start + 900]
            with self._lock, self._errors():
                rows = self._database.execute(template.format(f"({', '.join('?' * len(part))})"), part).fetchall()
            yield from rows

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What SQLite and the operating system say, as UserErrors."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise UserError(
                f"Cannot use the ledger {self.path}: {error}.",
                "Free some space, check the path and its permissions, and run the same command again: "
                "what was stored before is kept.",
            ) from error


def _mark(ledger: Path, run: int) -> Path:
    return ledger.with_name(f"{ledger.name}.run-{run}")


def now() -> str:
    """The time as the ledger writes it: UTC, ISO, milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
