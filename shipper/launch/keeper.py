"""Starts a service, and keeps that of a job: again after a kill, and ended with the job."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from shipper.errors import ConfigError, StateInUse
from shipper.health.root_mark import other_service
from shipper.humanize import sanitize
from shipper.launch.job import IGNORED_BY_PYTHON, inherited
from shipper.ledger.service_status import is_running
from shipper.log import FILE_BYTES

# Without the directory of the caller, where a file may have the name of a library.
_PROGRAM = (
    sys.executable,
    "-c",
    "import sys; del sys.path[0]; from shipper.cli import main; main()",
)
_RETRY_SECONDS = 10.0


def start_service(flags: Sequence[str], state: Path, stdin: int) -> int:
    """Start one in a session of its own, with nothing of this process but `stdin`; its pid.

    Raises:
        OSError: it cannot be started.
    """
    log = log_of(state)
    is_full = log.exists() and log.stat().st_size > FILE_BYTES
    mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if is_full else 0)
    # Signals stay blocked, as here, until the service awaits them.
    return os.posix_spawn(
        sys.executable,
        [*_PROGRAM, "run", *flags],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(log), mode, 0o600),
            (os.POSIX_SPAWN_DUP2, 2, 1),
            *((os.POSIX_SPAWN_CLOSE, number) for number in inherited()),
        ],
        setsid=True,
        setsigdef=IGNORED_BY_PYTHON,
    )


def log_of(state: Path) -> Path:
    """Where a service writes that was started here."""
    return state / "service.log"


def last_line(state: Path) -> str:
    """What it has written last."""
    try:
        lines = log_of(state).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return str(error)
    return sanitize(lines[-1] if lines else "", 500)


def foreign(spool: Path, state: Path) -> str:
    """The state of a service that ships this root with another one, or ""."""
    mark = other_service(spool, state)
    return mark.state if mark is not None and mark.running else ""


class ServiceKeeper:
    """Keeps a service on a spool root. The lock of the state says whether one runs already."""

    def __init__(
        self,
        flags: Sequence[str],
        *,
        spool: Path,
        state: Path,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pid: int | None = None
        self.is_done = False  # it has ended by itself: all that can be sent is sent
        self._flags = flags
        self._spool = spool
        self._state = state
        self._now = now
        self._retry_at = 0.0  # monotonic seconds
        self._guard = -1  # its end is that of the service

    def foreign(self) -> str:
        """The state of a service that ships this root without being one of ours, or ""."""
        return foreign(self._spool, self._state)

    def keep(self) -> None:
        """Start a service if there is none and this process may."""
        if self.pid is not None or self._now() < self._retry_at:
            return
        if not is_running(self._state) and not self.foreign():
            self._start()

    def end(self) -> None:
        """Let it deliver what is there and end; the second time at once."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, status: int) -> None:
        """It has ended, with this status of waitpid."""
        self.pid, code = None, os.waitstatus_to_exitcode(status)
        os.close(self._guard)
        self.is_done = code == 0
        if code <= 0 or code == StateInUse.exit_code:
            return  # another one was first, or it was killed: look again
        self._retry_at = self._now() + _RETRY_SECONDS
        if code == ConfigError.exit_code:
            self._retry_at = float("inf")
        click.echo(
            f"lens-ship: the service has ended with code {code}, records stay in {self._spool}:"
            f" {last_line(self._state)}",
            err=True,
        )

    def _start(self) -> None:
        reading, self._guard = os.pipe()
        self.pid = start_service(["--stop-on-eof", *self._flags], self._state, reading)
        os.close(reading)
