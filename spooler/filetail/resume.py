"""Finds how far a log file was recorded by the processes before this one.

The newest position is the one in the newest record. The checkpoint names a spool and a record: only
the records of a few seconds lie beyond it. A process that could not write to its spool any more may
have opened another one, with the same pid and a later start. Without a checkpoint every spool below
the root is read, the newest first, up to `_SCAN_BYTES`.

The steps in a piece of the log are recorded before the piece. A process that ended in between has
left steps without a piece behind them, each with a mark of how far they go.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from spooler.async_exceptions import ours, suppress
from spooler.errors import SpoolError
from spooler.filetail.checkpoint import NO_STEPS, CheckpointState, LogPosition, StepMark
from spooler.records import report, step
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.reader import Reader

_SCAN_BYTES = 256 * 1024 * 1024


class Recorded(NamedTuple):
    """What records say about a log file.

    Positions before the newest are for when its file is gone.
    """

    positions: list[LogPosition]  # the last in each file that was the log, the newest first
    step: StepMark = NO_STEPS  # within the piece after the newest


def latest(root: Path, log: Path, saved: CheckpointState | None) -> Recorded:
    """How far `log` is recorded. Reads files only.

    The checkpoint knows the files that are older than itself.
    """
    if saved is None:
        return _anywhere(root, log)
    dated = [(0.0, saved.position)] if saved.position is not None else []
    step = saved.step
    for directory, seq in _places(root, saved):
        positions, mark = _sources(directory, seq, log)
        dated += positions
        step = mark or step
    found: list[LogPosition] = []
    for _, position in sorted(dated, key=lambda one: one[0]):
        if found and (found[-1].inode, found[-1].end) == (position.inode, position.begin):
            found.pop()
        found.append(position)
    return Recorded(found[::-1], step)


def _places(root: Path, saved: CheckpointState) -> Iterator[tuple[Path, int]]:
    """Spools that may hold what the checkpoint does not tell of, and from which record on."""
    for directory in spools(root):
        start, pid = directory.name.split("-")[:2]
        if directory.name == saved.spool:
            yield directory, saved.seq
        elif pid != str(saved.pid) or start < saved.start:
            continue
        elif _host(directory) == saved.host:  # in containers, most pids are the same
            yield directory, 0


def _anywhere(root: Path, log: Path) -> Recorded:
    left = _SCAN_BYTES
    for directory in reversed(spools(root)):
        left -= Reader(directory).bytes()
        found, mark = _sources(directory, 0, log)
        if found:
            return Recorded([max(found, key=lambda one: one[0])[1]], mark or NO_STEPS)
        if left <= 0:
            break
    return Recorded([])


def spools(root: Path) -> list[Path]:
    """Those of this user, the oldest first. In a root that users share, each has its folder."""
    folders = (root, root / fmt.user_name(os.geteuid()))
    found = (path for folder in folders for path in folder.glob("node_*/rank_*/*"))
    return sorted((path for path in found if fmt.is_spool_id(path.name)), key=lambda one: one.name)


def _host(directory: Path) -> str:
    try:
        return Reader(directory).identity().host
    except ours(SpoolError, OSError):
        return ""


def _sources(
    directory: Path, seq: int, log: Path
) -> tuple[list[tuple[float, LogPosition]], StepMark | None]:
    """The positions of `log` in the records beyond `seq`, with the time of each.

    And the mark of the steps behind the last one, None if there are no records of the log.
    """
    positions: list[tuple[float, LogPosition]] = []
    mark = None
    with suppress(SpoolError, OSError):
        for stored in chain.from_iterable(one.records for one in Reader(directory).chunks(seq)):
            body = _body(stored.body) if stored.kind in (report.NAME, step.NAME) else {}
            source = body.get("source")
            if not isinstance(source, Mapping) or source.get("path") != str(log):
                continue
            position = LogPosition.from_map(source)
            mark = StepMark.from_map(source) if position is None else NO_STEPS
            if position is not None:
                positions.append((float(body.get("time", 0.0)), position))
    return positions, mark


def _body(packed: bytes) -> dict[str, Any]:
    try:
        return codec.unpack(packed)
    except SpoolError:
        return {}
