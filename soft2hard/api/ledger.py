"""The ledger: every request, answer, refusal, fault, token count and price, on disk as it comes.

One SQLite file in WAL mode, which several processes of one machine may share. A process *claims* requests before it
sends them, so that no two send the same and no limit on cost is passed; a claim lasts as long as its process, which
holds a lock on a file beside the ledger that the operating system drops at its death. The key of an endpoint is never
part of what is stored.
"""

import glob
import os
import socket
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from more_itertools import batched

from soft2hard.api.answers import MAYBE_PAID, Answer, Fault
from soft2hard.api.requests import Request
from soft2hard.errors import UserError
from soft2hard.storage import run_folders

SCHEMA_VERSION = 1
_APPLICATION = 0x53324854  # marks the file as ours: "S2HT"
_SCHEMA = """
CREATE TABLE request (
    key TEXT PRIMARY KEY, base_url TEXT NOT NULL, model TEXT NOT NULL, layout TEXT NOT NULL, body TEXT NOT NULL,
    repeat INTEGER NOT NULL, added TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE answer (
    key TEXT PRIMARY KEY REFERENCES request, text TEXT NOT NULL, refused INTEGER NOT NULL, finish_reason TEXT,
    input_tokens INTEGER, output_tokens INTEGER, price REAL, bound REAL, via TEXT NOT NULL, raw TEXT NOT NULL,
    received TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE fault (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL REFERENCES request, kind TEXT NOT NULL, status INTEGER,
    detail TEXT NOT NULL, bound REAL, via TEXT NOT NULL, met TEXT NOT NULL
);
CREATE INDEX fault_of ON fault (key);
CREATE TABLE run (id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL);
CREATE TABLE claim (
    key TEXT PRIMARY KEY REFERENCES request, run INTEGER NOT NULL REFERENCES run, bound REAL
) WITHOUT ROWID;
CREATE TABLE batch (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, run INTEGER NOT NULL, base_url TEXT NOT NULL,
    model TEXT NOT NULL, layout TEXT NOT NULL, file_id TEXT, remote_id TEXT, state TEXT NOT NULL, made TEXT NOT NULL
);
CREATE TABLE batch_item (
    batch INTEGER NOT NULL REFERENCES batch, key TEXT NOT NULL REFERENCES request, bound REAL,
    PRIMARY KEY (batch, key)
) WITHOUT ROWID;
CREATE INDEX batch_of ON batch_item (key);
"""
_WAIT_FOR_OTHERS = 60.0  # seconds that one process may hold the file
OPEN_STATES = "('new', 'uploaded', 'running')"
"""States of a batch whose items are not to be sent again, as SQL; the other is 'done'."""
_COMMITTED = f"""
SELECT (SELECT coalesce(sum(coalesce(price, bound)), 0.0) FROM answer)
     + (SELECT coalesce(sum(bound), 0.0) FROM fault)
     + (SELECT coalesce(sum(bound), 0.0) FROM claim)
     + (SELECT coalesce(sum(bound), 0.0) FROM batch_item JOIN batch ON id = batch WHERE state IN {OPEN_STATES})
"""
_IS_BUSY = f"""
SELECT 1 FROM claim WHERE key = :key
UNION SELECT 1 FROM batch_item JOIN batch ON id = batch WHERE key = :key AND state IN {OPEN_STATES}
"""


@dataclass(frozen=True)
class Outcome:
    """The result of one sending of a request."""

    request: Request
    result: Answer | Fault
    bound: float | None = None
    """USD that it may have cost at most; None where there is no price."""
    via: str = "online"


@dataclass(frozen=True)
class Spent:
    """The cost of the ledger's requests."""

    known: float
    """USD, of the answers whose price is known."""
    unknown: int
    """Answers whose price is not known."""
    possible: float
    """USD that lost answers may have cost besides, at most."""


@dataclass(frozen=True)
class Claims:
    """Requests by what became of an attempt to claim them; each is in one of the four, in the order given."""

    taken: list[Request] = field(default_factory=list)
    answered: list[Request] = field(default_factory=list)
    busy: list[Request] = field(default_factory=list)
    """Claimed by a process, or in a batch under way."""
    too_dear: list[Request] = field(default_factory=list)
    """Would pass the limit on cost."""


