"""Keeps on disk how far a log file is recorded, and that one process at a time follows it.

One small file per log file, in `collectors_<uid>/` below the spool root. It is locked (flock) by
the process that follows, so that of eight ranks with the same log one records it. When that dies
another goes on at once. When it is silent for `LEASE_SECONDS` another goes on, too: a process that
is stopped, or hangs in C, keeps its lock. It shows that it collects by the file's time of
modification, of which the others only notice that it changes: no clocks are compared. Who takes
over puts a file in place of this one, with the same content, and by that the one before knows that
it has lost it.

The file has two places of `_SLOT_BYTES`, written in turn, each
with a checksum: whenever the process is killed, one of them is whole; and a full disk does not
matter, since nothing grows.

What counts is the position in the record that holds the data, for those two are committed as one.
The checkpoint says from which record of which spool on to look for newer ones (`resume`), and keeps
the position when the spools are long delivered and deleted.

A path and an offset are not enough for a position: files are renamed, truncated and written again,
and inodes are used again. So a position also holds checksums of what stood at the beginning of the
file and just before the position. Only a file that has both is the one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spooler.async_exceptions import ours, suppress
from spooler.spool import format as fmt

# Bytes at the beginning of the file, and before the position, that identify it; fewer when there
# are fewer.
WINDOW = 1024
_SLOT_BYTES = 16384  # two paths of the longest kind, and the keys of some dozens of files
# Silence after which the holder has lost the file, as the others measure it.
LEASE_SECONDS = 30.0
_RENEW_SECONDS = 3.0  # between two signs of life of a holder
_LOOK_SECONDS = 1.0  # of looking whether it still holds the file; who was stopped takes longer
# Silence between two questions counts up to this: the one who asks may have been stopped, too.
_ASK_SECONDS = 10.0
# The file system cannot, or this user must not: no later attempt has more success.
_LASTING = frozenset(
    {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EPERM, errno.EACCES, errno.EROFS}
)
_open_checkpoints: weakref.WeakSet[Checkpoint] = weakref.WeakSet()


@dataclass(frozen=True, kw_only=True)
class LogPosition:
    """`begin` to `end` is what the record holds, in bytes; the next piece begins at `end`."""

    path: str  # as it was followed, absolute
    device: int
    inode: int
    begin: int
    end: int
    head: int  # CRC-32 of the first min(end, WINDOW) bytes of the file
    tail: int  # CRC-32 of the last min(end, WINDOW) bytes before `end`

    @property
    def window(self) -> int:
        """How many bytes `head` and `tail` each stand for."""
        return min(self.end, WINDOW)

    def is_in(self, head: bytes, tail: bytes) -> bool:
        """Whether a file with these bytes in the two places is the one."""
        return (
            len(head) == len(tail) == self.window
            and zlib.crc32(head) == self.head
            and zlib.crc32(tail) == self.tail
        )

    def to_map(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_map(cls, values: Any) -> LogPosition | None:
        """The position in a record, None where there is none."""
        if not isinstance(values, Mapping):
            return None
        names = {f.name: (str if f.type == "str" else int) for f in fields(cls)}
        if not all(isinstance(values.get(name), kind) for name, kind in names.items()):
            return None
        return cls(**{name: values[name] for name in names})


@dataclass(frozen=True)
class StepMark:
    """How far the steps in a piece of a log are recorded, before the piece is.

    The piece is known by its beginning and its text: a rotation may copy the file meanwhile.
    """

    begin: int = 0  # of the piece, in bytes
    chars: int = 0  # of its text, up to the end of the last line that a step is recorded of
    crc: int = 0  # CRC-32 of that much of the text

    def chars_of(self, begin: int, text: str) -> int:
        """How much of a piece is recorded: `chars`, or 0 if this is another one."""
        is_mine = begin == self.begin and zlib.crc32(text[: self.chars].encode()) == self.crc
        return self.chars if is_mine else 0

    def to_map(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_map(cls, values: Any) -> StepMark:
        """The mark in a step or a checkpoint, `NO_STEPS` where there is none."""
        if not isinstance(values, Mapping):
            return NO_STEPS
        found = [values.get(field.name) for field in fields(cls)]
        whole = [one for one in found if type(one) is int]
        return cls(*whole) if len(whole) == len(found) else NO_STEPS


NO_STEPS = StepMark()


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """A position, and where to look for newer ones.

    That is beyond record `seq` of the spool called `spool`, and in other spools of the same process
    that were begun at `start` or later.
    """

    position: LogPosition | None
    known: frozenset[str]
    scheme: str = ""  # how the log is rotated, see `spooler.filetail.rotation`
    spool: str = ""  # its id; "" when the process had none yet
    seq: int = 0
    start: str = ""  # as a spool id begins
    pid: int = 0
    host: str = ""
    step: StepMark = NO_STEPS  # within the piece after `position`


class Checkpoint:
    """The locked file; `take` makes one."""

    def __init__(self, descriptor: int, path: Path, log: Path) -> None:
        self._fd = descriptor
        self._path = path
        self._log = log
        self._count = 0
        self._renewed = float("-inf")  # monotonic seconds
        self.pid = os.getpid()
        _open_checkpoints.add(self)

    @classmethod
    def take(cls, root: Path, log: Path, mode: int = 0o600) -> Checkpoint | None:
        """The checkpoint of `log` below `root`; None while another process follows the file.

        Raises:
            OSError: no file can be made or locked there.
        """
        path = state_folder(root) / f"{_name(log)}.position"
        descriptor = _locked(path, mode)
        if descriptor is None and _is_silent(path):
            descriptor = _taken_over(path, mode)
        if descriptor is None:
            return None
        mine = cls(descriptor, path, log)
        return mine if mine.renew() else None

    def renew(self) -> bool:
        """Show that this process still collects; False when it has lost the file."""
        if not self.is_mine():
            return False
        if time.monotonic() - self._renewed >= _RENEW_SECONDS:
            self._renewed = time.monotonic()
            with suppress(OSError):  # who cannot show it may lose it
                os.utime(self._fd)
        return True

    def is_mine(self) -> bool:
        """Whether no other process has taken over; ask right before anything is recorded."""
        while True:
            begun = time.monotonic()
            answer = self._fd >= 0 and self._is_in_place()
            if time.monotonic() - begun < _LOOK_SECONDS:
                return answer

    def _is_in_place(self) -> bool:
        """Whether the path still has this file, and the log's folder is the one that it was."""
        try:
            there, mine = os.stat(self._path), os.fstat(self._fd)
        except ours(OSError):
            # A root that is away for a moment has no other process in it either.
            return not self._path.parent.is_dir()
        is_elsewhere = (
            self._log.parent.is_dir() and self._path.name != f"{_name(self._log)}.position"
        )
        return there.st_ino == mine.st_ino and not is_elsewhere

    def load(self) -> CheckpointState | None:
        """What was saved last, None before the first time."""
        found = [one for one in (self._slot(0), self._slot(1)) if one is not None]
        if not found:
            return None
        newest = max(found, key=lambda one: one["count"])
        self._count = newest["count"]
        return CheckpointState(
            position=LogPosition.from_map(newest.get("position")),
            known=frozenset(newest.get("known", ())),
            scheme=str(newest.get("scheme", "")),
            spool=str(newest.get("spool", "")),
            seq=int(newest.get("seq", 0)),
            start=str(newest.get("start", "")),
            pid=int(newest.get("pid", 0)),
            host=str(newest.get("host", "")),
            step=StepMark.from_map(newest.get("step")),
        )

    def save(self, saved: CheckpointState) -> None:
        """Keep `saved`.

        Raises:
            OSError: the disk does not let us.
        """
        self._count += 1
        values = {**asdict(saved), "known": sorted(saved.known), "count": self._count}
        text = json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogateescape")
        head = f"{zlib.crc32(text):08x} {len(text):06d} ".encode()
        if len(head) + len(text) > _SLOT_BYTES:
            raise OSError(errno.ENAMETOOLONG, "the paths are too long for a checkpoint")
        filled = (head + text).ljust(_SLOT_BYTES, b"\n")
        os.pwrite(self._fd, filled, self._count % 2 * _SLOT_BYTES)

    def close(self) -> None:
        """Let another process follow the file."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    def discard(self) -> None:
        """As `close`, and leave no file behind: it holds no position."""
        with suppress(OSError):
            if self.is_mine():
                self._path.unlink(missing_ok=True)
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _slot(self, number: int) -> dict[str, Any] | None:
        raw = os.pread(self._fd, _SLOT_BYTES, number * _SLOT_BYTES)
        try:
            checksum, size = int(raw[:8], 16), int(raw[9:15])
            text = raw[16 : 16 + size]
            if zlib.crc32(text) != checksum:
                return None
            values = json.loads(text.decode("utf-8", "surrogateescape"))
        except ours(ValueError):
            return None
        return values if isinstance(values, dict) and "count" in values else None


def state_folder(root: Path) -> Path:
    """Where the collectors of this user keep what must outlast a process; made where missing.

    Raises:
        OSError: it cannot be made.
    """
    folder = root / fmt.collectors_name(os.geteuid())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.stat(folder).st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "another user has made it", str(folder))
    return folder


def is_lasting(error: OSError) -> bool:
    """Whether no later attempt to take a checkpoint will have more success."""
    return error.errno in _LASTING


def _name(log: Path) -> str:
    """A name for the file at this path: two containers may have the same path for two files."""
    try:
        folder = os.stat(log.parent)
        place = f"{folder.st_dev}:{folder.st_ino}:{log}"
    except ours(OSError):
        place = str(log)
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{log.name[:40]}-{digest[:16]}"


@dataclass(kw_only=True)
class _Silence:
    """What another's checkpoint was when it was last looked at, in monotonic seconds."""

    seen: tuple[int, int]  # inode, and time of modification
    looked: float
    lasts: float = 0.0


