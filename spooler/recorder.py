"""The process's one way into its spool: opens it on first use, survives every failure, counts.

Rules:

- Nothing escapes: what cannot be recorded is counted by reason, said once on stderr, and written
  into the spool as a `gap` as soon as that works again.
- After a failure the spool is tried again at most every `_RETRY_SECONDS`; between tries a record
  costs a comparison, so a broken disk cannot slow training.
- A forked child starts with an empty recorder. The parent's connection is neither used nor closed
  there, and a fork waits until no thread of ours is inside SQLite, whose own locks would otherwise
  stay taken in the child for ever.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import spooler
from spooler import config, limits, notice
from spooler.errors import SpoolUnavailable
from spooler.keeper import Keeper, Task
from spooler.records import exit as exit_record
from spooler.records import gap as gap_record
from spooler.records.values import careful, plain
from spooler.spool import codec, db, identity, owner
from spooler.spool import format as fmt
from spooler.spool.filesystem import file_system_of
from spooler.spool.place import group_of, user_folder
from spooler.spool.writer import Writer

_RETRY_SECONDS = 1.0
_GOODBYE_SECONDS = 2.0
_LAST_OF_CHILD = -100  # priority after the finalizers of queues and of the program
# Rare records that matter most: brought to the disk without waiting for the next tick.
_SYNCED_AT_ONCE = frozenset({"run", "detection", "finish", "report", "exit"})
_FORK_SECONDS = 1.0
_YIELD_SECONDS = 0.001
# A packed step above this many bytes is packed again with long texts and lists cut.
_LARGE_BODY = 1024 * 1024
# After these the files themselves are suspect: go on in a new spool rather than in this one.
_START_ANEW = frozenset({"gone", "io-error", "read-only", "cannot-open", "error"})


@dataclass(kw_only=True)
class _Loss:
    count: int
    first: float
    last: float


class Recorder:
    """What the hook and the collectors write to. One per process, see `recorder()`."""

    def __init__(self) -> None:
        self.generation = 0  # changes whenever records begin to go to a new spool
        self.recorded: dict[str, int] = {}  # kind -> records committed by this process
        self.dropped: dict[str, int] = {}  # reason -> records this process could not commit
        self.last_seq = 0  # of the last record in the present spool
        self.master_addr = ""  # named by the program: goes before the environment's
        self.steps: dict[str, int] = {}  # run -> last step recorded
        self._lock = threading.RLock()
        self._writer: Writer | None = None
        # Called before the exit record is written; they must not raise.
        self.farewells: list[Callable[[], None]] = []
        self._losses: dict[str, _Loss] = {}
        self._retry_at = 0.0
        self._trouble = "error"  # reason of the last failure
        self._silent = False  # a child of a fork that could not be made safe
        self._ends_with_child = False  # multiprocessing calls `goodbye`
        self._keeper: Keeper | None = None
        self._held: Writer | None = None
        self._forking = False  # a thread wants to fork, or does

    def record(self, kind: str, body: dict[str, Any]) -> bool:
        """Commit one record; True once it is safe. Never raises, never waits for long."""
        try:
            packed = _pack(body)
        except Exception as error:  # noqa: BLE001 - border with training code: nothing escapes
            self.bug(error, reason="unencodable")
            return False
        return self.append(kind, packed)

    def append(self, kind: str, packed: bytes, *, kept: bool = False) -> bool:
        """As `record`, but packed; a refusal is no loss of what is `kept` and offered again."""
        try:
            if self._forking:
                time.sleep(_YIELD_SECONDS)  # the lock is not fair: threads at full speed keep it
            with self._lock:
                if self._retry_at and time.monotonic() < self._retry_at:
                    if not kept:
                        self._lose(self._trouble)
                    return False
                return self._append(kind, packed, kept=kept)
        except Exception as error:  # noqa: BLE001 - border with training code: nothing escapes
            self.bug(error)
            return False

    def bug(self, error: Exception, reason: str = "bug") -> None:
        """Count a record lost to an unexpected failure of ours and say so once."""
        with self._lock:
            self._lose(reason)
        notice.say_once(
            f"{reason} {type(error).__name__}",
            f"lens-ship could not record: {type(error).__name__}: {error}."
            " Training goes on; the record is counted as dropped."
            f" {config.DEBUG}=true shows more.",
        )

    def defer(self, task: Task) -> None:
        """Run `task` on the background thread, off the training thread, soon.

        It is run again a second later for as long as it returns True. It must not raise.
        """
        with self._lock:
            keeper = self._start_keeper()
        if keeper is not None:
            keeper.add(task)

    @property
    def directory(self) -> str | None:
        """Where the records of this process go now, None before the first."""
        return str(self._writer.directory) if self._writer else None

    # --- opening, failing, coming back ----------------------------------------------------------

    def _append(self, kind: str, packed: bytes, *, kept: bool) -> bool:
        try:
            writer = self._writer or self._open()
            if writer is None:
                return False
            if self._losses:
                self._write_gaps(writer)
            self.last_seq = writer.append(kind, packed)
            if kind in _SYNCED_AT_ONCE:
                writer.hurry()
        except SpoolUnavailable as error:
            self._fail(error, lost=not kept)
            return False
        self.recorded[kind] = self.recorded.get(kind, 0) + 1
        return True

    def _open(self) -> Writer | None:
        settings = config.from_environ(os.environ)
        if self._silent:
            return None
        if settings.root is None:
            notice.say_once(
                "no root", f"{config.OUTPUT_PATH} is not set: wandb is hooked, nothing is recorded"
            )
            return None
        now = time.time()
        start = time.strftime(fmt.START, time.gmtime(now))
        spool = fmt.spool_id(start, os.getpid(), os.urandom(4).hex())
        who = identity.from_environ(
            identity.with_master(os.environ, self.master_addr),
            spool=spool,
            created=now,
            pid=os.getpid(),
            host=os.uname().nodename,
            version=spooler.__version__,
        )
        who = replace(who, **asdict(owner.this_life()))
        place = file_system_of(settings.root)
        writer = Writer(
            root=settings.root,
            below=(*user_folder(settings.root), *identity.directory_of(os.environ)),
            spool=spool,
            identity=codec.pack(who.to_map()),
            limits=limits.limits(settings, group_of(settings.root), place),
            opener=db.open_for_writing if place.takes_wal else db.open_alone,
        )
        self._writer, self.last_seq = writer, 0
        self.generation += 1
        self._end_with_child()
        keeper = self._start_keeper()
        if keeper is not None:
            writer.wake = keeper.wake
            keeper.keep_pace(settings.sync_seconds)
        notice.debug(f"Recording to {writer.directory}")
        limits.warn_of_network(settings.root, place)
        return writer

    def _fail(self, error: SpoolUnavailable, *, lost: bool) -> None:
        if lost:
            self._lose(error.reason)
        self._trouble = error.reason
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        if error.reason in _START_ANEW:
            # Left open on purpose: closing could write to what is broken.
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.leave()
        notice.say_once(
            error.reason,
            f"lens-ship cannot record now ({error}). Training goes on; records are counted as"
            f" dropped, and recording is tried again every {_RETRY_SECONDS:.0f} s. Free space or"
            f" correct {config.OUTPUT_PATH} to end this.",
        )

    def _lose(self, reason: str) -> None:
        now = time.time()
        loss = self._losses.setdefault(reason, _Loss(count=0, first=now, last=now))
        loss.count += 1
        loss.last = now
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _write_gaps(self, writer: Writer) -> None:
        """Put what was lost into the spool, in the place where it is missing."""
        for reason in list(self._losses):
            loss = self._losses.pop(reason, None)
            if loss is None:
                continue  # a signal handler has told it meanwhile
            body = gap_record.make(
                time=time.time(),
                reason=reason,
                count=loss.count,
                first=loss.first,
                last=loss.last,
            )
            try:
                writer.append(gap_record.NAME, codec.pack(body))
            except SpoolUnavailable:
                self._losses[reason] = loss
                raise
        self._retry_at = 0.0

    # --- the background thread, the end, the fork -----------------------------------------------

    def _end_with_child(self) -> None:
        """Say goodbye at the end of a child of multiprocessing, which ends without atexit."""
        process = sys.modules.get("multiprocessing.process")
        util = sys.modules.get("multiprocessing.util")
        if process is None or util is None or self._ends_with_child:
            return
        if process.parent_process() is not None:
            self._ends_with_child = True
            util.Finalize(None, self.goodbye, exitpriority=_LAST_OF_CHILD)

    def _start_keeper(self) -> Keeper | None:
        if self._keeper is None:
            keeper = Keeper(self._tend)
            try:
                keeper.start()
            except RuntimeError:
                # The interpreter is ending: segments simply grow a little longer.
                return None
            self._keeper = keeper
        return self._keeper

    def _tend(self) -> None:
        """Let the writer rotate, seal and notice files that are gone; on the keeper's thread."""
        writer = self._writer
        if writer is None:
            return
        try:
            writer.tend()
        except SpoolUnavailable as error:
            with self._lock:
                gone = error.reason == "gone" and self._writer is writer
                if gone:
                    self._writer = None
            if gone:
                writer.discard()
            notice.say_once(f"tend {error.reason}", f"lens-ship: {error}. Training goes on.")
        except Exception as error:  # noqa: BLE001 - border with training code: nothing escapes
            notice.say_once("tend", f"lens-ship: {type(error).__name__}: {error}.")

    def goodbye(self) -> None:
        """Write the exit record and seal the spool, within `_GOODBYE_SECONDS`."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.finish(self._say_goodbye, _GOODBYE_SECONDS)
        elif self._writer is not None:
            self._say_goodbye()

    def _say_goodbye(self) -> bool:
        if self._writer is None:
            return False
        for farewell in self.farewells:
            farewell()
        # A few bytes beyond a limit, or one more try, are worth knowing what was lost.
        writer = self._writer
        if writer is not None:
            writer.insist()
        self._retry_at = 0.0
        self.record(exit_record.NAME, exit_record.make(time=time.time(), steps=dict(self.steps)))
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except SpoolUnavailable as error:
                notice.debug(f"The last segment stays unsealed: {error}")
        return False

    def hold(self, seconds: float) -> bool:
        """Keep every thread of ours out of SQLite until `release`; False if one stays in."""
        self._forking = True
        if not self._lock.acquire(timeout=seconds):
            self._forking = False
            return False
        self._held = self._writer
        if self._held is not None and not self._held.hold(seconds):
            self._held = None
            self.release()
            return False
        return True

    def release(self) -> None:
        """Undo a `hold` that returned True."""
        if self._held is not None:
            self._held.release()
            self._held = None
        self._forking = False
        self._lock.release()

    def heir(self, *, silent: bool) -> Recorder:
        """The recorder of a forked child: nothing of this one's, in a spool of its own."""
        child = Recorder()
        child.generation = self.generation + 1
        child._silent = silent
        child.farewells = list(self.farewells)
        child.master_addr = self.master_addr
        return child


