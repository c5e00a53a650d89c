"""Stack dumps for when no Python code of this process can run: on a signal, or by a timer in C.

A call that holds the interpreter's lock stops every Python thread, ours too. `faulthandler` needs
no lock: its signal handler and its timer write the stacks of all threads to a file. That file lies
in `collectors_<uid>/` below the spool root and is named for the process. This process reports what
stands in it as soon as it runs again, otherwise the next one that starts a diagnosis agent there.

Python has one such timer for the whole process, so it is used only on request.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spooler import async_exceptions, config
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

    def on_signal(self, name: str) -> None:
        """Write the stacks at every signal `name`; an earlier handler is called too.

        Raises:
            ValueError: there is no such signal, or it cannot be handled.
        """
        number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
        if not isinstance(number, signal.Signals):
            raise ValueError(f"{name} is not a signal")
        try:
            chain = _is_handled(number)
            faulthandler.register(number, file=self._file, all_threads=True, chain=chain)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{name} cannot be handled: {error}") from error
        self._signals.append(number)

    def in_seconds(self, seconds: float) -> None:
        """Write the stacks after `seconds`, unless this is called again before."""
        faulthandler.dump_traceback_later(seconds, repeat=False, file=self._file)

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

    def close(self, *, timer: bool) -> None:
        """Write no more, and remove the file."""
        if timer:
            faulthandler.cancel_dump_traceback_later()
        for number in self._signals:
            faulthandler.unregister(number)
        self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


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
        self._pid = 0

    @property
    def _timer(self) -> float:
        return self._settings.hang_seconds * _TIMER_FACTOR if self._settings.hang_dump else 0.0

    def begin(self) -> None:
        """Install the signal handler and the timer."""
        root = config.from_environ(os.environ).root
        wanted = self._settings.stack_signal or self._timer
        if root is None or self.is_on or not wanted:
            return
        try:
            self._file = DumpFile(root)
            self._pid = os.getpid()
            if self._settings.stack_signal:
                self._file.on_signal(self._settings.stack_signal)
        except (OSError, ValueError) as error:
            if async_exceptions.is_async(error):
                raise
            logger.warning("Stacks are not dumped on a signal or a timer: %s", error)

    @property
    def is_on(self) -> bool:
        return self._file is not None and self._pid == os.getpid()

    def poll(self) -> None:
        """Restart the timer, and report new dumps.

        After a signal it reports the stacks that this process takes now: they are more readable.
        """
        if self._file is None or not self.is_on:
            return
        if self._timer:
            self._file.in_seconds(self._timer)
        written = self._file.read_new()
        if not written:
            return
        if written.startswith("Timeout"):
            taken = self._stack.store_data(
                {"written while no Python code could run": written},
                why=f"the interpreter was blocked for {self._timer:.0f} s",
            )
        else:
            taken = self._stack.store_data(self._stack.collect_data(), why="requested by a signal")
        if taken:
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
        with async_exceptions.suppress(OSError, RuntimeError, ValueError):
            if self._file is not None and self.is_on:
                self._file.close(timer=bool(self._timer))
        self._file = None


def _is_handled(number: signal.Signals) -> bool:
    """Whether the program handles the signal. By default, most signals would kill it."""
    return signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN)


def _read(path: Path, begin: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(_LIMIT)
