"""Finds how far a log file was recorded by the processes before this one.

The newest position is the one in the newest record. The checkpoint names a spool and a record: only
the records of a few seconds lie beyond it. A process that could not write to its spool any more may
have opened another one, with the same pid and a later start. Without a checkpoint every spool below
the root is read, the newest first, up to `_SCAN_BYTES`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from spooler.async_exceptions import ours, suppress
from spooler.errors import SpoolError
from spooler.filetail.checkpoint import CheckpointState, LogPosition
from spooler.records import report
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.reader import Reader

_SCAN_BYTES = 256 * 1024 * 1024


def latest(root: Path, log: Path, saved: CheckpointState | None) -> list[LogPosition]:
    """The last position in each file that was `log`, the newest first. Reads files only.

    Those before the newest are for when its file is gone. The checkpoint knows the files that are
    older than itself.
    """
    if saved is None:
        return _anywhere(root, log)
    dated = [(0.0, saved.position)] if saved.position is not None else []
    for directory, seq in _places(root, saved):
        dated += _positions(directory, seq, log)
    found: list[LogPosition] = []
    for _, position in sorted(dated, key=lambda one: one[0]):
        if found and (found[-1].inode, found[-1].end) == (position.inode, position.begin):
            found.pop()
        found.append(position)
    return found[::-1]


def _places(root: Path, saved: CheckpointState) -> Iterator[tuple[Path, int]]:
    """Spools that may hold what the checkpoint does not tell of, and from which record on."""
    for directory in _spools(root):
        start, pid = directory.name.split("-")[:2]
        if directory.name == saved.spool:
            yield directory, saved.seq
        elif pid != str(saved.pid) or start < saved.start:
            continue
        elif _host(directory) == saved.host:  # in containers, most pids are the same
            yield directory, 0


def _anywhere(root: Path, log: Path) -> list[LogPosition]:
    left = _SCAN_BYTES
    for directory in sorted(_spools(root), key=lambda path: path.name, reverse=True):
        left -= Reader(directory).bytes()
        found = list(_positions(directory, 0, log))
        if found:
            return [max(found, key=lambda one: one[0])[1]]
        if left <= 0:
            break
    return []


def _spools(root: Path) -> list[Path]:
    """Those of this user: in a root that users share, each has a folder of its own."""
    folders = (root, root / fmt.user_name(os.geteuid()))
    found = (path for folder in folders for path in folder.glob("node_*/rank_*/*"))
    return [path for path in found if fmt.is_spool_id(path.name)]


def _host(directory: Path) -> str:
    try:
        return Reader(directory).identity().host
    except ours(SpoolError, OSError):
        return ""


def _positions(directory: Path, seq: int, log: Path) -> Iterator[tuple[float, LogPosition]]:
    """The positions of `log` in the records beyond `seq`, with the time of each."""
    with suppress(SpoolError, OSError):
        for stored in chain.from_iterable(one.records for one in Reader(directory).chunks(seq)):
            body = _body(stored.body) if stored.kind == report.NAME else {}
            position = LogPosition.from_map(body.get("source"))
            if position is not None and position.path == str(log):
                yield float(body.get("time", 0.0)), position


def _body(packed: bytes) -> dict[str, Any]:
    try:
        return codec.unpack(packed)
    except SpoolError:
        return {}
