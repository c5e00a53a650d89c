"""The limit of the spool root, and the file `full` that tells writers to pause.

A root above its limit counts as full until it is down to `_RELIEF` of it, so that it does not
alternate. Writers ignore the file once it is old (`spooler.spool.format`), so every check renews
it. A service that shuts down removes it.
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
# A spool needs space for what is written until the next check.
_SPOOL_RELIEF = 0.75


class DiskQuota:
    """The spools below `root` may take `limit` bytes; 0: no limit.

    With `by_pod`, the directory of each pod is the root for its writers and gets the file too.
    """

    def __init__(self, root: Path, limit: int, *, by_pod: bool = False) -> None:
        self._root = root
        self._limit = limit
        self._by_pod = by_pod
        self._full = False
        self._logged = ""

    def over_by(self) -> int:
        """Bytes to delete; 0 below the limit."""
        if self._limit == 0:
            return 0
        used = sum(bytes_in(directory) for directory in find_spools(self._root))
        if used <= self._limit and not self._full:
            return 0
        return max(0, used - int(self._limit * _RELIEF))

    def set_full(self, *, full: bool) -> None:
        """Tell the writers below the root to pause, or to resume."""
        if full and not self._full:
            log.error(
                "root above quota, writers paused, new records are dropped and counted",
                extra=fields(path=self._root, bytes=self._limit, reason="root-cap"),
            )
        elif self._full and not full:
            log.warning("root below quota, writers resumed", extra=fields(path=self._root))
        self._full = full
        for directory in (self._root, *(pod_directories(self._root) if self._by_pod else ())):
            try:
                _set_marker(directory / fmt.ROOT_FULL_NAME, full=full)
            except OSError as error:
                if self._limit and str(error) != self._logged:
                    self._logged = str(error)
                    log.error(
                        "quota of the root cannot be enforced",
                        extra=fields(path=directory, detail=error),
                    )


def _set_marker(marker: Path, *, full: bool) -> None:
    """Create or remove the file; in a root open to all, one of another user is replaced."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(marker)
        ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if not full or not ours or found.st_uid != os.geteuid():
            marker.unlink()
    if not full:
        return
    # Never through a link: a pod can put one into its directory.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(marker, flags, 0o644)
    try:
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def spool_over_by(directory: Path, identity: Identity) -> int:
    """Bytes of delivered segments to delete so that a spool stays clear of its own limit."""
    if identity.max_bytes is None:
        return 0
    return max(0, bytes_in(directory) - int(identity.max_bytes * _SPOOL_RELIEF))
