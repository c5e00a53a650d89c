"""Watches the spool root through the kernel (inotify); the only importer of watchdog.

The service watches only for files that are created or moved. A training process writes to its log
many times a second, and waking for each write would cost more than one poll per flush interval.
`lens-ship tail` watches writes too.
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
from watchdog.observers.api import BaseObserver

from shipper.log import fields

log = logging.getLogger(__name__)

# watchdog warns when a tree grows so fast that it meets a directory twice. This does no harm.
warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)

_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileMovedEvent,
]


class RootWatcher:
    """Calls `notice` when a directory or file appears anywhere below `root`, until stopped.

    With `writes`, also when a file is written to. Where the kernel refuses (too many watches or
    instances, a file system without events), it logs that once, and periodic scans find new spools.
    """

    def __init__(self, root: Path, notice: Callable[[], None], *, writes: bool = False) -> None:
        self._observer: BaseObserver | None = None
        events = [*_EVENTS, FileModifiedEvent] if writes else _EVENTS
        try:
            observer = Observer()  # takes one of the user's inotify instances
            observer.schedule(_Handler(notice), str(root), recursive=True, event_filter=events)
            observer.start()
        except (OSError, RuntimeError) as error:
            log.warning(
                "spool root cannot be watched, periodic scans find new spools",
                extra=fields(path=root, detail=error),
            )
        else:
            self._observer = observer

    @property
    def has_ended(self) -> bool:
        """Whether the directory was deleted, which ends the watching."""
        emitters = () if self._observer is None else self._observer.emitters
        return not all(emitter.is_alive() for emitter in emitters)

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(2.0)


class _Handler(FileSystemEventHandler):
    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._notice()
