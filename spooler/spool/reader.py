"""Reads a spool in order and checks every record.

Rules:

- No file is held open between two calls: the service may hold thousands of spools. Of a segment
  only the place to continue at is kept.
- One damaged record costs that record: it is reported with its position, the next one follows.
- What does not follow yet may be on its way. Something is only given up once nothing writes it any
  more, and then every record whose checksum holds is given all the same.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from spooler.errors import NotASpool, SpoolDamaged, SpoolError
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.segment import CHUNK_BYTES, SCANNED, Mark, Rows, Segment, is_lasting
from spooler.spool.segments import Segments
from spooler.spool.stored import Chunk as Chunk
from spooler.spool.stored import Damage as Damage
from spooler.spool.stored import Row, between, in_order, is_sound, verify
from spooler.spool.stored import Stored as Stored

_LAST_SEQ = 2**63 - 1
_READ_RECORDS = 1000  # at a time where all are wanted
# Every segment says who wrote it. If so many cannot be read, none can.
_IDENTITY_SEGMENTS = 16
# What may be read at each poll of a spool. Each record takes a page of the log.
_GROWTH_BYTES = 128 * 1024
_GROWTH_RECORDS = _GROWTH_BYTES // fmt.PAGE_SIZE
_BEING_SEALED = "its log was removed, it is being sealed"


@dataclass(frozen=True, slots=True)
class _Part:
    """What a segment gives of the records that are wanted; `whole`: no more at the moment.

    Either `records`, sound and all that is wanted up to `through`, or `rows` that are still to be
    verified. `inside`: the segment is known to hold the first record that is wanted. `large`: that
    is larger than what is left.
    """

    records: list[Stored] = field(default_factory=list)
    through: int = 0
    rows: list[Row] = field(default_factory=list)
    whole: bool = True
    inside: bool = True
    large: bool = False


class Reader(Segments):
    """A spool directory, seen from the service. Holds no file open."""

    __slots__ = ("_first_seqs", "_growth_mark", "_marks")

    def __init__(self, directory: Path, place: Path | None = None) -> None:
        super().__init__(directory, place)
        self._first_seqs: dict[int, int] = {}  # segment number -> seq of its first record
        self._marks: dict[int, Mark] = {}  # segment number -> where to continue
        self._growth_mark: Mark | None = None

    def another(self) -> Reader:
        """A reader of the same spool for another thread; what never changes is found once."""
        made = Reader(self.directory, self.place)
        made._known, made._first_seqs = self._known, self._first_seqs
        return made

    def identity(self) -> Identity:
        """Who wrote this spool, from the first segment that can be read.

        Raises:
            NotASpool: no segment has an identity that belongs to this directory.
            NewerFormat, SpoolDamaged: as for opening.
        """
        failure: Exception = NotASpool(f"{self.directory}: no segment in it")
        for number in self.segments()[:_IDENTITY_SEGMENTS]:
            try:
                return self._identity(number)
            except (NotASpool, SpoolDamaged) as error:
                failure = error
            except FileNotFoundError:
                continue
        raise failure

    def _identity(self, number: int) -> Identity:
        with Segment(self.path_of(number)) as one:
            problem: Exception | None = None
            try:
                one.check()
            except (NotASpool, SpoolDamaged) as error:
                problem = error  # the identity may be found all the same
            try:
                found = one.identity(number)
            except SpoolDamaged as error:
                raise problem or error from error
        if found.spool != self.spool:
            path = self.path_of(number)
            raise NotASpool(f"{path}: belongs to spool {found.spool}, not to this directory")
        return found

    def read(
        self,
        after: int,
        limit: int,
        skip: AbstractSet[str] = frozenset(),
        most: int | None = None,
    ) -> Chunk:
        """Return at most `limit` records with a seq above `after`, in order.

        Records of kinds to `skip` are not verified, and returned as ranges of seqs. The bodies have
        at most `most` bytes, unless a segment is damaged; None: a usual amount, or one record.

        A call that meets something unreadable returns what lies before it. Of a segment that is
        permanently damaged all sound records are returned, and the rest is reported as damage, as
        soon as a later segment holds records or the writer is gone.

        Raises:
            NotASpool, NewerFormat, SpoolDamaged: the very next record cannot be read, and may
                become readable.
        """
        records: list[Stored] = []
        damage: list[Damage] = []
        skipped: list[tuple[int, int]] = []
        kinds = frozenset(kind.encode() for kind in skip)
        position, whole, large = after, True, False
        last = after + limit * SCANNED if skip else _LAST_SEQ
        listed = self.segments()
        waiting, asked_again = deque(self._from(listed, after)), set[int]()
        while waiting and whole and len(records) < limit and position < last:
            number, room = waiting[0], limit - len(records)
            place = bisect_left(listed, number)
            before = listed[max(0, place - 1) : place]  # the segment before it, if there is one
            problem: SpoolError | None = None
            try:
                left = _left(most, records)
                part = self._part(number, position, room, kinds, left)
            except FileNotFoundError:
                waiting.popleft()
                continue
            except SpoolError as error:
                problem, part = error, _Part()
            jumps = part.rows and part.rows[0][0] > position + 1 and not part.inside
            asked = asked_again.issuperset(before)
            if jumps and asked and self._is_being_sealed(before):
                problem = SpoolDamaged(str(self.path_of(before[0])), position, _BEING_SEALED)
            if problem and position > after:
                whole = False
                break
            if (problem or jumps) and not asked:
                # Between listing and reading, the one before may have got its last records.
                asked_again.update(before)
                waiting.extendleft(before)
                continue
            waiting.popleft()
            whole, large = part.whole, part.large
            if problem:
                rest = (position, room, left)
                position, whole = self._rescue(number, rest, problem, records, damage)
            elif part.rows:
                path, inside = self.path_of(number), part.inside
                position = verify(
                    path, part.rows, position, records, damage, inside=inside, skipped=skipped
                )
            elif part.through > position:
                skipped += between(part.records, position, part.through)
                records += part.records
                position = part.through
        return Chunk(
            records=tuple(records),
            damage=tuple(damage),
            through=position,
            at_end=whole and not waiting and len(records) < limit,
            skipped=tuple(skipped),
            large=large and position == after,
        )

    def chunks(self, after: int = 0, last: int = _LAST_SEQ) -> Iterator[Chunk]:
        """What `read` finds above `after`, step by step to the end, or about to `last`."""
        while after < last:
            chunk = self.read(after, min(_READ_RECORDS, last - after))
            yield chunk
            if chunk.at_end or chunk.through <= after:
                return
            after = chunk.through

    def growth(self, after: int) -> Chunk | None:
        """All records above `after`, if one log has grown a little since `has_news` was last true.

        None where only `read` can tell. The cost is bounded.
        """
        if len(self._grown) != 1:
            return None
        path = Path(self._grown[0].removesuffix("-wal"))
        with contextlib.suppress(OSError, SpoolError), Segment(path) as one:
            if not one.is_logged or one.bytes_beyond(after, self._growth_mark) > _GROWTH_BYTES:
                return None
            found = one.read(after, _GROWTH_RECORDS, self._growth_mark)
            self._growth_mark = found.mark
            records = in_order(found.rows, after)
            if records is not None and found.whole and not found.rest:
                through = after + len(records)
                return Chunk(records=tuple(records), damage=(), through=through, at_end=True)
        return None

    def count_after(self, position: int) -> int:
        """How many records there are beyond `position`, damaged ones included.

        Segments that cannot be opened count nothing.
        """
        return self.count_between(min(position + 1, _LAST_SEQ), _LAST_SEQ)

    def count_between(self, first: int, last: int) -> int:
        """As `count_after`, from `first` to `last`."""
        return sum(self._count(number, first, last) for number in self.segments())

    def gaps(self) -> list[Stored]:
        """Every sound `gap` record there is; what cannot be read is skipped."""
        found: list[Stored] = []
        for number in self.segments():
            with contextlib.suppress(FileNotFoundError, SpoolError), self._opened(number) as one:
                found += (
                    Stored(*row[:3]) for row in one.each() if row[1] == "gap" and is_sound(row)
                )
        return found

    def _from(self, listed: list[int], after: int) -> list[int]:
        """Segments that may hold records beyond `after`: those before the last known start."""
        known = [n for n in listed if self._first_seqs.get(n, after + 1) <= after]
        start = known[-1] if known else 0
        for number in [number for number in self._marks if number < start]:
            del self._marks[number]
        return [n for n in listed if n >= start]

    def _is_being_sealed(self, earlier: list[int]) -> bool:
        """Whether a writer is still copying the log of this segment into it."""
        for number in earlier:
            with contextlib.suppress(FileNotFoundError):
                return os.stat(f"{self.path_of(number)}-wal").st_size == 0 and self.is_owned()
        return False

    # --- one segment ------------------------------------------------------------------------------

    def _part(
        self, number: int, after: int, limit: int, skip: AbstractSet[bytes], most: int | None
    ) -> _Part:
        """The next rows of a segment, with all that can be found of those that seem to miss."""
        if self._is_read(number, after):
            return _Part()
        with Segment(self.path_of(number)) as one:
            mark = self._marks.get(number)
            found = one.read(after, limit, mark, skip, most)
            if mark is None or mark.inode != found.mark.inode:
                one.check()
            if one.is_logged or one.is_sealed:  # else it is about to be written, or just was
                self._marks[number] = found.mark
            records = in_order(found.rows, after)
            if records is not None and not found.rest:
                if found.rows:  # once it is known where it begins, those before are not asked again
                    self._begins_by(number, after + 1, one)
                through = found.rows[-1][0] if found.rows else after
                return _Part(records, through, whole=found.whole, large=found.large)
            inside = self._begins_by(number, after + 1, one)
            if not found.rest and in_order(found.rows, found.rows[0][0] - 1) is not None:
                return _Part(rows=found.rows, whole=found.whole, inside=inside)
            rows, whole = self._doubtful(number, one, found, (after, limit, most))
            return _Part(rows=rows, whole=whole, inside=inside)

    def _is_read(self, number: int, after: int) -> bool:
        """Whether nothing was written to a segment since it was read through."""
        mark = self._marks.get(number)
        if mark is None or mark.seq > after:
            return False
        path = self.path_of(number)
        try:
            return mark.is_at_end(os.stat(f"{path}-wal"))
        except FileNotFoundError:
            return mark.is_at_end(os.stat(path))

    def _begins_by(self, number: int, seq: int, one: Segment) -> bool:
        """Whether a segment is known to begin with this record or an earlier one."""
        if number not in self._first_seqs:
            bounds = one.bounds()
            if bounds is None:
                return False
            self._first_seqs[number] = bounds[0]
        return self._first_seqs[number] <= seq

    def _doubtful(
        self, number: int, one: Segment, found: Rows, asked: tuple[int, int, int | None]
    ) -> tuple[list[Row], bool]:
        """Rows among which some miss or are damaged, or behind which something lies.

        While the segment may be written, what is doubtful at its end is not there yet. Once it gets
        no more records, or where later ones follow, the whole segment is searched for them. `asked`
        are position, limit and bytes of the read.
        """
        after, limit, most = asked
        hides = found.rest > 0 and one.has_hidden_commits()
        if not hides and in_order(found.rows, after) is not None:
            return found.rows, found.whole
        final = self._is_final(number)
        rows = {row[0]: row for row in found.rows}
        salvaged, is_all = one.salvage(after, limit, final=final, most=most)
        if not is_all:
            rows = {seq: row for seq, row in rows.items() if seq <= salvaged[-1][0]}
        rows.update((row[0], row) for row in salvaged)
        self._marks.pop(number, None)  # what lies where it should not is not found from there
        merged = [rows[seq] for seq in sorted(rows)][:limit]
        while merged and not final and not is_sound(merged[-1]):
            merged.pop()
        return merged, found.whole and is_all and len(rows) <= limit

    def _rescue(
        self,
        number: int,
        asked: tuple[int, int, int | None],
        error: SpoolError,
        records: list[Stored],
        damage: list[Damage],
    ) -> tuple[int, bool]:
        """Give what can be found in a damaged segment; the position reached, and if that is all.

        `asked` are position, limit and bytes of the read that failed.

        Raises:
            SpoolError: `error`, it may become readable later.
        """
        position, limit, most = asked
        if not (is_lasting(error) and self._is_final(number)):
            raise error
        following = self.first_after(number)
        if following is not None and following <= position + 1:
            return position, True
        path = self.path_of(number)
        with Segment(path) as one:
            rows, is_all = one.salvage(position, limit, final=True, most=most)
        position = verify(path, rows, position, records, damage, inside=True)
        if following is not None and is_all and position < following - 1:
            last = following - 1
            damage.append(Damage(path=str(path), first=position + 1, last=last, reason=str(error)))
            position = last
        return position, is_all

    def _count(self, number: int, first: int, last: int) -> int:
        try:
            with self._opened(number) as one:
                if not one.has_hidden_commits():
                    seqs = (row[0] for row in one.each(first - 1))
                    return sum(1 for _ in takewhile(lambda seq: seq <= last, seqs))
        except FileNotFoundError:
            return 0
        except SpoolError as error:
            if not (is_lasting(error) and self._is_final(number)):
                return 0
        return sum(first <= seq <= last for seq in self.seqs_in(number))


def _left(most: int | None, records: list[Stored]) -> int | None:
    """Bytes that bodies may still have; None: one record of any size fits."""
    if not records:
        return most
    return (CHUNK_BYTES if most is None else most) - sum(len(one.body) for one in records)
