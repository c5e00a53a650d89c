"""Space: what is free, against what the settings allow to be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from shipper.check import CheckContext
from shipper.finding import Finding, fail, ok, warn
from shipper.humanize import size
from spooler.spool.filesystem import bytes_in

_MIB = 1024 * 1024
_LITTLE = 64 * _MIB
_FEW_FILES = 10_000


def look(ground: CheckContext) -> Iterator[Finding]:
    """See the module."""
    config = ground.config
    used = sum(bytes_in(directory) for directory in ground.spools)
    yield from _free(config.spool, "the spool root")
    yield from _limits(ground, used)
    if not _same_disk(config.spool, config.state):
        yield from _free(config.state, "the state directory")


def _limits(ground: CheckContext, used: int) -> Iterator[Finding]:
    config = ground.config
    free = _free_bytes(config.spool)
    if config.root_bytes and config.root_bytes > used + free:
        yield warn(
            "disk",
            f"root_bytes is {size(config.root_bytes)}, but the disk has room for"
            f" {size(used + free)} of spools: it fills before the limit holds",
            f"set root_bytes to {int((used + free) * 0.9)} or less",
        )
    elif config.root_bytes:
        yield ok("disk", f"spools take {size(used)} of root_bytes {size(config.root_bytes)}")
    elif config.retention_bytes > used + free:
        yield warn(
            "disk",
            f"retention_bytes is {size(config.retention_bytes)}, more than the"
            f" {size(used + free)} that spools can take here",
            "lower retention_bytes, or set root_bytes",
        )
    else:
        yield ok("disk", f"spools take {size(used)}; root_bytes sets no limit of its own")


def _free(path: Path, what: str) -> Iterator[Finding]:
    free, place = _free_bytes(path), _nearest(path)
    files = os.statvfs(place).f_favail
    total_files = os.statvfs(place).f_files
    if free < _LITTLE:
        yield fail(
            "disk",
            f"{size(free)} free for {what} ({place})",
            "make room: records that cannot be written are counted and lost",
        )
    elif total_files and files < _FEW_FILES:
        yield warn("disk", f"{files} files more fit where {what} is", "make room for inodes")
    else:
        yield ok("disk", f"{size(free)} free for {what}")


def _free_bytes(path: Path) -> int:
    found = os.statvfs(_nearest(path))
    return found.f_bavail * found.f_frsize


def _nearest(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))


def _same_disk(one: Path, other: Path) -> bool:
    return _nearest(one).stat().st_dev == _nearest(other).stat().st_dev
