"""What comes next in a log file, whatever is done to it.

Rules:

- `next` reads and does not move; `advance` moves past a piece that is safe. A piece that was not
  safe is read again.
- Bytes are ours when the path has them, or when evidence says so, and never because of a name or
  a time. The file that we have open, or that has our inode and what we read, is ours under any
  name. The form of that name is the `scheme` of this log's rotation: other files in it, unless
  they were there before, are generations of the log.
- A file that was renamed or deleted is read to its end through the descriptor. It has ended when
  the path has another file with something new in it; what has been rotated in between comes first.
- That a file is still the one that it was is verified *after* reading from it, by the bytes at its
  beginning and before the position: had it been truncated before, they would be others. What a
  copy-and-truncate has copied away is read from the copy.
- A file that was edited (`sed -i`, an editor's save) is read on after what was read last, where
  that stands now.
- Bytes of 0 are not text: a hole, or a part that a file server has not got yet. They are passed
  over when data follow a hole, or when they have stayed what they are for `PARTIAL_SECONDS`.
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

from spooler.async_exceptions import suppress
from spooler.filetail import lines
from spooler.filetail.checkpoint import WINDOW, LogPosition
from spooler.filetail.rotation import FileMoved, RotatedFile, rotated_files, stat_file

# A line without its end waits this long for it: a progress bar never ends its own.
PARTIAL_SECONDS = 30.0
_KNOWN_LIMIT = 64  # files of one scheme, the youngest
_KEYS_LIMIT = 256
# What stands at the path under another inode is a copy of ours only on evidence this long.
_COPY_BYTES = WINDOW
# What was read last is looked for in an edited file where it stood, so far before and after.
_SHIFT_BYTES = 1024 * 1024
_ZEROS_BYTES = 64 * 1024 * 1024  # looked at for what follows zeros
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

    `known` are the rotated files that are older than the position, by `RotatedFile.key`; None to
    look which they are. `earlier` are the ends of those that may be missing there, the newest
    first. `scheme` is how this log is rotated, "" as long as no rotation was seen.
    """

    def __init__(
        self,
        path: Path,
        position: LogPosition | None = None,
        known: frozenset[str] | None = None,
        *,
        earlier: Sequence[LogPosition] = (),
        scheme: str = "",
        from_end: bool = False,
    ) -> None:
        self.path = path
        self.scheme = scheme
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
        self._edited = (0, 0)  # inode and size of an edited copy of this file that has no more

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
        """How far the current file, or the last one, has been passed; None before the first."""
        return self._mark if self._mark.path else self._sought

    @property
    def before(self) -> bytes:
        """The bytes before the position, at most `WINDOW`."""
        return self._tail

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
                continue
            impatient = last or self._is_due(data, now)
            text = data.partition(b"\0")[0]
            if size := lines.complete_lines(text, ended=ended, impatient=impatient):
                return self._piece(text[:size])
            if data and not text and self._pass_zeros(ended=ended, impatient=impatient):
                continue
            if not ended:
                return None
            self._open_next()
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
        return None if self._was_copied() else data

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

    def _pass_zeros(self, *, ended: bool, impatient: bool) -> bool:
        """Go on after the zeros at the position, if that is allowed and something follows them."""
        place = self._offset
        with suppress(OSError):  # file systems without holes say so in several ways
            place = os.lseek(self._fd, place, os.SEEK_DATA)
        if not (ended or impatient or place > self._offset):
            return False
        for begin in range(place, place + _ZEROS_BYTES, lines.PIECE_BYTES):
            data = os.pread(self._fd, lines.PIECE_BYTES, begin)
            rest = data.lstrip(b"\0")
            if rest or (ended and data):
                self._stand_at(begin + len(data) - len(rest))
                return True
        return False

    def _is_same(self) -> bool:
        window = len(self._head)
        head = os.pread(self._fd, window, 0)
        tail = os.pread(self._fd, window, self._offset - window)
        if (head, tail) == (self._head, self._tail):
            return True
        if not (_is_filled(self._head, head) and _is_filled(self._tail, tail)):
            return False
        self._stand_at(self._offset)
        return True

    def _was_copied(self) -> bool:
        """Whether what this file had has been copied away, before any of it was read.

        What is older than it was known when it was opened, so what is not is a copy. One that
        begins like the file is being made: the file still has it all.
        """
        rotated = self._rotated()
        mine = next((one.age for one in rotated if self._is_here(one)), None)
        new = [
            one
            for one in self._new(rotated)
            if not self._is_here(one) and (mine is None or one.age < mine)
        ]
        there = stat_file(self.path)
        if mine is None and (there is None or not self._is_here(there)):
            return False  # it was deleted
        head = os.pread(self._fd, lines.PIECE_BYTES, 0)
        return bool(new) and not any(_is_begun_by(one, head) for one in new)

    # --- from file to file ------------------------------------------------------------------------

    def _is_left(self) -> bool:
        """Whether a later file has got something: at the path, or rotated already."""
        there = stat_file(self.path)
        if there is not None and self._is_here(there):
            return False
        is_rotated = self._is_rotated()
        if there is not None and there.size:
            # An edited copy of ours takes its place only when it has more than ours.
            if not is_rotated and _place_in(there, self._mark) == there.size:
                self._edited = (there.inode, there.size)
            return (there.inode, there.size) != self._edited
        return bool(self._unread(self._inode, self._rotated()))

    def _is_rotated(self) -> bool:
        """Whether the current file has the name of a rotated one, which proves the scheme."""
        for one in rotated_files(self.path):
            if self._is_here(one):
                self.scheme = one.scheme
                return True
        return False

    def _rotated(self) -> list[RotatedFile]:
        """The generations of this log, as far as that is proved, the oldest first."""
        if not self.scheme:
            return []
        return [one for one in rotated_files(self.path) if one.scheme == self.scheme]

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
            if found is not None and found.scheme:
                older = [one for one in older if one.scheme != found.scheme or one.age < found.age]
            self._known = _keys(older)
        before = [one for one in map(self._find, positions) if one is not None]
        passed = _keys([one for one in before if found and one.inode != found.inode])
        if not (self._resume(found, position) if found else self._open_unread(0)):
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
        if self._from_end:  # of the last whole line that there is now
            size = os.fstat(self._fd).st_size
            begin = max(0, size - lines.PIECE_BYTES)
            block = os.pread(self._fd, size - begin, begin)
            self._stand_at(begin + block.rfind(b"\n") + 1)
        return True

    def _seek_again(self) -> None:
        """The current file has changed: go on in the copy of it, or where that is here now."""
        mark, self._waiting = self._mark, None
        self.close()
        found = self._copy_of(mark) or stat_file(self.path)
        if found is None or not mark.end or not self._resume(found, mark):
            self._open_unread(0)

    def _open_next(self) -> None:
        """The current file has ended: open the one that came after it."""
        mark, inode = None if self._is_rotated() else self._mark, self._inode
        held = os.dup(self._fd)  # so that its inode does not become another's meanwhile
        self.close()
        try:
            self._open_unread(inode, mark)
        finally:
            os.close(held)

    def _open_unread(self, done: int, mark: LogPosition | None = None) -> bool:
        """Open the oldest file that is not known, or else the path; `done` is the inode before.

        What the path has may be an edited copy of that, which was read up to `mark`.
        """
        # In this order: a rotation in between makes the file at the path one of the rotated.
        there = stat_file(self.path)
        rotated = self._rotated()
        unread = self._unread(done, rotated)
        known = _keys([one for one in rotated if one not in unread])
        if unread and there and _is_begun_by(unread[-1], there.head(lines.PIECE_BYTES)):
            unread.pop()  # a copy that is being made, or has just been
        chosen = unread[0] if unread else there
        if chosen is None:
            return False
        offset = _place_in(chosen, mark) if mark is not None and not unread else None
        if not self._open(chosen, offset or 0):
            return False
        self._known = known
        return True

    def _unread(self, done: int, rotated: list[RotatedFile]) -> list[RotatedFile]:
        """Those that are not known, without the one of the inode `done`."""
        return [one for one in self._new(rotated) if one.inode != done]

    def _new(self, rotated: list[RotatedFile]) -> list[RotatedFile]:
        """Those that are not known. Of more than can be, what is older than all known is known."""
        known = [one.age for one in rotated if self._is_known(one)]
        oldest = min(known) if len(known) >= _KNOWN_LIMIT else None
        return [
            one for one in rotated if one.age not in known and (oldest is None or one.age > oldest)
        ]

    def _is_known(self, one: RotatedFile) -> bool:
        """Whether this is a file from before; only those that may be are opened."""
        return f"{one.inode}" in {key.partition(":")[0] for key in self.known} and (
            one.key() in self.known
        )

    def _find(self, position: LogPosition) -> RotatedFile | None:
        """The file that `position` is in: by its inode, as a copy, or edited."""
        there = stat_file(self.path)
        files = [*([there] if there is not None else []), *rotated_files(self.path)]
        for one in files:
            # An inode alone is used again, also by another's log.
            is_evident = position.end or one.is_usual or one.scheme in ("", self.scheme)
            if one.inode == position.inode and is_evident and _holds(one, position):
                self.scheme = one.scheme or self.scheme
                return one
        if there is not None and position.end >= _COPY_BYTES and _holds(there, position):
            return there
        copy = self._copy_of(position)
        if copy is None and there is not None and _place_in(there, position) is not None:
            copy = there
        return copy

    def _copy_of(self, position: LogPosition) -> RotatedFile | None:
        """The youngest rotated file that has what was recorded up to `position`.

        Another rank's log may begin like ours. So it must not have been there before, and short
        evidence counts only under a name that is usual for a rotation.
        """
        if not position.end:
            return None
        for one in reversed(self._rotated() or rotated_files(self.path)):
            is_evident = self.scheme or one.is_usual or position.end >= _COPY_BYTES
            if is_evident and _holds(one, position) and not self._is_known(one):
                self.scheme = one.scheme
                return one
        return None

    def _is_here(self, one: RotatedFile) -> bool:
        return (one.device, one.inode) == (self._device, self._inode)

    def _resume(self, one: RotatedFile, position: LogPosition) -> bool:
        """Open a file after what it has of ours; whether it has any, and can be read.

        Raises:
            FileMoved: it has changed since it was found.
        """
        offset = position.end if _holds(one, position) else _place_in(one, position)
        before = self._mark
        if offset is None or not self._open(one, offset):
            return False
        if zlib.crc32(self._tail) != position.tail:
            os.close(self._fd)
            self._fd, self._mark = -1, before
            raise FileMoved(one.path)
        if position.is_in(self._head, self._tail):
            self._mark = position
        return True

    def _open(self, one: RotatedFile, offset: int) -> bool:
        descriptor = one.open()
        if descriptor is None:
            return False
        self._fd, self._device, self._inode = descriptor, one.device, one.inode
        self._stand_at(offset)
        return True

    def _stand_at(self, offset: int) -> None:
        """Go on at `offset` of the current file."""
        window = min(offset, WINDOW)
        self._head = os.pread(self._fd, window, 0)
        self._tail = os.pread(self._fd, window, offset - window)
        self._offset = offset
        self._mark = self._piece(b"").position


