"""The process's one way into its spool: opens it on first use, survives every failure, counts.

Rules:

- Nothing escapes: the recorder counts what cannot be recorded by reason, reports it once on stderr,
  and writes it into the spool as a `gap` as soon as that works again.
- After a failure the spool is tried again at most every `_RETRY_SECONDS`; between tries a record
  costs a comparison, so a broken disk cannot slow training. It is the same spool that is tried: a
  new one is begun only where the old one's files are gone, broken or not its own any more.
- Without a background thread (a limit of processes), the caller keeps limits and seals, about once
  a second, without waiting for the disk.
- A forked child starts with an empty recorder. The parent's connection is neither used nor closed
  there, and a fork waits until no thread of ours is inside SQLite, whose own locks would otherwise
  stay taken in the child permanently.
"""

from __future__ import annotations

import atexit
import contextlib
import grp
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from spooler import config, stderr
from spooler._version import __version__
from spooler.async_exceptions import is_async, ours
from spooler.background import TICK_SECONDS, BackgroundThread, Task
from spooler.errors import SpoolUnavailable
from spooler.records import exit as exit_record
from spooler.records import gap as gap_record
from spooler.records.values import careful, plain
from spooler.spool import codec, identity, owner
from spooler.spool import format as fmt
from spooler.spool.layout import group_of, user_folder
from spooler.spool.writer import LOST, Writer

_RETRY_SECONDS = 1.0
_SHUTDOWN_SECONDS = 2.0
_LAST_OF_CHILD = -100  # priority after the finalizers of queues and of the program
# Rare records that matter most: brought to the disk without waiting for the next tick.
_SYNCED_AT_ONCE = frozenset({"run", "detection", "finish", "report", "failure", "decision", "exit"})
_FORK_SECONDS = 1.0
_YIELD_SECONDS = 0.001
# A packed step above this many bytes is packed again with long texts and lists cut.
_LARGE_BODY = 1024 * 1024
# After these the files themselves are suspect: go on in a new spool rather than in this one.
_START_ANEW = LOST | {"cannot-open", "not-permitted", "error"}
_STEPS = {
    "cannot-open": f"To fix it, correct {config.OUTPUT_PATH}.",
    "not-permitted": "To fix it, let this user write there. In Kubernetes the DaemonSet does so"
    " when it starts.",
    "quota": "To fix it, raise the limit that the error names, or free space below it.",
    "descriptor": "To fix it, stop the program from closing file descriptors that it did not open.",
}


@dataclass(kw_only=True)
class _Loss:
    count: int
    first: float
    last: float


