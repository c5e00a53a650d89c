"""One segment file: in what state it is, what it holds, what of it cannot be read."""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from shipper.inspection.stats import Tally, record_time
from spooler.errors import NewerFormat, NotASpool, SpoolDamaged
from spooler.spool import segment as stored
from spooler.spool.filesystem import wal_size
from spooler.spool.identity import Identity
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
    segment = Segment(path=path, number=number, bytes=os.lstat(path).st_size + wal_size(path))
    if not os.access(path, os.R_OK):
        segment.state, segment.why = UNREADABLE, "this user may not read it"
        return segment
    try:
        with stored.Segment(path) as one:
            one.check()
            _read_identity(one, segment)
            (_scan if whole else _sample)(one, segment)
    except NewerFormat as error:
        return _refused(segment, NEWER, error)
    except NotASpool as error:
        return _refused(segment, NOT_OURS, error)
    except SpoolDamaged as error:
        segment.state, segment.why = DAMAGED, error.reason
        return segment
    if logged and segment.is_readable:
        live = OPEN if segment.records else PREPARED
        segment.state = live if alive else CUT_OFF
    return segment


def _refused(segment: Segment, state: str, error: Exception) -> Segment:
    segment.state = state
    segment.why = str(error).removeprefix(f"{segment.path}: ")
    return segment


def _read_identity(one: stored.Segment, segment: Segment) -> None:
    try:
        segment.identity = one.identity(segment.number)
    except SpoolDamaged as error:
        segment.identity_wrong = error.reason


def _scan(one: stored.Segment, segment: Segment) -> None:
    """Read and check everything."""
    position: int | None = None
    rows = one.each()
    while chunk := list(islice(rows, _READ_RECORDS)):
        if position is None:
            position = chunk[0][0] - 1
            segment.first = chunk[0][0]
        position = _take(segment, chunk, position)
        segment.records += len(chunk)
        segment.last = max(segment.last, position)


def _take(segment: Segment, rows: list[Row], position: int) -> int:
    """Check rows that follow `position` and note what they hold; return the position reached."""
    records: list[Stored] = []
    damage: list[Damage] = []
    position = verify(segment.path, rows, position, records, damage)
    segment.damage += damage[: _MOST_DAMAGE - len(segment.damage)]
    for record in records:
        _note_time(segment, record_time(segment.tally.note(record)))
    return position


def _sample(one: stored.Segment, segment: Segment) -> None:
    """Count everything, read what tells most."""
    kinds: Counter[str] = Counter()
    begin: list[Row] = []
    telling: list[Row] = []
    end: deque[Row] = deque(maxlen=_SAMPLE)
    for row in one.each():
        kinds[row[1]] += 1
        end.append(row)
        if len(begin) < _SAMPLE:
            begin.append(row)
        elif row[1] in _TELLING and len(telling) < _MOST_TELLING:
            telling.append(row)
    if not begin:
        return
    segment.first, segment.last = begin[0][0], end[-1][0]
    segment.records = kinds.total()
    for kind, count in sorted(kinds.items()):
        segment.tally.count(kind, count)
    seen = {row[0]: row for row in (*begin, *telling, *end)}
    records: list[Stored] = []
    damage: list[Damage] = []
    for seq in sorted(seen):
        verify(segment.path, [seen[seq]], seq - 1, records, damage)
    segment.damage += damage[:_MOST_DAMAGE]
    lacking = segment.last - segment.first + 1 - segment.records
    if lacking:
        why = f"missing: {lacking} of these"
        segment.damage.append(
            Damage(path=str(segment.path), first=segment.first, last=segment.last, reason=why)
        )
    for record in records:
        _note_time(segment, record_time(segment.tally.look_into(record)))


def _note_time(segment: Segment, time: float | None) -> None:
    if time is not None:
        segment.first_time = time if segment.first_time is None else segment.first_time
        segment.last_time = time
