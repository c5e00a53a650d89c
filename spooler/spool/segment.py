"""One segment: its records in order, its bounds, who wrote it, and what is left of a damaged one.

The bytes come from `spooler.spool.source`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from spooler.errors import NewerFormat, NotASpool, SpoolDamaged, SpoolError
from spooler.spool import codec, pages, safe_open
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.source import WINDOW, Source, Window, translated
from spooler.spool.stored import SKIPPED, Row, is_sound

# Of bodies given at once; a record that is larger comes alone, unless a limit was asked for.
CHUNK_BYTES = 4 * 1024 * 1024
_NEAR = 32 * pages.FRAME  # bytes that are rather read through than halved
_PROBE = 16 * pages.FRAME  # bytes that are read to find any leaf, or four large pages
_FIRST = 8  # records that are read to find the first sound one
# Rows that are scanned at a time for each that is wanted, where some kinds are skipped.
SCANNED = 20
_END_BYTES = 64 * 1024  # of a body that is read where only its place matters
_LAST = 2**63  # no record has this seq
_ROWS = 4096  # that are read at a time where all are wanted

Bounds = tuple[int, int]  # first and last seq


@dataclass(frozen=True, slots=True)
class Mark:
    """Every record above `seq` lies at or behind `offset` of the file with this inode.

    `written` is when it was last written before that was found out, in nanoseconds.
    """

    inode: int
    written: int
    seq: int
    offset: int

    def is_at_end(self, status: os.stat_result) -> bool:
        """Whether nothing lies behind it in a file with this status."""
        known = (self.inode, self.written, self.offset)
        return known == (status.st_ino, status.st_mtime_ns, status.st_size)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a read found: rows in order, their checksums not verified, and where to continue.

    `whole`: there were no more. `rest`: bytes behind them that are no whole commit: one that is
    being written, or what a failed or interrupted one left. `large`: the next one exceeds the bytes
    that were asked for.
    """

    rows: list[Row]
    whole: bool
    rest: int
    mark: Mark
    large: bool = False


