"""What the dev server has received, in one SQLite file.

A write is what one request brings for one step of a run. Writes are only added, so what every run
sent stays visible after a later run of the workload has overwritten the step.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipper.errors import StoreFailed

_SCHEMA = """
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY, received_at REAL, path TEXT, status INTEGER, workload_uid TEXT,
    run_id TEXT, items INTEGER, body_bytes INTEGER, lens_ship_records TEXT, error TEXT);
CREATE TABLE IF NOT EXISTS write (
    id INTEGER PRIMARY KEY, request_id INTEGER, workload_uid TEXT, run_id TEXT, step INTEGER,
    timestamp REAL, data TEXT);
CREATE INDEX IF NOT EXISTS write_step ON write (workload_uid, step);
CREATE TABLE IF NOT EXISTS detection (
    id INTEGER PRIMARY KEY, request_id INTEGER, workload_uid TEXT, document TEXT);
"""


@dataclass(frozen=True, kw_only=True)
class StepWrite:
    """What a request brings for one step: `data` is a JSON object, `timestamp` in Unix seconds."""

    step: int
    timestamp: float
    data: str


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What a request brings; `items` counts metrics, log entries and detections."""

    workload_uid: str
    run_id: str = ""
    items: int = 0
    writes: tuple[StepWrite, ...] = ()
    detection: str = ""  # a JSON object


class TelemetryStore:
    """Safe to use from any thread. A commit survives the death of the process, not of the host.

    Raises:
        StoreFailed: SQLite cannot open, read or write the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._explained():
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def add(self, request: Mapping[str, Any], uploads: Collection[Upload]) -> None:
        """Store a request, whose keys are columns of its table, and what it brings; all or none."""
        first = next(iter(uploads), None)
        row = {
            **request,
            "workload_uid": first.workload_uid if first else "",
            "run_id": next((one.run_id for one in uploads if one.run_id), ""),
            "items": sum(upload.items for upload in uploads),
        }
        with self._lock, self._explained(), self._transaction() as connection:
            number = connection.execute(
                f"INSERT INTO request ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
                tuple(row.values()),
            ).lastrowid
            for one in uploads:
                connection.executemany(
                    "INSERT INTO write VALUES (NULL, ?, ?, ?, ?, ?, ?)",
                    (
                        (number, one.workload_uid, one.run_id, w.step, w.timestamp, w.data)
                        for w in one.writes
                    ),
                )
                if one.detection:
                    connection.execute(
                        "INSERT INTO detection VALUES (NULL, ?, ?, ?)",
                        (number, one.workload_uid, one.detection),
                    )

    def workloads(self) -> list[dict[str, Any]]:
        """Every workload that has steps, with their number and range."""
        return self._select(
            "SELECT workload_uid, count(DISTINCT step) AS steps, min(step) AS first_step,"
            " max(step) AS last_step, count(DISTINCT run_id) AS runs FROM write"
            " GROUP BY workload_uid ORDER BY workload_uid"
        )

    def writes(self, workload: str) -> list[dict[str, Any]]:
        """Every write of a workload, in the order of arrival."""
        found = self._select("SELECT * FROM write WHERE workload_uid = ? ORDER BY id", workload)
        return [{**row, "data": json.loads(row["data"])} for row in found]

    def rows(self, workload: str) -> list[dict[str, Any]]:
        """The steps of a workload: of one name in one step the last arrival counts."""
        steps: dict[int, dict[str, Any]] = {}
        for write in self.writes(workload):
            row = steps.setdefault(write["step"], {"step": write["step"], "data": {}})
            row["data"].update(write["data"])
            row.update(run_id=write["run_id"], timestamp=write["timestamp"])
        return [steps[step] for step in sorted(steps)]

    def detections(self) -> list[dict[str, Any]]:
        found = self._select("SELECT * FROM detection ORDER BY id")
        return [{**row, "document": json.loads(row["document"])} for row in found]

    def requests(self) -> list[dict[str, Any]]:
        """Every POST, accepted or rejected, in the order of arrival."""
        return self._select("SELECT * FROM request ORDER BY id")

    def _select(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._lock, self._explained():
            return [dict(row) for row in self._connection.execute(sql, parameters)]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreFailed(
                f"{self._path}: {error}. Check that the directory exists, is writable and has free"
                " space, or use another file."
            ) from error
