"""Opens SQLite the one way a writer does; the only importer of sqlite3 beside the ledger.

Rules that keep a live spool safe:

- Only the training process opens a segment with SQLite, and only through one connection.
- The writer's connection has the segment alone: the log's index is in this process's memory,
  nothing is shared or mapped, and a commit is two writes to the log and no other system call.
- Nothing is synced but while a segment is sealed (`seal`), so that no caller waits for the disk.
- A writing connection is closed on purpose or never: it is given one reference for good, so that
  neither the interpreter's end nor a forked child closes (and thereby checkpoints) it implicitly.
- What the system refuses while a segment is made or opened is raised as `SpoolUnavailable`.
- It writes by descriptors that the program may close (`spooler.spool.descriptor`). Each insert is
  preceded by a look at the log's offset (`Writing.offset`): another file has another.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import resource
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from spooler import async_exceptions
from spooler.errors import SpoolUnavailable
from spooler.spool import format as fmt
from spooler.spool.descriptor import Descriptor, find, of
from spooler.spool.filesystem import wal_size

_Row = tuple[int, str, bytearray, int]
Connection = sqlite3.Connection
IntegrityError = sqlite3.IntegrityError
Error = sqlite3.Error
VERSION = sqlite3.sqlite_version_info

# SQLite's own locks mean nothing here, and are refused on some file systems; see `_lock`.
_VFS = "unix-none"
_WRITER_PRAGMAS = (
    "PRAGMA locking_mode=EXCLUSIVE",
    "PRAGMA synchronous=OFF",
    # A checkpoint in the calling thread costs milliseconds; sealing does it off the hot path.
    "PRAGMA wal_autocheckpoint=0",
    "PRAGMA mmap_size=0",
)
# Where the log's descriptor stands, which SQLite neither uses nor moves; a file that is opened
# stands at 0. To ask costs a quarter of what `fstat` does, and no file system's server is asked.
MARK = fmt.APPLICATION_ID
# The bytes that SQLite locks, as in `struct flock`: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")
_LOCKED = (os.SEEK_SET, 0x40000000, 512, 0)
_SCRATCH_LIMIT = 1024 * 1024  # bytes
LARGE_BYTES = 256 * 1024  # of bodies: with fewer, three large pages take more than they save
DESCRIPTOR_TAKEN = "the program has closed a descriptor of the spool that it does not own"

_PATH_LIMIT = 504  # bytes of a path that SQLite opens, so that it can append `-journal`

# Of SQLite's words, and of the system's.
_REASONS = (
    ("full", "disk-full"),
    ("no space", "disk-full"),
    ("quota", "quota"),
    ("file too large", "quota"),
    ("readonly", "read-only"),
    ("read-only", "read-only"),
    ("disk i/o", "io-error"),
    ("input/output", "io-error"),
    ("unable to open", "cannot-open"),
    ("too many open files", "cannot-open"),
    ("permission denied", "not-permitted"),
    ("not permitted", "not-permitted"),
)
# The folder itself is not there any more.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Writing(sqlite3.Connection):
    """The one connection that writes a segment, with its two descriptors.

    It keeps a cursor, which takes longer to make than its values to bind.
    """

    insert: Callable[[str, _Row], sqlite3.Cursor]
    offset: Callable[[], int]  # not `MARK`, or an OSError: the log's descriptor is not ours
    file: Descriptor
    log: Descriptor
    _cursor: sqlite3.Cursor | None = None

    def begin(self, path: Path) -> None:
        """Make ready for the first record.

        The first write of a connection begins the log and takes the page cache's memory; done
        here, the first record does not pay for it.
        """
        self._cursor = self.cursor()
        self.insert = self._cursor.execute
        self.file = find(path)
        _lock(self.file.number, fcntl.F_RDLCK)
        self.log = find(Path(f"{path}-wal"))
        self.offset = functools.partial(os.lseek, self.log.number, 0, os.SEEK_CUR)
        os.lseek(self.log.number, MARK, os.SEEK_SET)
        self.execute(f"PRAGMA user_version={fmt.FORMAT_VERSION}")
        if self.offset() != MARK:  # an SQLite that was built without pwrite
            self.offset = lambda: MARK if self.log.is_ours() else -1

    def keep_out(self) -> None:
        """Have another program's SQLite find the segment locked.

        Else it would take the log away when it closes a segment that an operator has looked into.
        """
        _lock(self.file.number, fcntl.F_WRLCK)

    def is_ours(self) -> bool:
        return self.file.is_ours() and self.log.is_ours()

    def close(self) -> None:
        """As SQLite's own, which would only pretend to after an insert that failed."""
        if self._cursor is not None:
            self._cursor.close()
        super().close()

    def leave(self) -> None:
        """Close its files as they are, without SQLite: nothing is written, the log stays.

        It must not be used or closed any more.
        """
        self.file.close()
        self.log.close()


