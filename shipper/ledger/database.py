"""The state directory: its lock and its database; the only importer of sqlite-utils.

All threads use one connection under one lock. Commits are WAL with `synchronous=NORMAL`: a commit
that is lost costs a repetition, no record.

The file's `user_version` counts the steps of `shipper.ledger.migrations` that were applied to it. A
file with more steps than this version knows is refused and not changed. A file with fewer steps is
first copied to `ledger.sqlite.v<version>`, for a downgrade, then migrated in one transaction.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlite_utils

from shipper.errors import StateInUse, StateNewer, StateUnusable
from shipper.ledger.migrations import MIGRATIONS, STATE_VERSION, Migration
from shipper.log import fields

log = logging.getLogger(__name__)

DATABASE_NAME = "ledger.sqlite"
LOCK_NAME = "lock"
REPLAY_LOCK_NAME = "replay.lock"
_SERVED = "another lens-ship. Stop that one, or give this one its own --state and --spool."
_REPLAYED = (
    "another replay, or dead-letter retry. Nothing was sent. Run this again when it has ended."
)
# How long a write waits for another program's transaction. The service waits less: its threads
# wait one after the other, and each of its writes is repeated.
_BUSY_SECONDS = 10.0
_SERVICE_BUSY_SECONDS = 1.0
_EMPTY = "it is empty: a crash or a full disk has cost its content"
_LOCK_TRIES = 100
_LOCK_SECONDS = 0.05
_MOVE_AWAY = (
    "To continue, move the file away. All records that are still in the spools are then sent again."
)

Database = sqlite_utils.Database


class StateDatabase:
    """The database of an open state directory.

    Raises:
        StateInUse: another process has locked it.
        StateUnusable: it cannot be created, or its database cannot be opened or migrated.
        StateNewer: a later lens-ship has migrated its database.
    """

    def __init__(self, directory: Path, *, exclusive: bool = True, create: bool = False) -> None:
        """Open the directory; without `exclusive`, a service may be running on it.

        A database that does not exist is created if `exclusive` or `create`.
        """
        self.directory = directory
        self._lock = threading.Lock()
        self._heartbeats = 0  # rows written for heartbeats
        create = create or exclusive
        if create:
            _make_directory(directory)
        elif not exists(directory):
            raise StateUnusable(
                f"{directory / DATABASE_NAME} does not exist: no service has used this state"
                " directory. Set --state to the state directory of the service."
            )
        self._guard = _lock_directory(directory, LOCK_NAME, _SERVED) if exclusive else -1
        try:
            self._db = _open(directory / DATABASE_NAME, create=create, locked=exclusive)
        except BaseException:
            if exclusive:
                os.close(self._guard)
            raise
        self._marks = {
            path: _mark(path) for path in (directory / LOCK_NAME, directory / DATABASE_NAME)
        }

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Keep other replays away: two at once would send everything twice.

        Raises:
            StateInUse: one is running.
        """
        guard = _lock_directory(self.directory, REPLAY_LOCK_NAME, _REPLAYED)
        try:
            yield
        finally:
            os.close(guard)

    @contextmanager
    def transaction(self) -> Iterator[sqlite_utils.Database]:
        """The database in one transaction, for one thread at a time."""
        with self.connection() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                database.conn.rollback()  # without effect where SQLite has done it
                raise

    def execute(self, sql: str, *values: Any) -> list[Any]:
        """The rows of one statement, which is committed alone."""
        with self.connection() as database:
            return list(database.execute(sql, values))

    def insert_new(self, table: str, row: Mapping[str, Any]) -> bool:
        """Insert a row; False when a row with its key existed, which stays unchanged."""
        with self.connection() as database:
            before = database.conn.total_changes
            database.table(table).insert(dict(row), ignore=True)
            return bool(database.conn.total_changes > before)

    def is_in_place(self) -> bool:
        """Whether the locked file and the database still have their names in the directory.

        Without them this process writes what no other one sees, and a second service can start.
        """
        return all(_mark(path) in (mark, None) for path, mark in self._marks.items())

    def stamp(self) -> tuple[int, int]:
        """A value that changes when any process writes anything but a heartbeat."""
        with self.connection() as database:
            others = int(database.execute("PRAGMA data_version").fetchone()[0])
            return others, database.conn.total_changes - self._heartbeats

    @contextmanager
    def heartbeat_connection(self) -> Iterator[sqlite_utils.Database]:
        """The database for periodic writes, which do not change `stamp`."""
        with self.connection() as database:
            before = database.conn.total_changes
            try:
                yield database
            finally:
                self._heartbeats += database.conn.total_changes - before

    @contextmanager
    def connection(self) -> Iterator[sqlite_utils.Database]:
        """The database, for one thread at a time. SQLite's errors become `StateUnusable`."""
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise StateUnusable(
                    f"{self.directory / DATABASE_NAME}: {error}. Records sent since the last"
                    f" saved position are sent again. {_advice_on(error)}"
                ) from error

    def close(self) -> None:
        """Close the database and unlock the directory; nothing more the second time."""
        with self._lock:
            self._db.conn.close()
            guard, self._guard = self._guard, -1
            if guard >= 0:
                os.close(guard)


