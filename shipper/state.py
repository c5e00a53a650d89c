"""The state directory: its lock, its database, its tables; the only importer of sqlite-utils.

One connection, used by all threads under one lock; commits are WAL with `synchronous=NORMAL`, as a
repetition is all that is at stake when one of them is lost.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlite_utils

from shipper.errors import StateInUse, StateUnusable

DATABASE_NAME = "ledger.sqlite"
LOCK_NAME = "lock"
_STATE_VERSION = 1
_BUSY_SECONDS = 10.0

# Table -> columns, primary key. All counts are of records unless named otherwise; times are Unix
# seconds. Counters only grow, and change in the transaction that moves the position they belong to.
_TABLES: dict[str, tuple[dict[str, type], tuple[str, ...]]] = {
    "spool": (
        {
            "id": str,
            "directory": str,
            "identity": str,  # JSON map
            "workload": str,  # its uid, where it had to be asked for
            "found": float,
            "deleted": float,
        },
        ("id",),
    ),
    "position": (
        {
            "spool": str,
            "sink": str,
            "seq": int,
            "ahead": str,  # JSON map
            "early": str,  # JSON list of ranges
            "delivered": int,
            "passed": int,
            "requests": int,
            "cut_off_told": int,  # 1 once the sink knows that the process died
            "updated": float,
        },
        ("spool", "sink"),
    ),
    "dead_letter": (
        {
            "id": int,
            "spool": str,
            "sink": str,
            "seq": int,
            "kind": str,
            "body": bytes,
            "reason": str,
            "detail": str,
            "time": float,
            "state": str,  # kept, delivered (by a later try), dropped (by an operator or a limit)
        },
        ("id",),
    ),
    "damage": (
        {
            "spool": str,
            "sink": str,
            "first": int,
            "last": int,
            "path": str,
            "reason": str,  # `dropped:<why>` for what this service has deleted undelivered
            "time": float,
        },
        ("spool", "sink", "first"),
    ),
    "replay": (
        {
            "spool": str,
            "entry": str,  # the name of its position: sink, or sink~selection~number
            "directory": str,
            "begun": float,
            "ended": float,
            "first": int,
            "last": int,
            "records": int,
            "digest": str,
        },
        ("spool", "entry"),
    ),
    "gap": (
        {
            "spool": str,
            "seq": int,
            "reason": str,
            "count": int,
            "first": int,  # seqs of what the writer has deleted; 0 where there never were any
            "last": int,
            "time": float,
        },
        ("spool", "seq"),
    ),
}


Database = sqlite_utils.Database


class State:
    """The open directory.

    Raises:
        StateInUse: another process has it.
        StateUnusable: it cannot be created, or its database cannot be opened.
    """

    def __init__(self, directory: Path, *, exclusive: bool = True, create: bool = False) -> None:
        """Open it; without `exclusive`, beside a service that may be running on it.

        A ledger that is not there is made when it is opened exclusively or with `create`.
        """
        self.directory = directory
        self._lock = threading.Lock()
        create = create or exclusive
        if create:
            _make_directory(directory)
        elif not (directory / DATABASE_NAME).exists():
            raise StateUnusable(
                f"{directory / DATABASE_NAME} is not there: no service has used this state"
                " directory; give --state the one of the service"
            )
        self._guard = _lock_directory(directory) if exclusive else -1
        try:
            self._db = _connect(directory / DATABASE_NAME, create=create)
        except sqlite3.Error as error:
            if exclusive:
                os.close(self._guard)
            raise StateUnusable(
                f"{directory / DATABASE_NAME}: {error}; nothing was read or sent. Without this"
                " file everything still in the spools is sent again: move it away to go on"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite_utils.Database]:
        """As `using`; all of it happens, or nothing."""
        with self.using() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def insert_new(self, table: str, row: Mapping[str, Any]) -> bool:
        """Insert a row; False when one with its key was there, which stays as it is."""
        with self.using() as database:
            before = database.conn.total_changes
            database.table(table).insert(dict(row), ignore=True)
            return bool(database.conn.total_changes > before)

    @contextmanager
    def using(self) -> Iterator[sqlite_utils.Database]:
        """The database, for one thread at a time; what SQLite refuses is said in our words."""
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise StateUnusable(
                    f"{self.directory / DATABASE_NAME}: {error}; what was sent since the last"
                    " saved position is sent again: look for a full or read-only disk"
                ) from error

    def close(self) -> None:
        """Close the database and unlock the directory."""
        with self._lock:
            self._db.conn.close()
            if self._guard >= 0:
                os.close(self._guard)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error


def _unusable(directory: Path, error: OSError) -> StateUnusable:
    return StateUnusable(
        f"state directory {directory}: {error}; nothing was read or sent:"
        " give --state a directory that this user may write"
    )


def _lock_directory(directory: Path) -> int:
    """Take the directory's lock; the descriptor that holds it."""
    try:
        guard = os.open(directory / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(guard)
        raise StateInUse(
            f"state directory {directory} is in use by another lens-ship: stop that one,"
            " or give this one its own --state and --spool"
        ) from error
    return guard


def _connect(path: Path, *, create: bool) -> sqlite_utils.Database:
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        check_same_thread=False,
        isolation_level=None,
        timeout=_BUSY_SECONDS,
    )
    try:
        return _prepare(connection)
    except BaseException:
        connection.close()
        raise


def _prepare(connection: sqlite3.Connection) -> sqlite_utils.Database:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    database = sqlite_utils.Database(connection)
    for name, (columns, key) in _TABLES.items():
        database.table(name).create(
            columns, pk=key[0] if len(key) == 1 else key, if_not_exists=True
        )
        for column in columns.keys() - database.table(name).columns_dict.keys():
            database.table(name).add_column(column, columns[column])
    database.table("dead_letter").create_index(
        ["spool", "sink", "seq"], unique=True, if_not_exists=True
    )
    connection.execute(f"PRAGMA user_version={_STATE_VERSION}")
    return database
