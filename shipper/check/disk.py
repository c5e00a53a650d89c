"""Disk space: what is free, compared with what the settings allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from shipper.check import CheckContext, nearest
from shipper.finding import Finding, fail, ok, warn
from shipper.humanize import size
from spooler.spool.filesystem import bytes_in

_MIN_FREE_BYTES = 64 * 1024 * 1024
_MIN_FREE_INODES = 10_000


def findings(context: CheckContext) -> Iterator[Finding]:
    config = context.config
    root, state = nearest(config.spool), nearest(config.state)
    yield _free(root, "the spool root")
    yield _limits(context, root)
    if root.stat().st_dev != state.stat().st_dev:
        yield _free(state, "the state directory")


def _free(path: Path, what: str) -> Finding:
    free, inodes = _free_bytes(path), os.statvfs(path).f_favail
    if free < _MIN_FREE_BYTES:
        return fail(
            "disk",
            f"{size(free)} free for {what} ({path})",
            "free disk space: records that cannot be written are counted and dropped",
        )
    if os.statvfs(path).f_files and inodes < _MIN_FREE_INODES:
        return warn("disk", f"{inodes:,} inodes free for {what} ({path})", "free inodes")
    return ok("disk", f"{size(free)} free for {what}")


def _limits(context: CheckContext, root: Path) -> Finding:
    config = context.config
    used = sum(bytes_in(directory) for directory in context.spools)
    room = used + _free_bytes(root)
    if config.root_bytes > room:
        return warn(
            "disk",
            f"root_bytes is {size(config.root_bytes)}, but spools can take {size(room)} on this"
            " disk: the disk is full before the limit is reached",
            f"set root_bytes to {int(room * 0.9)} or less",
        )
    if config.root_bytes:
        return ok("disk", f"spools take {size(used)} of root_bytes {size(config.root_bytes)}")
    if config.retention_bytes > room:
        return warn(
            "disk",
            f"retention_bytes is {size(config.retention_bytes)}, but spools can take {size(room)}"
            " on this disk",
            "lower retention_bytes, or set root_bytes",
        )
    return ok("disk", f"spools take {size(used)}; root_bytes is not set")


def _free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
