"""Segments in the hands of their writer. Values; nothing here touches a file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from spooler.spool import db


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A segment that gets no more records: its number, first and last seq, and when it was used."""

    number: int
    first: int
    last: int
    began: float  # Unix seconds
    ended: float


@dataclass(kw_only=True)
class Opened:
    """A segment that is written, or prepared for it."""

    number: int
    path: Path
    connection: db.Writing
    inode: int
    opened: float  # monotonic seconds
    records: int = 0
    bytes: int = 0
    next_seq: int = 0  # 0: one more than the last of `previous`
    previous: Opened | None = None  # until the first number here is known

    def ended(self, first: int, last: int) -> Closed:
        """What is to be remembered of it, now that it gets no more records."""
        now = time.time()
        began = now - (time.monotonic() - self.opened)
        return Closed(number=self.number, first=first, last=last, began=began, ended=now)
