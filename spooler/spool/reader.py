"""Reads a spool in order and checks every record; deletes closed files when told to.

Rules:

- Files are opened read-only and only for the length of one call: between two calls the writer may
  rotate, seal or die, and the service may hold thousands of spools.
- One damaged record costs that record: it is reported with its position, the next one follows.
- This is the only module of the service that deletes anything of a spool.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from spooler.errors import NotASpool, SpoolDamaged, SpoolError
from spooler.spool import codec, db, filesystem
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.stored import Chunk as Chunk
from spooler.spool.stored import Damage as Damage
from spooler.spool.stored import Row, verify
from spooler.spool.stored import Stored as Stored

_LAST_SEQ = 2**63 - 1


class Reader:
    """A spool directory, seen from the service. Holds no file open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._first_seqs: dict[int, int] = {}  # segment number -> seq of its first record
        self._watermark: tuple[tuple[int, int, int], ...] | None = None

    @property
    def spool(self) -> str:
        """The spool id, which is the directory's name."""
        return self.directory.name

    def segments(self) -> list[int]:
        """Numbers of the segments there are, ascending."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(n for name in names if (n := fmt.segment_number(name)) is not None)

    def identity(self) -> Identity:
        """Who wrote this spool, from the first segment that can tell.

        Raises:
            NotASpool: no segment has an identity that belongs to this directory.
            NewerFormat, SpoolDamaged: as for opening.
        """
        failure: Exception = NotASpool(f"{self.directory}: no segment in it")
        for number in self.segments():
            try:
                return self._identity_in(number)
            except (NotASpool, SpoolDamaged) as error:
                failure = error
            except FileNotFoundError:
                continue
        raise failure

    def read(self, after: int, limit: int) -> Chunk:
        """Return at most `limit` records with a seq above `after`, in order.

        A call that meets something unreadable returns what lies before it. A segment that is
        damaged for good is passed over, as damage, as soon as a later one holds records.

        Raises:
            NotASpool, NewerFormat, SpoolDamaged: the very next record cannot be read, and may
                become readable or is the last.
        """
        records: list[Stored] = []
        damage: list[Damage] = []
        position = after
        for number in self._from(after):
            if len(records) >= limit:
                return Chunk(
                    records=tuple(records), damage=tuple(damage), through=position, at_end=False
                )
            try:
                rows, whole = self._rows(number, position, limit - len(records))
                if rows and rows[0][0] > position + 1:
                    # Between listing and reading, the one before may have got its last records.
                    rows, whole = self._recheck(number, position, limit - len(records), rows, whole)
            except FileNotFoundError:
                continue
            except SpoolError as error:
                if records or damage:
                    rows, whole = [], False
                else:
                    position = self._pass_over(number, (position, limit), error, damage)
                    continue
            position = verify(self._path(number), rows, position, records, damage)
            if not whole:
                return Chunk(
                    records=tuple(records), damage=tuple(damage), through=position, at_end=False
                )
        return Chunk(
            records=tuple(records),
            damage=tuple(damage),
            through=position,
            at_end=len(records) < limit,
        )

    def has_news(self) -> bool:
        """Whether the files changed since the last call; costs a few stat calls.

        Records go to the last segment, or to the one before it while the last is only prepared.
        """
        last_two = self.segments()[-2:]
        mark = tuple((number, *self._sizes(number)) for number in last_two)
        changed = mark != self._watermark
        self._watermark = mark
        return changed

    def last_seq(self) -> int:
        """Seq of the last record there is, 0 without any; unreadable segments are skipped."""
        for number in reversed(self.segments()):
            try:
                bounds = self._bounds(number)
            except (FileNotFoundError, NotASpool, SpoolDamaged):
                continue
            if bounds is not None:
                return bounds[1]
        return 0

    def first_seq(self) -> int:
        """Seq of the first record there is, 0 without any; unreadable segments are skipped."""
        return self._first_beyond(0) or 0

    def count_after(self, position: int) -> int:
        """How many records there are beyond `position`, damaged ones included.

        Segments that cannot be opened count nothing.
        """
        return self.count_between(position + 1, _LAST_SEQ)

    def count_between(self, first: int, last: int) -> int:
        """As `count_after`, from `first` to `last`."""
        count = 0
        for number in self.segments():
            try:
                connection = db.open_for_reading(self._path(number))
            except (FileNotFoundError, SpoolError):
                continue
            try:
                count += connection.execute(fmt.COUNT_RECORDS, (first, last)).fetchone()[0]
            except db.Error:
                continue
            finally:
                connection.close()
        return count

    def gaps(self) -> list[Stored]:
        """Every sound `gap` record there is; what cannot be read is passed over."""
        found: list[Stored] = []
        for number in self.segments():
            try:
                connection = db.open_for_reading(self._path(number))
            except (FileNotFoundError, SpoolError):
                continue
            try:
                rows = connection.execute(fmt.SELECT_KIND, ("gap",)).fetchall()
            except db.Error:
                continue
            finally:
                connection.close()
            verify(self._path(number), rows, _LAST_SEQ, found, [])
        return found

    def closed(self) -> list[tuple[int, int]]:
        """Readable segments that hold records and get no more: number and last seq, ascending."""
        # In this order: what is last is known only after the writer is known to be gone, or
        # after the segment that follows is known to hold a record.
        owned = self.is_owned()
        found: list[tuple[int, int]] = []
        for number in reversed(self.segments()):
            try:
                bounds = self._bounds(number)
            except (FileNotFoundError, SpoolError):
                continue
            if bounds is not None:
                found.insert(0, (number, bounds[1]))
        return found[:-1] if owned else found

    def bytes(self) -> int:
        """Bytes on disk of everything in the directory."""
        return filesystem.bytes_in(self.directory)

    def is_owned(self) -> bool:
        """Whether the process that writes this spool is alive, in whatever pid namespace."""
        try:
            descriptor = os.open(self.directory / fmt.OWNER_NAME, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def complete_through(self, position: int) -> list[int]:
        """Segments whose records all lie at or before `position` and that cannot get more.

        A segment that cannot be read is never among them: it is kept for people to look at.
        """
        done = []
        for number in self.segments():
            begun = self._first_beyond(number)
            if begun is None or begun > position + 1:
                break
            try:
                bounds = self._bounds(number)
            except (FileNotFoundError, NotASpool, SpoolDamaged):
                continue
            if bounds is None or bounds[1] <= position:
                done.append(number)
        return done

    def is_exhausted(self, position: int) -> bool:
        """Whether every segment can be read and holds nothing beyond `position`.

        Raises:
            NotASpool, NewerFormat, SpoolDamaged: a segment cannot be read, so nobody can say.
        """
        bounds = [self._bounds(number) for number in self.segments()]
        return all(bound is None or bound[1] <= position for bound in bounds)

    def segment_bytes(self, number: int) -> int:
        """Bytes on disk of a segment with its WAL."""
        return sum(self._sizes(number))

    def segment_age(self, number: int, now: float) -> float:
        """Seconds since the segment or its WAL was last written, `now` in Unix seconds."""
        written = []
        for name in (self._path(number), f"{self._path(number)}-wal"):
            with contextlib.suppress(FileNotFoundError):
                written.append(os.stat(name).st_mtime)
        return now - max(written, default=now)

    def delete_segment(self, number: int) -> None:
        """Free a closed segment: the database last, so that a half-done deletion is repeated."""
        path = self._path(number)
        for name in (f"{path}-shm", f"{path}-wal", str(path)):
            Path(name).unlink(missing_ok=True)

    def delete_spool(self) -> None:
        """Remove the directory of a spool whose writer is gone, with all in it that is ours."""
        for number in self.segments():
            self.delete_segment(number)
        for path in self.directory.glob(".*.new*"):
            path.unlink(missing_ok=True)
        (self.directory / fmt.OWNER_NAME).unlink(missing_ok=True)
        self.directory.rmdir()

    def _sizes(self, number: int) -> tuple[int, int]:
        """Bytes of a segment and of its WAL."""
        path = self._path(number)
        try:
            return os.stat(path).st_size, db.wal_size(path)
        except FileNotFoundError:
            return 0, 0

    def _path(self, number: int) -> Path:
        return self.directory / fmt.segment_name(number)

    def _from(self, after: int) -> Iterator[int]:
        """Segments that may hold records beyond `after`: those before the last known start."""
        numbers = self.segments()
        known = [n for n in numbers if self._first_seqs.get(n, after + 1) <= after]
        start = known[-1] if known else 0
        return (n for n in numbers if n >= start)

    def _rows(self, number: int, after: int, limit: int) -> tuple[list[Row], bool]:
        """At most `limit` rows, and whether all that there are; False: the next is unreadable."""
        path = self._path(number)
        connection = db.open_for_reading(path)
        rows: list[Row] = []
        try:
            for row in connection.execute(fmt.SELECT_RECORDS, (after, limit)):
                rows.append(row)  # noqa: PERF402 - a damaged page must not cost those before it
            if rows and number not in self._first_seqs:
                first = connection.execute(fmt.SELECT_BOUNDS).fetchone()[0]
                self._first_seqs[number] = first
        except db.Error as error:
            # sqlite3 looks one row ahead: the one before the damage is still to be had.
            last = rows[-1][0] if rows else after
            with contextlib.suppress(db.Error):
                rows += connection.execute(fmt.SELECT_RECORDS, (last, 1)).fetchall()
            if not rows:
                raise db.damaged(error, path, after) from error
            return rows, False
        finally:
            connection.close()
        return rows, True

    def _recheck(
        self, number: int, after: int, limit: int, rows: list[Row], whole: bool
    ) -> tuple[list[Row], bool]:
        """Ask the segment before `number` once more for rows beyond `after`."""
        earlier = [n for n in self.segments() if n < number]
        if not earlier:
            return rows, whole
        late, whole_before = self._rows(earlier[-1], after, limit)
        if not late:
            return rows, whole
        if not whole_before or len(late) == limit:
            return late, whole_before
        rows, whole = self._rows(number, late[-1][0], limit - len(late))
        return late + rows, whole

    def _pass_over(
        self, number: int, asked: tuple[int, int], error: SpoolError, damage: list[Damage]
    ) -> int:
        """Give up a segment that can never be read; return the position reached.

        `asked` are the position and limit of the read that failed.

        Raises:
            SpoolError: `error`, while a later look may have more success.
        """
        position, limit = asked
        first = self._first_beyond(number)
        if first is None or not _is_lasting(error):
            raise error
        if first <= position + 1:
            return position
        try:
            self._rows(number, position, limit)
        except SpoolError:
            path = str(self._path(number))
        else:
            raise error  # it is readable after all: giving it up would lose it
        damage.append(Damage(path=path, first=position + 1, last=first - 1, reason=str(error)))
        return first - 1

    def _first_beyond(self, number: int) -> int | None:
        """First seq in the readable segments after `number`, None without any record there."""
        for later in self.segments():
            if later > number:
                try:
                    bounds = self._bounds(later)
                except (FileNotFoundError, NotASpool, SpoolDamaged):
                    continue
                if bounds is not None:
                    return bounds[0]
        return None

    def _bounds(self, number: int) -> tuple[int, int] | None:
        path = self._path(number)
        connection = db.open_for_reading(path)
        try:
            first, last = connection.execute(fmt.SELECT_BOUNDS).fetchone()
        except db.Error as error:
            raise db.damaged(error, path, 0) from error
        finally:
            connection.close()
        return None if first is None else (first, last)

    def _identity_in(self, number: int) -> Identity:
        path = self._path(number)
        connection = db.open_for_reading(path)
        try:
            row = connection.execute(fmt.SELECT_IDENTITY).fetchone()
        except db.Error as error:
            raise db.damaged(error, path, 0) from error
        finally:
            connection.close()
        if row is None or codec.checksum(fmt.IDENTITY_KIND, row[0], number) != row[1]:
            raise SpoolDamaged(str(path), 0, "the identity's checksum does not hold")
        try:
            identity = Identity.from_map(codec.unpack(row[0]))
        except TypeError as error:
            raise SpoolDamaged(str(path), 0, f"identity: {error}") from error
        if identity.spool != self.spool:
            raise NotASpool(f"{path}: belongs to spool {identity.spool}, not to this directory")
        return identity


def _is_lasting(error: SpoolError) -> bool:
    """Whether a segment that was refused with `error` will be refused for ever."""
    return isinstance(error, NotASpool) or (isinstance(error, SpoolDamaged) and error.lasting)
