"""Appends records to one spool: a returned `append` is a promise that the record survives SIGKILL.

Rules:

- One writer per process and spool; it locks `owner` for its life (`spooler.spool.owner`).
- `append` does one INSERT in autocommit mode and nothing else that can wait; preparing the next
  segment, sealing the last, looking whether the files are still there and how much disk they take
  happen in `maintain`, on another thread. No thread but that one waits for the disk.
- Files are watched. A log whose name was removed is saved by sealing its segment from the
  descriptor that is still open. Where the segment itself is gone, or a descriptor was taken away by
  the program, this writer ends (`gone`, `descriptor`): it writes to nothing that is not its own.
- The disk that a spool takes is bounded by its writer. Above the limit it ends its segment, so that
  the service can deliver and delete that too, and then refuses records (`drop-newest`), or deletes
  its oldest closed segments (`drop-oldest`). Each deletion is told first, in a `gap` record.
- Threads are serialised by a re-entrant lock. A signal handler may append while its own thread
  is inside `append`: the primary key decides, and the one that comes second takes the next seq.
  The handler never rotates: the interrupted append goes on in the segment that it began with.
"""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from spooler.async_exceptions import ours, suppress
from spooler.config import Limits
from spooler.errors import SpoolError, SpoolUnavailable
from spooler.records import gap
from spooler.spool import codec, db, filesystem
from spooler.spool import format as fmt
from spooler.spool.active import ActiveSegment, SealedSegment
from spooler.spool.layout import (
    check_present,
    is_marked_full,
    make_directories,
    unlink_segment,
)
from spooler.spool.owner import Owner
from spooler.spool.segment import Segment
from spooler.spool.sync import Sync, sync_file, sync_folder

# After these a writer cannot go on: another one has to.
LOST = frozenset({"gone", "descriptor"})
_LOOKED_BACK = 1000  # records


