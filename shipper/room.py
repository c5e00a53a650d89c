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
from pathlib import Path

from shipper.discovery import find_spools
from shipper.logs import about
from spooler.spool import format as fmt
from spooler.spool.filesystem import bytes_in
from spooler.spool.identity import Identity

log = logging.getLogger(__name__)

_RELIEF = 0.95
# A spool has to have room for what comes until the next look, or records are refused needlessly.
_SPOOL_RELIEF = 0.75


class Room:
    """What the spools below `root` may take, `limit` bytes; 0: anything."""

    def __init__(self, root: Path, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._marker = root / fmt.ROOT_FULL_NAME
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
                extra=about(path=self._root, bytes=self._limit, reason="root-cap"),
            )
        elif self._full and not full:
            log.warning(
                "%s: there is room again; recording goes on",
                self._root,
                extra=about(path=self._root),
            )
        self._full = full
        try:
            if full:
                self._take_place()
                self._marker.touch(mode=0o644)
            else:
                self._marker.unlink(missing_ok=True)
        except OSError as error:
            if str(error) != self._said:
                self._said = str(error)
                log.error(
                    "%s: %s; the limit of the root cannot be kept",
                    self._marker,
                    error,
                    extra=about(path=self._marker, detail=error),
                )

    def _take_place(self) -> None:
        """In a root where anybody may make files, another user's stands in the way of ours."""
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(self._marker).st_uid != os.geteuid():
                self._marker.unlink()


def spool_excess(directory: Path, identity: Identity) -> int:
    """Bytes of delivered segments to delete so that a spool stays clear of its own limit."""
    if identity.max_bytes is None:
        return 0
    return max(0, bytes_in(directory) - int(identity.max_bytes * _SPOOL_RELIEF))
