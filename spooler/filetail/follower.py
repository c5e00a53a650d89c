"""What comes next in a log file, whatever is done to it.

Rules:

- `next` reads and does not move; `advance` moves past a piece that is safe. A piece that was not
  safe is read again.
- A file that was renamed or deleted is read to its end through the descriptor. It has ended when
  the path has another file with something in it; what has been rotated in between comes first.
- That a file is still the one that it was is verified *after* reading from it, by the bytes at its
  beginning and before the position: had it been truncated before, they would be others. What a
  copy-and-truncate has copied away is read from the copy.
- A position that is nowhere any more, since the file was deleted or compressed with a part unread,
  is given up, and told by `lost`.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spooler.async_exceptions import is_async, suppress
from spooler.filetail import lines
from spooler.filetail.checkpoint import WINDOW, LogPosition
from spooler.filetail.rotation import FileMoved, RotatedFile, rotated_files, stat_file

# A line without its end waits this long for it: a progress bar never ends its own.
PARTIAL_SECONDS = 30.0
_KNOWN_LIMIT = 64
# What stands at the path under another inode is a copy of ours only on evidence this long.
_COPY_BYTES = WINDOW
_FILES_LIMIT = 1000  # files passed in one call


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some lines, and how far they go.

    `head` and `tail` are the bytes of the file that the position has checksums of. They come from
    what was read, not from the file once more, which may be another by then.
    """

    text: str
    position: LogPosition
    head: bytes
    tail: bytes