class Writer:
    """The one writer of a spool directory, which it creates.

    Raises:
        SpoolUnavailable: the directory or the first segment cannot be created.
    """

    def __init__(
        self,
        *,
        root: Path,
        below: tuple[str, ...],
        spool: str,
        identity: bytes,
        limits: Limits,
        tending: threading.Lock | None = None,
    ) -> None:
        self.directory = root.joinpath(*below, spool)
        self._root = root
        self._identity = identity
        self._limits = limits
        self._half_records = (limits.segment_records + 1) // 2
        self._half_bytes = (limits.segment_bytes + 1) // 2
        self._gate = threading.RLock()
        self._tending = tending or threading.Lock()
        self._durable = False  # whether what runs in `maintain` may wait for the disk
        self._verified = 0  # last number when all files were in their places
        self._retired: list[ActiveSegment] = []
        self._closed: list[SealedSegment] = []
        self._first_deleted: SealedSegment | None = None
        self._above = ""  # which limit is exceeded: reason of what is refused
        self._refusal = ""  # why appends are refused now
        self._insisting = False
        self._sync = Sync(self.directory, limits.sync_seconds, root)
        self._next: ActiveSegment | None = None
        self._nesting = 0  # appends under way: more than one below a signal handler
        self.wake: Callable[[], None] = lambda: None  # until there is a thread to wake
        try:
            make_directories(root, (*below, spool), limits)
            self._owner = Owner.take(self.directory, limits.file_mode)
        except OSError as error:
            with suppress(OSError):
                self.directory.rmdir()  # if it is ours and empty; retried every second
            raise db.unavailable(error, self.directory) from error
        try:
            self._segment = self._prepare(1)
            self._segment.next_seq = 1
        except BaseException:
            # Nothing was recorded here: an empty spool would only be noise for the service.
            self._owner.release()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    @property
    def last_seq(self) -> int:
        """Number of the last committed record, 0 before the first."""
        return _next_seq(self._segment) - 1

    @property
    def unverified(self) -> int:
        """How many records were committed since all files were last seen in their places.

        If the files are gone, these are lost. Of those before, the ones that the service had not
        delivered are lost too, which only the service can tell.
        """
        return self.last_seq - self._verified

    def append(self, kind: str, body: bytes) -> int:
        """Commit one record and return its seq. In one function: it runs at every call of a user's.

        Raises:
            SpoolUnavailable: it was not committed; a later try may succeed.
        """
        with self._gate:
            if self._refusal:
                until = "no more disk until the service has delivered and deleted some"
                raise SpoolUnavailable(self._refusal, f"{self.directory}: {until}")
            self._nesting += 1
            try:
                segment = self._segment
                connection = segment.connection
                # The kept cursor may be at work below a signal handler's append.
                insert = connection.insert if self._nesting == 1 else connection.execute
                while True:
                    seq = segment.next_seq or _next_seq(segment)
                    # `sqlite3` asks the program's adapters for each `bytes`, and for no bytearray.
                    row = (seq, kind, bytearray(body), codec.checksum(kind, body, seq))
                    try:
                        if connection.offset() != db.MARK:
                            raise OSError(errno.EBADF, db.DESCRIPTOR_TAKEN)
                        insert(fmt.INSERT_RECORD, row)
                        break
                    except ours(db.IntegrityError):
                        # A signal handler inside this very call has taken the number.
                        segment.next_seq = seq + 1
                    except ours(OSError) as error:
                        taken = f"{segment.path}: {db.DESCRIPTOR_TAKEN}"
                        raise SpoolUnavailable("descriptor", taken) from error
                    except ours(db.Error) as error:
                        raise self._failed(error, segment, seq, len(body)) from error
                if segment.next_seq <= seq:
                    segment.next_seq = seq + 1
                segment.records += 1
                segment.bytes += len(body)
                if segment.records >= self._half_records or segment.bytes >= self._half_bytes:
                    self._half_full(segment)
                return seq
            finally:
                self._nesting -= 1

    def seq_of(self, kind: str, body: bytes) -> int:
        """Number of a record whose `append` was interrupted; 0 if it was not committed.

        It stands among the last: what an interruption can add behind it is a handler's.
        """
        with self._gate:
            segment = self._segment
            least = _next_seq(segment) - _LOOKED_BACK
            with suppress(db.Error):
                row = segment.connection.execute(fmt.SELECT_SEQ, (least, kind, body)).fetchone()
                if row is not None:
                    return int(row[0])
            # Another thread seals the one before, and closes it: its file is read.
            before = self.directory / fmt.segment_name(segment.number - 1)
            with suppress(SpoolError, OSError), Segment(before) as one:
                rows = one.each(max(0, least))
                return max((row[0] for row in rows if row[1:3] == (kind, body)), default=0)
        return 0

    def ignore_limits(self) -> None:
        """Refuse nothing any more for a limit's sake: the last records of a process are due."""
        self._insisting = True
        self._refusal = ""

    def request_sync(self) -> None:
        """Have what was appended brought to the disk soon, if it is at all."""
        if self._sync.is_on:
            self._sync.request_sync()
            self.wake()

    def maintain(self, *, durable: bool = True) -> None:
        """Do what `append` must not wait for; called about once a second and when woken.

        `durable` False is for a caller who must not wait, neither for the disk nor for another
        thread: nothing is synced, so that a power loss may cost what is sealed by it.

        Raises:
            SpoolUnavailable: with reason `gone` when the files were deleted under the writer, with
                `descriptor` when it cannot write to them any more: nothing can be appended then;
                with others when the next segment cannot be prepared, the last not sealed or the
                disk not synced, in which case appending goes on where it was.
        """
        failure = None
        try:
            self._maintain(durable=durable)
        except SpoolUnavailable as error:
            if error.reason in LOST:
                raise
            failure = error
        # Without a lock: a fork must not wait for the disk. Sealing has synced what lies in
        # earlier segments, so that what survives has no hole.
        segment = self._segment
        if durable:
            self._sync.run(segment.path, segment.connection.file, _next_seq(segment) - 1)
        if failure is not None:
            raise failure

    def _maintain(self, *, durable: bool) -> None:
        if not self._tending.acquire(blocking=durable):
            return
        self._nesting += not durable  # a signal handler's append during this must not rotate
        try:
            self._durable = durable
            self._check()
            try:
                self._turn_over()
                self._above = self._exceeded()
                if self._above:
                    self._turn_over()
            finally:
                # Ending and sealing a segment gives disk back, so this comes last.
                self._keep_limits()
        finally:
            self._nesting -= not durable
            self._tending.release()

    def check(self) -> None:
        """Look whether every file is in its place, and every descriptor still its own.

        Raises:
            SpoolUnavailable: see `maintain`.
        """
        with self._tending:
            self._check()

    def close(self) -> None:
        """Seal the last segment and give up ownership; nothing can be appended afterwards.

        Raises:
            SpoolUnavailable: a segment cannot be sealed. Its log keeps what it has.
        """
        with self._tending, self._gate:
            self._durable = True
            retired, self._retired = self._retired, []
            try:
                for segment in (*retired, self._segment):
                    self._seal(segment)
                if self._next is not None:
                    self._seal(self._next)
            finally:
                self.discard()

    def discard(self) -> None:
        """Close what is still open of files that are gone, broken or another's by now.

        Nothing is written, and nothing can be appended.
        """
        with self._gate:
            self._refusal = "error"
            for segment in filter(None, (*self._retired, self._segment, self._next)):
                segment.connection.leave()
            self._owner.release()

    def abandon(self) -> None:
        """Leave no trace: nothing was appended."""
        self.discard()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _failed(
        self, error: db.Error, segment: ActiveSegment, seq: int, size: int
    ) -> SpoolUnavailable:
        """What a failed insert means; with the gate held."""
        if _visible_seq(segment.path) >= seq:
            # It stands in the log all the same, where a reader may have read it.
            segment.next_seq = seq + 1
        found = db.refused(error, segment.path, size)
        if found.reason == "quota" and segment.records:
            segment.is_over = True  # a file may be as large as is allowed; the next one is small
            self.wake()
        return found

    # --- everything below runs off the hot path -------------------------------------------------

    def _check(self) -> None:
        self._owner.check()
        segment, last = self._segment, self.last_seq
        try:
            check_present(segment.path, segment.connection.file)
        except SpoolUnavailable:
            if segment is not self._segment:
                return  # the service may delete one that is no longer written
            raise
        if not segment.connection.is_ours():
            raise SpoolUnavailable("descriptor", f"{segment.path}: {db.DESCRIPTOR_TAKEN}")
        if not self._has_log(segment):
            segment.is_over = True
        prepared = self._next
        if prepared is not None and not prepared.is_whole():
            with self._gate:
                if self._next is prepared:
                    self._next = None
                    prepared.connection.leave()
        self._verified = last

    def _has_log(self, segment: ActiveSegment) -> bool:
        """Whether the name of its log leads to it; else an empty one says that it is not sealed."""
        try:
            is_there = segment.has_log()
        except ours(OSError):
            return True  # a folder that cannot be asked now: its log is none the worse
        if not is_there:
            with suppress(OSError):
                db.make_log(segment.path, mode=self._limits.file_mode)
        return is_there

    def _turn_over(self) -> None:
        """Prepare the next segment, change to it and seal the last, as far as each is due."""
        unprepared = self._next is None
        # In this order: without a prepared segment no rotation happens, so this one stays the
        # current one. The other way round, the number prepared could be one in use.
        segment = self._segment
        if unprepared and self._wants_next(segment):
            self._next = self._prepare(segment.number + 1)
        if self._is_due(segment):
            with self._gate:
                self._rotate(segment)
        while self._retired:
            self._retire(self._retired.pop(0))

    def _half_full(self, segment: ActiveSegment) -> None:
        if self._next is None:
            if segment is self._segment:
                self.wake()
        elif self._nesting == 1 and self._is_due(segment):
            self._rotate(segment)
            self.wake()

    def _is_due(self, segment: ActiveSegment) -> bool:
        """Whether it is to end: it is full, old, broken, or in the way of a limit."""
        limits, age = self._limits, time.monotonic() - segment.opened
        return (
            segment.is_over
            or segment.records >= limits.segment_records
            or segment.bytes >= limits.segment_bytes
            or (segment.records > 0 and age >= limits.segment_seconds)
            or self._is_in_the_way(segment)
        )

    def _is_in_the_way(self, segment: ActiveSegment) -> bool:
        """Whether it could be delivered and deleted, if it only ended."""
        if not self._above or segment.records == 0:
            return False
        return not (self._gives_up_oldest() and self._closed)

    def _gives_up_oldest(self) -> bool:
        """For a full root nothing is deleted here: that is the service's to decide."""
        return self._above == "cap" and self._limits.drop_oldest

    def _wants_next(self, segment: ActiveSegment) -> bool:
        return (
            segment.records >= self._half_records
            or segment.bytes >= self._half_bytes
            or self._is_due(segment)
        )

    def _rotate(self, segment: ActiveSegment) -> None:
        """Point appends at the prepared segment. With the gate held; without one, do nothing."""
        if self._next is not None:
            self._has_log(segment)  # before a record of the next one proves that this is whole
        # No call from here to the exchange: a signal handler would find it half done.
        if self._next is None or segment is not self._segment:
            return
        new, self._next = self._next, None
        new.opened = time.monotonic()
        new.previous = segment
        self._segment = new
        # From here on nothing is appended to the old segment, so its last number is final. Were the
        # number counted here and stored before, a signal handler in between could take it twice.
        new.next_seq = max(new.next_seq, _next_seq(new))
        new.previous = None
        self._retired.append(segment)

    def _prepare(self, number: int) -> ActiveSegment:
        """Create segment `number` complete, publish it under its name, open it for writing."""
        final = self.directory / fmt.segment_name(number)
        draft = self.directory / fmt.preparing_name(number)
        checksum = codec.checksum(fmt.IDENTITY_KIND, self._identity, number)
        db.create(draft, self._identity, checksum, mode=self._limits.file_mode)
        if self._sync.is_on and self._durable:
            sync_file(draft)
        held = db.publish(draft, final, mode=self._limits.file_mode)
        try:
            if self._sync.is_on and self._durable:
                sync_folder(self.directory)
            connection = db.open_for_writing(final)
        finally:
            held.close()
        connection.keep_out()
        return ActiveSegment(
            number=number, path=final, connection=connection, opened=time.monotonic()
        )

    def _retire(self, segment: ActiveSegment) -> None:
        try:
            first, last = segment.connection.execute(fmt.SELECT_BOUNDS).fetchone()
        except db.Error:
            first = None  # never deleted by us, then
        if first is not None:
            self._closed.append(segment.ended(first, last))
        self._has_log(segment)
        self._seal(segment)

    def _seal(self, segment: ActiveSegment) -> None:
        how: dict[str, int] = {"size": segment.bytes, "mode": self._limits.file_mode}
        try:
            db.seal(segment.connection, segment.path, durable=self._durable, **how)
        except db.Error as error:
            # The WAL keeps what could not be moved; readers read it from there.
            raise db.refused(error, segment.path) from error
        except OSError as error:
            raise db.unavailable(error, segment.path) from error

    def _exceeded(self) -> str:
        """Which limit is exceeded now, as the reason of what is refused; "" when none is."""
        if self._used() > self._limits.max_bytes:
            return "cap"
        return "root-cap" if is_marked_full(self._root) else ""

    def _used(self) -> int:
        """Bytes of disk that the spool takes."""
        return filesystem.bytes_in(self.directory)

    def _keep_limits(self) -> None:
        """Delete what the policy gives up, then refuse records or take them again."""
        try:
            if self._gives_up_oldest():
                self._delete_oldest()
        finally:
            self._above = self._exceeded()
            self._refusal = "" if self._insisting else self._above

    def _delete_oldest(self) -> None:
        """Delete closed segments until the limit is kept, each told in a gap beforehand.

        In this order: a death in between leaves records that are told to be missing and are
        delivered, never the reverse. A gap that cannot be written keeps its segment.
        """
        while self._closed and self._used() > self._limits.max_bytes:
            oldest = self._closed[0]
            path = self.directory / fmt.segment_name(oldest.number)
            if path.exists():
                self._tell_deleted(oldest)
                unlink_segment(path)
            self._closed.pop(0)  # deleted or not: the service may have been here before

    def _tell_deleted(self, segment: SealedSegment) -> None:
        # From the very first on: the gaps that told of earlier ones may go with this segment.
        self._first_deleted = self._first_deleted or segment
        first_seq, last_seq = self._first_deleted.first, segment.last
        body = gap.encode(
            time=time.time(),
            reason="cap",
            count=last_seq - first_seq + 1,
            first=self._first_deleted.began,
            last=segment.ended,
            first_seq=first_seq,
            last_seq=last_seq,
        )
        with self._gate:
            refusal, self._refusal = self._refusal, ""  # which is not for the gap itself
            try:
                self.append(gap.NAME, codec.pack(body))
            finally:
                self._refusal = "" if self._insisting else refusal


def _next_seq(segment: ActiveSegment) -> int:
    """The number of the next record: a guess, which the primary key confirms.

    It can be too low when a signal handler appends between two steps of an append, never too high.
    """
    if segment.next_seq:
        return segment.next_seq
    previous = segment.previous
    if previous is None:
        return segment.next_seq  # it has become known meanwhile
    try:
        last = previous.connection.execute(fmt.SELECT_BOUNDS).fetchone()[1]
    except ours(db.Error):
        last = None
    return _next_seq(previous) if last is None else int(last) + 1


def _visible_seq(segment: Path) -> int:
    """The last number that a reader of the segment sees; 0 when it sees none."""
    with suppress(SpoolError, OSError), Segment(segment) as one:
        last = one.last()
        return last[0] if last is not None else 0
    return 0
