"""Whether the writer of a spool lives: the lock that it holds, and what a reader concludes.

The writer locks the file `owner` as an open file description (OFD): unlike a POSIX lock, it is not
dropped when the program closes another descriptor of the file, and POSIX locks that older readers
try conflict with it. A clean end unlinks the file, which works on a full disk, too.

A reader gathers evidence without locking, changing or waiting for anything (`LivenessCheck`), and
`judge` concludes from it. A lock that is free does not prove a death: the program may have closed
the descriptor, or replaced its image. So a verdict also depends on the process and on how long the
files are quiet. New data refutes every verdict.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from spooler.async_exceptions import ours, suppress
from spooler.spool import descriptor, safe_open
from spooler.spool import format as fmt
from spooler.spool.descriptor import Descriptor

# A living writer touches its owner file this often, so that silence means something.
BEAT_SECONDS = 10.0
# A lock that is free while its process runs is taken again within a second by a living writer.
RETAKE_SECONDS = 3.0
QUIET_SECONDS = 10.0  # without evidence for a living writer: it has ended, unless data refutes it
LONG_SECONDS = 120.0  # several beats, and the attribute cache of a network file system

_FLOCK = struct.Struct("hhqqi0q")  # struct flock with 64-bit offsets
_QUERY = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
_OFD, _NONE = "ofd", "none"  # how the file is locked, as its text says
_TEXT_BYTES = 512
_LOGS = 4  # of the newest is seen whether they grow

_taken: set[Descriptor] = set()  # those of this process's locks


class Lock(Enum):
    """State of the lock on the owner file."""

    HELD = "held"
    FREE_OFD = "free-ofd"  # its writer held an OFD lock
    FREE = "free"  # its writer held a POSIX lock, as older versions do, or does not say
    ABSENT = "absent"
    UNKNOWN = "unknown"  # this file system does not lock
    AWAY = "away"  # the folder cannot be seen now: it was moved, unmounted, closed or deleted


class ProcessState(Enum):
    """State of the process that wrote the spool."""

    RUNNING = "running"
    GONE = "gone"
    UNSEEN = "unseen"  # on this host, in a pid namespace of its own
    ELSEWHERE = "elsewhere"  # on another host, before a reboot, or of a version that does not say


@dataclass(frozen=True, kw_only=True, slots=True)
class LivenessEvidence:
    """What is known about the writer of a spool."""

    lock: Lock
    process: ProcessState
    sealed: bool  # no segment has a log: none is open for writing
    quiet: float  # seconds since the files last changed


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """Whether the writer lives, until new data refutes it.

    `certain`: it has ended and the spool may be deleted. `unclean`: True if it died without
    ending its spool, False if it did not, None if that is not known (yet).
    """

    alive: bool
    certain: bool = False
    unclean: bool | None = None

    @property
    def is_final(self) -> bool:
        """Whether only new data can change it."""
        return self.certain and self.unclean is not None


_ALIVE = Liveness(alive=True)
_ENDED = Liveness(alive=False, certain=True, unclean=False)
_KILLED = Liveness(alive=False, certain=True, unclean=True)


def judge(evidence: LivenessEvidence) -> Liveness:
    """Conclude from evidence. Pure. The first row that fits counts; times are of quiet.

    | lock     | process   | verdict                                                            |
    |----------|-----------|--------------------------------------------------------------------|
    | held     | any       | alive                                                              |
    | away     | any       | alive: that nothing is seen proves nothing                         |
    | absent   | any       | sealed: ended                                                      |
    | absent   | gone      | ended                                                              |
    | absent   | others    | ended after 10 s, certain after 120 s: a cleaner may have removed  |
    |          |           | the file, which a living writer makes again                        |
    | free OFD | gone      | killed                                                             |
    | free OFD | unseen    | killed after 3 s: only the end of all its descriptors drops it     |
    | free OFD | running   | ended after 3 s, certain after 120 s: the image was replaced (exec)|
    | free     | gone      | killed                                                             |
    | unknown  | gone      | killed                                                             |
    | free     | running   | alive: a close() has dropped a POSIX lock                          |
    | unknown  | running   | alive                                                              |
    | unknown  | others    | ended after 120 s, never certain: only its beats prove it          |
    | free, free OFD | others | ended after 10 s, killed after 120 s: locks may be local to a host|

    "Killed" is ended, certain and unclean; "ended" without a time is certain and not unclean.
    """
    lock, process, quiet = evidence.lock, evidence.process, evidence.quiet
    if lock in (Lock.HELD, Lock.AWAY):
        return _ALIVE
    if lock is Lock.ABSENT:
        if evidence.sealed or process is ProcessState.GONE:
            return _ENDED
        return _after(quiet, QUIET_SECONDS, finally_=_ENDED)
    if process is ProcessState.GONE:
        return _KILLED
    if lock is Lock.FREE_OFD and process is ProcessState.UNSEEN:
        return _KILLED if quiet >= RETAKE_SECONDS else _ALIVE
    if lock is Lock.FREE_OFD and process is ProcessState.RUNNING:
        return _after(quiet, RETAKE_SECONDS, unclean=False, finally_=_ENDED)
    if process is ProcessState.RUNNING:
        return _ALIVE
    if lock is Lock.UNKNOWN:
        return _after(quiet, LONG_SECONDS, finally_=Liveness(alive=False))
    return _after(quiet, QUIET_SECONDS, finally_=_KILLED)


def _after(
    quiet: float, seconds: float, *, finally_: Liveness, unclean: bool | None = None
) -> Liveness:
    """Alive until `seconds` of quiet, `finally_` after `LONG_SECONDS`."""
    if quiet >= LONG_SECONDS:
        return finally_
    return _ALIVE if quiet < seconds else Liveness(alive=False, unclean=unclean)


# --- the writer's side ----------------------------------------------------------------------------


class Owner:
    """The owner file of this process's spool. One thread at a time."""

    def __init__(self, directory: Path, mode: int) -> None:
        self._path = directory / fmt.OWNER_NAME
        self._draft = directory / fmt.OWNER_DRAFT_NAME
        self._mode = mode
        self._held: Descriptor | None = None
        self._told = ""  # how the file's text says that it is locked
        self._beat = 0.0  # monotonic seconds of the last
        self._released = False

    @classmethod
    def take(cls, directory: Path, mode: int) -> Owner:
        """Make the file and lock it, as far as the file system can.

        Raises:
            OSError: the file cannot be made, or the directory is not empty.
        """
        if os.listdir(directory):
            raise FileExistsError(errno.EEXIST, "is a spool already", str(directory))
        one = cls(directory, mode)
        one._make()
        return one

    def check(self) -> None:
        """Make and lock the file again if something removed, replaced or closed it; never raises.

        What fails is tried again at the next call.
        """
        if self._released:
            return
        with suppress(OSError):
            held = self._held
            if held is not None and held.is_at(self._path) and held.is_ours():
                self._lock(held.number)
                self._touch(held.number)
                return
        with suppress(OSError):
            self._let_go()
            self._make()
        if self._released:  # by another thread meanwhile
            self.release()

    def release(self) -> None:
        """End in order: unlink the file, then drop the lock."""
        self._released = True
        with suppress(OSError):
            if self._held is not None and self._held.is_at(self._path):
                os.unlink(self._path)
        self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            _taken.discard(held)
            held.close()

    def _make(self) -> None:
        """Lock a draft, then give it its name: no reader ever sees the file unlocked."""
        with suppress(FileNotFoundError):
            os.unlink(self._draft)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        self._held = descriptor.of(os.open(self._draft, flags, self._mode))
        _taken.add(self._held)
        try:
            os.fchmod(self._held.number, self._mode)
            self._told = ""
            self._lock(self._held.number)
            os.rename(self._draft, self._path)
        except BaseException:
            with suppress(OSError):
                os.unlink(self._draft)
            self._let_go()
            raise
        self._beat = time.monotonic()

    def _lock(self, number: int) -> None:
        """Take the lock, which costs nothing while it is held, and say in the file how."""
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind = _NONE
        with suppress(OSError):
            fcntl.fcntl(number, fcntl.F_OFD_SETLK, request)
            kind = _OFD
        if kind != self._told:
            text = f"{os.getpid()} {os.uname().nodename} {kind:4}\n"
            with suppress(OSError):  # a full disk: readers go by the process
                os.pwrite(number, text.encode(), 0)
                self._told = kind

    def _touch(self, number: int) -> None:
        now = time.monotonic()
        if now - self._beat >= BEAT_SECONDS:
            self._beat = now
            os.utime(number)


