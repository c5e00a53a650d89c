"""Opens SQLite the one way each side opens it; the only importer of sqlite3 beside the ledger.

Rules that keep a live spool safe:

- Only the training process opens a segment for writing, and only through one connection.
- A reader never writes: it opens read-only and queries only. A segment without a ``-wal`` file
  is opened `immutable`, so that reading it neither needs nor creates any other file. That is safe
  because it has one, be it empty, from before it gets its name until it is sealed.
- A segment may be made to harm its reader. Nothing but a regular file is opened (`guard`), its
  schema has to be ours to the letter, and what a look may cost is bounded: `READ_SECONDS` of
  processor time, `_VALUE_LIMIT` bytes of one value. A folder in which a look was cut short is left
  alone for a while (`guard`).
- A writing connection is closed on purpose or never: it is given one reference for good, so that
  neither the interpreter's end nor a forked child closes (and thereby checkpoints) it implicitly.
- It keeps a look at its segment open until it seals it (`Writing`), which saves time and no more.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from spooler import border
from spooler.errors import NewerFormat, NotASpool, SpoolDamaged, SpoolUnavailable
from spooler.spool import format as fmt
from spooler.spool import guard

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
_READER_PRAGMAS = (
    "PRAGMA query_only=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
    "PRAGMA mmap_size=0",
)
# Processor time of one look at a segment: a thousand times what an honest one takes.
READ_SECONDS = 1.0
_STEPS = 2_000  # of SQLite's machine between two looks at the clock
_VALUE_LIMIT = fmt.BODY_LIMIT + 1024 * 1024  # bytes: a body, and what a query adds to it
_LIMIT_LENGTH = 0  # SQLITE_LIMIT_LENGTH

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


# What SQLite says of the bytes themselves, which waiting does not change.
_LASTING = ("malformed", "not a database", "too big")


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
            with border.suppress(sqlite3.Error):
                self._look = self.execute(fmt.SELECT_ANYTHING)

    def look_away(self) -> None:
        """End the look: a checkpoint is due, or the end."""
        look, self._look = self._look, None
        if look is not None:
            with border.suppress(sqlite3.Error):
                look.close()

    def close(self) -> None:
        """As SQLite's own, which with a look in the way would only pretend to."""
        self.look_away()
        super().close()


def unavailable(error: Exception, path: Path) -> SpoolUnavailable:
    """Translate a failure of SQLite or of the file system into a counted reason.

    One that was raised through us, by a signal handler of the user's, is raised on.
    """
    if border.theirs(error):
        raise error
    text = str(error).lower()
    if isinstance(error, OSError) and error.errno is not None:
        text += " " + os.strerror(error.errno).lower()
    for sign, reason in (*_REASONS, ("no space", "disk-full"), ("read-only", "read-only")):
        if sign in text:
            return SpoolUnavailable(reason, f"{path}: {error}")
    return SpoolUnavailable("error", f"{path}: {error}")


def damaged(error: sqlite3.Error, path: Path, position: int) -> SpoolDamaged:
    """Translate a failure of reading; only what SQLite says of the bytes themselves is lasting."""
    text = str(error)
    lasting = any(sign in text for sign in _LASTING)
    if text == "interrupted":
        guard.rest(os.path.dirname(path))
        text = f"a look at it takes more than {READ_SECONDS:g} s of processor time"
    return SpoolDamaged(str(path), position, text, lasting=lasting)


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
        connection.execute("UPDATE identity SET checksum = checksum")
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


def open_for_reading(path: Path) -> Connection:
    """Open a segment read-only and make sure that it is one of ours.

    Raises:
        NotASpool: another application's file, or a schema that is not exactly ours.
        NewerFormat: written by a later version of this package.
        SpoolDamaged: SQLite cannot read it.
        FileNotFoundError: it has been deleted meanwhile.
    """
    mark = _check(path)
    try:
        connection = _open_as_it_is(path)
    except (SpoolDamaged, NotASpool):
        guard.failed(os.path.dirname(path))
        _check(path, mark)  # what stands there now tells more
        raise
    try:
        _check(path, mark)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_as_it_is(path: Path) -> Connection:
    if not os.path.lexists(f"{path}-wal"):
        return _open_for_reading(path, "mode=ro&immutable=1")
    try:
        return _open_for_reading(path, "mode=ro")
    except SpoolDamaged:
        if wal_size(path) > 0:
            raise
        # It was sealed at this moment, or its -shm is missing where none can be made.
        return _open_for_reading(path, "mode=ro&immutable=1")


def _open_for_reading(path: Path, options: str) -> Connection:
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?{options}",
            uri=True,
            isolation_level=None,
            timeout=1.0,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise damaged(error, path, 0) from error
    try:
        # A damaged `kind` need not be UTF-8; it must cost its record, not the whole query.
        connection.text_factory = _text
        limit(connection)
        for pragma in _READER_PRAGMAS:
            connection.execute(pragma)
        _check_ours(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise damaged(error, path, 0) from error
    except UnicodeDecodeError as error:
        # SQLite's words quote a schema that is no text.
        connection.close()
        raise damaged(sqlite3.DatabaseError("malformed schema"), path, 0) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check(path: Path, before: guard.Mark | None = None) -> guard.Mark:
    """Make sure that nothing but a spool's own files is opened, and `before` is still there.

    Raises:
        SpoolDamaged: it is something else, or its folder is left alone; not lasting.
        FileNotFoundError: it is not there.
    """
    try:
        mark = guard.check(path)
        guard.check_beside(f"{path}-wal")
        guard.check_beside(f"{path}-shm")
    except guard.Strange as error:
        raise SpoolDamaged(str(path), 0, f"{error.filename}: {error.strerror}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SpoolDamaged(str(path), 0, str(error)) from error
    if before is not None and mark != before:
        raise SpoolDamaged(str(path), 0, "it was replaced while it was opened")
    return mark


def limit(connection: Connection) -> None:
    """Bound what is asked from here on of a file of anybody's making: `READ_SECONDS` for all."""
    end = time.thread_time() + READ_SECONDS
    connection.set_progress_handler(lambda: time.thread_time() > end, _STEPS)
    if hasattr(connection, "setlimit"):  # from Python 3.11 on
        connection.setlimit(_LIMIT_LENGTH, _VALUE_LIMIT)


def wal_size(path: Path) -> int:
    """Bytes in the segment's WAL; 0 when it has none."""
    try:
        return os.lstat(f"{path}-wal").st_size
    except FileNotFoundError:
        return 0


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _check_ours(connection: Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != fmt.APPLICATION_ID:
        raise NotASpool(f"{path}: application_id {application:#x}, not a spool segment")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > fmt.FORMAT_VERSION:
        raise NewerFormat(
            f"{path}: format version {version}, this reader knows {fmt.FORMAT_VERSION};"
            " it is kept untouched: upgrade lens-ship to ship it"
        )
    if version not in fmt.SCHEMAS:
        raise NotASpool(f"{path}: format version {version}; the oldest known is {min(fmt.SCHEMAS)}")
    # A view, trigger or virtual table under our names would run code of the file's author.
    tables = [("table", sql.split()[2], sql.split()[2], sql) for sql in fmt.SCHEMAS[version]]
    # One more than there should be; the first pages of a file may hold millions.
    select = "SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT ?"
    found = connection.execute(select, (len(tables) + 1,)).fetchall()
    if found != tables:
        raise NotASpool(f"{path}: its schema is not that of a spool segment")
