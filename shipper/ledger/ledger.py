"""Positions, dead letters and losses of every spool and sink, in the service's own database.

A position is written only after the sink has acknowledged. Losing the whole file costs repetitions,
no record.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shipper.ledger import ranges, totals
from shipper.ledger.database import DATABASE_NAME, LOCK_NAME, Database, StateDatabase
from shipper.ledger.entries import (
    CommitDelta,
    DeadLetter,
    DigestRange,
    Gap,
    Position,
    Receipt,
    ReceiverEpoch,
)
from spooler.spool.identity import Identity
from spooler.spool.reader import Damage

__all__ = [
    "DATABASE_NAME",
    "LOCK_NAME",
    "CommitDelta",
    "DeadLetter",
    "Gap",
    "Ledger",
    "DigestRange",
    "Position",
    "Receipt",
    "ReceiverEpoch",
]


class Ledger(StateDatabase):
    """The tables of the state directory, by what they mean."""

    # --- spools and positions ---------------------------------------------------------------------

    def remember_spool(
        self, spool: str, directory: Path, identity: Mapping[str, Any], written: int = 0
    ) -> None:
        """Store where a spool was found, and the seq up to which it was written then.

        It is known after its files are gone, and present again when they are found again. Who wrote
        it does not change.
        """
        self.execute(
            "INSERT INTO spool (id, directory, identity, workload, found, written)"
            " VALUES (?, ?, ?, '', ?, ?) ON CONFLICT (id) DO UPDATE SET deleted = NULL,"
            " directory = excluded.directory,"
            " written = max(coalesce(written, 0), excluded.written)",
            *(spool, str(directory), json.dumps(dict(identity)), time.time(), written),
        )

    def note_written(self, written: Mapping[str, int]) -> None:
        """Store up to which seq spools are written now."""
        with self.transaction() as database:
            for spool, seq in written.items():
                database.execute(
                    "UPDATE spool SET written = max(coalesce(written, 0), ?) WHERE id = ?",
                    (seq, spool),
                )

    def present(self) -> dict[str, Path]:
        """Where the spools are whose files were there when they were last looked for."""
        rows = self.execute("SELECT id, directory FROM spool WHERE deleted IS NULL")
        return {spool: Path(directory) for spool, directory in rows}

    def directories(self, since: str) -> list[Path]:
        """Where spools were found whose id is not below `since`; their files may be gone."""
        rows = self.execute("SELECT directory FROM spool WHERE id >= ?", since)
        return [Path(directory) for (directory,) in rows]

    def spools(self) -> list[dict[str, Any]]:
        """Every spool that was found and is not pruned; `identity` is a map."""
        return [{**row, "identity": json.loads(row["identity"])} for row in self._rows("spool")]

    def directory_of(self, spool: str) -> Path | None:
        """Where a spool was found; None for an unknown one."""
        rows = self.execute("SELECT directory FROM spool WHERE id = ?", spool)
        return Path(rows[0][0]) if rows else None

    def identity(self, spool: str) -> Identity | None:
        """Who wrote a spool; None for an unknown one."""
        rows = self.execute("SELECT identity FROM spool WHERE id = ?", spool)
        try:
            return Identity.from_map(json.loads(rows[0][0])) if rows else None
        except (TypeError, ValueError):
            return None

    def workload(self, spool: str) -> str:
        """The workload that was looked up for a spool, or ""."""
        rows = self.execute("SELECT workload FROM spool WHERE id = ?", spool)
        return str(rows[0][0]) if rows else ""

    def remember_workload(self, spool: str, uid: str) -> None:
        self.execute("UPDATE spool SET workload = ? WHERE id = ?", uid, spool)

    def position(self, spool: str, sink: str) -> Position:
        """How far `sink` has acknowledged `spool`."""
        with self.connection() as database:
            return _position(database, spool, sink)

    def acknowledge(self, spool: str, sink: str, position: Position, delta: CommitDelta) -> None:
        """Move `sink` to `position` and add `delta` to its counters."""
        if not delta.dropped:
            with self.connection() as database:
                _move(database, spool, sink, position, delta)
            return
        with self.transaction() as database:
            _move(database, spool, sink, position, delta)
            for reason, count in delta.dropped.items():
                database.execute(
                    "INSERT INTO dropped (spool, sink, reason, count) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (spool, sink, reason)"
                    " DO UPDATE SET count = count + excluded.count",
                    (spool, sink, reason, count),
                )

    def dropped(self, spool: str = "") -> list[dict[str, Any]]:
        """Records that rules of sinks dropped, of all spools or of one: counts by reason."""
        return self._rows("dropped", spool)

    # --- sinks ------------------------------------------------------------------------------------

    def sinks(self) -> dict[str, str]:
        """Name and type of the sinks that the service runs, or ran last."""
        return dict(self.execute("SELECT name, type FROM sink"))

    def note_sinks(self, sinks: Mapping[str, str]) -> None:
        """Replace them."""
        with self.transaction() as database:
            database.execute("DELETE FROM sink")
            for one in sinks.items():
                database.execute("INSERT INTO sink (name, type) VALUES (?, ?)", one)

    # --- volatile receivers, unclean exits --------------------------------------------------------

    def instance(self) -> str:
        """A random name of this state directory."""
        with self.transaction() as database:
            row = database.execute("SELECT name FROM instance").fetchone()
            name = str(row[0]) if row else secrets.token_hex(8)
            if row is None:
                database.execute("INSERT INTO instance (name) VALUES (?)", (name,))
        return name

    def epoch(self, spool: str, sink: str) -> ReceiverEpoch:
        """The epoch of the receiver that has what `sink` has acknowledged of `spool`."""
        rows = self.execute(
            "SELECT life, flight, flight_life FROM life WHERE spool = ? AND sink = ?", spool, sink
        )
        for name, in_flight, epoch in rows:
            return ReceiverEpoch(name=name, in_flight=in_flight, in_flight_epoch=epoch)
        return ReceiverEpoch()

    def save_epoch(self, spool: str, sink: str, epoch: ReceiverEpoch) -> None:
        """Store the epoch before anything is sent to it."""
        with self.connection() as database:
            database.execute(
                "INSERT INTO life (spool, sink, life, flight, flight_life)"
                " VALUES (:spool, :sink, :name, :in_flight, :in_flight_epoch)"
                " ON CONFLICT (spool, sink) DO UPDATE SET"
                " life = :name, flight = :in_flight, flight_life = :in_flight_epoch",
                {"spool": spool, "sink": sink, **asdict(epoch)},
            )

    def is_unclean_exit_reported(self, spool: str, sink: str) -> bool:
        """Whether `sink` was sent the report that the process of `spool` died."""
        rows = self.execute(
            "SELECT cut_off_told FROM position WHERE spool = ? AND sink = ?", spool, sink
        )
        return bool(rows and rows[0][0])

    def mark_unclean_exit_reported(self, spool: str, sink: str) -> None:
        """Store that; without effect while the sink has acknowledged nothing."""
        self.execute(
            "UPDATE position SET cut_off_told = 1 WHERE spool = ? AND sink = ?", spool, sink
        )

    def positions(self, spool: str = "") -> list[dict[str, Any]]:
        """Every position, or a spool's; `ahead` is a map, `early` a list of ranges."""
        return [
            {
                **row,
                "ahead": json.loads(row["ahead"] or "{}"),
                "early": [(first, last) for first, last in json.loads(row["early"] or "[]")],
            }
            for row in self._rows("position", spool)
        ]

    def mark_deleted(self, spool: str) -> None:
        """Store that the service has deleted all of a spool; its positions stay."""
        self.execute(
            "UPDATE spool SET deleted = ?, written = 0 WHERE id = ? AND deleted IS NULL",
            *(time.time(), spool),
        )

    def mark_missing(self, spools: Iterable[str]) -> None:
        """Store that the files of these are gone; what was written and not delivered is owed."""
        with self.transaction() as database:
            for spool in spools:
                database.execute("UPDATE spool SET deleted = ? WHERE id = ?", (time.time(), spool))

    def prune(self, before: float) -> None:
        """Delete all but dead letters of spools whose files were deleted before that time."""
        old = "(SELECT id FROM spool WHERE deleted < ?)"
        with self.transaction() as database:
            totals.archive(database, before)
            for table in ("position", "damage", "gap", "dropped", "life"):
                database.execute(f"DELETE FROM {table} WHERE spool IN {old}", (before,))
            database.execute("DELETE FROM spool WHERE deleted < ?", (before,))

    # --- replays ----------------------------------------------------------------------------------

    def open_replay(self, spool: str, sink: str, again: str) -> int:
        """The number of an unfinished replay of this name, else the next free number."""
        begun = [
            row
            for row in self.replays()
            if row["spool"] == spool and row["entry"].startswith(f"{sink}~{again}~")
        ]
        numbers = {int(row["entry"].rpartition("~")[2]): row["ended"] for row in begun}
        unfinished = [number for number, ended in numbers.items() if ended is None]
        return unfinished[0] if unfinished else max(numbers, default=0) + 1

    def is_unfinished(self, spool: str, entry: str) -> bool:
        return bool(
            self.execute(
                "SELECT 1 FROM replay WHERE spool = ? AND entry = ? AND ended IS NULL", spool, entry
            )
        )

    def begin_replay(self, spool: str, entry: str) -> None:
        """Store that a replay has begun, or that it continues."""
        row = {"spool": spool, "entry": entry, "directory": "", "begun": time.time()}
        nothing = {"ended": None, "first": 0, "last": 0, "records": 0, "digest": ""}
        if not self.insert_new("replay", {**row, **nothing}):
            # The file has grown since: the receipt of the shorter one is void.
            self.execute(
                "UPDATE replay SET ended = NULL WHERE spool = ? AND entry = ?", spool, entry
            )

    def end_replays(self, receipts: Iterable[Receipt]) -> None:
        """Store the receipts of a finished replay in one transaction."""
        with self.transaction() as database:
            for receipt in receipts:
                kinds = json.dumps(None if receipt.kinds is None else sorted(receipt.kinds))
                pieces = json.dumps([[one.first, one.last, one.digest] for one in receipt.pieces])
                database.table("replay").update(
                    (receipt.spool, receipt.entry),
                    {**asdict(receipt), "pieces": pieces, "kinds": kinds, "ended": time.time()},
                )

    def replays(self) -> list[dict[str, Any]]:
        """Every replay with its receipt; `ended` is None while it is unfinished."""
        return [
            {
                **row,
                "pieces": [
                    DigestRange(first=first, last=last, digest=digest)
                    for first, last, digest in json.loads(row["pieces"] or "[]")
                ],
            }
            for row in self._rows("replay", order_by="begun")
        ]

    # --- what was not delivered -------------------------------------------------------------------

    def add_dead_letter(self, letter: DeadLetter) -> bool:
        """Store a rejected record; False if it is stored already."""
        row = {**asdict(letter), "time": time.time(), "state": "kept"}
        return self.insert_new("dead_letter", row)

    def dead_letters(self, spool: str = "") -> list[dict[str, Any]]:
        """Every dead letter, or a spool's, without its body, oldest first."""
        columns = "id, spool, sink, seq, kind, reason, detail, time, state, length(body) AS bytes"
        return self._rows("dead_letter", spool, select=columns, order_by="id")

    def rejected_beyond(self, spool: str, sink: str) -> list[int]:
        """Seqs of the dead letters of a sink that are not acknowledged yet."""
        with self.connection() as database:
            rows = database.execute(
                "SELECT seq FROM dead_letter WHERE spool = ? AND sink = ? AND seq > ?",
                (spool, sink, _position(database, spool, sink).seq),
            ).fetchall()
        return [row[0] for row in rows]

    def dead_letter_body(self, number: int) -> bytes | None:
        """The body of dead letter `number` as it was in the spool; None for an unknown one."""
        rows = self.execute("SELECT body FROM dead_letter WHERE id = ?", number)
        return bytes(rows[0][0]) if rows else None

    def resolve_dead_letters(self, numbers: Iterable[int], state: str) -> None:
        """Mark dead letters `delivered` or `dropped`: they stay counted, their bodies do not."""
        resolve = "UPDATE dead_letter SET state = ?, body = x'' WHERE id = ?"
        with self.connection() as database:  # all or none of what one request has delivered
            for number in numbers:
                database.execute(resolve, (state, number))

    def trim_dead_letters(self, *, max_count: int, max_bytes: int) -> int:
        """Discard the oldest dead letters beyond these limits; returns how many."""
        rows = self.execute(
            "SELECT id FROM (SELECT id, row_number() OVER newest AS place,"
            " sum(length(body)) OVER newest AS size FROM dead_letter WHERE state = 'kept'"
            " WINDOW newest AS (ORDER BY id DESC)) WHERE place > ? OR size > ?",
            *(max_count, max_bytes),
        )
        self.resolve_dead_letters([row[0] for row in rows], "dropped")
        return len(rows)

    def add_damage(self, spool: str, sink: str, damage: Damage) -> bool:
        """Store records that a sink cannot get because of damage; False if all were known.

        Records that are acknowledged or counted as lost already are left out.
        """
        with self.transaction() as database:
            return bool(_add_lost(database, spool, sink, damage))

    def drop_through(self, spool: str, sink: str, through: int, *, path: str, why: str) -> int:
        """Drop the records up to `through` that `sink` has not acknowledged; returns how many.

        One transaction counts them and moves the position, so that none is delivered afterwards,
        whatever happens before their file is deleted.
        """
        with self.transaction() as database:
            position = _position(database, spool, sink)
            if position.seq >= through:
                return 0
            lost = Damage(path=path, first=position.seq + 1, last=through, reason=f"dropped:{why}")
            count = _add_lost(database, spool, sink, lost)
            _move(database, spool, sink, position.beyond(through), CommitDelta())
            return count

    def lost_in(self, gap: Gap, sink: str) -> int:
        """How many records are missing for `sink` that no earlier gap of the spool reports."""
        rows = self.execute(
            "SELECT first, last FROM damage WHERE spool = ? AND sink = ? AND last >= ?"
            " AND first <= ? AND reason = 'missing'",
            *(gap.spool, sink, gap.first, gap.last),
        )
        told = self.execute(
            "SELECT first, last FROM gap WHERE spool = ? AND seq < ? AND first > 0",
            *(gap.spool, gap.seq),
        )
        return ranges.size(ranges.without(ranges.common(rows, [(gap.first, gap.last)]), told))

    def damages(self, spool: str = "") -> list[dict[str, Any]]:
        """Every damaged range that was met, of all spools or of one."""
        return self._rows("damage", spool)

    def add_gap(self, gap: Gap) -> None:
        """Store the report of the writer about records that it dropped or deleted."""
        self.insert_new("gap", {**asdict(gap), "time": time.time()})

    def gaps(self) -> list[dict[str, Any]]:
        return self._rows("gap")

    def _rows(self, table: str, spool: str = "", **more: Any) -> list[dict[str, Any]]:
        """The rows of a table, or those of one spool."""
        where = ("spool = ?", [spool]) if spool else ()
        with self.connection() as database:
            return list(database.table(table).rows_where(*where, **more))


