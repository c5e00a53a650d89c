"""What a spool is: what one process wrote, wherever its directory lies and by whatever path.

Its id names it, and its identity proves it. Positions are stored by id, so of several directories
with one id only one is shipped. The others are copies, or belong to another process.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from shipper.ledger.snapshot import LedgerSnapshot
from spooler.spool.identity import Identity
from spooler.spool.owner import Lock
from spooler.spool.reader import Reader

_PROCESS = ("created", "pid", "host", "start_ticks", "pid_namespace", "boot_id")


def is_same_process(one: Identity | None, other: Identity | None) -> bool:
    """Whether both may be identities of one process; what either does not know proves nothing."""
    pairs = [(getattr(one, name, None), getattr(other, name, None)) for name in _PROCESS]
    return all(mine == theirs for mine, theirs in pairs if mine and theirs)


def is_same_place(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same directory now: device and inode decide."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def is_missing(path: Path) -> bool:
    """Whether a directory does not exist; one that cannot be read exists."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def missing_records(snapshot: LedgerSnapshot, sinks: Collection[str]) -> dict[str, int]:
    """Of spools whose files are gone: how many records a sink should still have got, by directory.

    They were written when the service last looked. None of them is in a file, or final.
    """
    owed = {
        rows.directory: max((rows.owed(sink) for sink in sinks), default=0)
        for rows in snapshot.values()
        if rows.written
    }
    return {place: count for place, count in owed.items() if count and is_missing(Path(place))}


def replaces(found: Reader, known: Reader) -> bool:
    """Whether `found` is the spool and `known`, which has its id, a copy that was found before it.

    The directory that a process writes is the spool, else the one with more records. The owner of
    a directory cannot be replaced by another user, except a user of this service.

    Raises:
        OSError: a directory cannot be read.
    """
    owner = os.stat(known.place).st_uid
    if owner not in (os.stat(found.place).st_uid, os.geteuid(), 0):
        return False
    alive = [one.liveness_evidence().lock is Lock.HELD for one in (found, known)]
    if any(alive):
        return alive == [True, False]
    return found.last_seq() > known.last_seq()