def _leave() -> None:
    """In a forked child: an OFD lock lasts as long as any duplicate of its descriptor."""
    while _taken:
        _taken.pop().close()


os.register_at_fork(after_in_child=_leave)


# --- the reader's side ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterProcess:
    """Which process it is, on all hosts and across reboots; 0 and "" where that is not known."""

    pid: int
    start_ticks: int = 0  # field 22 of /proc/<pid>/stat: distinguishes a pid from its reuse
    pid_namespace: int = 0  # inode of /proc/self/ns/pid
    boot_id: str = ""


def this_process() -> WriterProcess:
    pid = os.getpid()
    _, ticks = _state_of("self")
    return WriterProcess(pid=pid, start_ticks=ticks, pid_namespace=_namespace(), boot_id=boot_id())


def find(writer: WriterProcess) -> ProcessState:
    """Whether a process runs, as far as this process can see it."""
    if not writer.boot_id or writer.boot_id != boot_id():
        return ProcessState.ELSEWHERE
    if not writer.start_ticks or writer.pid < 1 or writer.pid_namespace != _namespace():
        return ProcessState.UNSEEN
    state, ticks = _state_of(str(writer.pid))
    if not state:
        return ProcessState.UNSEEN if _exists(writer.pid) else ProcessState.GONE
    same = ticks == writer.start_ticks and state not in "ZXx"
    return ProcessState.RUNNING if same else ProcessState.GONE


