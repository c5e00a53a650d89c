"""The bytes of one segment, open for one question: pages of its file, frames of its log.

Rules:

- A segment is read from its ``-wal`` as long as there is one, else from its ``.sqlite``. While it
  is written, every record stands in the ``-wal``, commit after commit, and a writer that died
  leaves the same bytes. Sealing copies them into the ``.sqlite`` and then removes the ``-wal``.
- Files are opened as `spooler.spool.safe_open` has it, read with ``pread``, never locked, mapped
  or changed. SQLite is not asked.
- The cost of a question is bounded: `SECONDS` of wall time, and memory by the largest body. A
  folder that exceeds it is not read for a while.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from spooler import async_exceptions
from spooler.errors import SpoolDamaged
from spooler.spool import format as fmt
from spooler.spool import pages, safe_open

_Self = TypeVar("_Self", bound="Source")

SECONDS = 5.0
WINDOW = 512 * 1024  # bytes that are read at a time
_MOST_COMMIT = 2 * fmt.BODY_LIMIT  # bytes; more than the frames of the largest record
_STEP = WINDOW // pages.FRAME * pages.FRAME  # of whole frames
_MOST_PAGES = 256 * 1024  # of a log that are remembered for what lies far from its page
_NONE: Mapping[int, int] = MappingProxyType({})
_AHEAD = 256 * 1024  # bytes of pages that follow one another
_TAIL = 64 * pages.FRAME  # bytes that are read at a time from the end back
_HEAD = 2 * pages.PAGE  # bytes of a file that tell the size of its pages


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive frames of whole commits, or pages of a file, that were read together.

    `places`: page number -> where its newest image begins. `ends`: frames up to the end of each
    commit, none of a file. `bytes`: how far it goes. `far`: page number -> where in the log those
    of a long commit begin that are not in `data`.
    """

    data: bytes
    places: dict[int, int]
    ends: list[int]
    bytes: int
    far: dict[int, int] = field(default_factory=dict)