def _position(database: Database, spool: str, sink: str) -> Position:
    row = database.execute(
        "SELECT seq, ahead, early FROM position WHERE spool = ? AND sink = ?", (spool, sink)
    ).fetchone()
    if row is None:
        return Position()
    early = json.loads(row[2] or "[]")
    return Position(
        seq=row[0],
        acked_by_run=json.loads(row[1] or "{}"),
        acked_seqs=frozenset(seq for first, last in early for seq in range(first, last + 1)),
    )


def _move(
    database: Database, spool: str, sink: str, position: Position, delta: CommitDelta
) -> None:
    database.execute(
        "INSERT INTO position (spool, sink, seq, ahead, early, delivered, passed, requests,"
        " cut_off_told, updated, points, nonfinite, left_out, rejected)"
        " VALUES (:spool, :sink, :seq, :ahead, :early, :delivered, :skipped, :requests,"
        " 0, :updated, :points, :nonfinite, :left_out, :rejected)"
        " ON CONFLICT (spool, sink) DO UPDATE SET"
        " seq = :seq, ahead = :ahead, early = :early, delivered = delivered + :delivered,"
        " passed = passed + :skipped, requests = requests + :requests, updated = :updated,"
        # Columns of a later version: NULL in older rows.
        " points = coalesce(points, 0) + :points,"
        " nonfinite = coalesce(nonfinite, 0) + :nonfinite,"
        " left_out = coalesce(left_out, 0) + :left_out,"
        " rejected = coalesce(rejected, 0) + :rejected",
        {
            "spool": spool,
            "sink": sink,
            "seq": position.seq,
            "ahead": json.dumps(dict(position.acked_by_run)) if position.acked_by_run else "",
            "early": json.dumps(ranges.of_numbers(position.acked_seqs))
            if position.acked_seqs
            else "",
            **vars(delta),
            "updated": time.time(),
        },
    )


def _add_lost(database: Database, spool: str, sink: str, lost: Damage) -> int:
    """Store what of `lost` is neither acknowledged nor stored; returns how many records."""
    where = "FROM {} WHERE spool = ? AND sink = ?"
    known = database.execute(f"SELECT first, last {where.format('damage')}", (spool, sink))
    dead = database.execute(f"SELECT seq, seq {where.format('dead_letter')}", (spool, sink))
    acked = ranges.of_numbers(_position(database, spool, sink).acked_seqs)
    new = ranges.without([(lost.first, lost.last)], [*known, *dead, *acked])
    for first, last in new:
        row = {**asdict(lost), "first": first, "last": last}
        database.table("damage").insert({"spool": spool, "sink": sink, **row, "time": time.time()})
    return ranges.size(new)