class Follower:
    """Follows the file at `path`, from `position` or else from its beginning, or its end.

    `known` are the rotated files that are older than the position, by `Sibling.key`; None to look
    which they are. `earlier` are the ends of those that may be missing there, the newest first.
    """

    def __init__(
        self,
        path: Path,
        position: LogPosition | None = None,
        known: frozenset[str] | None = None,
        *,
        earlier: Sequence[LogPosition] = (),
        from_end: bool = False,
    ) -> None:
        self.path = path
        self._earlier = earlier
        self._known = known
        self._from_end = from_end
        self.lost = 0  # how often a position was given up with something unread
        self._sought = position  # where to begin, until the first file is open
        self._fd = -1
        self._device = self._inode = 0
        self._offset = 0
        self._mark = _NOWHERE
        self._head = self._tail = b""
        self._waiting: tuple[int, float] | None = None  # offset of a line begun, and since when

    @property
    def known(self) -> frozenset[str]:
        """The rotated files that are older than the position, as far as that is known."""
        return self._known or frozenset()

    @property
    def is_open(self) -> bool:
        """Whether a file is being read; it may have been deleted meanwhile."""
        return self._fd >= 0

    @property
    def position(self) -> LogPosition | None:
        """How far the file at hand, or last at hand, has been passed; None before the first."""
        return self._mark if self._mark.path else self._sought

    def _skip(self) -> None:
        """Go on at the end of the last whole line that there is now."""
        size = os.fstat(self._fd).st_size
        begin = max(0, size - lines.PIECE_BYTES)
        block = os.pread(self._fd, size - begin, begin)
        self._stand_at(begin + block.rfind(b"\n") + 1)

    def next(self, now: float, *, last: bool = False) -> Piece | None:
        """The next piece, None while there is none; `now` in monotonic seconds.

        `last`: there is no later call, so a line without its end need not wait.
        """
        with contextlib.suppress(FileMoved):  # in the middle of a rotation: it will be over soon
            return self._next(now, last=last)
        return None

    def _next(self, now: float, *, last: bool) -> Piece | None:
        for _ in range(_FILES_LIMIT):
            if not self.is_open and not self._begin():
                return None
            # In this order: what is written to a file after its successor has content is nothing.
            ended = self._is_left()
            data = self._read()
            if data is None:
                self._seek_again()
            elif size := lines.complete_lines(
                data, ended=ended, impatient=last or self._is_due(data, now)
            ):
                return self._piece(data[:size])
            elif ended:
                self._open_next()
            else:
                return None
        return None

    def advance(self, piece: Piece) -> None:
        """Go on after `piece`, which is safe now."""
        self._mark, self._head, self._tail = piece.position, piece.head, piece.tail
        self._offset = piece.position.end
        self._waiting = None

    def close(self) -> None:
        """Close the file; `next` would begin again from the last position."""
        if self.is_open:
            self._sought = self._mark if self._mark.path else None
            os.close(self._fd)
            self._fd = -1

    # --- reading ----------------------------------------------------------------------------------

    def _read(self) -> bytes | None:
        """What follows the position, None when this is not the file any more."""
        if os.fstat(self._fd).st_size < self._offset:
            return None
        data = os.pread(self._fd, lines.PIECE_BYTES, self._offset)
        if self._offset:
            return data if self._is_same() else None
        return None if self._was_copied(data) else data

    def _piece(self, data: bytes) -> Piece:
        head = (self._head + data)[:WINDOW]
        tail = (self._tail + data)[-WINDOW:]
        position = LogPosition(
            path=str(self.path),
            device=self._device,
            inode=self._inode,
            begin=self._offset,
            end=self._offset + len(data),
            head=zlib.crc32(head),
            tail=zlib.crc32(tail),
        )
        return Piece(text=lines.text(data), position=position, head=head, tail=tail)

    def _is_due(self, data: bytes, now: float) -> bool:
        """Whether the line that `data` begins has waited long enough."""
        if not data:
            self._waiting = None
            return False
        if self._waiting is None or self._waiting[0] != self._offset:
            self._waiting = (self._offset, now)
        return now - self._waiting[1] >= PARTIAL_SECONDS

    def _is_same(self) -> bool:
        window = len(self._head)
        return (
            os.pread(self._fd, window, 0) == self._head
            and os.pread(self._fd, window, self._offset - window) == self._tail
        )

    def _was_copied(self, data: bytes) -> bool:
        """Whether what this file had has been copied away, before any of it was read.

        What is older than it was known when it was opened, so what is not is a copy. One that
        begins like the file is being made: the file still has it all.
        """
        rotated = rotated_files(self.path)
        mine = next((one.age for one in rotated if self._is_here(one)), None)
        new = [
            one
            for one in self._new(rotated)
            if not self._is_here(one) and (mine is None or one.age < mine)
        ]
        there = stat_file(self.path)
        if mine is None and (there is None or not self._is_here(there)):
            return False  # it was deleted
        return bool(new) and not any(data.startswith(one.head()) for one in new)

    # --- from file to file ------------------------------------------------------------------------

    def _is_left(self) -> bool:
        """Whether a later file has got something: at the path, or rotated already."""
        there = stat_file(self.path)
        if there is not None and self._is_here(there):
            return False
        return _size(self.path) > 0 or bool(self._unread(self._this(), rotated_files(self.path)))

    def _begin(self) -> bool:
        """Open the file to begin with; whether there is one."""
        if self._sought is None:
            return self._begin_anew()
        positions, found = [self._sought, *self._earlier], None
        while positions and found is None:
            position = positions.pop(0)
            # A listing may lack a file that is renamed meanwhile: what is lost is looked for twice.
            found = self._find(position) or self._find(position)
        if self._known is None:
            older = rotated_files(self.path)
            if found is not None and found.path != self.path:
                older = [one for one in older if one.age < found.age]
            self._known = _keys(older)
        before = [one for one in map(self._find, positions) if one is not None]
        passed = _keys([one for one in before if found and one.inode != found.inode])
        if not (self._open(found, position.end, position) if found else self._open_unread(None)):
            return False
        self._known |= passed
        self.lost += position != self._sought or found is None
        self._sought, self._earlier = None, ()
        return True

    def _begin_anew(self) -> bool:
        """Open a file that was never followed before; what is rotated already is not ours."""
        known = _keys(rotated_files(self.path))
        there = stat_file(self.path)
        if there is None or not self._open(there, 0):
            return False
        self._known = known
        if self._from_end:
            self._skip()
        return True

    def _seek_again(self) -> None:
        """The file at hand was truncated: go on in the copy of it, or from its new beginning."""
        mark, self._waiting = self._mark, None
        self.close()
        copy = self._copy_of(mark)
        if copy is None:
            self._open_unread(None)
        else:
            self._open(copy, mark.end, mark)

    def _open_next(self) -> None:
        """The file at hand has ended: open the one that came after it."""
        done = self._this()
        self.close()
        self._open_unread(done)

    def _open_unread(self, done: RotatedFile | None) -> bool:
        """Open the oldest file that is not known and younger than `done`, or else the path."""
        # In this order: a rotation in between makes the file at the path one of the rotated.
        there = stat_file(self.path)
        rotated = rotated_files(self.path)
        unread = self._unread(done, rotated)
        chosen = unread[0] if unread else there
        if chosen is None:
            return False
        known = _keys([one for one in rotated if not unread or one.age < chosen.age])
        if not self._open(chosen, 0):
            return False
        self._known = known
        return True

    def _unread(self, done: RotatedFile | None, rotated: list[RotatedFile]) -> list[RotatedFile]:
        """Those that are not known and younger than `done`, which may have another name now."""
        new = self._new(rotated)
        if done is None:
            return new
        after = next((one.age for one in rotated if one.inode == done.inode), None)
        if after is None:  # deleted: a file that was written in the same tick came after it
            return [one for one in new if one.written >= done.written]
        return [one for one in new if one.age > after]

    def _new(self, rotated: list[RotatedFile]) -> list[RotatedFile]:
        """Those that are not known. What is older than all that are known is, too."""
        known = [one.age for one in rotated if self._is_known(one)]
        oldest = min(known, default=None)
        return [
            one for one in rotated if one.age not in known and (oldest is None or one.age > oldest)
        ]

    def _is_known(self, one: RotatedFile) -> bool:
        """Whether this is a file from before; only those that may be are opened."""
        return f"{one.inode}" in {key.partition(":")[0] for key in self.known} and (
            one.key() in self.known
        )

    def _this(self) -> RotatedFile:
        """The file at hand, which may have been deleted."""
        status = os.fstat(self._fd)
        return RotatedFile(
            path=Path(),
            device=status.st_dev,
            inode=status.st_ino,
            written=status.st_mtime_ns,
            number=0,
        )

    def _find(self, position: LogPosition) -> RotatedFile | None:
        """The file that `position` is in: by its inode, or as a copy."""
        there = stat_file(self.path)
        files = [*([there] if there is not None else []), *rotated_files(self.path)]
        for one in files:
            if one.inode == position.inode and _holds(one, position):
                return one
        if there is not None and position.end >= _COPY_BYTES and _holds(there, position):
            return there
        return self._copy_of(position)

    def _copy_of(self, position: LogPosition) -> RotatedFile | None:
        """The youngest rotated file that has what was recorded up to `position`."""
        if not position.end:
            return None
        for one in reversed(rotated_files(self.path)):
            if _holds(one, position) and not self._is_known(one):
                return one
        return None

    def _is_here(self, one: RotatedFile) -> bool:
        return (one.device, one.inode) == (self._device, self._inode)

    def _open(self, one: RotatedFile, offset: int, position: LogPosition | None = None) -> bool:
        """Open a file at `offset`, which is that of `position` where there is one."""
        descriptor = one.open()
        if descriptor is None:
            return False
        self._fd, self._device, self._inode = descriptor, one.device, one.inode
        before = self._mark
        self._stand_at(offset or _first_data(descriptor))
        if position is not None and not position.is_in(self._head, self._tail):
            os.close(descriptor)
            self._fd, self._mark = -1, before
            raise FileMoved(one.path)
        self._mark = position or self._mark
        return True

    def _stand_at(self, offset: int) -> None:
        """Go on at `offset` of the file at hand."""
        window = min(offset, WINDOW)
        self._head = os.pread(self._fd, window, 0)
        self._tail = os.pread(self._fd, window, offset - window)
        self._offset = offset
        self._mark = self._piece(b"").position


_NOWHERE = LogPosition(path="", device=0, inode=0, begin=0, end=0, head=0, tail=0)


def _keys(files: list[RotatedFile]) -> frozenset[str]:
    """The keys of the youngest of these."""
    return frozenset(one.key() for one in files[-_KNOWN_LIMIT:])


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        if is_async(error):
            raise
        return 0


def _holds(one: RotatedFile, position: LogPosition) -> bool:
    """Whether a file has what was recorded up to `position`.

    Raises:
        Moved: it is not there any more.
    """
    descriptor = one.open()
    if descriptor is None:
        return False
    try:
        head = os.pread(descriptor, position.window, 0)
        tail = os.pread(descriptor, position.window, position.end - position.window)
        return position.is_in(head, tail)
    finally:
        os.close(descriptor)


def _first_data(descriptor: int) -> int:
    """Where a file begins that a writer without O_APPEND goes on in after a truncation."""
    begin = 0
    with suppress(OSError):
        if os.pread(descriptor, 1, 0) == b"\0":
            begin = os.lseek(descriptor, 0, os.SEEK_DATA)
            block = os.pread(descriptor, lines.PIECE_BYTES, begin)
            begin += len(block) - len(block.lstrip(b"\0"))
    return begin
