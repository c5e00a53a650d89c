"""One segment, seen from the service: its rows and its bounds, and what is left of a damaged one.

Opens read-only and for the length of one call. What SQLite refuses for good is looked through page
by page instead (`spooler.spool.salvage`), if the caller says that the file is final: that nobody
writes it any more.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from spooler.errors import NotASpool, SpoolDamaged, SpoolError
from spooler.spool import codec, db, salvage
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.stored import Row

# Of bodies and kinds given at once; one that is larger comes alone.
CHUNK_BYTES = 64 * 1024 * 1024
_MOST_GAPS = 10_000

Bounds = tuple[int, int]  # first and last seq


def rows(path: Path, after: int, limit: int) -> tuple[list[Row], bool]:
    """At most `limit` rows, and whether all that there are.

    False: the next is unreadable, or they are large and there are more.

    Raises:
        SpoolError, FileNotFoundError: not a single row can be read.
    """
    connection = db.open_for_reading(path)
    found: list[Row] = []
    size = 0
    try:
        for row in connection.execute(fmt.SELECT_RECORDS, (after, limit)):
            if row[0] <= (found[-1][0] if found else after):
                raise db.Error("database disk image is malformed: records are out of order")
            size += row_bytes(row)
            if found and size > CHUNK_BYTES:
                return found, False
            found.append(row)
    except db.Error as error:
        # sqlite3 looks one row ahead: the one before the damage is still to be had.
        last = found[-1][0] if found else after
        with contextlib.suppress(db.Error):
            more = connection.execute(fmt.SELECT_RECORDS, (last, 1)).fetchall()
            found += [row for row in more if row[0] > last]
        if not found:
            raise db.damaged(error, path, after) from error
        return found, False
    finally:
        connection.close()
    return found, True


def row_bytes(row: Row) -> int:
    """What a row takes; in a damaged file it may hold anything."""
    kind, body = row[1], row[2]
    if type(kind) is str and type(body) is bytes:
        return len(kind) + len(body)
    return sum(len(value) for value in (kind, body) if isinstance(value, str | bytes))


def of_kind(path: Path, kind: str) -> list[Row]:
    """The rows of one kind, the first `_MOST_GAPS`; none of a file that cannot be read."""
    try:
        connection = db.open_for_reading(path)
    except (FileNotFoundError, SpoolError):
        return []
    try:
        return connection.execute(fmt.SELECT_KIND, (kind, _MOST_GAPS)).fetchall()
    except db.Error:
        return []
    finally:
        connection.close()


def bounds(path: Path) -> Bounds | None:
    """First and last seq; None without a record.

    Raises:
        SpoolError, FileNotFoundError: it cannot be read.
    """
    connection = db.open_for_reading(path)
    try:
        first, last = connection.execute(fmt.SELECT_BOUNDS).fetchone()
    except db.Error as error:
        raise db.damaged(error, path, 0) from error
    finally:
        connection.close()
    return None if first is None else (first, last)


def count(path: Path, first: int, last: int) -> int:
    """How many records there are from `first` to `last`.

    Raises:
        SpoolError, FileNotFoundError: it cannot be read.
    """
    connection = db.open_for_reading(path)
    try:
        return int(connection.execute(fmt.COUNT_RECORDS, (first, last)).fetchone()[0])
    except db.Error as error:
        raise db.damaged(error, path, 0) from error
    finally:
        connection.close()


def last_of(path: Path) -> int:
    """The last seq that SQLite sees, 0 where it sees none."""
    with contextlib.suppress(SpoolError, FileNotFoundError):
        known = bounds(path)
        return known[1] if known else 0
    return 0


def salvaged_count(path: Path, first: int, last: int) -> int:
    """As `count`, of what can be found in a file that SQLite refuses."""
    with contextlib.suppress(OSError):
        return sum(first <= seq <= last for seq in salvage.seqs(path))
    return 0


def salvaged_bounds(path: Path) -> Bounds | None:
    """As `bounds`, of what can be found in a file that SQLite refuses."""
    with contextlib.suppress(OSError):
        seqs = salvage.seqs(path)
        return (seqs[0], seqs[-1]) if seqs else None
    return None


def identity(path: Path, number: int) -> Identity:
    """Who wrote segment `number`.

    Raises:
        SpoolError: it cannot be read, or does not tell.
    """
    connection = db.open_for_reading(path)
    try:
        row = connection.execute(fmt.SELECT_IDENTITY).fetchone()
    except db.Error as error:
        raise db.damaged(error, path, 0) from error
    finally:
        connection.close()
    sound = row is not None and isinstance(row[0], bytes)
    if not sound or codec.checksum(fmt.IDENTITY_KIND, row[0], number) != row[1]:
        raise SpoolDamaged(str(path), 0, "the identity's checksum does not hold", lasting=True)
    return _decoded(path, row[0])


def salvaged_identity(path: Path, number: int) -> Identity | None:
    """As `identity`, of a file that SQLite refuses; None when it cannot be found."""
    with contextlib.suppress(SpoolError, OSError):
        body = salvage.identity(path, number)
        return _decoded(path, body) if body is not None else None
    return None


def sizes(path: Path) -> tuple[int, int]:
    """Bytes of a segment and of its WAL."""
    try:
        return os.lstat(path).st_size, db.wal_size(path)
    except FileNotFoundError:
        return 0, 0


def mark(path: Path) -> tuple[int, ...] | None:
    """Something else once an unsealed segment or its WAL was written; None where there is none."""
    try:
        mine, wal = os.stat(path), os.stat(f"{path}-wal")
    except FileNotFoundError:
        return None
    return mine.st_ino, mine.st_size, mine.st_mtime_ns, wal.st_size, wal.st_mtime_ns


def is_sealed(path: Path) -> bool:
    """Whether its writer has closed it: it never changes any more."""
    return not os.path.lexists(f"{path}-wal")


def is_shared(path: Path) -> bool:
    """Whether a reader can follow its writer: not where the writer keeps the log's index to itself.

    See "File systems" in `spooler.spool.format`.
    """
    return os.path.exists(f"{path}-shm") or is_sealed(path)


def is_lasting(error: SpoolError) -> bool:
    """Whether a segment that was refused with `error` will be refused for ever."""
    return isinstance(error, NotASpool) or (isinstance(error, SpoolDamaged) and error.lasting)


def _decoded(path: Path, body: bytes) -> Identity:
    try:
        return Identity.from_map(codec.unpack(body))
    except TypeError as error:
        raise SpoolDamaged(str(path), 0, f"identity: {error}", lasting=True) from error
