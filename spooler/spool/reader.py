"""Reads a spool in order and checks every record.

Rules:

- Files are opened read-only and only for the length of one call: between two calls the writer may
  rotate, seal or die, and the service may hold thousands of spools.
- One damaged record costs that record: it is reported with its position, the next one follows.
- A segment that SQLite refuses for good is only given up once nobody writes it any more, and then
  every record in it whose checksum holds is given all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from spooler.errors import NotASpool, SpoolDamaged, SpoolError
from spooler.spool import salvage, segment
from spooler.spool.identity import Identity
from spooler.spool.segments import Segments
from spooler.spool.stored import Chunk as Chunk
from spooler.spool.stored import Damage as Damage
from spooler.spool.stored import Row, verify
from spooler.spool.stored import Stored as Stored

_LAST_SEQ = 2**63 - 1
# Every segment tells who wrote it; where so many do not, none does.
_TELLING_SEGMENTS = 16


class Reader(Segments):
    """A spool directory, seen from the service. Holds no file open."""

    def __init__(self, directory: Path, place: Path | None = None) -> None:
        super().__init__(directory, place)
        self._first_seqs: dict[int, int] = {}  # segment number -> seq of its first record
        # Segment number -> as what it held nothing beyond which position.
        self._nothing: dict[int, tuple[tuple[int, ...], int]] = {}

    def identity(self) -> Identity:
        """Who wrote this spool, from the first segment that can tell.

        Raises:
            NotASpool: no segment has an identity that belongs to this directory.
            NewerFormat, SpoolDamaged: as for opening.
        """
        failure: Exception = NotASpool(f"{self.directory}: no segment in it")
        for number in self.segments()[:_TELLING_SEGMENTS]:
            path = self._path(number)
            try:
                return self._checked(path, segment.identity(path, number))
            except (NotASpool, SpoolDamaged) as error:
                failure = error
            except FileNotFoundError:
                continue
        for number in self.segments()[:_TELLING_SEGMENTS]:
            found = segment.salvaged_identity(self._path(number), number)
            if found is not None:
                return self._checked(self._path(number), found)
        raise failure

    def read(self, after: int, limit: int) -> Chunk:
        """Return at most `limit` records with a seq above `after`, in order.

        A call that meets something unreadable returns what lies before it. Of a segment that is
        damaged for good what can be found is given, and the rest passed over, as damage, as soon
        as a later one holds records or its writer is gone.

        Raises:
            NotASpool, NewerFormat, SpoolDamaged: the very next record cannot be read, and may
                become readable.
        """
        records: list[Stored] = []
        damage: list[Damage] = []
        position, whole = after, True
        for number in self._from(after):
            room = limit - len(records)
            if room <= 0 or not whole:
                whole = False
                break
            try:
                rows, whole = self._rows(number, position, room)
            except FileNotFoundError:
                continue
            except SpoolError as error:
                if records or damage:
                    whole = False
                    break
                position = self._rescue(number, (position, room), error, records, damage)
                continue
            inside = self._first_seqs.get(number, position + 1) <= position + 1
            position = verify(self._path(number), rows, position, records, damage, inside=inside)
        return Chunk(
            records=tuple(records),
            damage=tuple(damage),
            through=position,
            at_end=whole and len(records) < limit,
        )

    def count_after(self, position: int) -> int:
        """How many records there are beyond `position`, damaged ones included.

        Segments that cannot be opened count nothing.
        """
        return self.count_between(min(position + 1, _LAST_SEQ), _LAST_SEQ)

    def count_between(self, first: int, last: int) -> int:
        """As `count_after`, from `first` to `last`."""
        return sum(self._count(number, first, last) for number in self.segments())

    def gaps(self) -> list[Stored]:
        """Every sound `gap` record there is; what cannot be read is passed over."""
        found: list[Stored] = []
        for number in self.segments():
            path = self._path(number)
            verify(path, segment.of_kind(path, "gap"), _LAST_SEQ, found, [])
        return found

    def _from(self, after: int) -> Iterator[int]:
        """Segments that may hold records beyond `after`: those before the last known start."""
        numbers = self.segments()
        known = [n for n in numbers if self._first_seqs.get(n, after + 1) <= after]
        start = known[-1] if known else 0
        return (n for n in numbers if n >= start)

    # --- rows -------------------------------------------------------------------------------------

    def _rows(self, number: int, after: int, limit: int) -> tuple[list[Row], bool]:
        """The next rows of a segment with whatever can be found of those that seem to miss."""
        path = self._path(number)
        mark = segment.mark(path)
        known, beyond = self._nothing.get(number, (None, 0))
        if mark is not None and mark == known and beyond <= after:
            return [], True
        if not self._may_follow(number):
            return [], True
        rows, whole = segment.rows(path, after, limit)
        if mark is not None and whole and not rows and not salvage.hidden_after(path, after):
            # The segment that is prepared for the next records is met at every read.
            self._nothing[number] = (mark, after)
            return [], True
        if rows and number not in self._first_seqs:
            bounds = self._bounds(number)
            self._first_seqs[number] = bounds[0] if bounds else rows[0][0]
        if rows and rows[0][0] > after + 1:
            # Between listing and reading, the one before may have got its last records.
            rows, whole = self._recheck(number, after, limit, rows, whole)
        if whole and len(rows) < limit and self._hides_more(number, rows[-1][0] if rows else after):
            return salvage.rows(path, after, limit), True
        return self._fill(number, after, rows), whole

    def _fill(self, number: int, after: int, rows: list[Row]) -> list[Row]:
        """`rows` with those that SQLite passed over though they are there, as damage has it."""
        known, found = {row[0] for row in rows}, list(rows)
        if not rows or rows[-1][0] - after == len(rows):
            return rows
        for one in [*self._before(number)[-1:], number]:
            with contextlib.suppress(OSError):
                more = salvage.rows(self._path(one), after, rows[-1][0] - after)
                found += [row for row in more if row[0] < rows[-1][0] and row[0] not in known]
                known.update(row[0] for row in found)
        return sorted(found, key=lambda row: row[0])

    def _recheck(
        self, number: int, after: int, limit: int, rows: list[Row], whole: bool
    ) -> tuple[list[Row], bool]:
        """Ask the segment before `number` once more for rows beyond `after`."""
        earlier = self._before(number)
        if not earlier:
            return rows, whole
        try:
            late, whole_before = segment.rows(self._path(earlier[-1]), after, limit)
        except (FileNotFoundError, SpoolError):
            return rows, whole  # that it cannot be read has been seen on the way here
        if not late:
            return rows, whole
        if not whole_before or len(late) == limit:
            return late, whole_before
        rows, whole = segment.rows(self._path(number), late[-1][0], limit - len(late))
        return late + rows, whole

    def _rescue(
        self,
        number: int,
        asked: tuple[int, int],
        error: SpoolError,
        records: list[Stored],
        damage: list[Damage],
    ) -> int:
        """Give what can be found in a segment that can never be read; return the position reached.

        `asked` are the position and limit of the read that failed.

        Raises:
            SpoolError: `error`, while a later look may have more success.
        """
        position, limit = asked
        if not self._is_hopeless(number, error):
            raise error
        following = self._first_beyond(number)
        if following is not None and following <= position + 1:
            return position
        path = self._path(number)
        try:
            segment.rows(path, position, limit)
        except SpoolError:
            pass
        else:
            raise error  # it is readable after all: giving it up would lose it
        rows = salvage.rows(path, position, limit)
        position = verify(path, rows, position, records, damage, inside=True)
        if following is not None and len(rows) < limit and position < following - 1:
            last = following - 1
            damage.append(Damage(path=str(path), first=position + 1, last=last, reason=str(error)))
            position = last
        return position

    def _count(self, number: int, first: int, last: int) -> int:
        path = self._path(number)
        try:
            count = segment.count(path, first, last) if self._may_follow(number) else 0
        except FileNotFoundError:
            return 0
        except SpoolError as error:
            hopeless = self._is_hopeless(number, error)
            return segment.salvaged_count(path, first, last) if hopeless else 0
        if self._hides_more(number, segment.last_of(path)):
            return segment.salvaged_count(path, first, last)
        return count

    def _checked(self, path: Path, identity: Identity) -> Identity:
        if identity.spool != self.spool:
            raise NotASpool(f"{path}: belongs to spool {identity.spool}, not to this directory")
        return identity
