"""A service in the background for one user, as for notebooks: started or found, and stopped.

It belongs to no terminal, kernel or process group, so their end does not end it. It does not end by
itself either: it delivers what any process of the user records in the root, and cleans up there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from shipper.errors import LaunchFailed, StateInUse, StateUnusable
from shipper.launch.keeper import foreign, last_line, log_of, start_service
from shipper.ledger.database import LOCK_NAME
from shipper.ledger.ledger import Ledger
from shipper.ledger.service_status import is_running, last_heartbeat

_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The service that ships a root."""

    state: Path
    pid: int = 0  # 0: its process is not seen from here
    started: bool = False  # by this call
    foreign: bool = False  # it has another state than a service of this user would have


def start(spool: Path, state: Path, flags: Sequence[str]) -> Serving:
    """Start a service, unless one ships the root already; returns once it has a heartbeat.

    Raises:
        LaunchFailed: it has ended instead.
    """
    if is_running(state):
        return Serving(state=state, pid=service_pid(state))
    if other := foreign(spool, state):
        return Serving(state=Path(other), foreign=True)
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        pid = start_service(flags, state, null)
    except OSError as error:
        raise LaunchFailed(f"the service cannot be started: {error}") from error
    while service_pid(state) != pid:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(_POLL_SECONDS)
        elif is_running(state):  # another one was first
            return Serving(state=state, pid=service_pid(state))
        else:
            raise LaunchFailed(
                f"the service has ended: {last_line(state)}. Records stay in {spool}."
                f" Its log is {log_of(state)}"
            )
    return Serving(state=state, pid=pid, started=True)


def stop(state: Path) -> int:
    """End the service of a state and wait for its end; its pid, 0 where none runs.

    Raises:
        StateInUse: the state is held, and not surely by a service that is seen from here.
    """
    pid, lock = service_pid(state), state / LOCK_NAME
    if not pid and is_running(state):  # the ledger of another version does not tell
        pid = next((int(one.name) for one in Path("/proc").glob("[0-9]*") if _serves(one, lock)), 0)
    if not pid and is_running(state):
        raise StateInUse(
            f"{state} is in use, and no process that is seen here is surely its service. It may be"
            " in another container, of another user, or another command at work. Nothing was"
            f" stopped. To see who has it open: `fuser -v {lock}` as root of the node. If that is a"
            " service, end it by `kill PID`"
        )
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while pid and _holds(pid, lock):
        time.sleep(_POLL_SECONDS)
    return pid


def service_pid(state: Path) -> int:
    """The process of the service, 0 where none has a heartbeat or its process is not seen here."""
    if not is_running(state):
        return 0
    try:
        with closing(Ledger(state, exclusive=False)) as ledger:
            heartbeat = last_heartbeat(ledger)
    except StateUnusable:  # it is being made
        return 0
    if heartbeat is None or not _holds(heartbeat.pid, state / LOCK_NAME):
        return 0
    return heartbeat.pid


def _holds(pid: int, lock: Path) -> bool:
    """Whether a process has this file open. The number may be another process' by now."""
    return any(_opened(Path(f"/proc/{pid}"), lock))


def _serves(process: Path, lock: Path) -> bool:
    """Whether a process is `lens-ship run`, and has itself taken the lock, by the kernel's word."""
    taken = ["FLOCK", "ADVISORY", "WRITE", process.name]
    with suppress(OSError):
        if b"run" in (process / "cmdline").read_bytes().split(b"\0"):
            infos = [(process / "fdinfo" / name).read_text() for name in _opened(process, lock)]
            return any(line.split()[2:6] == taken for one in infos for line in one.splitlines())
    return False


def _opened(process: Path, file: Path) -> Iterator[str]:
    """The numbers under which a process has this file open."""
    with suppress(OSError):
        for name in os.listdir(process / "fd"):
            with suppress(OSError):
                if os.path.samefile(process / "fd" / name, file):
                    yield name
