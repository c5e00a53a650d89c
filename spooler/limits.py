"""From the settings and the root to the limits of a spool's writer."""

from __future__ import annotations

import grp

from spooler import async_exceptions, config, stderr
from spooler.spool.layout import WriterLimits


def limits(settings: config.Settings, group: int | None) -> WriterLimits:
    """What a writer may take: `group` is that of a shared root."""
    return WriterLimits(
        # Disk comes back in whole segments: one must be a small part of what there may be.
        segment_bytes=min(settings.segment_bytes, settings.max_bytes // 8),
        max_bytes=settings.max_bytes,
        drop_oldest=settings.drop_oldest,
        segment_records=settings.segment_records,
        segment_seconds=settings.segment_seconds,
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
        if async_exceptions.is_async(error):
            raise
        stderr.report_once("group", f"PRIMUS_LENS_SPOOL_GROUP: no group {group!r} here; not used")
        return default
