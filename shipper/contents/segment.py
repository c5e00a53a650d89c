"""One segment file: in what state it is, what it holds, what of it cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shipper.contents.shown import seconds_in
from shipper.contents.tally import Tally
from spooler.errors import BodyUnreadable, NewerFormat, NotASpool, SpoolDamaged
from spooler.spool import codec, db
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.segment import CHUNK_BYTES, row_bytes
from spooler.spool.stored import Damage, Row, Stored, verify

_READ_RECORDS = 1000
_SAMPLE = 200  # records at either end of a segment that is not read whole
_MOST_DAMAGE = 1000
_MOST_TELLING = 10_000

# Kinds that are few and tell what the rest is about.
_TELLING = ("run", "finish", "gap", "exit")

SEALED, OPEN, CUT_OFF, PREPARED = "sealed", "open", "cut off", "prepared"
DAMAGED, NEWER, NOT_OURS, UNREADABLE = "damaged", "newer", "not ours", "unreadable"


@dataclass(kw_only=True)
class Segment:
    """What a look at a segment found; seqs are 0 and times None where there is nothing.

    `state` is sealed (will not change), open (its process may append), cut off (its process died
    before sealing it), prepared (open and still empty), damaged, newer (a later format), not ours,
    or unreadable (the system does not let us); `why` says more of the last four.
    """

    path: Path
    number: int | None
    state: str = SEALED
    why: str = ""
    records: int = 0
    first: int = 0
    last: int = 0
    bytes: int = 0  # with its log
    first_time: float | None = None
    last_time: float | None = None
    identity: Identity | None = None
    identity_wrong: str = ""
    damage: list[Damage] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def is_readable(self) -> bool:
        """Whether it could be opened and read through; single records may be damaged."""
        return self.state not in (DAMAGED, NEWER, NOT_OURS, UNREADABLE)


def look(path: Path, number: int | None, *, alive: bool, whole: bool) -> Segment:
    """Look at the segment at `path`; with `whole`, read and check every record.

    Without, kinds are counted, records that tell of runs, gaps and ends are read, and of the others
    the first and last `_SAMPLE`.

    Raises:
        FileNotFoundError: it is not there, or has been deleted meanwhile.
    """
    path = Path(os.path.realpath(path.parent)) / path.name  # a person may come by links
    # Before it is opened: a log that is there may be gone afterwards, the reverse never happens.
    logged = os.path.lexists(f"{path}-wal")
    segment = Segment(path=path, number=number, bytes=os.lstat(path).st_size + db.wal_size(path))
    if not os.access(path, os.R_OK):
        segment.state, segment.why = UNREADABLE, "this user may not read it"
        return segment
    try:
        connection = db.open_for_reading(path)
    except NewerFormat as error:
        return _refused(segment, NEWER, error)
    except NotASpool as error:
        return _refused(segment, NOT_OURS, error)
    except SpoolDamaged as error:
        segment.state, segment.why = DAMAGED, error.reason
        return segment
    try:
        _read_identity(connection, segment)
        (_scan if whole else _sample)(connection, segment)
    except db.Error as error:
        segment.state, segment.why = DAMAGED, str(error)
        return segment
    finally:
        connection.close()
    if logged and segment.is_readable:
        live = OPEN if segment.records else PREPARED
        segment.state = live if alive else CUT_OFF
    return segment


def _refused(segment: Segment, state: str, error: Exception) -> Segment:
    segment.state = state
    segment.why = str(error).removeprefix(f"{segment.path}: ")
    return segment


def _read_identity(connection: db.Connection, segment: Segment) -> None:
    row = connection.execute(fmt.SELECT_IDENTITY).fetchone()
    if row is None:
        segment.identity_wrong = "it has no identity"
        return
    body, checksum = row
    try:
        if not isinstance(body, bytes):
            raise TypeError("it is no bytes")
        segment.identity = Identity.from_map(codec.unpack(body))
    except (BodyUnreadable, TypeError) as error:
        segment.identity_wrong = f"its identity cannot be read: {error}"
        return
    if segment.number is None:
        return  # the checksum counts the number in, and a file of another name does not tell it
    if codec.checksum(fmt.IDENTITY_KIND, body, segment.number) != checksum:
        segment.identity_wrong = "the checksum of its identity does not hold"


def _scan(connection: db.Connection, segment: Segment) -> None:
    """Read and check everything."""
    position: int | None = None
    for rows, error in _chunks(connection):
        if position is None and rows:
            position = rows[0][0] - 1
            segment.first = rows[0][0]
        position = _take(segment, rows, position or 0)
        segment.records += len(rows)
        segment.last = max(segment.last, position)
        if error is not None:
            segment.state = DAMAGED
            segment.why = f"what follows record {position} cannot be read: {error}"


def _take(segment: Segment, rows: list[Row], position: int) -> int:
    """Check rows that follow `position` and note what they hold; return the position reached."""
    records: list[Stored] = []
    damage: list[Damage] = []
    position = verify(segment.path, rows, position, records, damage)
    segment.damage += damage[: _MOST_DAMAGE - len(segment.damage)]
    for stored in records:
        _note_time(segment, seconds_in(segment.tally.note(stored)))
    return position


def _chunks(connection: db.Connection) -> Iterator[tuple[list[Row], db.Error | None]]:
    """All rows in order; the last chunk comes with what kept the following from being read."""
    after = 0
    while True:
        rows: list[Row] = []
        size = 0
        db.limit(connection)
        try:
            for row in connection.execute(fmt.SELECT_RECORDS, (after, _READ_RECORDS)):
                if row[0] <= after:
                    raise db.Error("records are out of order")
                rows.append(row)
                after = row[0]
                size += row_bytes(row)
                if size > CHUNK_BYTES:
                    break
        except db.Error as error:
            yield rows, error
            return
        if rows:
            yield rows, None
        if len(rows) < _READ_RECORDS and size <= CHUNK_BYTES:
            return


def _sample(connection: db.Connection, segment: Segment) -> None:
    """Count everything, read what tells most."""
    first, last = connection.execute(fmt.SELECT_BOUNDS).fetchone()
    if first is None:
        return
    segment.first, segment.last = first, last
    for kind, count in connection.execute(fmt.COUNT_KINDS, (last,)):
        segment.tally.count(str(kind), count)
        segment.records += count
    seen: dict[int, Row] = {}
    for after in (first - 1, max(first - 1, last - _SAMPLE)):
        db.limit(connection)
        for row in connection.execute(fmt.SELECT_RECORDS, (max(0, after), _SAMPLE)):
            seen[row[0]] = row
    for kind in _TELLING:
        db.limit(connection)
        rows = connection.execute(fmt.SELECT_KIND, (kind, _MOST_TELLING))
        seen.update((row[0], row) for row in rows)
    records: list[Stored] = []
    damage: list[Damage] = []
    for seq in sorted(seq for seq in seen if seq <= last):
        verify(segment.path, [seen[seq]], seq - 1, records, damage)
    segment.damage += damage[:_MOST_DAMAGE]
    lacking = last - first + 1 - segment.records
    if lacking:
        why = f"missing: {lacking} of these"
        segment.damage.append(Damage(path=str(segment.path), first=first, last=last, reason=why))
    for stored in records:
        _note_time(segment, seconds_in(segment.tally.look_into(stored)))


def _note_time(segment: Segment, time: float | None) -> None:
    if time is not None:
        segment.first_time = time if segment.first_time is None else segment.first_time
        segment.last_time = time