class Ledger(AbstractContextManager):
    """An open ledger, made where there is none. Its methods may be called from any thread.

    Raises UserError where the file is no ledger, comes from a newer version, or cannot be written to; its content stays
    as it was.
    """

    def __init__(self, path: str | os.PathLike[str], keep_thinking: bool = False) -> None:
        """`keep_thinking`: give answers with the `<think>...</think>` before them, which is always stored."""
        self.path, self._keep_thinking = Path(path), keep_thinking
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Requests still claimed count as lost, since their answers were not waited for."""
        with self._lock:
            try:
                with self.transaction() as database:
                    _end_claims(database, self.run)
            finally:
                self._database.close()
                self._mark(self.run).unlink(missing_ok=True)
                self._alive.release()

    def store(self, outcomes: Iterable[Outcome] = (), release: Iterable[Request] = ()) -> None:
        """Write outcomes down, in one transaction; answers and `release` end their claims."""
        with self.transaction() as database:
            for outcome in outcomes:
                self.write(database, outcome)
            database.executemany("DELETE FROM claim WHERE key = ?", [(request.key,) for request in release])

    def write(self, database: sqlite3.Connection, outcome: Outcome) -> None:
        """Write one outcome down within a transaction. The first answer to a request stays."""
        key, result = outcome.request.key, outcome.result
        _add(database, outcome.request)
        if isinstance(result, Fault):
            bound = outcome.bound if result.kind in MAYBE_PAID else 0.0
            row = (None, key, result.kind, result.status, result.detail, bound, outcome.via, now())
            database.execute("INSERT INTO fault VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            return
        told = (result.text, result.refused, result.finish_reason, result.input_tokens, result.output_tokens)
        row = (key, *told, result.price, outcome.bound, outcome.via, result.raw, now())
        database.execute("INSERT OR IGNORE INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        database.execute("DELETE FROM claim WHERE key = ?", (key,))

    def claim(
        self,
        requests: Sequence[Request],
        bounds: Sequence[float | None],
        max_cost: float | None = None,
        batch: str | None = None,
    ) -> Claims:
        """Take the requests that nobody has answered or is about to, as far as `max_cost` (USD) goes.

        `bounds` say what each may cost at most; they are needed where there is a `max_cost`. What all requests of the
        ledger have cost or may have cost counts, and so does what other processes have under way. With `batch`, a name
        of one's own, they are taken as the items of a new batch; all are of one model then.
        """
        claims, bound_of = Claims(), dict[str, float | None]()
        with self.transaction() as database:
            spent = 0.0 if max_cost is None else float(database.execute(_COMMITTED).fetchone()[0])
            for request, bound in zip(requests, bounds, strict=True):
                if database.execute("SELECT 1 FROM answer WHERE key = ?", (request.key,)).fetchone():
                    claims.answered.append(request)
                elif request.key in bound_of or database.execute(_IS_BUSY, {"key": request.key}).fetchone():
                    claims.busy.append(request)  # one that comes twice is busy the second time
                elif max_cost is not None and (bound is None or spent + bound > max_cost):
                    claims.too_dear.append(request)
                else:
                    claims.taken.append(request)
                    bound_of[request.key] = bound
                    spent += bound or 0.0
            table, owner = "claim (key, run, bound)", self.run
            if batch is not None and claims.taken:
                of = claims.taken[0]
                row = (batch, self.run, of.base_url, of.model, of.layout, now())
                done = database.execute("INSERT INTO batch VALUES (NULL, ?, ?, ?, ?, ?, NULL, NULL, 'new', ?)", row)
                table, owner = "batch_item (key, batch, bound)", done.lastrowid
            for request in claims.taken:
                _add(database, request)
                database.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", (request.key, owner, bound_of[request.key]))
        return claims

    def drop_dead_claims(self) -> int:
        """End the claims of processes that are gone, and note their requests as possibly paid; gives their number."""
        with self.transaction() as database:
            runs = [run for (run,) in database.execute("SELECT DISTINCT run FROM claim") if not self.is_alive(run)]
            return sum(_end_claims(database, run) for run in runs)

    def is_alive(self, run: int) -> bool:
        """True if the process of a run is still there."""
        return run == self.run or _is_held(self._mark(run))

    def answers(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers to requests, refusals among them, by key."""
        found = {
            key: Answer(text, bool(refused), *rest, price=price)
            for key, text, refused, *rest, price in self._select(
                "key, text, refused, finish_reason, input_tokens, output_tokens, price FROM answer", keys
            )
        }
        return found if self._keep_thinking else {key: answer.without_thinking() for key, answer in found.items()}

    def last_faults(self, keys: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Kind and detail of the last fault each request met, for those that met one."""
        rows = self._select("key, kind, detail, max(id) FROM fault", keys, "GROUP BY key")
        return {key: (kind, detail) for key, kind, detail, _ in rows}

    def has_answer_of(self, base_url: str, model: str) -> bool:
        """True if a model has ever answered."""
        query = "SELECT 1 FROM answer JOIN request USING (key) WHERE base_url = ? AND model = ? AND NOT refused LIMIT 1"
        return bool(self.rows(query, (base_url, model)))

    def spent(self) -> Spent:
        """The cost of all requests of this ledger."""
        lost = "(SELECT coalesce(sum(bound), 0.0) FROM fault)"
        query = f"SELECT coalesce(sum(price), 0.0), coalesce(sum(price IS NULL), 0), {lost} FROM answer"
        return Spent(*self.rows(query)[0])

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
        """Refuse a file that is another's or comes from a newer version; make the tables where there are none."""
        version = self.rows("PRAGMA user_version")[0][0]
        if self.rows("SELECT 1 FROM sqlite_master") and self.rows("PRAGMA application_id") != [(_APPLICATION,)]:
            raise UserError(f"{self.path} is a database, but no ledger.", "Choose another path.")
        if version > SCHEMA_VERSION:
            raise UserError(
                f"The ledger {self.path} comes from a newer version of soft2hard "
                f"(schema {version}, here {SCHEMA_VERSION}).",
                "Update soft2hard, or choose another ledger.",
            )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")  # a paid answer survives a power cut too
        with self.transaction() as database:
            if database.execute("PRAGMA user_version").fetchone() == (0,):
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _register(self) -> int:
        """Enter this process, and take the lock by which others know that it lives."""
        with self.transaction() as database:
            for path in self.path.parent.glob(f"{glob.escape(self.path.name)}.run-*"):
                _is_held(path)
            row = (None, socket.gethostname(), os.getpid(), now())
            run = database.execute("INSERT INTO run VALUES (?, ?, ?, ?)", row).lastrowid
            self._alive = FileLock(self._mark(run), thread_local=False)
            self._alive.acquire()
        return run

    def _mark(self, run: int) -> Path:
        """The file that the process of a run keeps locked."""
        return self.path.with_name(f"{self.path.name}.run-{run}")

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple]:
        """What a query finds."""
        with self._lock, self._errors():
            return self._database.execute(query, values).fetchall()

    def _select(self, what: str, keys: Iterable[str], rest: str = "") -> Iterator[tuple]:
        """Rows of a query over some keys, a part at a time: SQLite bounds the variables of one query."""
        for part in batched(dict.fromkeys(keys), 900):
            yield from self.rows(f"SELECT {what} WHERE key IN ({', '.join('?' * len(part))}) {rest}", part)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of SQLite and the operating system as UserErrors."""
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


def _add(database: sqlite3.Connection, request: Request) -> None:
    """Write a request down within a transaction, if it is not there yet."""
    row = (request.key, request.base_url, request.model, request.layout, request.canonical, request.repeat, now())
    database.execute("INSERT OR IGNORE INTO request VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _end_claims(database: sqlite3.Connection, run: int) -> int:
    """End the claims of a process within a transaction, as possibly paid; gives their number."""
    detail = "the process ended before an answer was stored"
    count = database.execute(
        "INSERT INTO fault SELECT NULL, key, 'lost', NULL, ?, bound, 'online', ? FROM claim WHERE run = ?",
        (detail, now(), run),
    ).rowcount
    database.execute("DELETE FROM claim WHERE run = ?", (run,))
    return count


def _is_held(path: Path) -> bool:
    """True if a process holds the lock of a file. The file of one that does not is removed."""
    try:
        with FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
        return False
    except Timeout:
        return True


def now() -> str:
    """The time as the ledger writes it: UTC, ISO, milliseconds."""
    return run_folders.now("milliseconds")