def _state_of(pid: str) -> tuple[str, int]:
    """State and start of a process; "" and 0 where they cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("utf-8", "replace")
        fields = text.rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except ours(OSError, IndexError, ValueError):
        return "", 0


def _exists(pid: int) -> bool:
    """Whether there is such a process, even where /proc hides the processes of others."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@functools.cache
def boot_id() -> str:
    """This boot of this host, "" where that is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().decode("utf-8").strip()
    except ours(OSError, ValueError):
        return ""


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except ours(OSError):
        return 0


class LivenessCheck:
    """Checks one spool directory for its writer. Holds no file open, takes no lock."""

    __slots__ = (
        "_checked",
        "_checked_at",
        "_folder",
        "_process",
        "_read_process",
        "_seen",
        "_since",
    )

    def __init__(self, folder: Path, process: Callable[[], WriterProcess | None]) -> None:
        """`process` returns which process writes, None while that cannot be read."""
        self._folder = str(folder)
        self._read_process = process
        self._process: WriterProcess | None = None
        # The folder as it was when the file was checked: device, inode, time of change.
        self._checked: tuple[int, int, int] | None = None
        self._seen: object = None  # the files at the last check
        self._checked_at = self._since = 0.0  # monotonic seconds: of that check, of the last change

    def liveness(self, folder: os.stat_result | None = None) -> Liveness:
        """Whether the writer lives; `folder` is its status if that was just read."""
        lock = self._lock(folder)
        return _ALIVE if lock is Lock.HELD else judge(self._evidence(lock))

    def liveness_evidence(self) -> LivenessEvidence:
        return self._evidence(self._lock())

    def _evidence(self, lock: Lock) -> LivenessEvidence:
        self._process = self._process or self._read_process()
        process = ProcessState.ELSEWHERE if self._process is None else find(self._process)
        try:
            names = frozenset(os.listdir(self._folder))
        except OSError:
            lock, names = Lock.AWAY, frozenset()
        open_ = sorted(name for name in names if f"{name}-wal" in names)
        return LivenessEvidence(
            lock=lock, process=process, sealed=not open_, quiet=self._quiet(open_[-_LOGS:])
        )

    def _lock(self, folder: os.stat_result | None = None) -> Lock:
        try:
            descriptor = self._open(folder or os.stat(self._folder))
        except OSError as error:
            strange = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
            return Lock.ABSENT if error.errno in strange else Lock.UNKNOWN
        try:
            # A query takes no lock: it can make neither another reader nor the writer fail.
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _QUERY)
            if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
                return Lock.HELD
            words = os.pread(descriptor, _TEXT_BYTES, 0).decode("utf-8", "replace").split()
        except OSError:
            return Lock.UNKNOWN
        finally:
            os.close(descriptor)
        kinds = {_OFD: Lock.FREE_OFD, _NONE: Lock.UNKNOWN}
        return kinds.get(words[2] if len(words) > 2 else "", Lock.FREE)

    def _open(self, folder: os.stat_result) -> int:
        """Open the owner file. It is checked once, because thousands of spools are polled.

        It is checked again when its folder has changed, by its time, or was replaced. The time is
        read before the check, so that a change during the check is noticed the next time.
        """
        mark = (folder.st_dev, folder.st_ino, folder.st_ctime_ns)
        if mark == self._checked:
            return os.open(f"{self._folder}/{fmt.OWNER_NAME}", safe_open.READING)
        descriptor = safe_open.open_regular(f"{self._folder}/{fmt.OWNER_NAME}")
        self._checked = mark
        return descriptor

    def _quiet(self, open_: list[str]) -> float:
        """Seconds since the files last changed.

        Before the first check by the wall clock, from then on by the monotonic one: setting the
        clock must not make a writer look dead.
        """
        now = time.monotonic()
        seen = [
            (status.st_size, status.st_mtime)
            for name in ("", fmt.OWNER_NAME, *(f"{one}-wal" for one in open_))
            if (status := _status(f"{self._folder}/{name}")) is not None
        ]
        if seen != self._seen:
            newest = max((mtime for _, mtime in seen), default=0.0)
            age = max(0.0, time.time() - newest)
            self._since = now - (age if self._seen is None else min(age, now - self._checked_at))
        self._seen, self._checked_at = seen, now
        return now - self._since


def _status(name: str) -> os.stat_result | None:
    try:
        return os.lstat(name)
    except OSError:
        return None
