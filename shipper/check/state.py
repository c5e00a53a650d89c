"""The state directory: its file system, permissions, version, and whether a service uses it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shipper.check import CheckContext
from shipper.finding import Finding, fail, ok, warn
from shipper.health.root_mark import other_service
from shipper.ledger.database import DATABASE_NAME, LOCK_NAME, problem_of
from shipper.ledger.migrations import STATE_VERSION
from spooler.spool.filesystem import file_system_of

_MAGIC = b"SQLite format 3\0"
_USER_VERSION = slice(60, 64)  # of the header, big-endian


def findings(context: CheckContext) -> Iterator[Finding]:
    """Nothing is locked or changed: the service may be running."""
    state = context.config.state
    kind = file_system_of(state)
    if not kind.is_local:
        yield fail(
            "state",
            f"{state} is on {kind.type} ({kind.mount}), where SQLite's write-ahead log fails",
            "give --state a directory on a local disk of this host",
        )
    if other := other_service(context.config.spool, state):
        yield warn(
            "state",
            f"{context.config.spool} {'is' if other.running else 'was last'} shipped with the state"
            f" {other.state}: with {state}, what that one has delivered is sent again",
            f"give --state {other.state}" + (", or stop that service" if other.running else ""),
        )
    if not os.path.exists(state):
        yield _not_created(state)
    elif not state.is_dir():
        yield fail("state", f"{state} is not a directory", "give --state a directory")
    elif not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        yield _not_writable(state)
    else:
        yield from _usable(state)


def _not_created(state: Path) -> Finding:
    above = next(folder for folder in state.absolute().parents if os.path.exists(folder))
    if os.access(above, os.W_OK | os.X_OK):
        return ok("state", f"{state} is created at the first start")
    return fail(
        "state",
        f"{state} does not exist, and uid {os.geteuid()} cannot create it in {above}",
        f"mkdir -p -m 700 {state} && chown {os.geteuid()} {state}, or give another --state",
    )


def _not_writable(state: Path) -> Finding:
    uid, owner = os.geteuid(), state.stat().st_uid
    step = f"chmod u+rwx {state}"
    if owner != uid:
        step = (
            f"it belongs to uid {owner}: run as that user, or chown -R {uid} {state}, or give"
            " another --state"
        )
    return fail("state", f"{state} is not writable by uid {uid}", step)


def _usable(state: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & 0o077:
        yield warn(
            "state",
            f"{state} has mode {mode:04o}: other users can read dead letters, which hold user data",
            f"chmod 700 {state}",
        )
    database = state / DATABASE_NAME
    version = _version(database)
    if version > STATE_VERSION:
        yield fail(
            "state",
            f"{database} has state version {version}, this lens-ship knows {STATE_VERSION}",
            "run the version that migrated it, or go back to a copy (`lens-ship docs upgrading`)",
        )
    if holder := _lock_holder(state / LOCK_NAME):
        yield ok("state", f"{state} is in use by a service (process {holder})")
    elif problem := problem_of(state):
        yield fail(
            "state",
            f"{database}: {problem}",
            "run the service as the owner of the file; if the file is damaged, move it away: all"
            " records that are still in the spools are then sent again",
        )
    else:
        yield ok("state", f"{state} is writable, and no service uses it")


def _version(database: Path) -> int:
    """The `user_version` in the file's header, 0 when there is none."""
    try:
        with database.open("rb") as opened:
            header = opened.read(100)
    except OSError:
        return 0
    return int.from_bytes(header[_USER_VERSION], "big") if header.startswith(_MAGIC) else 0


def _lock_holder(lock: Path) -> str:
    """The process that holds the lock, "". Trying to take it could stop a service's start."""
    try:
        inode = lock.stat().st_ino
        table = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return ""
    for line in table.splitlines():
        columns = line.split()
        if len(columns) > 5 and columns[1] == "FLOCK" and columns[5].endswith(f":{inode}"):
            return columns[4]
    return ""
