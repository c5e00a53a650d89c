"""The framing of a LevelDB log, as wandb uses it: records in blocks of 32 KiB.

Blocks are counted from the start of the file. A record is one FULL fragment, or a FIRST, any number
of MIDDLE and a LAST one. A fragment never crosses the end of a block::

    checksum  4 bytes  little-endian CRC-32 (zlib) over type and data; LevelDB has a masked CRC-32C
    length    2 bytes  little-endian, of the data
    type      1 byte   FULL 1, FIRST 2, MIDDLE 3, LAST 4
    data

The last bytes of a block are zero where no fragment's head fits.

- A record that the end of the file cuts off, or zeros up to the end, are not written yet: the end.
- Everything else that is not a record is damage of one record, where the record begins. Reading
  resumes at the next byte where a whole record begins.
- A decision about a place depends only on the bytes there, so it holds when the file has grown.
  Exception: a last record whose length is wrong looks like one that is not written yet.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from shipper.importers.scan import next_data
from spooler.spool import format as fmt

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
HEAD = struct.Struct("<IHB")  # checksum, length, type

_TYPES = (FULL, FIRST, MIDDLE, LAST)
_TYPE_BYTE = re.compile(rb"[\x01-\x04]")
_SEEDS = {kind: zlib.crc32(bytes([kind])) for kind in _TYPES}
# A record whose last bytes are zeros up to the end of the file was allocated and not written.
_ZEROS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class LogOffset:
    """Where to resume."""

    offset: int
    lost: bool = False  # the next record may begin at any byte from `offset` on


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEntry:
    """One complete record."""

    start: int
    data: bytes
    then: LogOffset


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptEntry:
    """A record that cannot be read."""

    start: int
    reason: str
    then: LogOffset


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fragment:
    start: int
    end: int
    kind: int
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flaw:
    start: int
    reason: str


def entries(file: BinaryIO, place: LogOffset) -> Iterator[LogEntry | CorruptEntry]:
    """The records of a log from `place` on, up to the last complete one."""
    blocks = _Blocks(file)
    while (found := _next(blocks, place)) is not None:
        yield found
        place = found.then


def _next(blocks: _Blocks, place: LogOffset) -> LogEntry | CorruptEntry | None:
    start = place.offset
    if place.lost:
        found = _recover(blocks, start)
        if found is None:
            return None
        start = found
    first = blocks.fragment(start)
    if first is None:
        return None
    start = first.start
    if isinstance(first, _Flaw):
        return _broken(start, first)
    if first.kind not in (FULL, FIRST):
        then = LogOffset(offset=first.end, lost=True)
        return CorruptEntry(start=start, reason="a record without its beginning", then=then)
    return _assemble(blocks, first)


def _assemble(blocks: _Blocks, first: _Fragment) -> LogEntry | CorruptEntry | None:
    """The record that begins with this fragment."""
    parts, size, last = [first.data], len(first.data), first
    while last.kind not in (FULL, LAST):
        piece = blocks.fragment(last.end)
        if piece is None:
            return None
        if isinstance(piece, _Flaw):
            return _broken(first.start, piece)
        if piece.kind in (FULL, FIRST):
            reason = f"its end is missing, another record begins at byte {piece.start}"
            return CorruptEntry(
                start=first.start, reason=reason, then=LogOffset(offset=piece.start)
            )
        last, size = piece, size + len(piece.data)
        if size <= fmt.BODY_LIMIT:
            parts.append(piece.data)
    then = LogOffset(offset=last.end)
    if size > fmt.BODY_LIMIT:
        return CorruptEntry(start=first.start, reason=f"{size} bytes, more than is read", then=then)
    return LogEntry(start=first.start, data=b"".join(parts), then=then)


def _broken(start: int, flaw: _Flaw) -> CorruptEntry:
    where = "" if flaw.start == start else f" in its part at byte {flaw.start}"
    then = LogOffset(offset=flaw.start + 1, lost=True)
    return CorruptEntry(start=start, reason=f"{flaw.reason}{where}", then=then)


def _recover(blocks: _Blocks, offset: int) -> int | None:
    """Where the first whole fragment that begins a record lies, at `offset` or later."""
    while (found := blocks.next_whole(offset)) is not None:
        if found.kind in (FULL, FIRST):
            return found.start
        offset = found.end
    return None


class _Blocks:
    """A file in blocks, the last one that was used kept."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = -1
        self._block = b""

    def fragment(self, offset: int) -> _Fragment | _Flaw | None:
        """The fragment at `offset`; None when the file ends before it does."""
        if BLOCK - offset % BLOCK < HEAD.size:
            offset += BLOCK - offset % BLOCK
        block, within = self._at(offset // BLOCK), offset % BLOCK
        if len(block) - within < HEAD.size:
            return None
        found = _whole(block, within, offset)
        if found is not None:
            return found
        _, length, kind = HEAD.unpack_from(block, within)
        if not any(block[within : within + HEAD.size]):
            return None if self._is_zero(offset) else _Flaw(start=offset, reason="zeros")
        if kind not in _TYPES or HEAD.size + length > BLOCK - within:
            return _Flaw(start=offset, reason="not the head of a record")
        end = offset + HEAD.size + length
        if within + HEAD.size + length > len(block):
            if self.next_whole(offset + 1) is None:
                return None
            return _Flaw(start=offset, reason="its length is wrong")
        if length >= _ZEROS and self._is_zero(end - _ZEROS):
            return None
        return _Flaw(start=offset, reason="its checksum does not hold")

    def next_whole(self, offset: int) -> _Fragment | None:
        """The first whole fragment at `offset` or later, tried byte by byte."""
        number, within = divmod(offset, BLOCK)
        while block := self._at(number):
            for match in _TYPE_BYTE.finditer(block, within + HEAD.size - 1):
                at = match.start() - HEAD.size + 1
                found = _whole(block, at, number * BLOCK + at)
                if found is not None:
                    return found
            number, within = self._next_data(number + 1), 0
        return None

    def _next_data(self, number: int) -> int:
        """The first block at `number` or later that is not a hole."""
        return max(number, next_data(self._file, number * BLOCK) // BLOCK)

    def _at(self, number: int) -> bytes:
        if number != self._number:
            self._file.seek(number * BLOCK)
            self._block = self._file.read(BLOCK)
            self._number = number
        return self._block

    def _is_zero(self, offset: int) -> bool:
        """Whether nothing but zeros lies between `offset` and the end of the file."""
        number, within = divmod(offset, BLOCK)
        while block := self._at(number):
            if any(block[within:]):
                return False
            number, within = self._next_data(number + 1), 0
        return True


def _whole(block: bytes, at: int, offset: int) -> _Fragment | None:
    """The fragment at `at` of a block, if there is one and all of it."""
    checksum, length, kind = HEAD.unpack_from(block, at)
    data = block[at + HEAD.size : at + HEAD.size + length]
    if kind not in _TYPES or len(data) < length or zlib.crc32(data, _SEEDS[kind]) != checksum:
        return None
    return _Fragment(start=offset, end=offset + HEAD.size + length, kind=kind, data=data)