class Recorder:
    """What the hook and the collectors write to. One per process, see `recorder()`."""

    def __init__(self) -> None:
        self.generation = 0  # changes whenever records begin to go to a new spool
        self.recorded = defaultdict[str, int](int)  # kind -> records committed by this process
        self.dropped = defaultdict[str, int](int)  # reason -> records not committed
        self.last_seq = 0  # of the last record in the present spool
        self.master_addr = ""  # named by the program: goes before the environment's
        self.steps: dict[str, int] = {}  # run -> last step recorded
        self._lock = threading.RLock()
        self._writer: Writer | None = None
        # Called before the exit record is written; they must not raise.
        self.on_close: list[Callable[[], None]] = []
        self._losses: dict[str, _Loss] = {}
        self._lost: bytes | None = None  # the last record that was counted as dropped
        self._retry_at = 0.0
        self._trouble = "error"  # reason of the last failure
        self._silent = False  # a child of a fork that could not be made safe
        self._ends_with_child = False  # multiprocessing calls `shutdown`
        self._background: BackgroundThread | None = None
        self._alone = False  # there is no background thread
        self._maintain_at = 0.0  # monotonic: when the caller does its work then
        self._left: list[Writer] = []  # not used any more, and still open
        # Held during the work of a writer that an append must not wait for. One for all writers: a
        # thread may still be at work on one that is not used any more.
        self._tending = threading.Lock()
        self._forking = False  # a thread wants to fork, or does

    def record(self, kind: str, body: dict[str, Any]) -> bool:
        """Commit one record; True once it is safe. Raises nothing of ours, never waits for long."""
        packed = None
        try:
            packed = _pack(body)
            return self._commit(kind, packed, False)
        except BaseException as error:
            if not self._is_ours(error, kind, packed):
                raise
            return False

    def append(self, kind: str, packed: bytes, *, kept: bool = False) -> bool:
        """As `record`, but packed; a refusal is no loss of what is `kept` and offered again."""
        try:
            return self._commit(kind, packed, kept)
        except BaseException as error:
            if not self._is_ours(error, kind, packed, kept=kept):
                raise
            return False

    def _commit(self, kind: str, packed: bytes, kept: bool) -> bool:
        """Everything in one function: it runs at every call of the user's."""
        if self._forking:
            time.sleep(_YIELD_SECONDS)  # the lock is not fair: threads at full speed keep it
        with self._lock:
            if self._retry_at and time.monotonic() < self._retry_at:
                if not kept:
                    self._lose(self._trouble, packed)
                return False
            try:
                writer = self._writer or self._open()
                if writer is None:
                    return False
                if self._losses:
                    self._write_gaps(writer)
                self.last_seq = writer.append(kind, packed)
                self.recorded[kind] += 1
                if kind in _SYNCED_AT_ONCE:
                    writer.request_sync()
            except SpoolUnavailable as error:
                self._fail(error, None if kept else packed)
                return False
            if self._alone:
                self._maintain_here()
            return True

    def _is_ours(
        self, error: BaseException, kind: str, packed: bytes | None, *, kept: bool = False
    ) -> bool:
        """Count what `error` kept from being recorded; False if it belongs to the user."""
        if not is_async(error):
            self.bug(error, reason="unencodable" if packed is None else "bug")
            return True
        with self._lock:
            if packed is not None and packed is self._lost:
                return False  # counted before it was interrupted
            seq = self._writer.seq_of(kind, packed) if self._writer and packed else 0
            if seq > self.last_seq:  # committed, and not yet counted
                self.last_seq = seq
                self.recorded[kind] += 1
            elif not seq and not kept:
                self.interrupted()
        return False

    def interrupted(self) -> None:
        """Count a record that an exception of the user's kept from being made."""
        with self._lock:
            self._lose("interrupted")

    def bug(self, error: BaseException, reason: str = "bug") -> None:
        """Count a record lost to an unexpected failure of ours and report it once."""
        with self._lock:
            self._lose(reason)
        stderr.report_once(
            f"{reason} {type(error).__name__}",
            f"lens-ship failed to record: {type(error).__name__}: {error}."
            " Training continues. The record is counted as dropped."
            f" Set {config.DEBUG}=true for details.",
        )

    def defer(self, task: Task) -> None:
        """Run `task` on the background thread, off the training thread, soon.

        It is run again a second later for as long as it returns True. It must not raise.
        """
        with self._lock:
            background = self._start_background()
        background.add(task)

    @property
    def directory(self) -> str | None:
        """Where the records of this process go now, None before the first."""
        return str(self._writer.directory) if self._writer else None

    # --- opening, failing, coming back ----------------------------------------------------------

    def _open(self) -> Writer | None:
        bad: dict[str, str] = {}
        settings = config.from_environ(os.environ, bad)
        if self._silent:
            return None
        if settings.root is None:
            stderr.report_once("no root", f"{config.OUTPUT_PATH} is not set. Nothing is recorded.")
            return None
        # The program may go to another folder: later spools and children go to the same root.
        # Not without need: `putenv` races with `getenv` of threads that are not Python's.
        if os.environ[config.OUTPUT_PATH] != str(settings.root):
            os.environ[config.OUTPUT_PATH] = str(settings.root)
        now = time.time()
        start = time.strftime(fmt.START, time.gmtime(now))
        spool = fmt.spool_id(start, os.getpid(), os.urandom(4).hex())
        who = identity.from_environ(
            identity.with_master(config.environ(), self.master_addr),
            bad,
            spool=spool,
            created=now,
            pid=os.getpid(),
            host=os.uname().nodename,
            version=__version__,
        )
        stderr.report_settings(bad)
        who = replace(who, **asdict(owner.this_process()))
        # Before the writer: an interruption here must not leave one that is not looked after.
        background = self._start_background()
        background.keep_pace(settings.sync_seconds)
        writer = Writer(
            root=settings.root,
            below=(*user_folder(settings.root), *identity.directory_of(config.environ())),
            spool=spool,
            identity=codec.pack(who.to_map()),
            limits=replace(settings, group=_group_id(settings.group_name, settings.root)),
            tending=self._tending,
        )
        writer.wake = background.wake
        if self._writer is not None:  # a signal handler has recorded amid this
            writer.abandon()
            return self._writer
        # No call between: a handler comes before all of it or after.
        self._writer, self.last_seq = writer, 0
        self._maintain_at = time.monotonic() + TICK_SECONDS
        self.generation += 1
        if not self._ends_with_child:
            self._ends_with_child = at_end_of_child(self.shutdown, _LAST_OF_CHILD)
        stderr.debug(f"Recording to {writer.directory}")
        if not codec.IS_COMPILED:
            stderr.report_once(
                "msgpack",
                f"msgpack is not compiled for this Python ({sys.implementation.cache_tag})."
                " Everything is recorded, but a step costs about 30 µs more. Run pip install"
                " msgpack with this Python, or lens-ship hook export with one of its version.",
            )
        return writer

    def _fail(self, error: SpoolUnavailable, lost: bytes | None) -> None:
        if lost is not None:
            self._lose(error.reason, lost)
        self._trouble = error.reason
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        if error.reason in _START_ANEW:
            self._leave(error)
        step = f"To fix it, free space or correct {config.OUTPUT_PATH}."
        stderr.report_once(
            error.reason,
            f"lens-ship cannot record now ({error}). Training continues. Records are counted as"
            f" dropped. Recording is retried every {_RETRY_SECONDS:.0f} s."
            f" {_STEPS.get(error.reason, step)}",
        )

    def _leave(self, error: SpoolUnavailable) -> None:
        """Use this spool no more; its files are closed by `_maintain`."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._left.append(writer)
        if error.reason == "gone" and writer.unverified:
            self._lose("gone", count=writer.unverified)

    def _lose(self, reason: str, packed: bytes | None = None, *, count: int = 1) -> None:
        now = time.time()
        loss = self._losses.setdefault(reason, _Loss(count=0, first=now, last=now))
        # No call from here on: a signal handler comes before all of it or after.
        loss.count += count
        loss.last = now
        self.dropped[reason] += count
        self._lost = packed

    def _write_gaps(self, writer: Writer) -> None:
        """Put what was lost into the spool, in the place where it is missing."""
        for reason in list(self._losses):
            try:
                loss = self._losses[reason]
                del self._losses[reason]
            except KeyError:
                continue  # a signal handler has told it meanwhile
            if not loss.count:
                continue  # the counting was interrupted
            packed = b""
            try:
                body = gap_record.encode(time=time.time(), reason=reason, **asdict(loss))
                packed = codec.pack(body)
                writer.append(gap_record.NAME, packed)
            except BaseException as error:
                failed = isinstance(error, SpoolUnavailable)
                if failed or not writer.seq_of(gap_record.NAME, packed):
                    self._put_back(reason, loss)
                raise
        self._retry_at = 0.0

    def _put_back(self, reason: str, loss: _Loss) -> None:
        known = self._losses.setdefault(reason, loss)
        if known is not loss:  # a signal handler has lost more
            known.count += loss.count
            known.first = loss.first

    # --- the background thread, the end, the fork -----------------------------------------------

    def _start_background(self) -> BackgroundThread:
        if self._background is None:
            self._background = BackgroundThread(self._maintain)
        self._alone = not self._background.start()
        return self._background

    def _maintain_here(self) -> None:
        """Try to start the thread; without one do its work in the caller, without waiting."""
        now = time.monotonic()
        if now < self._maintain_at:
            return
        self._maintain_at = now + TICK_SECONDS
        self._start_background()
        if self._alone:
            self._maintain(durable=False)

    def _maintain(self, *, durable: bool = True) -> None:
        """Let the writer rotate, seal and notice files that are gone; on the background thread."""
        writer = self._writer
        if writer is not None:
            self._mind(writer, partial(writer.maintain, durable=durable))
        left, self._left = self._left, []
        for writer in left:
            writer.discard()

    def _mind(self, writer: Writer, act: Callable[[], None]) -> None:
        """Let the writer act; go on in a new spool if it says that this one is lost."""
        try:
            act()
        except SpoolUnavailable as error:
            with self._lock:
                if error.reason in LOST and self._writer is writer:
                    self._leave(error)
                    self._tell_losses()
            stderr.report_once(
                f"maintain {error.reason}", f"lens-ship: {error}. Training continues."
            )
        except Exception as error:  # noqa: BLE001 - border with training code: nothing escapes
            stderr.report_once("maintain", f"lens-ship: {type(error).__name__}: {error}.")

    def _tell_losses(self) -> None:
        """Write into a new spool what the last one has lost, without waiting for a record."""
        if not self._losses:
            return
        try:
            writer = self._open()
            if writer is not None:
                self._write_gaps(writer)
        except SpoolUnavailable as error:
            self._fail(error, None)

    def shutdown(self) -> None:
        """Write the exit record and seal the spool, within `_SHUTDOWN_SECONDS`."""
        background, self._background = self._background, None
        if background is not None and background.is_running:
            background.finish(self._shut_down, _SHUTDOWN_SECONDS)
        elif self._writer is not None:
            self._shut_down()
        losses = dict(self._losses)
        if dropped := sum(loss.count for loss in losses.values()):
            stderr.report_once(
                "shutdown",
                f"lens-ship: {dropped:,} records were dropped ({', '.join(losses)}), and until"
                " the process ended the spool took no record of it. lens-ship audit does not count"
                " them.",
            )

    def _shut_down(self) -> bool:
        writer = self._writer
        if writer is None:
            return False
        self._mind(writer, writer.check)
        for call in self.on_close:
            call()
        # A few bytes beyond a limit, or one more try, are worth knowing what was lost.
        writer = self._writer
        if writer is not None:
            writer.ignore_limits()
        self._retry_at = 0.0
        self.record(exit_record.NAME, exit_record.encode(time=time.time(), steps=dict(self.steps)))
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except SpoolUnavailable as error:
                stderr.debug(f"The last segment is not sealed: {error}")
        return False

    def hold(self, seconds: float) -> bool:
        """Keep every thread of ours out of SQLite until `release`; False if one stays in."""
        self._forking, is_mine, is_held = True, False, False
        try:
            is_mine = self._lock.acquire(timeout=seconds)
            is_held = is_mine and self._tending.acquire(timeout=seconds)
        finally:
            if not is_held:
                self._forking = False
                if is_mine:
                    self._lock.release()
        return is_held

    def release(self) -> None:
        """Undo a `hold` that returned True."""
        self._tending.release()
        self._forking = False
        self._lock.release()

    def for_child(self, *, silent: bool) -> Recorder:
        """The recorder of a forked child: nothing of this one's, in a spool of its own."""
        child = Recorder()
        child.generation = self.generation + 1
        child._silent = silent
        child.on_close = list(self.on_close)
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
        self.recorder = parent.for_child(silent=not self._held)
        if not self._held:
            stderr.report_once(
                "fork",
                "lens-ship was writing when this process was forked. To avoid a deadlock, this"
                " child records nothing.",
            )

    def _at_exit(self) -> None:
        self.recorder.shutdown()
        _end_by_interrupt()


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


