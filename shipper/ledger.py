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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlite_utils

from shipper import ranges
from shipper.errors import StateInUse, StateUnusable
from spooler.spool.reader import Damage

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


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a sink is in a spool.

    Everything up to `seq` is settled. Where runs lie between each other in a spool, `ahead` says
    how far single runs are beyond that: run -> seq; `early` are those of their records that are
    settled and lie beyond `seq`: they stay settled when the file is lost that tells whose they are.
    """

    seq: int = 0
    ahead: Mapping[str, int] = field(default_factory=dict)
    early: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What one acknowledgement settles: counts of records, and of requests."""

    delivered: int = 0
    passed: int = 0  # records that the sink has no use for
    requests: int = 0


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a finished replay has sent: records `first` to `last`, and a digest over them."""

    spool: str
    entry: str
    directory: str
    first: int
    last: int
    records: int
    digest: str


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


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What a gap record tells; `first` and `last` are 0 where the records never had a seq."""

    spool: str
    seq: int
    reason: str
    count: int
    first: int = 0
    last: int = 0


class Ledger:
    """The state directory, locked for this process.

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

    # --- spools and positions ---------------------------------------------------------------------

    def remember_spool(self, spool: str, directory: Path, identity: Mapping[str, Any]) -> None:
        """Note a spool that has been found, so that it is known after its files are gone."""
        with self._using() as database:
            database.table("spool").insert(
                {
                    "id": spool,
                    "directory": str(directory),
                    "identity": json.dumps(dict(identity)),
                    "workload": "",
                    "found": time.time(),
                    "deleted": None,
                },
                ignore=True,
            )

    def spools(self) -> list[dict[str, Any]]:
        """Every spool that was ever found and is not forgotten; `identity` is a map."""
        with self._using() as database:
            rows = list(database.table("spool").rows)
        return [{**row, "identity": json.loads(row["identity"])} for row in rows]

    def workload(self, spool: str) -> str:
        """The workload that was found for a spool, or ""."""
        with self._using() as database:
            row = database.execute("SELECT workload FROM spool WHERE id = ?", (spool,)).fetchone()
        return str(row[0]) if row else ""

    def remember_workload(self, spool: str, uid: str) -> None:
        """Keep the workload that was found for a spool."""
        with self._using() as database:
            database.execute("UPDATE spool SET workload = ? WHERE id = ?", (uid, spool))

    def position(self, spool: str, sink: str) -> Position:
        """Where `sink` is in `spool`; the beginning when it has never been there."""
        with self._using() as database:
            return _position(database, spool, sink)

    def acknowledge(self, spool: str, sink: str, position: Position, settled: Settled) -> None:
        """Move `sink` on to `position`, with what has been settled on the way."""
        with self._using() as database:
            _move(database, spool, sink, position, settled)

    def is_cut_off_told(self, spool: str, sink: str) -> bool:
        """Whether `sink` knows that the process of `spool` died."""
        with self._using() as database:
            row = database.execute(
                "SELECT cut_off_told FROM position WHERE spool = ? AND sink = ?", (spool, sink)
            ).fetchone()
        return bool(row and row[0])

    def cut_off_is_told(self, spool: str, sink: str) -> None:
        """Remember that it does; without a position nothing was ever settled, nor is this."""
        with self._using() as database:
            database.execute(
                "UPDATE position SET cut_off_told = 1 WHERE spool = ? AND sink = ?", (spool, sink)
            )

    def positions(self) -> list[dict[str, Any]]:
        """Every position with its counters; `ahead` is a map, `early` a list of ranges."""
        with self._using() as database:
            rows = list(database.table("position").rows)
        return [
            {
                **row,
                "ahead": json.loads(row["ahead"] or "{}"),
                "early": [(first, last) for first, last in json.loads(row["early"] or "[]")],
            }
            for row in rows
        ]

    def forget(self, spool: str) -> None:
        """Note that a spool's files are deleted; what was settled of it stays known."""
        with self._using() as database:
            database.execute(
                "UPDATE spool SET deleted = ? WHERE id = ? AND deleted IS NULL",
                (time.time(), spool),
            )

    def prune(self, before: float) -> None:
        """Drop everything but dead letters of spools whose files were deleted before that time."""
        old = "(SELECT id FROM spool WHERE deleted < ?)"
        with self._using() as database:
            for table in ("position", "damage", "gap"):
                database.execute(f"DELETE FROM {table} WHERE spool IN {old}", (before,))
            database.execute("DELETE FROM spool WHERE deleted < ?", (before,))

    # --- replays ----------------------------------------------------------------------------------

    def open_replay(self, spool: str, sink: str, again: str) -> int:
        """The number of an unfinished replay of this kind, else that of the next one."""
        begun = [
            row
            for row in self.replays()
            if row["spool"] == spool and row["entry"].startswith(f"{sink}~{again}~")
        ]
        numbers = {int(row["entry"].rpartition("~")[2]): row["ended"] for row in begun}
        unfinished = [number for number, ended in numbers.items() if ended is None]
        return unfinished[0] if unfinished else max(numbers, default=0) + 1

    def begin_replay(self, spool: str, entry: str) -> None:
        """Note that a replay is under way; one that is already, goes on."""
        row = {"spool": spool, "entry": entry, "directory": "", "begun": time.time()}
        nothing = {"ended": None, "first": 0, "last": 0, "records": 0, "digest": ""}
        self._insert_new("replay", {**row, **nothing})

    def end_replay(self, receipt: Receipt) -> None:
        """Keep the receipt of a replay that got to its end."""
        with self._using() as database:
            database.table("replay").update(
                (receipt.spool, receipt.entry), {**asdict(receipt), "ended": time.time()}
            )

    def replays(self) -> list[dict[str, Any]]:
        """Every replay with its receipt; `ended` is None while it is unfinished."""
        with self._using() as database:
            return list(database.table("replay").rows)

    # --- what was not delivered -------------------------------------------------------------------

    def bury(self, letter: DeadLetter) -> bool:
        """Keep a refused record; False when it was kept already, which changes nothing."""
        row = {**asdict(letter), "time": time.time(), "state": "kept"}
        return self._insert_new("dead_letter", row)

    def dead_letters(self) -> list[dict[str, Any]]:
        """Every dead letter without its body, oldest first."""
        with self._using() as database:
            return list(
                database.query(
                    "SELECT id, spool, sink, seq, kind, reason, detail, time, state,"
                    " length(body) AS bytes FROM dead_letter ORDER BY id"
                )
            )

    def dead_letter_body(self, number: int) -> bytes | None:
        """The body of dead letter `number` as it was in the spool; None if it is not there."""
        with self._using() as database:
            row = database.execute(
                "SELECT body FROM dead_letter WHERE id = ?", (number,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def close_dead_letters(self, numbers: Iterable[int], state: str) -> None:
        """Mark dead letters `delivered` or `dropped`: they stay counted, their bodies go."""
        with self._using() as database:
            for number in numbers:
                database.execute(
                    "UPDATE dead_letter SET state = ?, body = x'' WHERE id = ?", (state, number)
                )

    def trim_dead_letters(self, *, max_count: int, max_bytes: int) -> int:
        """Give up the oldest dead letters beyond these limits; returns how many."""
        with self._using() as database:
            rows = database.execute(
                "SELECT id FROM (SELECT id, row_number() OVER newest AS place,"
                " sum(length(body)) OVER newest AS size FROM dead_letter WHERE state = 'kept'"
                " WINDOW newest AS (ORDER BY id DESC)) WHERE place > ? OR size > ?",
                (max_count, max_bytes),
            ).fetchall()
        self.close_dead_letters([row[0] for row in rows], "dropped")
        return len(rows)

    def note_damage(self, spool: str, sink: str, damage: Damage) -> bool:
        """Remember records that a sink will never get for damage; False when that was known.

        What is settled or known to be lost already stays what it is.
        """
        with self._transaction() as database:
            return bool(_lose(database, spool, sink, damage))

    def give_up(self, spool: str, sink: str, through: int, *, path: str, why: str) -> int:
        """Go past what `sink` has not got up to `through`, for good; returns how much that is.

        The records are counted as dropped in the step that moves the position, so that none is
        delivered afterwards, whatever happens before their file is gone.
        """
        with self._transaction() as database:
            position = _position(database, spool, sink)
            if position.seq >= through:
                return 0
            lost = Damage(path=path, first=position.seq + 1, last=through, reason=f"dropped:{why}")
            count = _lose(database, spool, sink, lost)
            beyond = Position(
                seq=through,
                ahead={run: seq for run, seq in position.ahead.items() if seq > through},
                early=frozenset(seq for seq in position.early if seq > through),
            )
            _move(database, spool, sink, beyond, Settled())
            return count

    def lost_in(self, gap: Gap, sink: str) -> int:
        """How many records are missing for `sink` that no earlier gap of the spool has told of."""
        with self._using() as database:
            rows = database.execute(
                "SELECT first, last FROM damage WHERE spool = ? AND sink = ? AND last >= ?"
                " AND first <= ? AND reason = 'missing'",
                (gap.spool, sink, gap.first, gap.last),
            ).fetchall()
            told = database.execute(
                "SELECT first, last FROM gap WHERE spool = ? AND seq < ? AND first > 0",
                (gap.spool, gap.seq),
            ).fetchall()
        return ranges.size(ranges.without(ranges.common(rows, [(gap.first, gap.last)]), told))

    def damages(self) -> list[dict[str, Any]]:
        """Every damage that was met."""
        with self._using() as database:
            return list(database.table("damage").rows)

    def note_gap(self, gap: Gap) -> None:
        """Remember records that the training process lost or deleted, as its spool tells."""
        self._insert_new("gap", {**asdict(gap), "time": time.time()})

    def gaps(self) -> list[dict[str, Any]]:
        """Every gap that was met."""
        with self._using() as database:
            return list(database.table("gap").rows)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite_utils.Database]:
        """As `_using`; all of it happens, or nothing."""
        with self._using() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def _insert_new(self, table: str, row: Mapping[str, Any]) -> bool:
        with self._using() as database:
            before = database.conn.total_changes
            database.table(table).insert(dict(row), ignore=True)
            return bool(database.conn.total_changes > before)

    @contextmanager
    def _using(self) -> Iterator[sqlite_utils.Database]:
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


def _position(database: sqlite_utils.Database, spool: str, sink: str) -> Position:
    row = database.execute(
        "SELECT seq, ahead, early FROM position WHERE spool = ? AND sink = ?", (spool, sink)
    ).fetchone()
    if row is None:
        return Position()
    early = json.loads(row[2] or "[]")
    return Position(
        seq=row[0],
        ahead=json.loads(row[1] or "{}"),
        early=frozenset(seq for first, last in early for seq in range(first, last + 1)),
    )


def _move(
    database: sqlite_utils.Database, spool: str, sink: str, position: Position, settled: Settled
) -> None:
    database.execute(
        "INSERT INTO position (spool, sink, seq, ahead, early, delivered, passed, requests,"
        " cut_off_told, updated) VALUES (:spool, :sink, :seq, :ahead, :early, :delivered, :passed,"
        " :requests, 0, :updated) ON CONFLICT (spool, sink) DO UPDATE SET"
        " seq = :seq, ahead = :ahead, early = :early, delivered = delivered + :delivered,"
        " passed = passed + :passed, requests = requests + :requests, updated = :updated",
        {
            "spool": spool,
            "sink": sink,
            "seq": position.seq,
            "ahead": json.dumps(dict(position.ahead)) if position.ahead else "",
            "early": json.dumps(ranges.of_numbers(position.early)) if position.early else "",
            "delivered": settled.delivered,
            "passed": settled.passed,
            "requests": settled.requests,
            "updated": time.time(),
        },
    )


def _lose(database: sqlite_utils.Database, spool: str, sink: str, lost: Damage) -> int:
    """Note what of `lost` is neither settled nor noted; how many records that is."""
    where = "FROM {} WHERE spool = ? AND sink = ?"
    known = database.execute(f"SELECT first, last {where.format('damage')}", (spool, sink))
    dead = database.execute(f"SELECT seq, seq {where.format('dead_letter')}", (spool, sink))
    early = ranges.of_numbers(_position(database, spool, sink).early)
    new = ranges.without([(lost.first, lost.last)], [*known, *dead, *early])
    for first, last in new:
        row = {**asdict(lost), "first": first, "last": last}
        database.table("damage").insert({"spool": spool, "sink": sink, **row, "time": time.time()})
    return ranges.size(new)


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
