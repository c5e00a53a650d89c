"""One segment file: its state, its records, and what of it cannot be read."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from shipper.inspection.stats import RecordStats, record_time
from spooler.errors import NewerFormat, NotASpool, SpoolDamaged
from spooler.spool.filesystem import wal_size
from spooler.spool.identity import Identity
from spooler.spool.segment import Segment
from spooler.spool.stored import Damage, Row, Stored, verify

_READ_RECORDS = 1000
_SAMPLE = 200  # records at either end of a segment of which a sample is read
_MAX_DAMAGE = 1000
_MAX_LIFECYCLE = 10_000

# Few records, which say what the others belong to: a sample holds all of them.
_LIFECYCLE_KINDS = ("run", "finish", "gap", "exit")

SEALED, ACTIVE, PREPARED, UNSEALED = "sealed", "active", "prepared", "unsealed"
DAMAGED, UNSUPPORTED, FOREIGN = "damaged", "unsupported version", "foreign"
UNREADABLE = "unreadable"


@dataclass(kw_only=True)
class InspectedSegment:
    """What was found in a segment. Seqs are 0 and times None where there is no record.

    States: sealed (does not change any more), active (its process may append), prepared (active
    and still empty), unsealed (its process died before it sealed it), damaged, unsupported version
    (written by a later lens-ship), foreign (another application's file) and unreadable (no
    permission). `why` explains the last four.
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
    identity_problem: str = ""
    damage: list[Damage] = field(default_factory=list)
    stats: RecordStats = field(default_factory=RecordStats)

    @property
    def is_readable(self) -> bool:
        """Whether it was read through. Single records of it may be damaged."""
        return self.state in (SEALED, ACTIVE, PREPARED, UNSEALED)


def inspect_segment(
    path: Path, number: int | None, *, alive: bool, whole: bool
) -> InspectedSegment:
    """Read the segment at `path`: every record, or with `whole` False a sample of them.

    A sample counts the kinds of all records, and reads the first and last `_SAMPLE` records and
    all that start or end a run or report dropped records.

    Raises:
        FileNotFoundError: it does not exist, or was deleted meanwhile.
    """
    path = Path(os.path.realpath(path.parent)) / path.name  # a user may name it through links
    # Before it is opened: a log that exists now may be gone afterwards, the reverse never happens.
    logged = os.path.lexists(f"{path}-wal")
    found = InspectedSegment(
        path=path, number=number, bytes=os.lstat(path).st_size + wal_size(path)
    )
    if not os.access(path, os.R_OK):
        found.state, found.why = UNREADABLE, "permission denied"
        return found
    try:
        with Segment(path) as segment:
            segment.check()
            try:
                found.identity = segment.identity(number)
            except SpoolDamaged as error:
                found.identity_problem = error.reason
            (_read_all if whole else _read_sample)(segment, found)
    except (NewerFormat, NotASpool) as error:
        found.state = UNSUPPORTED if isinstance(error, NewerFormat) else FOREIGN
        found.why = str(error).removeprefix(f"{path}: ")
    except SpoolDamaged as error:
        found.state, found.why = DAMAGED, error.reason
    else:
        if logged:
            live = ACTIVE if found.records else PREPARED
            found.state = live if alive else UNSEALED
    return found


def _read_all(segment: Segment, found: InspectedSegment) -> None:
    rows = segment.each()
    while chunk := list(islice(rows, _READ_RECORDS)):
        if not found.records:
            found.first, found.last = chunk[0][0], chunk[0][0] - 1
        records: list[Stored] = []
        damage: list[Damage] = []
        found.last = verify(found.path, chunk, found.last, records, damage)
        found.records += len(chunk)
        for record in records:
            found.stats.count(record.kind, 1)
        _add(found, records, damage)


def _read_sample(segment: Segment, found: InspectedSegment) -> None:
    kinds: Counter[str] = Counter()
    begin: list[Row] = []
    lifecycle: list[Row] = []
    end: deque[Row] = deque(maxlen=_SAMPLE)
    for row in segment.each():
        kinds[row[1]] += 1
        end.append(row)
        if len(begin) < _SAMPLE:
            begin.append(row)
        elif row[1] in _LIFECYCLE_KINDS and len(lifecycle) < _MAX_LIFECYCLE:
            lifecycle.append(row)
    if not begin:
        return
    found.first, found.last, found.records = begin[0][0], end[-1][0], kinds.total()
    for kind, count in sorted(kinds.items()):
        found.stats.count(kind, count)
    sample = {row[0]: row for row in (*begin, *lifecycle, *end)}
    records: list[Stored] = []
    damage: list[Damage] = []
    for seq in sorted(sample):
        verify(found.path, [sample[seq]], seq - 1, records, damage)
    missing = found.last - found.first + 1 - found.records
    if missing:
        why = f"missing: {missing} of these"
        whole = Damage(path=str(found.path), first=found.first, last=found.last, reason=why)
        damage.append(whole)
    _add(found, records, damage)


def _add(found: InspectedSegment, records: Sequence[Stored], damage: Sequence[Damage]) -> None:
    found.damage += damage[: _MAX_DAMAGE - len(found.damage)]
    for record in records:
        time = record_time(found.stats.read(record))
        if time is not None:
            found.first_time = time if found.first_time is None else found.first_time
            found.last_time = time