def unavailable(error: Exception, path: Path) -> SpoolUnavailable:
    """Translate a failure of SQLite or of the file system into a counted reason.

    One that was raised through us, by a signal handler of the user's, is raised on.
    """
    if async_exceptions.is_async(error):
        raise error
    text = str(error).lower()
    if isinstance(error, OSError) and error.errno is not None:
        text += " " + os.strerror(error.errno).lower()
    detail = f"{path}: {error}"
    length = len(os.fsencode(path))
    if isinstance(error, sqlite3.Error) and length > _PATH_LIMIT:
        detail += f" (its path has {length} bytes, and SQLite takes {_PATH_LIMIT})"
    reason = next((reason for sign, reason in _REASONS if sign in text), "error")
    return SpoolUnavailable(reason, detail)


def refused(error: sqlite3.Error, path: Path, size: int = 0) -> SpoolUnavailable:
    """As `unavailable`, for SQLite, which hides the system's reason for refusing a write.

    `size` bytes and a page, at the end that the log of `path` has, are written to a scratch file
    beside it, to see what the system says. Nothing is synced.
    """
    told = _try(path.parent / fmt.SCRATCH_NAME, wal_size(path), size + fmt.PAGE_SIZE)
    if told is None:
        return unavailable(error, path)
    if told.errno in _GONE:
        return SpoolUnavailable("gone", f"{path.parent} was removed")
    if told.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return SpoolUnavailable("quota", f"{path}: a file may have {limit} bytes (ulimit -f)")
    return unavailable(told, path)


def _try(scratch: Path, offset: int, size: int) -> OSError | None:
    """Why `size` bytes cannot be written at `offset` of a new file, None where they can."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    end = offset + min(size, _SCRATCH_LIMIT)
    try:
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, flags, 0o600)
        try:
            while offset < end:
                offset += os.pwrite(descriptor, bytes(end - offset), offset)
        finally:
            os.close(descriptor)
            scratch.unlink(missing_ok=True)  # a signal handler's try may have come between
    except OSError as error:
        return error
    return None


def create(path: Path, identity: bytes, checksum: int, *, mode: int) -> None:
    """Write an empty segment file at `path`, complete but for its records, and close it."""
    try:
        _make(path, mode)
        connection = _connect(path)
        try:
            connection.execute(f"PRAGMA page_size={fmt.PAGE_SIZE}")
            _use_log(connection, path)
            connection.execute("BEGIN")
            connection.execute(f"PRAGMA application_id={fmt.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={fmt.FORMAT_VERSION}")
            for statement in fmt.SCHEMA:
                connection.execute(statement)
            connection.execute(fmt.INSERT_IDENTITY, (identity, checksum))
            connection.execute("COMMIT")
            _checkpoint(connection)  # closing would do it too, and be silent where the disk refuses
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise refused(error, path) from error
    except OSError as error:
        raise unavailable(error, path) from error


def _make(path: Path, mode: int) -> None:
    """Make an empty file, in place of what an earlier try has left."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode))
    os.chmod(path, mode)