class Segment(Source):
    """A segment's files, open for one question. A context manager.

    A question raises SpoolDamaged where it takes too long, or the disk does not let us.
    """

    # --- what it is -------------------------------------------------------------------------------

    def check(self) -> None:
        """Make sure that the file is a segment, of a version that can be read, and whole.

        Raises:
            NotASpool: another application's file, or an empty one.
            NewerFormat: written by a later version of this package.
            SpoolDamaged, FileNotFoundError: it is damaged, cannot be read now, or is gone.
        """
        try:
            self._check()
        except (NotASpool, SpoolDamaged):
            safe_open.count_failure(os.path.dirname(self.path))
            raise

    def _check(self) -> None:
        with translated(self.path):
            head = os.pread(self._database(), 3 * self._file_page, 0)
            size = os.fstat(self._file).st_size
        application, version = pages.number_at(head, 68), pages.number_at(head, 60)
        if head and head[:16] != b"SQLite format 3\0":
            raise SpoolDamaged(str(self.path), 0, "file is not a database", lasting=True)
        if application != fmt.APPLICATION_ID:
            raise NotASpool(f"{self.path}: application_id {application:#x}, not a spool segment")
        if version > fmt.FORMAT_VERSION:
            raise NewerFormat(
                f"{self.path}: format version {version}, this reader knows {fmt.FORMAT_VERSION};"
                " it is kept untouched: upgrade lens-ship to ship it"
            )
        if version not in fmt.SCHEMAS:
            oldest = min(fmt.SCHEMAS)
            raise NotASpool(f"{self.path}: format version {version}; the oldest known is {oldest}")
        if self.is_sealed and not pages.is_whole(head, size):
            why = "malformed: pages are missing or damaged"
            raise SpoolDamaged(str(self.path), 0, why, lasting=True)

    def identity(self, number: int | None) -> Identity:
        """Who wrote segment `number`; None: whatever its number, which its checksum counts in.

        Raises:
            SpoolDamaged, FileNotFoundError: it does not say, or cannot be read now.
        """
        why = "it has no identity"
        with translated(self.path):
            for data, at, chain, page in self._every_leaf():
                for body, checksum in pages.identities(data, at, chain, page):
                    expected = codec.checksum(fmt.IDENTITY_KIND, body, number or 0)
                    if number is None or checksum == expected:
                        return _decoded(self.path, body)
                    why = "the checksum of its identity does not hold"
        raise SpoolDamaged(str(self.path), 0, why, lasting=True)

    # --- its records, in order --------------------------------------------------------------------

    def read(
        self,
        after: int,
        limit: int,
        mark: Mark | None = None,
        skip: AbstractSet[bytes] = frozenset(),
        most: int | None = None,
    ) -> Rows:
        """At most `limit` rows with a seq above `after`; `mark` is that of an earlier read.

        Of kinds to `skip` come rows without a body, and up to `SCANNED` times as many. The bodies
        have at most `most` bytes; None: `CHUNK_BYTES`, or there is one.
        """
        with translated(self.path):
            return self._read(after, limit, mark, skip, most)

    def _read(
        self,
        after: int,
        limit: int,
        mark: Mark | None,
        skip: AbstractSet[bytes],
        most: int | None,
        *,
        row_of: Callable[[bytes, pages.Cell, pages.Chain], Row | None] = pages.row,
    ) -> Rows:
        status = os.fstat(self._source)
        offset = self._begin_of(after, mark, status)
        last, size, wanted, found = after, 0, 0, list[Row]()
        bound = (CHUNK_BYTES if most is None else most) + pages.PAGE
        scanned = limit * SCANNED if skip else limit
        window_bytes = max(self._unit, min(WINDOW, (limit + 8) * 2 * pages.FRAME))
        while True:
            mark = Mark(status.st_ino, status.st_mtime_ns, last, offset)
            rest = status.st_size - offset
            window = self._window(offset, min(window_bytes, rest), rest)
            if not window.bytes:
                return Rows(found, True, max(0, rest), mark)
            cells, are_all = self._cells(window, last, scanned - len(found))
            chain = self._chain_near(window.data, window.places, window.far)
            taken = 0
            if row_of is pages.row:
                room = (cells[: scanned - len(found)], limit - wanted, bound - size)
                rows, taken = _usual_rows(window.data, chain, skip, *room)
                if rows:
                    found += rows
                    last = rows[-1][0]
                    wanted += sum(1 for row in rows if row[3] != SKIPPED)
                    size += sum(len(row[2]) for row in rows)
            for index, cell in enumerate(cells[taken:], taken):
                if skip and pages.kind(window.data, cell) in skip and len(found) < scanned:
                    last = cell[0]
                    found.append((last, "", b"", SKIPPED))
                    continue
                large = size + cell[1] > bound and (bool(found) or most is not None)
                if large or wanted == limit or len(found) == scanned:
                    within = self._within(mark, window, cells, index)
                    return Rows(found, False, 0, within, large=large and not found)
                row = row_of(window.data, cell, chain)
                if row is not None:
                    found.append(row)
                    last = cell[0]
                    wanted += 1
                    size += len(row[2])
            # Else by records alone: the row of `identity` has number 1 as well.
            last = max(last, 0 if are_all else cells[-1][0])
            offset += window.bytes if are_all else 0
            if time.monotonic() > self._end:
                safe_open.penalize(os.path.dirname(self.path))
                return Rows(found, False, 0, replace(mark, seq=last, offset=offset))

    def bytes_beyond(self, after: int, mark: Mark | None) -> int:
        """How many bytes a read with these arguments has before it, or a little less."""
        with translated(self.path):
            status = os.fstat(self._source)
            return status.st_size - self._begin_of(after, mark, status)

    def _begin_of(self, after: int, mark: Mark | None, status: os.stat_result) -> int:
        """Where to look for the first record above `after`."""
        if mark is None or mark.inode != status.st_ino or mark.seq > after:
            mark = Mark(status.st_ino, 0, 0, self._start)
        return mark.offset if mark.seq == after else self._near(after, mark.offset, status.st_size)

    def _cells(self, window: Window, after: int, limit: int) -> tuple[list[pages.Cell], bool]:
        """Cells above `after` in order, and whether these are all: more than `limit` will do."""
        found: list[pages.Cell] = []
        for at in window.places.values():
            if window.data[at] == pages.LEAF:
                found += pages.cells(window.data, at, after, self._page_size)
                if len(found) > limit and not self.is_logged:
                    found.sort()
                    return found, False  # a file has its leaves in the order of their numbers
        found.sort()
        return found, True

    def _within(self, mark: Mark, window: Window, cells: list[pages.Cell], taken: int) -> Mark:
        """Where to continue when only the first cells of a window are taken."""
        if not taken:
            return mark
        seq, behind = cells[taken - 1][0], len(cells) - taken
        if not self.is_logged:
            leaf = cells[taken][3] - self._page_size
            return replace(mark, seq=seq, offset=mark.offset + leaf)
        # Each commit adds one record, so that the last ones of both belong together.
        if behind >= len(window.ends):
            return mark
        return replace(mark, seq=seq, offset=mark.offset + window.ends[-1 - behind] * pages.FRAME)

    def _near(self, after: int, low: int, high: int) -> int:
        """An offset not far before the first record above `after`, and never behind it.

        Searched from the end, because mostly the last records are wanted.
        """
        unit = self._unit
        near = step = max(1, _NEAR // unit)
        high -= (high - low) % unit
        while high - low > near * unit:
            middle = max(low + (high - low) // 2 // unit * unit, high - step * unit)
            last, at = self._leaf_near(middle)
            if last and last <= after:
                low = middle + at
            else:
                high, step = middle, 4 * step
        return low

    def _leaf_near(self, offset: int) -> tuple[int, int]:
        """The last seq of a leaf behind `offset`, 0 if none is near; from where no record is less.

        Of a log, a leaf counts that lies behind the end of a commit, and that end.
        """
        data, page = os.pread(self._source, max(_PROBE, 4 * self._unit), offset), self._page_size
        head, begin = self._unit - page, -1 if self.is_logged else 0
        for at in range(head, len(data) - page + 1, self._unit):
            if begin >= 0 and data[at] == pages.LEAF:
                last = pages.last_seq(data, at, page)
                if last:
                    return last, begin if self.is_logged else at + page
            if begin < 0 and pages.ends_commit(data, at):
                begin = at + page
        return 0, 0

    def each(self, after: int = 0) -> Iterator[Row]:
        """All rows above `after` in order, their checksums not verified."""
        mark, whole = None, False
        while not whole:
            found = self.read(after, _ROWS, mark)
            yield from found.rows
            after, mark, whole = max(after, found.mark.seq), found.mark, found.whole
            with translated(self.path):
                self._check_deadline()

    # --- its bounds -------------------------------------------------------------------------------

    def bounds(self) -> Bounds | None:
        """First and last seq whose record is sound; None without any."""
        last = self.last()
        if last is None:
            return None
        return self.first(last)[0], last[0]

    def first(self, last: Row) -> Row:
        """The first sound record, a large one without its body; `last` is the last one."""
        with translated(self.path):
            found = self._read(0, _FIRST, None, frozenset(), None, row_of=_end_row)
        return next(filter(is_sound, found.rows), last)

    def last(self) -> Row | None:
        """The last sound record, a large one without its body; None without any."""
        with translated(self.path):
            is_committed = not self.is_logged
            for data, at in self._backwards():
                is_committed = is_committed or pages.ends_commit(data, at)
                if not is_committed or data[at] != pages.LEAF:
                    continue
                chain = self._chain_near(data, pages.images(data) if self.is_logged else {})
                for cell in pages.cells(data, at, 0, self._page_size):
                    row = _end_row(data, cell, chain)
                    if row is not None and is_sound(row):
                        return row
        return None

    # --- whatever is damaged ----------------------------------------------------------------------

    def salvage(
        self, after: int, limit: int, *, final: bool, most: int | None = None
    ) -> tuple[list[Row], bool]:
        """At most `limit` sound rows above `after`, the lowest, in order, wherever they lie.

        The bodies have at most `most` bytes, `CHUNK_BYTES` by default, or there is one row.
        Returns, too, whether these are all. `final`: nothing is written any more. Then what lies
        behind damage in the log counts.
        """
        most = CHUNK_BYTES if most is None else most
        found: dict[int, Row] = {}
        size, end = 0, _LAST
        with translated(self.path):
            for data, cell, chain in self._every_cell(after, final=final):
                # Of two with one seq the first counts: a failed write may lie behind the end.
                wanted = cell[0] < end and cell[0] not in found
                row = pages.row(data, cell, chain) if wanted else None
                if row is None or not is_sound(row):
                    continue
                found[row[0]] = row
                size += len(row[2])
                if len(found) >= 2 * limit + 100 or size > 2 * most:
                    found, end = _lowest(found, limit, most, end)
                    size = sum(len(one[2]) for one in found.values())
        found, end = _lowest(found, limit, most, end)
        return list(found.values()), end == _LAST

    def seqs(self) -> list[int]:
        """The numbers of all sound records wherever they lie, in order."""
        found: set[int] = set()
        with translated(self.path):
            for data, cell, chain in self._every_cell():
                row = pages.row(data, cell, chain) if cell[0] not in found else None
                if row is not None and is_sound(row):
                    found.add(row[0])
        return sorted(found)

    def has_hidden_commits(self) -> bool:
        """Whether damage in the log hides commits behind those that can be read in order."""
        with translated(self.path):
            return self.is_logged and self._last_commit() > self._end_of_commits()


def _usual_rows(
    data: bytes,
    chain: pages.Chain,
    skip: AbstractSet[bytes],
    cells: list[pages.Cell],
    limit: int,
    most: int,
) -> tuple[list[Row], int]:
    """Rows of the first of these cells, and of how many, as long as no limit is near."""
    found: list[Row] = []
    taken = 0
    while limit > 0 and taken < len(cells):
        some = cells[taken : taken + limit]
        if sum(cell[1] for cell in some) > most:
            break
        rows = pages.rows(data, some, chain, skip)
        found += rows
        taken += len(some)
        limit -= sum(1 for row in rows if row[3] != SKIPPED)
        most -= sum(len(row[2]) for row in rows)
    return found, taken


def _end_row(data: bytes, cell: pages.Cell, chain: pages.Chain) -> Row | None:
    """A row of which the body does not matter."""
    return (pages.long_row if cell[1] > _END_BYTES else pages.row)(data, cell, chain)


def is_sealed(path: Path) -> bool:
    """Whether its writer has closed it: it never changes any more."""
    return not os.path.lexists(f"{path}-wal")


def is_lasting(error: SpoolError) -> bool:
    """Whether a segment that was refused with `error` will be refused every time."""
    return isinstance(error, NotASpool) or (isinstance(error, SpoolDamaged) and error.lasting)


def _lowest(found: dict[int, Row], limit: int, most: int, end: int) -> tuple[dict[int, Row], int]:
    """The first of these, as many as are wanted and fit, and the seq at which they end."""
    kept: dict[int, Row] = {}
    size = 0
    for seq in sorted(found):
        size += len(found[seq][2])
        if len(kept) == limit or (kept and size > most):
            return kept, seq
        kept[seq] = found[seq]
    return kept, end


def _decoded(path: Path, body: bytes) -> Identity:
    try:
        return Identity.from_map(codec.unpack(body))
    except (TypeError, SpoolError) as error:
        raise SpoolDamaged(str(path), 0, f"identity: {error}", lasting=True) from error
