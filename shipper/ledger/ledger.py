"""What has been acknowledged and what was given up, in the service's own database.

A position is written after the sink has said so and never before; losing the whole file costs
repetitions, no record.
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
from shipper.ledger.database import DATABASE_NAME, LOCK_NAME, Database, State
from shipper.ledger.entries import DeadLetter, Gap, Life, Piece, Position, Receipt, Settled
from spooler.spool.identity import Identity
from spooler.spool.reader import Damage

__all__ = [
    "DATABASE_NAME",
    "LOCK_NAME",
    "DeadLetter",
    "Gap",
    "Ledger",
    "Life",
    "Piece",
    "Position",
    "Receipt",
    "Settled",
]


class Ledger(State):
    """The state directory's tables, by what they mean."""

    # --- spools and positions ---------------------------------------------------------------------

    def remember_spool(self, spool: str, directory: Path, identity: Mapping[str, Any]) -> None:
        """Note a spool that has been found, so that it is known after its files are gone."""
        with self.using() as database:
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
        with self.using() as database:
            rows = list(database.table("spool").rows)
        return [{**row, "identity": json.loads(row["identity"])} for row in rows]

    def place_of(self, spool: str) -> Path | None:
        """Where a spool was found first; None for one that never was."""
        with self.using() as database:
            row = database.execute("SELECT directory FROM spool WHERE id = ?", (spool,)).fetchone()
        return Path(row[0]) if row else None

    def identity(self, spool: str) -> Identity | None:
        """Who wrote a spool that was found before; None for one that never was."""
        with self.using() as database:
            row = database.execute("SELECT identity FROM spool WHERE id = ?", (spool,)).fetchone()
        try:
            return Identity.from_map(json.loads(row[0])) if row else None
        except (TypeError, ValueError):
            return None

    def workload(self, spool: str) -> str:
        """The workload that was found for a spool, or ""."""
        with self.using() as database:
            row = database.execute("SELECT workload FROM spool WHERE id = ?", (spool,)).fetchone()
        return str(row[0]) if row else ""

    def remember_workload(self, spool: str, uid: str) -> None:
        """Keep the workload that was found for a spool."""
        with self.using() as database:
            database.execute("UPDATE spool SET workload = ? WHERE id = ?", (uid, spool))

    def position(self, spool: str, sink: str) -> Position:
        """Where `sink` is in `spool`; the beginning when it has never been there."""
        with self.using() as database:
            return _position(database, spool, sink)

    def acknowledge(self, spool: str, sink: str, position: Position, settled: Settled) -> None:
        """Move `sink` on to `position`, with what has been settled on the way."""
        if not settled.dropped:
            with self.using() as database:
                _move(database, spool, sink, position, settled)
            return
        with self.transaction() as database:
            _move(database, spool, sink, position, settled)
            for reason, count in settled.dropped.items():
                database.execute(
                    "INSERT INTO dropped (spool, sink, reason, count) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (spool, sink, reason)"
                    " DO UPDATE SET count = count + excluded.count",
                    (spool, sink, reason, count),
                )

    def dropped(self, spool: str = "") -> list[dict[str, Any]]:
        """What rules of sinks gave up, or of a spool's: counts by reason."""
        with self.using() as database:
            return list(database.table("dropped").rows_where(*_of(spool)))

    # --- sinks ------------------------------------------------------------------------------------

    def sinks(self) -> dict[str, str]:
        """Name and type of the sinks that the service runs, or ran last."""
        with self.using() as database:
            return dict(database.execute("SELECT name, type FROM sink").fetchall())

    def note_sinks(self, sinks: Mapping[str, str]) -> None:
        """Replace them."""
        with self.transaction() as database:
            database.execute("DELETE FROM sink")
            for one in sinks.items():
                database.execute("INSERT INTO sink (name, type) VALUES (?, ?)", one)

    # --- receivers that forget --------------------------------------------------------------------

    def instance(self) -> str:
        """The name of this state directory, drawn once."""
        with self.transaction() as database:
            row = database.execute("SELECT name FROM instance").fetchone()
            name = str(row[0]) if row else secrets.token_hex(8)
            if row is None:
                database.execute("INSERT INTO instance (name) VALUES (?)", (name,))
        return name

    def life(self, spool: str, sink: str) -> Life:
        """Which life of its receiver has what `sink` has acknowledged of `spool`."""
        with self.using() as database:
            row = database.execute(
                "SELECT life, flight, flight_life FROM life WHERE spool = ? AND sink = ?",
                (spool, sink),
            ).fetchone()
        return Life(name=row[0], flight=row[1], flight_life=row[2]) if row else Life()

    def note_life(self, spool: str, sink: str, life: Life) -> None:
        """Keep that; before anything is sent on the strength of it."""
        with self.using() as database:
            database.execute(
                "INSERT INTO life (spool, sink, life, flight, flight_life)"
                " VALUES (:spool, :sink, :name, :flight, :flight_life)"
                " ON CONFLICT (spool, sink) DO UPDATE SET"
                " life = :name, flight = :flight, flight_life = :flight_life",
                {"spool": spool, "sink": sink, **asdict(life)},
            )

    def is_cut_off_told(self, spool: str, sink: str) -> bool:
        """Whether `sink` knows that the process of `spool` died."""
        with self.using() as database:
            row = database.execute(
                "SELECT cut_off_told FROM position WHERE spool = ? AND sink = ?", (spool, sink)
            ).fetchone()
        return bool(row and row[0])

    def cut_off_is_told(self, spool: str, sink: str) -> None:
        """Remember that it does; without a position nothing was ever settled, nor is this."""
        with self.using() as database:
            database.execute(
                "UPDATE position SET cut_off_told = 1 WHERE spool = ? AND sink = ?", (spool, sink)
            )

    def positions(self, spool: str = "") -> list[dict[str, Any]]:
        """Every position, or a spool's; `ahead` is a map, `early` a list of ranges."""
        with self.using() as database:
            rows = list(database.table("position").rows_where(*_of(spool)))
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
        with self.using() as database:
            database.execute(
                "UPDATE spool SET deleted = ? WHERE id = ? AND deleted IS NULL",
                (time.time(), spool),
            )

    def prune(self, before: float) -> None:
        """Drop everything but dead letters of spools whose files were deleted before that time."""
        old = "(SELECT id FROM spool WHERE deleted < ?)"
        with self.transaction() as database:
            totals.keep(database, before)
            for table in ("position", "damage", "gap", "dropped", "life"):
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

    def is_unfinished(self, spool: str, entry: str) -> bool:
        """Whether a replay was begun and has not ended."""
        with self.using() as database:
            return bool(
                database.execute(
                    "SELECT 1 FROM replay WHERE spool = ? AND entry = ? AND ended IS NULL",
                    (spool, entry),
                ).fetchone()
            )

    def begin_replay(self, spool: str, entry: str) -> None:
        """Note that a replay is under way; one that is already, goes on."""
        row = {"spool": spool, "entry": entry, "directory": "", "begun": time.time()}
        nothing = {"ended": None, "first": 0, "last": 0, "records": 0, "digest": ""}
        if not self.insert_new("replay", {**row, **nothing}):
            # Of a file that has grown since: what it said of the shorter one is void.
            with self.using() as database:
                database.table("replay").update((spool, entry), {"ended": None})

    def end_replays(self, receipts: Iterable[Receipt]) -> None:
        """Keep the receipts of a replay that got to its end, all at once."""
        with self.transaction() as database:
            for receipt in receipts:
                pieces = json.dumps([[one.first, one.last, one.digest] for one in receipt.pieces])
                database.table("replay").update(
                    (receipt.spool, receipt.entry),
                    {**asdict(receipt), "pieces": pieces, "ended": time.time()},
                )

    def replays(self) -> list[dict[str, Any]]:
        """Every replay with its receipt; `ended` is None while it is unfinished."""
        with self.using() as database:
            rows = list(database.table("replay").rows_where(order_by="begun"))
        return [
            {
                **row,
                "pieces": [
                    Piece(first=first, last=last, digest=digest)
                    for first, last, digest in json.loads(row["pieces"] or "[]")
                ],
            }
            for row in rows
        ]

    # --- what was not delivered -------------------------------------------------------------------

    def bury(self, letter: DeadLetter) -> bool:
        """Keep a refused record; False when it was kept already, which changes nothing."""
        row = {**asdict(letter), "time": time.time(), "state": "kept"}
        return self.insert_new("dead_letter", row)

    def dead_letters(self, spool: str = "") -> list[dict[str, Any]]:
        """Every dead letter, or a spool's, without its body, oldest first."""
        columns = "id, spool, sink, seq, kind, reason, detail, time, state, length(body) AS bytes"
        with self.using() as database:
            return list(
                database.table("dead_letter").rows_where(*_of(spool), select=columns, order_by="id")
            )

    def dead_letter_body(self, number: int) -> bytes | None:
        """The body of dead letter `number` as it was in the spool; None if it is not there."""
        with self.using() as database:
            row = database.execute(
                "SELECT body FROM dead_letter WHERE id = ?", (number,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def close_dead_letters(self, numbers: Iterable[int], state: str) -> None:
        """Mark dead letters `delivered` or `dropped`: they stay counted, their bodies go."""
        with self.using() as database:
            for number in numbers:
                database.execute(
                    "UPDATE dead_letter SET state = ?, body = x'' WHERE id = ?", (state, number)
                )

    def trim_dead_letters(self, *, max_count: int, max_bytes: int) -> int:
        """Give up the oldest dead letters beyond these limits; returns how many."""
        with self.using() as database:
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
        with self.transaction() as database:
            return bool(_lose(database, spool, sink, damage))

    def give_up(self, spool: str, sink: str, through: int, *, path: str, why: str) -> int:
        """Go past what `sink` has not got up to `through`, for good; returns how much that is.

        The records are counted as dropped in the step that moves the position, so that none is
        delivered afterwards, whatever happens before their file is gone.
        """
        with self.transaction() as database:
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
        with self.using() as database:
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

    def damages(self, spool: str = "") -> list[dict[str, Any]]:
        """Every damage that was met, or a spool's."""
        with self.using() as database:
            return list(database.table("damage").rows_where(*_of(spool)))

    def note_gap(self, gap: Gap) -> None:
        """Remember records that the training process lost or deleted, as its spool tells."""
        self.insert_new("gap", {**asdict(gap), "time": time.time()})

    def gaps(self) -> list[dict[str, Any]]:
        """Every gap that was met."""
        with self.using() as database:
            return list(database.table("gap").rows)


def _of(spool: str) -> tuple[str | None, list[str]]:
    """A condition and its values: this spool's rows, or all of them for ""."""
    return ("spool = ?", [spool]) if spool else (None, [])


def _position(database: Database, spool: str, sink: str) -> Position:
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


def _move(database: Database, spool: str, sink: str, position: Position, settled: Settled) -> None:
    database.execute(
        "INSERT INTO position (spool, sink, seq, ahead, early, delivered, passed, requests,"
        " cut_off_told, updated, points, nonfinite, left_out) VALUES (:spool, :sink, :seq, :ahead,"
        " :early, :delivered, :passed, :requests, 0, :updated, :points, :nonfinite, :left_out)"
        " ON CONFLICT (spool, sink) DO UPDATE SET"
        " seq = :seq, ahead = :ahead, early = :early, delivered = delivered + :delivered,"
        " passed = passed + :passed, requests = requests + :requests, updated = :updated,"
        # These came later: they are NULL in rows of before.
        " points = coalesce(points, 0) + :points,"
        " nonfinite = coalesce(nonfinite, 0) + :nonfinite,"
        " left_out = coalesce(left_out, 0) + :left_out",
        {
            "spool": spool,
            "sink": sink,
            "seq": position.seq,
            "ahead": json.dumps(dict(position.ahead)) if position.ahead else "",
            "early": json.dumps(ranges.of_numbers(position.early)) if position.early else "",
            **asdict(settled),
            "updated": time.time(),
        },
    )


def _lose(database: Database, spool: str, sink: str, lost: Damage) -> int:
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
