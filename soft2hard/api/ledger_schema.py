"""Tables of the ledger, and how a file is recognised as one."""

import sqlite3
from pathlib import Path

from soft2hard.errors import UserError

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


def check(database: sqlite3.Connection, path: Path) -> None:
    """Raise UserError where a file is another's, or comes from a newer version."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != _APPLICATION:
        raise UserError(f"{path} is a database, but no ledger.", "Choose another path.")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"The ledger {path} comes from a newer version of soft2hard (schema {version}, here {SCHEMA_VERSION}).",
            "Update soft2hard, or choose another ledger.",
        )


def make_tables(database: sqlite3.Connection) -> None:
    """Make the tables where there are none, within a transaction."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in filter(str.strip, _SCHEMA.split(";")):
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {_APPLICATION}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
