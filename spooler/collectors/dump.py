"""Stacks that C code writes, for when no Python code of this process can run any more.

A call that holds the interpreter's lock stops every Python thread, ours too. `faulthandler` needs
no lock: its signal handler and its timer write the stacks of all threads to a file. That file lies
in `collectors_<uid>/` below the spool root and is named for the process; what stands in it is
reported by this process as soon as it runs again, or by the next one that starts a diagnosis agent
there.

Python has one such timer for the whole process, which is why it is used only on request.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spooler.filetail.checkpoint import state_folder

_PREFIX = "stacks-"
_LIMIT = 1024 * 1024


class DumpFile:
    """The file of this process, locked for as long as it lives."""

    def __init__(self, root: Path) -> None:
        self.path = state_folder(root) / f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}.txt"
        draft = self.path.with_name(f".{self.path.name}")
        # Appended to, so that writing goes on at the beginning once it was emptied.
        opened = os.open(draft, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: IO[str] = open(opened, "w", encoding="utf-8")  # noqa: SIM115 - kept open
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(draft, self.path)  # locked before anybody finds it
        self._seen = 0
        self._signals: list[int] = []

    def on_signal(self, name: str) -> None:
        """Write the stacks whenever the signal `name` comes; another handler is called too.

        Raises:
            ValueError: there is no such signal, or none that may be handled.
        """
        number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
        if not isinstance(number, signal.Signals):
            raise ValueError(f"{name} is no signal")
        try:
            chain = _is_handled(number)
            faulthandler.register(number, file=self._file, all_threads=True, chain=chain)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{name} cannot be handled: {error}") from error
        self._signals.append(number)

    def in_seconds(self, seconds: float) -> None:
        """Write the stacks in so many seconds, unless this is called again before."""
        faulthandler.dump_traceback_later(seconds, repeat=False, file=self._file)

    def news(self) -> str:
        """What was written since the last call, "" when nothing was."""
        if os.fstat(self._file.fileno()).st_size <= self._seen:
            return ""
        written = _read(self.path, self._seen)
        self._seen += len(written)
        return written.decode("utf-8", "replace")

    def reported(self) -> None:
        """What `news` gave is recorded: whoever comes after this process finds none of it."""
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
    """What processes that are gone have written and nobody has reported: name and text.

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


def _is_handled(number: signal.Signals) -> bool:
    """Whether the signal does something already that must go on; by default, most would kill."""
    return signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN)


def _read(path: Path, begin: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(_LIMIT)
