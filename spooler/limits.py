"""From the settings, the root and its file system to the limits of a spool's writer."""

from __future__ import annotations

import grp
from pathlib import Path

from spooler import border, config, notice
from spooler.spool.filesystem import FileSystem
from spooler.spool.writer import Limits

# Where only a sealed segment can be read, one is sealed this often.
_NETWORK_SECONDS = 10.0


def warn_of_network(root: Path, place: FileSystem) -> None:
    """Say so when the spool is where no reader can follow its writer; recording all the same."""
    if not place.takes_wal:
        notice.say_once(
            "network file system",
            f"{root} is on {place.type}, a network file system: records are delivered up to"
            f" {_NETWORK_SECONDS:.0f} s later than from a local disk. Point {config.OUTPUT_PATH} at"
            " a local disk of this node to have them at once.",
        )


def limits(settings: config.Settings, group: int | None, place: FileSystem) -> Limits:
    """What a writer may take: `group` is that of a shared root, `place` what the root lies on."""
    seconds = settings.segment_seconds
    return Limits(
        # Disk comes back in whole segments: one must be a small part of what there may be.
        segment_bytes=min(settings.segment_bytes, settings.max_bytes // 8),
        max_bytes=settings.max_bytes,
        drop_oldest=settings.drop_oldest,
        segment_records=settings.segment_records,
        segment_seconds=seconds if place.takes_wal else min(seconds, _NETWORK_SECONDS),
        sync_seconds=settings.sync_seconds,
        group=_group_id(settings.group, group),
    )


def _group_id(group: str, default: int | None) -> int | None:
    if not group:
        return default
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        if border.theirs(error):
            raise
        notice.say_once("group", f"PRIMUS_LENS_SPOOL_GROUP: no group {group!r} here; not used")
        return default
