"""The limit of the spool root: how much is too much, and the file that tells writers to pause.

Rules:

- Once above the limit, it is full until it is down to `_RELIEF` of it: no coming and going.
- The file counts only while it is fresh (`spooler.spool.format`), so every look renews it; a
  service that stops removes it, one that dies stops recording for no longer than that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

from shipper.discovery.layout import find_spools, pod_directories
from shipper.log import fields
from spooler.spool import format as fmt
from spooler.spool.filesystem import bytes_in
from spooler.spool.identity import Identity

log = logging.getLogger(__name__)

_RELIEF = 0.95
# A spool has to have room for what comes until the next look, or records are refused needlessly.
_SPOOL_RELIEF = 0.75


class Room:
    """What the spools below `root` may take, `limit` bytes; 0: anything.

    `by_pod`: each pod takes its own folder for the root, so the mark is put into all of them.
    """

    def __init__(self, root: Path, limit: int, *, by_pod: bool = False) -> None:
        self._root = root
        self._limit = limit
        self._by_pod = by_pod
        self._full = False
        self._said = ""

    def excess(self) -> int:
        """Bytes that have to go, 0 while there is room."""
        if self._limit == 0:
            return 0
        used = sum(bytes_in(directory) for directory in find_spools(self._root))
        if used <= self._limit and not self._full:
            return 0
        return max(0, used - int(self._limit * _RELIEF))

    def mark(self, *, full: bool) -> None:
        """Tell the writers below the root to pause, or to go on."""
        if full and not self._full:
            log.error(
                "%s: more than %d bytes, and nothing that may be deleted: new records are refused"
                " and counted until there is room",
                self._root,
                self._limit,
                extra=fields(path=self._root, bytes=self._limit, reason="root-cap"),
            )
        elif self._full and not full:
            log.warning(
                "%s: there is room again; recording goes on",
                self._root,
                extra=fields(path=self._root),
            )
        self._full = full
        for folder in (self._root, *(pod_directories(self._root) if self._by_pod else ())):
            try:
                _put(folder / fmt.ROOT_FULL_NAME, full=full)
            except OSError as error:
                if str(error) != self._said:
                    self._said = str(error)
                    log.error(
                        "%s: %s; the limit of the root cannot be kept",
                        folder,
                        error,
                        extra=fields(path=folder, detail=error),
                    )


def _put(marker: Path, *, full: bool) -> None:
    """Make the mark or take it away; another user's, in a root open to all, makes room for ours."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(marker)
        ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if not full or not ours or found.st_uid != os.geteuid():
            marker.unlink()
    if not full:
        return
    # Never through a link: what stands in a pod's folder is the pod's.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(marker, flags, 0o644)
    try:
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def spool_excess(directory: Path, identity: Identity) -> int:
    """Bytes of delivered segments to delete so that a spool stays clear of its own limit."""
    if identity.max_bytes is None:
        return 0
    return max(0, bytes_in(directory) - int(identity.max_bytes * _SPOOL_RELIEF))
