"""Brings what was committed to the disk itself, so that it survives power loss; off the hot path.

Rules:

- Only the background thread calls this, and holds no lock while it syncs the log: neither the
  training thread nor a fork ever waits for the disk here.
- A segment's own file is synced before it gets its name. The first one's, which the training
  thread makes, is synced with the first log, by the descriptor that SQLite has.
- What the disk refuses is raised as `SpoolUnavailable`.
- What was synced once is not synced again: an idle spool costs no disk access.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from spooler.spool import db
from spooler.spool.descriptor import Descriptor


def sync_file(path: Path) -> None:
    """Bring a file that no other process has open to the disk."""
    _sync(path, os.O_RDWR)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


class Sync:
    """When and what to sync of one spool; `seconds` is how far it may be behind, 0 is never."""

    def __init__(self, directory: Path, seconds: float, root: Path) -> None:
        self.seconds = seconds
        self._directory = directory
        self._root = root
        self._begun = False
        self._urgent = False
        self._due = 0.0  # monotonic
        self._through = 0  # seq up to which all is on disk

    @property
    def is_on(self) -> bool:
        """Whether anything is synced at all."""
        return self.seconds > 0

    def request_sync(self) -> None:
        """Have the next `run` sync whatever the time is."""
        self._urgent = True

    def run(self, segment: Path, file: Descriptor, last_seq: int) -> None:
        """Sync if it is due: what was committed up to `last_seq`, which lies in `segment`.

        `file` is the descriptor that SQLite has of the segment.

        Raises:
            SpoolUnavailable: the disk refuses; what was committed is safe from the process's
                death all the same, and is tried again.
        """
        now = time.monotonic()
        is_due = self._urgent or now >= self._due
        if not self.is_on or not is_due or last_seq <= self._through:
            return
        self._urgent = False
        self._due = now + self.seconds
        if not self._begun:
            self._sync_beginning(segment, file)
            self._begun = True
        log = Path(f"{segment}-wal")
        if log.exists():  # one that is sealed is on the disk
            _sync(log, os.O_RDWR)
        self._through = last_seq

    def _sync_beginning(self, segment: Path, file: Descriptor) -> None:
        """The first segment's own file, and the names of all folders down to it."""
        try:
            if file.is_ours():
                os.fsync(file.number)
        except OSError as error:
            raise db.unavailable(error, segment) from error
        folder = self._directory
        while True:
            if os.access(folder, os.R_OK):  # else it is another's, who made it long ago
                sync_folder(folder)
            if folder in (self._root.parent, folder.parent):
                return
            folder = folder.parent


def _sync(path: Path, flags: int) -> None:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(descriptor) if flags & os.O_DIRECTORY else os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise db.unavailable(error, path) from error
