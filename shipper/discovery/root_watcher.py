"""Tells when something appears under the spool root; the only importer of watchdog.

The service watches the making and moving of files only: a training process writes its log many
times a second, and waking for that would cost more than looking once per flush interval. Who waits
for each record, as somebody at a terminal does, asks for `writes` too.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from shipper.log import fields

log = logging.getLogger(__name__)

# watchdog warns when a folder tree grows so fast that it meets a folder twice; it goes on rightly.
warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)

_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileMovedEvent,
]


class Watch:
    """Calls `notice` when a folder or file appears anywhere below `root`, until stopped.

    With `writes`, also when a file is written to.

    Where the kernel refuses (too many watches, a file system without notices) it says so once, and
    the periodic walk of the root finds new spools instead.
    """

    def __init__(self, root: Path, notice: Callable[[], None], *, writes: bool = False) -> None:
        self._observer = Observer()
        self._started = False
        events = [*_EVENTS, FileModifiedEvent] if writes else _EVENTS
        try:
            self._observer.schedule(
                _Handler(notice), str(root), recursive=True, event_filter=events
            )
            self._observer.start()
            self._started = True
        except OSError as error:
            log.warning(
                "%s: the kernel gives no notice of new files here (%s); new spools are found by"
                " walking the root instead",
                root,
                error,
                extra=fields(path=root, detail=error),
            )

    def stop(self) -> None:
        """End the watching thread."""
        if self._started:
            self._observer.stop()
            self._observer.join(2.0)


class _Handler(FileSystemEventHandler):
    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Whatever it is, the root is worth a look."""
        self._notice()
