"""One segment, opened for one look: its records in order, its bounds, who wrote it.

Rules:

- A segment is read from its ``-wal`` as long as there is one, else from its ``.sqlite``. While it
  is written, every record stands in the ``-wal``, commit after commit, and a writer that died
  leaves the same bytes. Sealing copies them into the ``.sqlite`` and then removes the ``-wal``.
- Files are opened as `spooler.spool.guard` has it, read with ``pread``, and never locked, mapped or
  changed. SQLite is not asked.
- What a look costs is bounded: `SECONDS` of wall time, and memory by the largest body. A folder in
  which that is not enough is left alone for a while.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from spooler import border
from spooler.errors import NewerFormat, NotASpool, SpoolDamaged, SpoolError
from spooler.spool import codec, guard, pages
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.stored import Row, is_sound

# Of bodies given at once; a record that is larger comes alone.
CHUNK_BYTES = 64 * 1024 * 1024
SECONDS = 5.0
_WINDOW = 512 * 1024  # bytes that are read at a time
_MOST_COMMIT = 2 * fmt.BODY_LIMIT  # bytes; more than the frames of the largest record
_NEAR = 128  # frames or pages that are rather read through than halved
_PROBE = 16  # frames or pages that are read to find any leaf
_TAIL = 64  # frames or pages that are read at a time to find the last leaf
_FIRST = 8  # records that are read to find the first sound one
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
    """What a read found: rows in order, their checksums not verified, and where to go on.

    `whole`: there were no more. `rest`: bytes behind them that are no whole commit: one that is
    being written, or what a failed or interrupted one left.
    """

    rows: list[Row]
    whole: bool
    rest: int
    mark: Mark


@dataclass(frozen=True, slots=True)
class _Window:
    """Consecutive frames of whole commits, or pages of a file, that were read together.

    `places`: page number -> where its newest image begins. `ends`: frames up to the end of each
    commit, none of a file. `bytes`: how far it goes.
    """

    data: bytes
    places: dict[int, int]
    ends: list[int]
    bytes: int


class Segment:
    """A segment's files, open; a context manager.

    Raises:
        FileNotFoundError: it is not there.
        SpoolDamaged: it cannot be opened now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = self._log = -1
        self._salts = 0
        self._newest: dict[int, int] | None = None  # page -> offset in the log, once it is wanted
        self._end = time.monotonic() + SECONDS
        try:
            # The log first: one that is gone has been copied into the file.
            with contextlib.suppress(FileNotFoundError, guard.Strange):
                self._log = guard.open_regular(f"{path}-wal")
            self._begin()
        except FileNotFoundError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise _damaged(path, error) from error

    def _begin(self) -> None:
        """Decide what is read: a log without a single frame has nothing to tell."""
        header = os.pread(self._log, 16, pages.LOG_HEADER) if self._log >= 0 else b""
        self.is_logged = len(header) == 16
        self.is_sealed = self._log < 0
        self._salts = int.from_bytes(header[8:], "big")
        if self.is_logged:
            self._source, self._start, self._unit = self._log, pages.LOG_HEADER, pages.FRAME
        else:
            self._source, self._start, self._unit = self._database(), 0, pages.PAGE

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open."""
        opened, self._file, self._log = (self._file, self._log), -1, -1
        for descriptor in opened:
            if descriptor >= 0:
                os.close(descriptor)

    def _database(self) -> int:
        if self._file < 0:
            self._file = guard.open_regular(self.path)
        return self._file

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
            guard.failed(os.path.dirname(self.path))  # a thousand of these cost as much as a few
            raise

    def _check(self) -> None:
        with _translated(self.path):
            head = os.pread(self._database(), 3 * pages.PAGE, 0)
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
        with _translated(self.path):
            for data, at, chain in self._every_leaf():
                for body, checksum in pages.identities(data, at, chain):
                    expected = codec.checksum(fmt.IDENTITY_KIND, body, number or 0)
                    if number is None or checksum == expected:
                        return _decoded(self.path, body)
                    why = "the checksum of its identity does not hold"
        raise SpoolDamaged(str(self.path), 0, why, lasting=True)

    # --- its records, in order --------------------------------------------------------------------

    def read(self, after: int, limit: int, mark: Mark | None = None) -> Rows:
        """At most `limit` rows with a seq above `after`; `mark` is that of an earlier read.

        Raises:
            SpoolDamaged: the disk does not let us.
        """
        with _translated(self.path):
            return self._read(after, limit, mark)

    def _read(self, after: int, limit: int, mark: Mark | None) -> Rows:
        status = os.fstat(self._source)
        if mark is None or mark.inode != status.st_ino or mark.seq > after:
            mark = Mark(status.st_ino, 0, 0, self._start)
        offset = mark.offset
        if mark.seq < after:
            offset = self._near(after, offset, status.st_size)
        last, size, found = after, 0, list[Row]()
        most = min(_WINDOW, (limit + 8) * 2 * self._unit)
        while True:
            mark = Mark(status.st_ino, status.st_mtime_ns, last, offset)
            rest = status.st_size - offset
            window = self._window(offset, min(most, rest), rest)
            if not window.bytes:
                return Rows(found, True, max(0, rest), mark)
            rows, leaves = self._rows(window, last, limit - len(found))
            size += sum(len(row[2]) for row in rows)
            fitting = min(len(rows), limit - len(found))
            while size > CHUNK_BYTES and fitting > (not found):
                fitting -= 1
                size -= len(rows[fitting][2])
            found += rows[:fitting]
            if fitting < len(rows):
                return Rows(found, False, 0, self._within(mark, window, rows, fitting, leaves))
            last = max(last, rows[-1][0] if rows else 0)
            offset += window.bytes
            if time.monotonic() > self._end:
                guard.rest(os.path.dirname(self.path))
                return Rows(found, False, 0, replace(mark, seq=last, offset=offset))

    def _window(self, offset: int, size: int, most: int) -> _Window:
        """Whole commits from `offset` on, or pages of the file; `size` bytes, or more for one."""
        if size <= 0:
            return _Window(b"", {}, [], 0)
        data = os.pread(self._source, size, offset)
        if not self.is_logged:
            whole = len(data) - len(data) % pages.PAGE
            first = offset // pages.PAGE + 1
            places = {first + at // pages.PAGE: at for at in range(0, whole, pages.PAGE)}
            places.pop(1, None)  # the first holds the schema
            return _Window(data, places, [], whole)
        places, ends = pages.committed(data, self._salts)
        while not ends and len(data) == size < min(most, _MOST_COMMIT):
            size = min(4 * size, most)  # a commit that is longer than this
            data = os.pread(self._source, size, offset)
            places, ends = pages.committed(data, self._salts)
        return _Window(data, places, ends, ends[-1] * pages.FRAME if ends else 0)

    def _rows(
        self, window: _Window, after: int, limit: int
    ) -> tuple[list[Row], list[tuple[int, int]]]:
        """Rows above `after`, in order; of each leaf the first seq found and where it begins."""
        data, places = window.data, window.places
        found: list[Row] = []
        leaves: list[tuple[int, int]] = []

        chain = self._chain_near(data, places)
        for at in places.values():
            if data[at] == pages.LEAF:
                rows = pages.rows(data, at, after, chain)
                if rows:
                    found += rows
                    leaves.append((rows[-1][0], at))
                    if len(found) > limit and not self.is_logged:
                        break  # a file has its leaves in the order of their numbers
        found.sort(key=itemgetter(0))
        return found, leaves

    def _within(
        self,
        mark: Mark,
        window: _Window,
        rows: list[Row],
        taken: int,
        leaves: list[tuple[int, int]],
    ) -> Mark:
        """Where to go on when only the first rows of a window are taken."""
        if not taken:
            return mark
        seq, following = rows[taken - 1][0], rows[taken][0]
        if not self.is_logged:
            at = max((at for first, at in leaves if first <= following), default=0)
            return replace(mark, seq=seq, offset=mark.offset + at)
        # Each commit adds one record, so that the last ones of both belong together.
        behind = len(rows) - taken
        if behind >= len(window.ends):
            return mark
        return replace(mark, seq=seq, offset=mark.offset + window.ends[-1 - behind] * pages.FRAME)

    def _near(self, after: int, low: int, high: int) -> int:
        """An offset not far before the first record above `after`, and never behind it.

        It is looked for from the end: what is wanted lies mostly among the last records.
        """
        unit, step = self._unit, _NEAR
        high -= (high - low) % unit
        while high - low > _NEAR * unit:
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
        data = os.pread(self._source, _PROBE * self._unit, offset)
        head, begin = self._unit - pages.PAGE, -1 if self.is_logged else 0
        for at in range(head, len(data) - pages.PAGE + 1, self._unit):
            if begin >= 0 and data[at] == pages.LEAF:
                last = pages.last_seq(data, at)
                if last:
                    return last, begin if self.is_logged else at + pages.PAGE
            if begin < 0 and pages.ends_commit(data, at):
                begin = at + pages.PAGE
        return 0, 0

    def each(self, after: int = 0) -> Iterator[Row]:
        """All rows above `after` in order, their checksums not verified.

        Raises:
            SpoolDamaged: it takes too long, or the disk does not let us.
        """
        mark, whole = None, False
        while not whole:
            found = self.read(after, _ROWS, mark)
            yield from found.rows
            after, mark, whole = max(after, found.mark.seq), found.mark, found.whole
            with _translated(self.path):
                self._pay()

    # --- its bounds -------------------------------------------------------------------------------

    def bounds(self) -> Bounds | None:
        """First and last seq whose record is sound; None without any.

        Raises:
            SpoolDamaged: the disk does not let us.
        """
        last = self.last()
        if last is None:
            return None
        first = next(filter(is_sound, self.read(0, _FIRST).rows), last)
        return first[0], last[0]

    def last(self) -> Row | None:
        """The last sound record; None without any.

        Raises:
            SpoolDamaged: the disk does not let us.
        """
        with _translated(self.path):
            is_committed = not self.is_logged
            for data, at in self._backwards():
                is_committed = is_committed or pages.ends_commit(data, at)
                if is_committed and data[at] == pages.LEAF:
                    near = pages.images(data) if self.is_logged else {}
                    rows = pages.rows(data, at, 0, self._chain_near(data, near))
                    sound = next(filter(is_sound, rows), None)
                    if sound is not None:
                        return sound
        return None

    def _backwards(self) -> Iterator[tuple[bytes, int]]:
        """Frames, or pages, from the last one on back."""
        unit = self._unit
        size = os.fstat(self._source).st_size - self._start
        high = self._start + size - size % unit
        while high > self._start:
            self._pay()
            low = max(self._start, high - _TAIL * unit)
            data = os.pread(self._source, high - low, low)
            for at in range(len(data) - len(data) % unit - pages.PAGE, -1, -unit):
                if self.is_logged or low + at >= pages.PAGE:
                    yield data, at
            high = low

    # --- whatever is damaged ----------------------------------------------------------------------

    def salvage(self, after: int, limit: int, *, final: bool) -> list[Row]:
        """At most `limit` sound rows above `after`, the lowest, in order, wherever they lie.

        `final`: nothing is written any more. Then what lies behind damage in the log counts too.

        Raises:
            SpoolDamaged: it takes too long, or the disk does not let us.
        """
        found: dict[int, Row] = {}
        size = 0
        with _translated(self.path):
            for data, at, chain in self._every_leaf(final=final):
                for row in pages.rows(data, at, 0, chain):
                    # Of two with one seq the first counts: a failed write may lie behind the end.
                    if row[0] > after and row[0] not in found and is_sound(row):
                        found[row[0]] = row
                        size += len(row[2])
                if len(found) >= 2 * limit + 100 or size > 2 * CHUNK_BYTES:
                    found = _lowest(found, limit)
                    size = sum(len(row[2]) for row in found.values())
        return list(_lowest(found, limit).values())

    def seqs(self) -> list[int]:
        """The numbers of all sound records wherever they lie, in order.

        Raises:
            SpoolDamaged: as for `salvage`.
        """
        found: set[int] = set()
        with _translated(self.path):
            for data, at, chain in self._every_leaf():
                rows = pages.rows(data, at, 0, chain)
                found.update(row[0] for row in rows if row[0] not in found and is_sound(row))
        return sorted(found)

    def hides(self) -> bool:
        """Whether damage in the log hides commits behind those that can be read in order.

        Raises:
            SpoolDamaged: it takes too long, or the disk does not let us.
        """
        with _translated(self.path):
            return self.is_logged and self._last_commit() > self._end_of_commits()

    def _every_leaf(self, *, final: bool = True) -> Iterator[tuple[bytes, int, pages.Chain]]:
        """Every version of every leaf there is, the oldest first: in the file, then in the log."""
        with contextlib.suppress(FileNotFoundError):
            file = self._database()
            yield from self._leaves(file, 0, 0, os.fstat(file).st_size, self._page_in_file)
        if self.is_logged:
            end = self._last_commit() if final else self._end_of_commits()
            head = pages.FRAME_HEADER
            yield from self._leaves(self._log, pages.LOG_HEADER, head, end, self._page)

    def _leaves(
        self, source: int, offset: int, head: int, end: int, page_of: Callable[[int], bytes]
    ) -> Iterator[tuple[bytes, int, pages.Chain]]:
        unit, size = head + pages.PAGE, 16 * pages.FRAME

        def chain(number: int, length: int) -> bytes:
            return pages.follow(number, length, page_of)

        while end - offset >= unit:
            self._pay()
            data = os.pread(source, min(size // unit * unit, end - offset), offset)
            if len(data) < unit:
                return
            for at in range(head, len(data) - pages.PAGE + 1, unit):
                if data[at] == pages.LEAF:
                    yield data, at, chain
            offset += len(data) // unit * unit
            if not data.strip(b"\0"):
                offset = _behind_hole(source, offset, unit)
            size = min(_WINDOW, size * 4)

    def _last_commit(self) -> int:
        """Where the last commit in the log ends, whatever lies before it."""
        size = os.fstat(self._log).st_size - pages.LOG_HEADER
        end = pages.LOG_HEADER + size - size % pages.FRAME
        for data, at in self._backwards():
            if pages.ends_commit(data, at):
                return end
            end -= pages.FRAME
        return pages.LOG_HEADER

    def _end_of_commits(self) -> int:
        """Where the whole commits from the start of the log on end."""
        offset, end = self._start, os.fstat(self._log).st_size
        while step := self._window(offset, min(_WINDOW, end - offset), end - offset).bytes:
            self._pay()
            offset += step
        return offset

    def _chain_near(self, data: bytes, places: dict[int, int]) -> pages.Chain:
        """For overflow pages of which most are in `data`, at `places`."""

        def page(number: int) -> bytes:
            at = places.get(number)
            return self._page(number) if at is None else data[at : at + pages.PAGE]

        return lambda number, size: pages.follow(number, size, page)

    def _page(self, number: int) -> bytes:
        """A page as it was last written; shorter or empty beyond the end."""
        at = self._index().get(number) if self.is_logged else None
        if at is None:
            return self._page_in_file(number)
        return os.pread(self._log, pages.PAGE, at)

    def _page_in_file(self, number: int) -> bytes:
        return os.pread(self._database(), pages.PAGE, (number - 1) * pages.PAGE)

    def _index(self) -> dict[int, int]:
        """Page number -> offset of its newest image in the log."""
        if self._newest is None:
            self._newest = {}
            offset = pages.LOG_HEADER
            while data := os.pread(self._log, _WINDOW - _WINDOW % pages.FRAME, offset):
                self._pay()
                self._newest.update((n, offset + at) for n, at in pages.images(data).items())
                offset += len(data)
        return self._newest

    def _pay(self) -> None:
        """Go on only while the look has not taken too long."""
        if time.monotonic() > self._end:
            guard.rest(os.path.dirname(self.path))
            raise OSError(errno.EFBIG, f"a look through it takes more than {SECONDS:g} s")


def last_seq(path: Path) -> int:
    """The last seq in a segment that a reader would find now, 0 for none.

    Raises:
        SpoolDamaged, FileNotFoundError: it cannot be read now.
    """
    with Segment(path) as segment:
        last = segment.last()
    return last[0] if last is not None else 0


def is_sealed(path: Path) -> bool:
    """Whether its writer has closed it: it never changes any more."""
    return not os.path.lexists(f"{path}-wal")


def is_lasting(error: SpoolError) -> bool:
    """Whether a segment that was refused with `error` will be refused every time."""
    return isinstance(error, NotASpool) or (isinstance(error, SpoolDamaged) and error.lasting)


def _lowest(found: dict[int, Row], limit: int) -> dict[int, Row]:
    """The first of these, as many as are wanted and fit."""
    kept: dict[int, Row] = {}
    size = 0
    for seq in sorted(found)[:limit]:
        size += len(found[seq][2])
        if kept and size > CHUNK_BYTES:
            break
        kept[seq] = found[seq]
    return kept


def _behind_hole(source: int, offset: int, unit: int) -> int:
    """Where the next data lie at or behind `offset`, in whole units; a file may claim any size."""
    with contextlib.suppress(OSError):
        return offset + (os.lseek(source, offset, os.SEEK_DATA) - offset) // unit * unit
    return max(offset, os.fstat(source).st_size)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Failures of the system, but for a missing file, as `SpoolDamaged`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: OSError) -> SpoolDamaged:
    if border.theirs(error):
        raise error
    return SpoolDamaged(str(path), 0, f"{error.filename or path}: {error.strerror}")


def _decoded(path: Path, body: bytes) -> Identity:
    try:
        return Identity.from_map(codec.unpack(body))
    except (TypeError, SpoolError) as error:
        raise SpoolDamaged(str(path), 0, f"identity: {error}", lasting=True) from error