class _Process:
    """This process's recorder, and what happens to it at a fork and at the end."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self._held = False
        # Kept for good: an inherited recorder must not be torn down in the child.
        self._inherited: list[Recorder] = []
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork_in_parent,
            after_in_child=self._after_fork_in_child,
        )
        atexit.register(self._at_exit)

    def _before_fork(self) -> None:
        self._held = self.recorder.hold(_FORK_SECONDS)

    def _after_fork_in_parent(self) -> None:
        if self._held:
            self.recorder.release()

    def _after_fork_in_child(self) -> None:
        parent = self.recorder
        self._inherited.append(parent)
        self.recorder = parent.heir(silent=not self._held)
        if not self._held:
            notice.say_once(
                "fork",
                "lens-ship was busy writing when this process was forked; to be safe from a"
                " deadlock, this child records nothing.",
            )

    def _at_exit(self) -> None:
        self.recorder.goodbye()


_process: _Process | None = None
_process_lock = threading.Lock()


def recorder() -> Recorder:
    """This process's recorder; made, with its fork and exit handlers, at the first call."""
    global _process
    if _process is None:
        with _process_lock:
            if _process is None:
                _process = _Process()
    return _process.recorder


def _pack(body: dict[str, Any]) -> bytes:
    try:
        packed = codec.pack(body, plain)
    except Exception:  # noqa: BLE001 - code of any library may run in `item`
        packed = codec.pack(careful(body))
    if len(packed) > _LARGE_BODY:
        packed = codec.pack(careful(body))
    if len(packed) > fmt.BODY_LIMIT:
        raise ValueError(f"{len(packed)} bytes, more than a record may have")
    return packed