def exists(directory: Path) -> bool:
    """Whether a service has ever used this state directory.

    Raises:
        StateUnusable: this user may not read it.
    """
    try:
        os.stat(directory / DATABASE_NAME)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StateUnusable(
            f"state directory {directory}: {error.strerror}. Nothing was read or sent. Run this as"
            " the user of the service, or set --state to another directory."
        ) from error
    return True


def problem_of(directory: Path) -> str:
    """Why no service can use this database, "" where none is found. Nothing there is changed.

    Only where no service runs: a copy is checked, made while no process writes.
    """
    path = directory / DATABASE_NAME
    try:
        if os.stat(path).st_size == 0:
            return _EMPTY
        with path.open("r+b"):
            pass
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / DATABASE_NAME
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            with contextlib.closing(_connect(copy, locked=False)) as connection:
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except FileNotFoundError:
        return ""
    except (sqlite3.Error, OSError) as error:
        return str(error)
    return "" if found == "ok" else str(found)


def _mark(path: Path) -> tuple[int, int] | None:
    """Device and inode, zeros where there is nothing; None where that cannot be told now."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error


def _unusable(directory: Path, error: OSError) -> StateUnusable:
    return StateUnusable(
        f"state directory {directory}: {error}. Nothing was read or sent."
        " Set --state to a directory that this user may write."
    )


def _lock(guard: int) -> None:
    """Lock it. A process that only looks whether it is locked shares it for a moment."""
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)  # refused where another holds it alone
        fcntl.flock(guard, fcntl.LOCK_UN)
        time.sleep(_LOCK_SECONDS)
    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_directory(directory: Path, name: str, complaint: str) -> int:
    """Lock a file of the directory; return the descriptor that holds the lock."""
    try:
        guard = os.open(directory / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        _lock(guard)
    except OSError as error:
        os.close(guard)
        raise StateInUse(f"state directory {directory} is in use by {complaint}") from error
    return guard


def _open(path: Path, *, create: bool, locked: bool) -> sqlite_utils.Database:
    """Connect to the database at `path` and migrate it to the current version."""
    try:
        if create and not os.path.lexists(path):
            _create(path)
        if os.stat(path).st_size == 0:
            raise sqlite3.DatabaseError(_EMPTY)
        connection = _connect(path, locked=locked)
        try:
            return _prepare(connection, path, locked=locked)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        advice = _advice_on(error) if "locked" in str(error) else _advice(path)
        raise StateUnusable(f"{path}: {error}. Nothing was read or sent. {advice}") from error


def _advice_on(error: Exception) -> str:
    if "locked" in str(error):
        return "Another program has a transaction open in it: end that program."
    if "malformed" in str(error) or "not a database" in str(error):
        return _MOVE_AWAY
    return "Check for a full or read-only disk."


def _advice(path: Path) -> str:
    """What to do about a database that cannot be opened."""
    disk = os.statvfs(path.parent)
    if disk.f_flag & os.ST_RDONLY:
        return "The disk is read-only: make it writable, or set --state to another directory."
    if disk.f_bavail == 0:
        return "The disk is full: free some space."
    closed = path.exists() and not os.access(path, os.R_OK | os.W_OK)
    if closed or not os.access(path.parent, os.W_OK | os.X_OK):
        return "This user may not write it: run this as the user of the service."
    return _MOVE_AWAY


def _create(path: Path) -> None:
    """Make the database. It gets its name when it is complete, so an empty one was damaged."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    os.close(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
    try:
        connection = _connect(draft, locked=True)
        try:
            _migrate(sqlite_utils.Database(connection, execute_plugins=False), draft)
        finally:
            connection.close()
        _sync(draft)
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(draft, path)
    finally:
        draft.unlink()