_NOWHERE = LogPosition(path="", device=0, inode=0, begin=0, end=0, head=0, tail=0)


def _keys(files: list[RotatedFile]) -> frozenset[str]:
    """The keys of the youngest of these."""
    by_scheme: dict[str, list[RotatedFile]] = {}
    for one in files:
        by_scheme.setdefault(one.scheme, []).append(one)
    youngest = [one for some in by_scheme.values() for one in some[-_KNOWN_LIMIT:]]
    return frozenset(one.key() for one in youngest[-_KEYS_LIMIT:])


def _is_begun_by(one: RotatedFile, head: bytes) -> bool:
    """Whether a file, up to a piece of it, is the beginning of `head`: a copy of it, so far."""
    return head.startswith(one.head(lines.PIECE_BYTES))


def _is_filled(before: bytes, now: bytes) -> bool:
    """Whether the bytes are the same, but for zeros that have become something else."""
    if b"\0" not in before or len(before) != len(now):
        return before == now
    return all(old in (0, new) for old, new in zip(before, now, strict=True))


def _place_in(one: RotatedFile, position: LogPosition) -> int | None:
    """Where a copy, perhaps edited, goes on after what was recorded up to `position`.

    None if it is no copy: what was read last has to be there once, and to be long enough.

    Raises:
        FileMoved: the file is not there any more.
    """
    if position.end < _COPY_BYTES:
        return None
    if _holds(one, position):
        return position.end
    begin = max(0, position.end - _SHIFT_BYTES)
    found = one.read((begin, position.end + _SHIFT_BYTES - begin))
    if found is None:
        return None
    data = found[0]
    places: list[int] = []
    end = data.find(b"\n", WINDOW - 1) + 1
    while end > 0 and len(places) < 2:
        if zlib.crc32(data[end - WINDOW : end]) == position.tail:
            places.append(begin + end)
        end = data.find(b"\n", end) + 1
    return places[0] if len(places) == 1 else None


def _holds(one: RotatedFile, position: LogPosition) -> bool:
    """Whether a file has what was recorded up to `position`."""
    window = position.window
    found = one.read((0, window), (position.end - window, window))
    return found is not None and position.is_in(*found)
