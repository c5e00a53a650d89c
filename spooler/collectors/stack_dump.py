"""Stack dumps for when no Python code of this process can run: on a signal, or by a timer in C.

A call that holds the interpreter's lock stops every Python thread, ours too. `faulthandler` needs
no lock: its signal handler writes to a file. It writes the stack of the thread that takes the
signal, as a rule the main thread, and of no other: the frames of a thread that runs may be freed
while they are read, which kills the process. The other threads follow as soon as Python runs.

The file lies in `collectors_<uid>/` below the spool root and is named for the process. This process
reports what stands in it as soon as it runs again, otherwise the next one that starts a diagnosis
agent there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spooler import config
from spooler.async_exceptions import ours, suppress
from spooler.collectors.stack import StackCollector
from spooler.filetail.checkpoint import state_folder

_PREFIX = "stacks-"
_LIMIT = 1024 * 1024
# The timer fires later than the agent's own hang detection, whose stacks are more readable.
_TIMER_FACTOR = 1.1

logger = logging.getLogger("lens_ship.diagnosis")


class DumpFile:
    """The file of this process, locked for as long as it lives."""

    def __init__(self, root: Path) -> None:
        self.path = state_folder(root) / f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}.txt"
        draft = self.path.with_name(f".{self.path.name}")
        # Appended to, so that writing goes on at the beginning once it was emptied.
        opened = os.open(draft, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: IO[str] = open(opened, "w", encoding="utf-8")  # noqa: SIM115 - kept open
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(draft, self.path)  # locked before another process finds it
        self._seen = 0
        self._signals: list[int] = []
        self._is_kept = False  # a signal of a timer may still be on its way

    def on_signal(self, name: str) -> None:
        """Write the stacks at every signal `name`; an earlier handler is called too.

        Raises:
            ValueError: there is no such signal, or it cannot be handled.
        """
        number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
        if not isinstance(number, signal.Signals):
            raise ValueError(f"{name} is not a signal")
        try:
            self._register(number, chain=_is_handled(number))
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{name} cannot be handled: {error}") from error
        self._signals.append(number)

    def on_timer(self) -> SignalTimer:
        """A timer that has a stack written when it runs out.

        Raises:
            OSError: the system gives none.
        """
        timer = SignalTimer(_free_signal())
        self._register(timer.number, chain=False)
        self._is_kept = True
        return timer

    def _register(self, number: int, *, chain: bool) -> None:
        faulthandler.register(number, file=self._file, all_threads=False, chain=chain)

    def read_new(self) -> str:
        """What was written since the last call."""
        if os.fstat(self._file.fileno()).st_size <= self._seen:
            return ""
        written = _read(self.path, self._seen)
        self._seen += len(written)
        return written.decode("utf-8", "replace")

    def reported(self) -> None:
        """Discard what `read_new` returned: it is recorded."""
        descriptor = self._file.fileno()
        if os.fstat(descriptor).st_size == self._seen:
            os.ftruncate(descriptor, 0)
            self._seen = 0

    def close(self) -> None:
        """Write no more on a signal, and remove the file."""
        for number in self._signals:
            faulthandler.unregister(number)
        if not self._is_kept:
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


class SignalTimer:
    """Sends a signal to this process when it was not set again for some time.

    A POSIX timer: it needs neither the interpreter's lock nor one of the timers that Python has
    only once in a process (`setitimer`, `faulthandler.dump_traceback_later`). No child inherits it.
    Its signal stays handled after `cancel`, because it may be pending, and kills by default.

    Raises:
        OSError: the system gives no timer.
    """

    _MONOTONIC = 1  # CLOCK_MONOTONIC of Linux

    def __init__(self, number: int) -> None:
        self.number = number
        self._library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._library, "timer_create"):
            self._library = ctypes.CDLL("librt.so.1", use_errno=True)  # glibc before 2.34
        self._timer = ctypes.c_void_p()
        # struct sigevent: value, signal, SIGEV_SIGNAL, padding up to 64 bytes.
        event = (ctypes.c_int * 16)()
        event[ctypes.sizeof(ctypes.c_void_p) // ctypes.sizeof(ctypes.c_int)] = number
        made = self._library.timer_create(self._MONOTONIC, event, ctypes.byref(self._timer))
        self._check(made)

    def set(self, seconds: float) -> None:
        """Send the signal after `seconds`, unless this is called again before."""
        whole = int(seconds)
        # struct itimerspec: interval and value, each seconds and nanoseconds.
        times = (ctypes.c_long * 4)(0, 0, whole, int((seconds - whole) * 1e9))
        self._check(self._library.timer_settime(self._timer, 0, times, None))

    def cancel(self) -> None:
        self._library.timer_delete(self._timer)

    def _check(self, answer: int) -> None:
        if answer != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"no timer: {os.strerror(number)}")


def left_behind(root: Path) -> Iterator[tuple[str, str]]:
    """The unreported dumps of processes that have ended: name and text.

    A file is removed when the next one is asked for.
    """
    for path in sorted(state_folder(root).glob(f"{_PREFIX}*.txt")):
        with contextlib.suppress(OSError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            written = _read(path, 0)
            if written:
                name = path.stem.removeprefix(_PREFIX)
                yield name, written.decode("utf-8", "replace")
            path.unlink()


class StackDumper:
    """The signal and the timer that the settings ask for. Without either it does nothing."""

    def __init__(self, settings: config.CollectorSettings, stack: StackCollector) -> None:
        self._settings = settings
        self._stack = stack
        self._file: DumpFile | None = None
        self._timer: SignalTimer | None = None
        self._pid = 0
        self._polled = 0.0  # monotonic

    @property
    def _seconds(self) -> float:
        return self._settings.hang_seconds * _TIMER_FACTOR if self._settings.hang_dump else 0.0

    def begin(self) -> None:
        """Install the signal handler and the timer."""
        root = config.from_environ(os.environ).root
        wanted = self._settings.stack_signal or self._seconds
        if root is None or self.is_on or not wanted:
            return
        try:
            self._file = DumpFile(root)
            self._pid, self._polled, self._timer = os.getpid(), time.monotonic(), None
            if self._settings.stack_signal:
                self._file.on_signal(self._settings.stack_signal)
            if self._seconds:
                self._timer = self._file.on_timer()
        except ours(OSError, ValueError) as error:
            logger.warning("Stacks are not dumped on a signal or a timer: %s", error)

    @property
    def is_on(self) -> bool:
        return self._file is not None and self._pid == os.getpid()

    def poll(self) -> None:
        """Set the timer again, and report a new dump with the stacks of all threads as of now."""
        if self._file is None or not self.is_on:
            return
        idle = time.monotonic() - self._polled
        self._polled += idle
        if self._timer is not None:
            self._timer.set(self._seconds)
        written = self._file.read_new()
        if not written:
            return
        stacks = {"the thread that took the signal, then": written, **self._stack.collect_data()}
        blocked = self._timer is not None and idle >= self._seconds
        why = f"the agent could not run for {idle:.0f} s" if blocked else "requested by a signal"
        if self._stack.store_data(stacks, why=why):
            self._file.reported()

    def report_left_behind(self) -> None:
        """Report the dumps that earlier processes wrote and did not report."""
        root = config.from_environ(os.environ).root
        if root is None:
            return
        for name, written in left_behind(root):
            self._stack.store_data(
                {f"process {name}, which has ended": written},
                why="dumped by a process that was blocked when it ended",
            )

    def end(self) -> None:
        """Remove the signal handler, the timer and the file."""
        with suppress(OSError, RuntimeError, ValueError):
            if self._file is not None and self.is_on:
                if self._timer is not None:
                    self._timer.cancel()
                self._file.close()
        self._file = self._timer = None


def _free_signal() -> int:
    """A real-time signal without a handler, the highest. Programs take the lowest first."""
    numbers = range(signal.SIGRTMAX, signal.SIGRTMIN, -1)
    free = (number for number in numbers if signal.getsignal(number) is signal.SIG_DFL)
    number = next(free, None)
    if number is None:
        raise OSError(errno.EBUSY, "every real-time signal has a handler")
    return number


def _is_handled(number: signal.Signals) -> bool:
    """Whether the program handles the signal. By default, most signals would kill it."""
    return signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN)


def _read(path: Path, begin: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(_LIMIT)
