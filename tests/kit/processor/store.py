"""The SQLite database behind the receiver.

Rules:

* One connection and one lock: requests are stored one after another. What a request writes,
  its line in ``request`` included, is one transaction.
* ``synchronous=OFF``: a commit survives the death of the process, not of the machine.
* While the store is closed every use opens it for that use alone, so what arrived can be read
  after the receiver has stopped.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from tests.kit.processor import rows
from tests.kit.processor.errors import StoreFailed
from tests.kit.processor.posts import DetectionPost, Ids

_SCHEMA = """
CREATE TABLE IF NOT EXISTS training_performance (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pod_uuid TEXT NOT NULL,
    performance TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    serial INTEGER NOT NULL,
    workload_uid TEXT NOT NULL,
    data_source TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS training_performance_step
    ON training_performance (workload_uid, serial, iteration);
CREATE TABLE IF NOT EXISTS detection (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    workload_uid TEXT NOT NULL,
    received_at REAL NOT NULL,
    document TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    received_at REAL NOT NULL,
    path TEXT NOT NULL,
    status INTEGER NOT NULL,
    code INTEGER,
    workload_uid TEXT NOT NULL,
    pod_name TEXT NOT NULL,
    run_id TEXT NOT NULL,
    first_step INTEGER,
    last_step INTEGER,
    items INTEGER NOT NULL,
    body_bytes INTEGER NOT NULL,
    body_sha256 TEXT NOT NULL,
    lens_ship_records TEXT,
    refusal TEXT NOT NULL
);
"""


@dataclass(frozen=True, kw_only=True)
class RequestLine:
    """One POST, accepted or refused, as the table ``request`` keeps it.

    Steps are those of the first and last item in the order of the body. ``refusal`` says what
    was wrong and where, which the answer never does.
    """

    received_at: float
    path: str
    status: int
    code: int | None
    workload_uid: str
    pod_name: str
    run_id: str
    first_step: int | None
    last_step: int | None
    items: int
    body_bytes: int
    body_sha256: str
    lens_ship_records: str | None
    refusal: str


_LINE = tuple(field.name for field in fields(RequestLine))
_INSERT_LINE = f"INSERT INTO request ({', '.join(_LINE)}) VALUES ({', '.join('?' * len(_LINE))})"


class Writing:
    """What one request may write, inside its transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def step(self, workload: str, ids: Ids, write: rows.Write) -> bool:
        """Write the row of one step; False when the database refuses it.

        A row that exists has been deleted by then: a refused merge loses it.
        """
        old = self._connection.execute(
            "SELECT id, performance, created_ns FROM training_performance"
            " WHERE workload_uid = ? AND serial = ? AND iteration = ?",
            (workload, rows.SERIAL, rows.iteration(write.step)),
        ).fetchone()
        if old is None:
            row_id, created_ns = None, rows.nanoseconds(write.timestamp)
            document = rows.first_document(ids.run_id, write)
        else:
            row_id, created_ns = old[0], old[2]
            document = rows.merged_document(json.loads(old[1]), created_ns, ids.run_id, write)
            self._connection.execute("DELETE FROM training_performance WHERE id = ?", (row_id,))
        encoded = json.dumps(document, allow_nan=False)
        ids_refused = rows.id_refused(workload) or rows.id_refused(ids.pod_uid)
        if ids_refused or rows.document_refused(encoded):
            return False
        self._connection.execute(
            "INSERT INTO training_performance VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row_id,
                ids.pod_uid,
                encoded,
                rows.iteration(write.step),
                created_ns,
                rows.SERIAL,
                workload,
                rows.SOURCE,
            ),
        )
        return True

    def detection(self, workload: str, post: DetectionPost, received_at: float) -> bool:
        """Keep what is passed on of a detection; False when the database refuses it."""
        encoded = json.dumps(post.document, allow_nan=False)
        if rows.id_refused(workload) or rows.document_refused(encoded):
            return False
        self._connection.execute(
            "INSERT INTO detection (workload_uid, received_at, document) VALUES (?, ?, ?)",
            (workload, received_at, encoded),
        )
        return True

    def request(self, line: RequestLine) -> None:
        """Keep the line of a request."""
        self._connection.execute(_INSERT_LINE, astuple(line))


class Store:
    """The database at ``path``; safe to use from any thread."""

    def __init__(self, *, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the database and keep it open, creating it when it is not there."""
        with self._lock, self._explained():
            if self._connection is None:
                self._connection = _connected(self.path)

    def close(self) -> None:
        """Close the database; a store that is closed may still be used."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """Give one request its transaction: committed at the end, undone by an exception."""
        with self._using() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Writing(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def select(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return the rows that a query finds, each by column name."""
        with self._using() as connection:
            cursor = connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained():
            if self._connection is not None:
                yield self._connection
                return
            connection = _connected(self.path)
            try:
                yield connection
            finally:
                connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            message = (
                f"{self.path}: {error}; check that the directory exists, is writable and has"
                " room, or give another path"
            )
            raise StoreFailed(message) from error


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection
