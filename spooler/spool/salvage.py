"""Finds the records of a segment that SQLite refuses, by their checksums; reads, and never writes.

Where the header, the schema or a page between is damaged, the pages that hold records are mostly
whole. Each is looked through for itself, in the file and in the log beside it, as SQLite's file
format lays them out; no schema is trusted and nothing is run. What the checksum of kind, body and
seq holds for is a record of this spool, whatever the rest of the file looks like.

Files are not trusted: only regular ones are opened (`spooler.spool.guard`), a look takes `SECONDS`
of processor time at most, and what it holds at a time is bounded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from spooler.spool import codec, guard
from spooler.spool import format as fmt
from spooler.spool.stored import Row

_PAGE = fmt.PAGE_SIZE
_WAL_HEADER = 32
_FRAME_HEADER = 24
_FRAME = _FRAME_HEADER + _PAGE
_LEAF = 0x0D
SECONDS = 5.0
_KEPT_BYTES = 64 * 1024 * 1024
_READS = 256  # of pages between two looks at the clock
_COMMIT_FRAMES = 2 * fmt.BODY_LIMIT // fmt.PAGE_SIZE  # more than the largest record takes
_TAIL_FRAMES = 64  # looked through for records that the log hides
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # serial type -> bytes


def rows(path: Path, after: int, limit: int) -> list[Row]:
    """At most `limit` records with a seq above `after`, the lowest, in order.

    Raises:
        OSError: the file cannot be read.
    """
    found: dict[int, Row] = {}
    size = 0
    for row in _scan(path, after):
        size += 0 if row[0] in found else len(row[2])
        found.setdefault(row[0], row)
        if len(found) >= 2 * limit + 100 or size > 2 * _KEPT_BYTES:
            found = _lowest(found, limit)
            size = sum(len(row[2]) for row in found.values())
    return list(_lowest(found, limit).values())


def _lowest(found: dict[int, Row], limit: int) -> dict[int, Row]:
    """The first of these, as many as are wanted and fit."""
    kept: dict[int, Row] = {}
    size = 0
    for seq in sorted(found)[:limit]:
        size += len(found[seq][2])
        if kept and size > _KEPT_BYTES:
            break
        kept[seq] = found[seq]
    return kept


def seqs(path: Path) -> list[int]:
    """The numbers of all records that can be found, in order.

    Raises:
        OSError: the file cannot be read.
    """
    return sorted({row[0] for row in _scan(path, 0)})


def identity(path: Path, number: int) -> bytes | None:
    """The body of the identity of segment `number`; None when it cannot be found.

    Raises:
        OSError: the file cannot be read.
    """
    with _Pages(path) as pages:
        for page in pages.all():
            for _, values in _cells(page, pages):
                if len(values) != 2:
                    continue
                body, checksum = values
                if isinstance(body, bytes) and checksum == codec.checksum(
                    fmt.IDENTITY_KIND, body, number
                ):
                    return body
    return None


def hidden_after(path: Path, last: int) -> bool:
    """Whether the log ends with committed records above `last`, which damage in it hides.

    SQLite reads a log up to the first frame whose checksum does not hold, and says nothing.
    """
    with contextlib.suppress(OSError), _Pages(path) as pages:
        for page in pages.tail():
            sound = [row[0] for row in _records(page, pages) if _holds(row)]
            if sound:
                return max(sound) > last
    return False


def _scan(path: Path, after: int) -> Iterator[Row]:
    """Every sound record above `after`, some more than once, in the order of pages."""
    with _Pages(path) as pages:
        for page in pages.all():
            for row in _records(page, pages):
                if row[0] > after and _holds(row):
                    yield row


def _holds(row: Row) -> bool:
    return codec.checksum(row[1], row[2], row[0]) == row[3]


def _records(page: bytes, pages: _Pages) -> Iterator[Row]:
    for seq, values in _cells(page, pages):
        if len(values) != 4 or values[0] is not None:
            continue
        _, kind, body, checksum = values
        if isinstance(kind, str) and isinstance(body, bytes) and isinstance(checksum, int):
            yield seq, kind, body, checksum


class _Pages:
    """A segment and its log, open, page by page; numbered from 1."""

    def __init__(self, path: Path) -> None:
        self._folder = os.path.dirname(path)
        self._file: BinaryIO = os.fdopen(guard.open_regular(path), "rb")
        self._end = time.thread_time() + SECONDS
        self._reads = 0
        self._log: BinaryIO | None = None
        self._frames, self._salts = 0, b""
        self._newest: dict[int, int] | None = None  # page number -> frame, once it is wanted
        try:
            with contextlib.suppress(FileNotFoundError):
                self._log = os.fdopen(guard.open_regular(f"{path}-wal"), "rb")
                self._salts = self._log.read(_WAL_HEADER)[16:24]
                self._frames = max(0, os.fstat(self._log.fileno()).st_size - _WAL_HEADER) // _FRAME
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> _Pages:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._log is not None:
            self._log.close()

    def all(self) -> Iterator[bytes]:
        """Every version of every page there is, the oldest first.

        Of two records with one seq the first counts: what a failed write left behind the end of the
        log comes last.
        """
        number = 2  # the first holds the schema, and nothing else
        while page := self._in_file(number):
            if page[0] == _LEAF:
                yield page
            elif not page.strip(b"\0"):
                number = max(number, self._after_hole(number))
            number += 1
        frame = 0
        while frame < self._frames:
            page = self._in_log(frame)
            if page[:1] == b"\0" and not page.strip(b"\0"):
                frame = max(frame, self._frame_after_hole(frame))
            else:
                yield page
            frame += 1

    def tail(self) -> Iterator[bytes]:
        """The pages of the last frames of the log, back from the last one that ends a commit."""
        last = self._frames - 1
        least = last - _COMMIT_FRAMES
        while last >= 0 and last > least and not self._ends_commit(last):
            last -= 1
        if last == least:
            return  # no commit is as long as this
        for frame in range(last, max(-1, last - _TAIL_FRAMES), -1):
            yield self._in_log(frame)

    def newest(self, number: int) -> bytes:
        """A page as it was last written; shorter or empty beyond the end."""
        if self._newest is None:
            self._newest = {
                int.from_bytes(self._frame_header(frame)[:4], "big"): frame
                for frame in range(self._frames)
            }
        frame = self._newest.get(number)
        return self._in_file(number) if frame is None else self._in_log(frame)

    def _ends_commit(self, frame: int) -> bool:
        header = self._frame_header(frame)
        return header[4:8] != b"\0\0\0\0" and header[8:16] == self._salts

    def _after_hole(self, number: int) -> int:
        """The page before the next one that takes disk; a file may claim any size."""
        with contextlib.suppress(OSError):
            return os.lseek(self._file.fileno(), (number - 1) * _PAGE, os.SEEK_DATA) // _PAGE
        return os.fstat(self._file.fileno()).st_size // _PAGE + 1

    def _frame_after_hole(self, frame: int) -> int:
        """As `_after_hole`, for the log: the frame in which the next data begin, or before."""
        assert self._log is not None
        at = _WAL_HEADER + frame * _FRAME
        with contextlib.suppress(OSError):
            data = os.lseek(self._log.fileno(), at, os.SEEK_DATA)
            return (data - _WAL_HEADER) // _FRAME - 1
        return self._frames

    def _pay(self) -> None:
        """Every page costs; too many, and the look ends."""
        self._reads += 1
        if self._reads % _READS == 0 and time.thread_time() > self._end:
            guard.rest(self._folder)
            raise OSError(errno.EFBIG, f"a look through it takes more than {SECONDS:g} s")

    def _frame_header(self, frame: int) -> bytes:
        assert self._log is not None
        self._pay()
        self._log.seek(_WAL_HEADER + frame * _FRAME)
        return self._log.read(_FRAME_HEADER)

    def _in_file(self, number: int) -> bytes:
        self._pay()
        self._file.seek((number - 1) * _PAGE)
        return self._file.read(_PAGE)

    def _in_log(self, frame: int) -> bytes:
        assert self._log is not None
        self._pay()
        self._log.seek(_WAL_HEADER + frame * _FRAME + _FRAME_HEADER)
        return self._log.read(_PAGE)


_Value = str | bytes | int | None


def _cells(page: bytes, pages: _Pages) -> Iterator[tuple[int, list[_Value]]]:
    """The rows of a page, as rowid and columns; none where it is no leaf of a table."""
    if len(page) < _PAGE or page[0] != _LEAF:
        return
    count = int.from_bytes(page[3:5], "big")
    for place in range(8, min(8 + 2 * count, _PAGE - 1), 2):
        try:
            yield _cell(page, int.from_bytes(page[place : place + 2], "big"), pages)
        except (IndexError, ValueError):
            continue  # damaged; its neighbours need not be


def _cell(page: bytes, at: int, pages: _Pages) -> tuple[int, list[_Value]]:
    size, at = _varint(page, at)
    seq, at = _varint(page, at)
    if not 0 < size <= fmt.BODY_LIMIT + _PAGE:
        raise ValueError("no record is as large as this")
    local = _local(size)
    payload = page[at : at + local]
    if len(payload) < local:
        raise ValueError("goes beyond its page")
    if local < size:
        overflow = int.from_bytes(page[at + local : at + local + 4], "big")
        payload += _overflowing(overflow, size - local, pages)
    return seq, _columns(payload)


def _local(size: int) -> int:
    """How much of a payload of `size` bytes lies in its leaf, as SQLite divides it."""
    most = _PAGE - 35
    if size <= most:
        return size
    least = (_PAGE - 12) * 32 // 255 - 23
    fitting = least + (size - least) % (_PAGE - 4)
    return fitting if fitting <= most else least


def _overflowing(number: int, size: int, pages: _Pages) -> bytes:
    parts = []
    while size > 0:
        page = pages.newest(number) if number else b""
        if len(page) < _PAGE:
            raise ValueError("its chain of pages is broken")
        parts.append(page[4 : 4 + size])
        size -= len(parts[-1])
        number = int.from_bytes(page[:4], "big")
    return b"".join(parts)


def _columns(payload: bytes) -> list[_Value]:
    end, at = _varint(payload, 0)
    types = []
    while at < end:
        kind, at = _varint(payload, at)
        types.append(kind)
    values: list[_Value] = []
    for kind in types:
        size = _size(kind)
        raw = payload[at : at + size]
        if len(raw) < size:
            raise ValueError("its columns are longer than it is")
        values.append(_value(kind, raw))
        at += size
    return values


def _size(kind: int) -> int:
    if kind >= 12:
        return (kind - 12) // 2
    if kind in (0, 8, 9):
        return 0
    if kind in _INTEGERS:
        return _INTEGERS[kind]
    raise ValueError("no column of ours is of this type")


def _value(kind: int, raw: bytes) -> _Value:
    if kind >= 12:
        return raw.decode("utf-8") if kind % 2 else raw
    if kind == 0:
        return None
    return kind - 8 if kind in (8, 9) else int.from_bytes(raw, "big", signed=True)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """SQLite's variable-length integer at `at`, and where it ends."""
    value = 0
    for index in range(8):
        byte = raw[at + index]
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, at + index + 1
    return (value << 8) | raw[at + 8], at + 9
