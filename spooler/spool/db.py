"""Opens SQLite the one way a writer does; the only importer of sqlite3 beside the ledger.

Rules that keep a live spool safe:

- Only the training process opens a segment for writing, and only through one connection.
- A writing connection is closed on purpose or never: it is given one reference for good, so that
  neither the interpreter's end nor a forked child closes (and thereby checkpoints) it implicitly.
- It keeps a look at its segment open until it seals it (`Writing`), which saves time and no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from spooler.errors import SpoolUnavailable
from spooler.spool import format as fmt

_Row = tuple[int, str, bytes, int]
Connection = sqlite3.Connection
IntegrityError = sqlite3.IntegrityError
Error = sqlite3.Error
VERSION = sqlite3.sqlite_version_info

_WRITER_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    # A checkpoint in the calling thread costs milliseconds; sealing does it off the hot path.
    "PRAGMA wal_autocheckpoint=0",
    "PRAGMA mmap_size=0",
)
# How long a writer waits for a lock that nobody should hold, in seconds.
_BUSY_SECONDS = 0.02

_REASONS = (
    ("full", "disk-full"),
    ("quota", "disk-full"),
    ("readonly", "read-only"),
    ("disk i/o", "io-error"),
    ("locked", "locked"),
    ("busy", "locked"),
    ("unable to open", "cannot-open"),
)


class Writing(sqlite3.Connection):
    """The one connection that writes a segment; what it keeps between two records saves them time.

    A cursor, which takes longer to make than its values to bind. And a look at the segment that is
    never read to its end: as long as it is open, SQLite keeps a reader's lock, which else it takes
    and gives back around each record, four of the eight system calls that a record takes. It is in
    nobody's way: such locks are shared, and stop only a checkpoint, of which there is none before
    the end. Each record is committed before its `insert` returns, as it is without.
    """

    insert: Callable[[str, _Row], sqlite3.Cursor]
    _look: sqlite3.Cursor | None = None

    def begin(self) -> None:
        """Make ready for the first record."""
        self.insert = self.cursor().execute
        self._look = self.execute(fmt.SELECT_ANYTHING)

    def insist(self, statement: str, row: _Row) -> sqlite3.Cursor:
        """As `insert`, after that has failed.

        In the middle of a look SQLite does not wait for a lock that another process has for a
        moment, as a reader may that comes amid a commit; and it may remember an error of the file.
        """
        self.look_away()
        try:
            return self.execute(statement, row)
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._look = self.execute(fmt.SELECT_ANYTHING)

    def look_away(self) -> None:
        """End the look: a checkpoint is due, or the end."""
        look, self._look = self._look, None
        if look is not None:
            with contextlib.suppress(sqlite3.Error):
                look.close()

    def close(self) -> None:
        """As SQLite's own, which with a look in the way would only pretend to."""
        self.look_away()
        super().close()


def unavailable(error: Exception, path: Path) -> SpoolUnavailable:
    """Translate a failure of SQLite or of the file system into a counted reason."""
    text = str(error).lower()
    if isinstance(error, OSError) and error.errno is not None:
        text += " " + os.strerror(error.errno).lower()
    for sign, reason in (*_REASONS, ("no space", "disk-full"), ("read-only", "read-only")):
        if sign in text:
            return SpoolUnavailable(reason, f"{path}: {error}")
    return SpoolUnavailable("error", f"{path}: {error}")


def create(path: Path, number: int, identity: bytes, checksum: int, *, mode: int) -> None:
    """Write an empty segment file at `path`, complete but for its records, and close it.

    Raises:
        SpoolUnavailable: the file cannot be created here.
    """
    try:
        path.unlink(missing_ok=True)  # what an earlier try has left
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode))
        os.chmod(path, mode)
        connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)
        try:
            connection.execute(f"PRAGMA page_size={fmt.PAGE_SIZE}")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("BEGIN")
            connection.execute(f"PRAGMA application_id={fmt.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={fmt.FORMAT_VERSION}")
            for statement in fmt.SCHEMA:
                connection.execute(statement)
            connection.execute(fmt.INSERT_IDENTITY, (identity, checksum))
            connection.execute("COMMIT")
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise unavailable(error, path) from error


def publish(draft: Path, final: Path, *, mode: int) -> int:
    """Give a created segment its name, with an empty WAL beside it; return its inode.

    The WAL is there first: a reader takes a segment without one for sealed.

    Raises:
        SpoolUnavailable: it cannot be done here.
    """
    wal = f"{final}-wal"
    try:
        Path(wal).unlink(missing_ok=True)
        os.close(os.open(wal, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode))
        os.chmod(wal, mode)
        os.rename(draft, final)
        return os.stat(final).st_ino
    except OSError as error:
        raise unavailable(error, final) from error


def open_alone(path: Path) -> Writing:
    """As `open_for_writing`, where no memory is shared through files: on a network file system.

    The log's index stays in this process. Nobody can read the segment before it is sealed.
    """
    return open_for_writing(path, shared=False)


def open_for_writing(path: Path, *, shared: bool = True) -> Writing:
    """Open a created segment for its one writer, with its WAL and shared memory ready.

    Raises:
        SpoolUnavailable: it cannot be opened, or WAL mode is refused (a network file system).
    """
    try:
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            timeout=_BUSY_SECONDS,
            check_same_thread=False,
            factory=Writing,
        )
    except sqlite3.Error as error:
        raise unavailable(error, path) from error
    try:
        if not shared:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        mode = connection.execute(_WRITER_PRAGMAS[0]).fetchone()[0]
        if mode != "wal":
            raise SpoolUnavailable("cannot-open", f"{path}: no WAL here, journal mode is {mode}")
        for pragma in _WRITER_PRAGMAS[1:]:
            connection.execute(pragma)
        # The first write of a connection creates -wal and -shm and takes the page cache's
        # memory; done here, the first record does not pay for it.
        connection.execute(f"PRAGMA user_version={fmt.FORMAT_VERSION}")
        connection.begin()
    except sqlite3.Error as error:
        connection.close()
        raise unavailable(error, path) from error
    except SpoolUnavailable:
        connection.close()
        raise
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    return connection


def seal(connection: Writing) -> None:
    """Move everything from the WAL into the segment and close it; leaves the WAL if it cannot."""
    connection.look_away()
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
