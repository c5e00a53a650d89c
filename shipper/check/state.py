"""The state directory: can it be used, is it in use, is it safe there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shipper.check import CheckContext
from shipper.finding import Finding, fail, ok, warn
from shipper.ledger.database import DATABASE_NAME, LOCK_NAME
from shipper.ledger.migrations import STATE_VERSION
from spooler.spool.filesystem import file_system_of

_MAGIC = b"SQLite format 3\0"
_USER_VERSION = slice(60, 64)  # of the header, big-endian


def look(ground: CheckContext) -> Iterator[Finding]:
    """See the module."""
    state = ground.config.state
    kind = file_system_of(state)
    if not kind.is_local:
        yield fail(
            "state",
            f"{state} is on {kind.type} ({kind.mount}), where SQLite's log does not work",
            "give --state a directory on a disk of this host",
        )
    if not os.path.exists(state):
        yield _to_be_made(state)
        return
    if not state.is_dir():
        yield fail("state", f"{state} is no directory", "give --state a directory")
        return
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        yield fail("state", f"{state} cannot be written by uid {os.geteuid()}", _owner_step(state))
        return
    yield from _mode(state)
    yield from _use(state)


def _to_be_made(state: Path) -> Finding:
    above = next(folder for folder in state.absolute().parents if os.path.exists(folder))
    if os.access(above, os.W_OK | os.X_OK):
        return ok("state", f"{state} is made at the first start")
    return fail(
        "state",
        f"{state} is not there, and uid {os.geteuid()} cannot make it in {above}",
        f"mkdir -p -m 700 {state} && chown {os.geteuid()} {state}, or give --state another",
    )


def _owner_step(state: Path) -> str:
    found = state.stat()
    if found.st_uid == os.geteuid():
        return f"chmod u+rwx {state}"
    return (
        f"it belongs to uid {found.st_uid}: run as that user, or chown -R {os.geteuid()} {state},"
        " or give --state another"
    )


def _mode(state: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & 0o077:
        yield warn(
            "state",
            f"{state} has mode {mode:04o}: others can see dead letters, which hold users' data",
            f"chmod 700 {state}",
        )


def _use(state: Path) -> Iterator[Finding]:
    database = state / DATABASE_NAME
    version = _version(database)
    if version > STATE_VERSION:
        yield fail(
            "state",
            f"{database} has state version {version}, this lens-ship knows {STATE_VERSION}",
            "run the version that migrated it, or go back to a copy (docs/upgrading.md)",
        )
    holder = _holder(state / LOCK_NAME)
    if holder:
        yield ok("state", f"{state} is in use by a service (process {holder})")
    else:
        yield ok("state", f"{state} is writable, and no service is using it")


def _version(database: Path) -> int:
    """The version of the file, 0 when there is none that can be read."""
    try:
        with database.open("rb") as opened:
            header = opened.read(100)
    except OSError:
        return 0
    return int.from_bytes(header[_USER_VERSION], "big") if header.startswith(_MAGIC) else 0


def _holder(lock: Path) -> str:
    """The process that has the lock, "" for none. Taking it to see would stop a service's start."""
    try:
        inode = lock.stat().st_ino
        table = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return ""
    for line in table.splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return fields[4]
    return ""