def publish(draft: Path, final: Path, *, mode: int) -> Descriptor:
    """Give a created segment its name, with an empty WAL beside it.

    The WAL is there first: a reader takes a segment without one for sealed. The descriptor that is
    returned keeps another program's SQLite from taking the WAL away; it is to be closed once the
    segment is open for writing.
    """
    try:
        Path(f"{final}-wal").unlink(missing_ok=True)
        make_log(final, mode=mode)
        held = of(os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        try:
            _lock(held.number, fcntl.F_RDLCK)
            os.rename(draft, final)
        except BaseException:
            held.close()
            raise
    except OSError as error:
        raise unavailable(error, final) from error
    return held


def make_log(segment: Path, *, mode: int) -> None:
    """Put an empty log beside a segment: a reader takes one without for sealed.

    Raises:
        OSError: it cannot be made, or one is there.
    """
    log = f"{segment}-wal"
    os.close(os.open(log, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode))
    os.chmod(log, mode)


def open_for_writing(path: Path) -> Writing:
    """Open a created segment for its one writer, with its WAL ready."""
    try:
        connection = _connect(path)
        try:
            _use_log(connection, path)
            connection.begin(path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise refused(error, path) from error
    except OSError as error:
        raise unavailable(error, path) from error
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    return connection


def _connect(path: Path) -> Writing:
    return sqlite3.connect(
        _uri(path),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        factory=Writing,
    )


def _uri(path: Path) -> str:
    return f"file:{quote(os.fsencode(path))}?vfs={_VFS}"


def _use_log(connection: Writing, path: Path) -> None:
    for pragma in _WRITER_PRAGMAS:
        connection.execute(pragma)
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise SpoolUnavailable("cannot-open", f"{path}: no WAL here, journal mode is {mode}")


def _lock(number: int, kind: int) -> None:
    """Lock the bytes that SQLite locks.

    The lock is one of the descriptor, not of the process: it is not lost when a copy of it is
    closed. Nothing else relies on it, and a file system may refuse it.
    """
    with async_exceptions.suppress(OSError):
        fcntl.fcntl(number, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, *_LOCKED))


def seal(connection: Writing, path: Path, *, size: int, mode: int, durable: bool = True) -> None:
    """Move everything from the WAL into the segment and close it, which deletes the WAL.

    The segment is on the disk before the WAL goes; `durable` False waits for no disk. `size` is
    that of all bodies: a large segment is packed densely, unless its caller must not wait.

    Raises:
        sqlite3.Error, OSError: it could not be moved. The WAL keeps it: SQLite is not asked a
            second time, as a disk that has failed to sync may say that it has synced when it is
            asked again.
        SpoolUnavailable: its descriptors are not its own any more; nothing was touched.
    """
    is_packed = durable and size >= LARGE_BYTES
    try:
        if not connection.is_ours():
            raise SpoolUnavailable("descriptor", DESCRIPTOR_TAKEN)
        if is_packed:
            os.fsync(connection.log.number)  # before what follows in the next log
        elif durable:
            connection.execute("PRAGMA synchronous=NORMAL")
        _checkpoint(connection)
        if is_packed and not _pack(connection, path, mode=mode):
            os.fsync(connection.file.number)
        _lock(connection.file.number, fcntl.F_UNLCK)  # a forked child would hold it on
    except BaseException:
        connection.leave()
        raise
    connection.close()


def _pack(connection: Writing, path: Path, *, mode: int) -> bool:
    """Put a copy with large pages, which hold more, in the segment's place; its log stays.

    False where no copy can be made, as on a full disk or by SQLite before 3.27, or the segment is
    deleted meanwhile. The segment is as it was then.

    Raises:
        sqlite3.Error, OSError: the segment cannot be read, or the disk does not take the new name.
    """
    draft = path.parent / fmt.preparing_name(fmt.segment_number(path.name) or 0)
    try:
        _make(draft, mode)
        connection.execute(f"PRAGMA page_size={fmt.SEALED_PAGE_SIZE}")
        connection.execute("VACUUM INTO ?", (_uri(draft),))
        _sync(draft, os.O_RDWR)
        # Another SQLite would put the pages of the log into the new file. The old one has them
        # already, and a reader of ours does not look at this number.
        os.pwrite(connection.log.number, bytes(4), 0)
        os.stat(path)  # the service deletes a delivered one meanwhile: its name must not come back
        os.rename(draft, path)
    except async_exceptions.ours(OSError, sqlite3.OperationalError):
        connection.execute(fmt.READ_ALL).fetchone()
        return False
    finally:
        with async_exceptions.suppress(OSError):
            Path(f"{draft}-journal").unlink(missing_ok=True)  # SQLite's, where the disk refused
            draft.unlink(missing_ok=True)
    _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    return True


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checkpoint(connection: Writing) -> None:
    """Move everything from the WAL into the segment.

    Raises:
        sqlite3.Error: not everything could be moved.
    """
    _, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if moved < frames:
        raise sqlite3.OperationalError(f"{moved} of {frames} frames moved")
