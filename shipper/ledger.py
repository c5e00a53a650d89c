"""What has been acknowledged and what was given up: the service's own database.

The only importer of sqlite-utils. A position is written after the sink has said so and never
before; losing the whole file costs repetitions, no record. One connection, used by all threads
under one lock; commits are WAL with `synchronous=NORMAL`, as a repetition is all that is at stake.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlite_utils

from shipper.errors import StateInUse, StateUnusable

DATABASE_NAME = "ledger.sqlite"
LOCK_NAME = "lock"
_STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a sink is in a spool.

    Everything up to `seq` is settled. Where runs lie between each other in a spool, `ahead` says
    how far single runs are beyond that: run -> seq.
    """

    seq: int = 0
    ahead: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One record that a sink refused for good, as it was in the spool, with the answer."""

    spool: str
    sink: str
    seq: int
    kind: str
    body: bytes
    reason: str
    detail: str


class Ledger:
    """The state directory, locked for this process.

    Raises:
        StateInUse: another process has it.
        StateUnusable: it cannot be created, or its database cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._guard = os.open(
                directory / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise StateUnusable(
                f"state directory {directory}: {error}; nothing was read or sent:"
                " give --state a directory that this user may write"
            ) from error
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._guard)
            raise StateInUse(
                f"state directory {directory} is in use by another lens-ship: stop that one,"
                " or give this one its own --state and --spool"
            ) from error
        try:
            self._db = self._connect(directory / DATABASE_NAME)
        except sqlite3.Error as error:
            os.close(self._guard)
            raise StateUnusable(
                f"{directory / DATABASE_NAME}: {error}; nothing was read or sent. Without this"
                " file everything still in the spools is sent again: move it away to go on"
            ) from error

    @staticmethod
    def _connect(path: Path) -> sqlite_utils.Database:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        database = sqlite_utils.Database(connection)
        database.table("position").create(
            {
                "spool": str,
                "sink": str,
                "seq": int,
                "ahead": str,
                "delivered": int,
                "requests": int,
                "updated": float,
            },
            pk=("spool", "sink"),
            if_not_exists=True,
        )
        database.table("dead_letter").create(
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
            },
            pk="id",
            if_not_exists=True,
        )
        database.table("dead_letter").create_index(
            ["spool", "sink", "seq"], unique=True, if_not_exists=True
        )
        database.table("damage").create(
            {
                "spool": str,
                "sink": str,
                "first": int,
                "last": int,
                "path": str,
                "reason": str,
                "time": float,
            },
            pk=("spool", "sink", "first"),
            if_not_exists=True,
        )
        connection.execute(f"PRAGMA user_version={_STATE_VERSION}")
        return database

    def position(self, spool: str, sink: str) -> Position:
        """Where `sink` is in `spool`; the beginning when it has never been there."""
        with self._lock:
            row = self._db.execute(
                "SELECT seq, ahead FROM position WHERE spool = ? AND sink = ?", (spool, sink)
            ).fetchone()
        if row is None:
            return Position()
        return Position(seq=row[0], ahead=json.loads(row[1] or "{}"))

    def acknowledge(
        self, spool: str, sink: str, position: Position, *, delivered: int, requests: int = 1
    ) -> None:
        """Move `sink` on to `position`, having delivered so many records in so many requests."""
        with self._lock:
            self._db.execute(
                "INSERT INTO position (spool, sink, seq, ahead, delivered, requests, updated)"
                " VALUES (:spool, :sink, :seq, :ahead, :delivered, :requests, :updated)"
                " ON CONFLICT (spool, sink) DO UPDATE SET seq = :seq, ahead = :ahead,"
                " delivered = delivered + :delivered, requests = requests + :requests,"
                " updated = :updated",
                {
                    "spool": spool,
                    "sink": sink,
                    "seq": position.seq,
                    "ahead": json.dumps(dict(position.ahead)) if position.ahead else "",
                    "delivered": delivered,
                    "requests": requests,
                    "updated": time.time(),
                },
            )

    def bury(self, letter: DeadLetter) -> None:
        """Keep a refused record; keeping the same one twice changes nothing."""
        with self._lock:
            self._db.table("dead_letter").insert(
                {
                    "spool": letter.spool,
                    "sink": letter.sink,
                    "seq": letter.seq,
                    "kind": letter.kind,
                    "body": letter.body,
                    "reason": letter.reason,
                    "detail": letter.detail,
                    "time": time.time(),
                },
                ignore=True,
            )

    def note_damage(
        self, spool: str, sink: str, *, first: int, last: int, path: str, reason: str
    ) -> None:
        """Remember records that a sink will never get because the file is damaged there."""
        with self._lock:
            self._db.table("damage").insert(
                {
                    "spool": spool,
                    "sink": sink,
                    "first": first,
                    "last": last,
                    "path": path,
                    "reason": reason,
                    "time": time.time(),
                },
                ignore=True,
            )

    def positions(self) -> list[dict[str, Any]]:
        """Every position with its counters, for people and for the account."""
        with self._lock:
            return list(self._db.table("position").rows)

    def dead_letters(self) -> list[dict[str, Any]]:
        """Every dead letter without its body, oldest first."""
        with self._lock:
            return list(
                self._db.query(
                    "SELECT id, spool, sink, seq, kind, reason, detail, time,"
                    " length(body) AS bytes FROM dead_letter ORDER BY id"
                )
            )

    def forget(self, spool: str) -> None:
        """Drop the positions of a spool that has been deleted; its dead letters stay."""
        with self._lock:
            self._db.table("position").delete_where("spool = ?", [spool])
            self._db.table("damage").delete_where("spool = ?", [spool])

    def close(self) -> None:
        """Close the database and unlock the directory."""
        with self._lock:
            self._db.conn.close()
            os.close(self._guard)
