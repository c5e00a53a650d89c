"""What the dev server has received, in one SQLite file.

A write is what one request brings for one step of a run. Writes are only added, so what every run
sent stays visible after a later run of the workload has overwritten the step.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
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
"""

# Step (None for a detection), Unix seconds, JSON object.
Write = tuple[int | None, float, str]


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What a request brings to a workload; `items` counts metrics, log entries or detections."""

    workload_uid: str
    run_id: str
    items: int
    writes: Sequence[Write]


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

    def add(self, request: Mapping[str, Any], uploads: Sequence[Upload]) -> None:
        """Store a request, whose keys are columns of its table, and what it brings. All or none."""
        row = {
            **request,
            "workload_uid": uploads[0].workload_uid if uploads else "",
            "run_id": uploads[-1].run_id if uploads else "",
            "items": sum(upload.items for upload in uploads),
        }
        insert = f"INSERT INTO request ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        with self._lock, self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                number = self._connection.execute(insert, tuple(row.values())).lastrowid
                self._connection.executemany(
                    "INSERT INTO write VALUES (NULL, ?, ?, ?, ?, ?, ?)",
                    (
                        (number, one.workload_uid, one.run_id, *write)
                        for one in uploads
                        for write in one.writes
                    ),
                )
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def workloads(self) -> list[dict[str, Any]]:
        """Every workload that has steps, with their number and range."""
        return self._select(
            "SELECT workload_uid, count(DISTINCT step) AS steps, min(step) AS first_step,"
            " max(step) AS last_step, count(DISTINCT run_id) AS runs FROM write"
            " WHERE step IS NOT NULL GROUP BY workload_uid ORDER BY workload_uid"
        )

    def writes(self, workload: str) -> list[dict[str, Any]]:
        """Every write to a step of the workload, in the order of arrival."""
        where = "workload_uid = ? AND step IS NOT NULL"
        found = self._select(f"SELECT * FROM write WHERE {where} ORDER BY id", workload)
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
        found = self._select("SELECT * FROM write WHERE step IS NULL ORDER BY id")
        return [
            {"workload_uid": row["workload_uid"], "document": json.loads(row["data"])}
            for row in found
        ]

    def requests(self) -> list[dict[str, Any]]:
        """Every POST, accepted or rejected, in the order of arrival."""
        return self._select("SELECT * FROM request ORDER BY id")

    def _select(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._lock, self._explained():
            return [dict(row) for row in self._connection.execute(sql, parameters)]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreFailed(
                f"{self._path}: {error}. Check that the directory exists, is writable and has free"
                " space, or use another file."
            ) from error
