"""Segments in the hands of their writer. Nothing here opens or changes a file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from spooler.spool import db


@dataclass(frozen=True, kw_only=True)
class SealedSegment:
    """A segment that gets no more records: its number, first and last seq, and when it was used."""

    number: int
    first: int
    last: int
    began: float  # Unix seconds
    ended: float


@dataclass(kw_only=True)
class ActiveSegment:
    """A segment that is written, or prepared for it."""

    number: int
    path: Path
    connection: db.Writing
    opened: float  # monotonic seconds
    records: int = 0
    bytes: int = 0
    is_over: bool = False  # it gets no more records than it must, whatever its limits
    next_seq: int = 0  # 0: one more than the last of `previous`
    previous: ActiveSegment | None = None  # until the first number here is known

    def has_log(self) -> bool:
        """Whether the name of its log still leads to it."""
        return self.connection.log.is_at(f"{self.path}-wal")

    def is_whole(self) -> bool:
        """Whether its files are in their places and its descriptors its own."""
        connection = self.connection
        return connection.is_ours() and connection.file.is_at(self.path) and self.has_log()

    def ended(self, first: int, last: int) -> SealedSegment:
        """What is to be remembered of it, now that it gets no more records."""
        now = time.time()
        began = now - (time.monotonic() - self.opened)
        return SealedSegment(number=self.number, first=first, last=last, began=began, ended=now)