def at_end_of_child(call: Callable[[], None], priority: int) -> bool:
    """Have `call` made at the end of a child of multiprocessing, which ends without atexit.

    False in any other process. Calls of a higher priority come first.
    """
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is None or util is None or process.parent_process() is None:
        return False
    util.Finalize(None, call, exitpriority=priority)
    return True


def _end_by_interrupt() -> None:
    """Let the interpreter end by SIGINT after an uncaught KeyboardInterrupt.

    CPython notes that it has to, and forgets it when a module that is imported meanwhile, on any
    thread, makes a data class or a named tuple: that evaluates text. Text that raises is noted.
    """
    if getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1"):
        with contextlib.suppress(KeyboardInterrupt):
            exec("raise KeyboardInterrupt")


def _pack(body: dict[str, Any]) -> bytes:
    try:
        packed = codec.pack(body, plain)
    except ours(Exception):  # code of any library may run in `item`
        packed = codec.pack(careful(body))
    if len(packed) > _LARGE_BODY:
        packed = codec.pack(careful(body))
    if len(packed) > fmt.BODY_LIMIT:
        raise ValueError(f"{len(packed)} bytes, more than a record may have")
    return packed


def _group_id(name: str, root: Path) -> int | None:
    """The group named in the settings, else that of a shared root."""
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid if name else group_of(root)
    except ours(KeyError):
        stderr.report_once("group", f"{config.GROUP}: no group {name!r} on this host; not used")
        return group_of(root)