def _connect(path: Path, *, locked: bool) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=rw",
        uri=True,
        check_same_thread=False,
        isolation_level=None,
        timeout=_SERVICE_BUSY_SECONDS if locked else _BUSY_SECONDS,
    )


def _prepare(connection: sqlite3.Connection, path: Path, *, locked: bool) -> sqlite_utils.Database:
    version = _version_of(connection)
    if version > STATE_VERSION:
        raise StateNewer(
            f"{path}: state version {version}, this lens-ship knows {STATE_VERSION}. Nothing was"
            " changed, read or sent. Run the version that migrated it, or restore the copy next to"
            f" it ({DATABASE_NAME}.v{STATE_VERSION} or lower, see `lens-ship docs upgrading`)."
        )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    if not locked:
        # Only the service checkpoints: with two, SQLite before 3.51.3 may lose commits.
        connection.execute("PRAGMA wal_autocheckpoint=0")
    # Plugins are for the command line of sqlite-utils; the service must not run them.
    database = sqlite_utils.Database(connection, execute_plugins=False)
    if version == STATE_VERSION:
        return database
    if version == 0 or locked:
        _migrate(database, path)
        return database
    try:
        guard = _lock_directory(path.parent, LOCK_NAME, _SERVED)
    except StateInUse as error:
        raise StateUnusable(
            f"{path}: state version {version}, and the running service does not know"
            f" version {STATE_VERSION}. Restart it with this lens-ship, then try again."
        ) from error
    try:
        _migrate(database, path)
    finally:
        os.close(guard)
    return database


def _version_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrate(database: sqlite_utils.Database, path: Path) -> None:
    """Copy the database, then apply the missing steps in one transaction."""
    connection = database.conn
    version = _version_of(connection)
    try:
        copy = _back_up(connection, path, version) if version else None
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have applied some since.
            for migration in MIGRATIONS[_version_of(connection) :]:
                _apply(database, migration)
            connection.execute(f"PRAGMA user_version={STATE_VERSION}")
        except BaseException:
            if connection.in_transaction:  # a full disk ends it by itself
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise StateUnusable(
            f"{path}: migration from state version {version} to {STATE_VERSION} failed: {error}."
            " The file is unchanged, nothing was read or sent. A migration needs twice the space"
            " of the file. Check for a full or read-only disk."
        ) from error
    if copy:
        log.info(
            "state database migrated",
            extra=fields(path=path, version=STATE_VERSION, copy=copy),
        )


def _apply(database: sqlite_utils.Database, migration: Migration) -> None:
    for name, wanted in migration.tables.items():
        table = database.table(name)
        key = wanted.key
        table.create(dict(wanted.columns), pk=key[0] if len(key) == 1 else key, if_not_exists=True)
        known = table.columns_dict
        for column in (column for column in wanted.columns if column not in known):
            table.add_column(column, wanted.columns[column])
    for statement in migration.statements:
        database.conn.execute(statement)


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> Path:
    """Copy the database next to itself; the copy gets its name only when it is complete."""
    final = path.with_name(f"{path.name}.v{version}")
    draft = path.with_name(f"{final.name}.part")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    target = sqlite3.connect(draft)
    try:
        connection.backup(target)
    finally:
        target.close()
    _sync(draft)
    draft.rename(final)
    return final


def _sync(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())