_silences: dict[Path, _Silence] = {}


def _is_silent(path: Path) -> bool:
    """Whether the holder of a checkpoint has shown no sign of life for `LEASE_SECONDS`."""
    status, now = os.stat(path), time.monotonic()
    seen = (status.st_ino, status.st_mtime_ns)
    silence = _silences.get(path)
    if silence is None or silence.seen != seen:
        silence = _silences[path] = _Silence(seen=seen, looked=now)
    silence.lasts += min(now - silence.looked, _ASK_SECONDS)
    silence.looked = now
    return silence.lasts >= LEASE_SECONDS


def _locked(path: Path, mode: int) -> int | None:
    """A descriptor of the file, with its lock; None while another process has that."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _taken_over(path: Path, mode: int) -> int | None:
    """A locked file in place of one whose holder is silent; None where another is faster."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_silent(path):
            return None
        draft = path.with_name(f".{path.name}")
        draft.unlink(missing_ok=True)
        descriptor = _locked(draft, mode)
        if descriptor is not None:
            os.pwrite(descriptor, path.read_bytes(), 0)
            os.rename(draft, path)
        return descriptor
    except BlockingIOError:
        return None
    finally:
        os.close(folder)


def _forget() -> None:
    """In a forked child: the lock is the parent's, and ends with it, not with the child."""
    for one in list(_open_checkpoints):
        one.close()


os.register_at_fork(after_in_child=_forget)