class Source:
    """A segment's files, open; a context manager.

    `is_logged`: it is read from its log. `is_sealed`: there is no log, so that it never changes.

    Raises:
        FileNotFoundError: it is not there.
        SpoolDamaged: it cannot be opened now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = self._log = -1
        self._file_page = pages.PAGE  # bytes; known once the file is open
        self._salts = 0
        self._ahead = (-1, 0, b"")  # file, offset and bytes of what was read of single pages
        self._newest: dict[int, int] | None = None  # page -> offset in the log, once it is wanted
        self._end = time.monotonic() + SECONDS
        try:
            # The log first: one that is gone has been copied into the file.
            with contextlib.suppress(FileNotFoundError, safe_open.UnsafePath):
                self._log = safe_open.open_regular(f"{path}-wal")
            self._begin()
        except FileNotFoundError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise _damaged(path, error) from error

    def _begin(self) -> None:
        """Decide what is read: a log without a frame holds nothing."""
        header = os.pread(self._log, 16, pages.LOG_HEADER) if self._log >= 0 else b""
        self.is_logged = len(header) == 16
        self.is_sealed = self._log < 0
        self._salts = int.from_bytes(header[8:], "big")
        if self.is_logged:
            self._source, self._start, self._unit = self._log, pages.LOG_HEADER, pages.FRAME
            self._page_size = pages.PAGE
        else:
            self._source, self._start = self._database(), 0
            self._page_size = self._unit = self._file_page

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        opened, self._file, self._log = (self._file, self._log), -1, -1
        for descriptor in opened:
            if descriptor >= 0:
                os.close(descriptor)

    def _database(self) -> int:
        if self._file < 0:
            self._file = safe_open.open_regular(self.path)
            self._file_page = pages.page_size(os.pread(self._file, _HEAD, 0))
        return self._file

    def _window(self, offset: int, size: int, most: int) -> Window:
        """Whole commits from `offset` on, or pages of the file; `size` bytes, or more for one."""
        if size <= 0:
            return Window(b"", {}, [], 0)
        data = os.pread(self._source, size, offset)
        if not self.is_logged:
            page = self._page_size
            whole = len(data) - len(data) % page
            first = offset // page + 1
            places = {first + at // page: at for at in range(0, whole, page)}
            places.pop(1, None)  # the first holds the schema
            return Window(data, places, [], whole)
        places, ends = pages.committed(data, self._salts)
        if not ends and len(data) == size < most:
            return self._long_commit(offset, min(most, _MOST_COMMIT))
        return Window(data, places, ends, ends[-1] * pages.FRAME if ends else 0)

    def _long_commit(self, offset: int, most: int) -> Window:
        """One commit of at most `most` bytes: its leaves, and where its other pages are."""
        leaves, places, far = bytearray(), dict[int, int](), dict[int, int]()
        count = 0
        while data := os.pread(self._log, _STEP, offset + count * pages.FRAME):
            self._check_deadline()
            before = count
            for at, number, is_end in pages.frames(data, self._salts):
                if data[at] == pages.LEAF:
                    places[number] = len(leaves)
                    leaves += data[at : at + pages.PAGE]
                else:
                    far[number] = offset + count * pages.FRAME + pages.FRAME_HEADER
                count += 1
                if is_end:
                    return Window(bytes(leaves), places, [count], count * pages.FRAME, far)
            if count - before < _STEP // pages.FRAME or len(leaves) > WINDOW:
                break  # what follows is not of this log
            if count * pages.FRAME > most:
                break
        return Window(b"", {}, [], 0)

    def _backwards(self) -> Iterator[tuple[bytes, int]]:
        """Frames, or pages, from the last one on back."""
        unit = self._unit
        size = os.fstat(self._source).st_size - self._start
        high = self._start + size - size % unit
        while high > self._start:
            self._check_deadline()
            low = max(self._start, high - _TAIL // unit * unit)
            data = os.pread(self._source, high - low, low)
            for at in range(len(data) - len(data) % unit - self._page_size, -1, -unit):
                if self.is_logged or low + at >= self._page_size:
                    yield data, at
            high = low

    def _every_cell(
        self, after: int = 0, *, final: bool = True
    ) -> Iterator[tuple[bytes, pages.Cell, pages.Chain]]:
        """Every version of every cell above `after`, the oldest first: of the file, of the log."""
        for data, at, chain, page in self._every_leaf(final=final):
            for cell in pages.cells(data, at, 0, page):
                if cell[0] > after:
                    self._check_deadline()
                    yield data, cell, chain

    def _every_leaf(self, *, final: bool = True) -> Iterator[tuple[bytes, int, pages.Chain, int]]:
        """Every version of every leaf there is, the oldest first: in the file, then in the log.

        With the size of its page.
        """
        with contextlib.suppress(FileNotFoundError):
            file = self._database()
            end, page = os.fstat(file).st_size, self._file_page
            for leaf in self._leaves(file, 0, 0, end, page, self._page_in_file):
                yield *leaf, page
        if self.is_logged:
            end = self._last_commit() if final else self._end_of_commits()
            head = pages.FRAME_HEADER
            begin, page = pages.LOG_HEADER, pages.PAGE
            for leaf in self._leaves(self._log, begin, head, end, page, self._page):
                yield *leaf, page

    def _leaves(
        self,
        source: int,
        offset: int,
        head: int,
        end: int,
        page: int,
        page_of: Callable[[int], bytes],
    ) -> Iterator[tuple[bytes, int, pages.Chain]]:
        unit, size = head + page, 16 * pages.FRAME

        def chain(number: int, length: int) -> Iterator[bytes]:
            return pages.follow(number, length, page_of)

        while end - offset >= unit:
            self._check_deadline()
            data = os.pread(source, min(size // unit * unit, end - offset), offset)
            if len(data) < unit:
                return
            for at in range(head, len(data) - page + 1, unit):
                if data[at] == pages.LEAF:
                    yield data, at, chain
            offset += len(data) // unit * unit
            if not data.strip(b"\0"):
                offset = _behind_hole(source, offset, unit)
            size = min(WINDOW, size * 4)

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
        while step := self._window(offset, min(WINDOW, end - offset), end - offset).bytes:
            self._check_deadline()
            offset += step
        return offset

    def _chain_near(
        self, data: bytes, places: dict[int, int], far: Mapping[int, int] = _NONE
    ) -> pages.Chain:
        """For overflow pages of which most are in `data`, at `places`, or in the log, `far`."""

        def page(number: int) -> bytes:
            at = places.get(number)
            if at is not None:
                return data[at : at + self._page_size]
            at = far.get(number)
            return self._page(number) if at is None else self._page_at(self._log, at, pages.PAGE)

        def chain(number: int, size: int) -> Iterator[bytes]:
            self._check_deadline()
            return pages.follow(number, size, page)

        return chain

    def _page(self, number: int) -> bytes:
        """A page as it was last written; shorter or empty beyond the end."""
        self._check_deadline()
        at = self._index().get(number) if self.is_logged else None
        if at is None:
            return self._page_in_file(number)
        return self._page_at(self._log, at, pages.PAGE)

    def _page_in_file(self, number: int) -> bytes:
        file = self._database()
        return self._page_at(file, (number - 1) * self._file_page, self._file_page)

    def _page_at(self, source: int, at: int, page: int) -> bytes:
        """The page at `at`. Those that follow are read with it where one has followed before.

        A long body is thousands of them, and after each call of the system a busy interpreter may
        let the others run first.
        """
        known, begin, data = self._ahead
        end = begin + len(data)
        if known != source or not begin <= at <= end - page:
            follows = known == source and end <= at <= end + pages.FRAME_HEADER
            begin, data = at, os.pread(source, _AHEAD if follows else page, at)
            self._ahead = source, begin, data
        return data[at - begin : at - begin + page]

    def _index(self) -> dict[int, int]:
        """Page number -> offset of its newest image in the log."""
        if self._newest is None:
            self._newest = {}
            offset = pages.LOG_HEADER
            while data := os.pread(self._log, WINDOW - WINDOW % pages.FRAME, offset):
                self._check_deadline()
                self._newest.update((n, offset + at) for n, at in pages.images(data).items())
                offset += len(data)
                if len(self._newest) > _MOST_PAGES:
                    break  # what lies further is not found
        return self._newest

    def _check_deadline(self) -> None:
        """Stop a question that has taken too long."""
        if time.monotonic() > self._end:
            safe_open.penalize(os.path.dirname(self.path))
            raise OSError(errno.EFBIG, f"reading it takes more than {SECONDS:g} s")


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Failures of the system, but for a missing file, as `SpoolDamaged`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: OSError) -> SpoolDamaged:
    if async_exceptions.is_async(error):
        raise error
    return SpoolDamaged(str(path), 0, f"{error.filename or path}: {error.strerror}")


def _behind_hole(source: int, offset: int, unit: int) -> int:
    """Where the next data lie at or behind `offset`, in whole units; a file may claim any size."""
    with contextlib.suppress(OSError):
        return offset + (os.lseek(source, offset, os.SEEK_DATA) - offset) // unit * unit
    return max(offset, os.fstat(source).st_size)
