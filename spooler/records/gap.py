"""Records that are missing: how many, why, from when to when.

Records that could not be committed have no seq. A gap stands in their place: the recorder writes it
as soon as the spool takes records again, before the first of them.

Records that their own writer deleted, to keep the limit of its spool, have one. The writer writes
the gap before the deletion. It covers all deletions of this writer so far, as earlier gaps may go
with their segments: nothing from `first_seq` to `last_seq` is left, and `count` is how many records
that is. Some were delivered. The writer does not know which, the service does.
"""

from __future__ import annotations

from typing import NamedTuple

from spooler.records.schema import Schema

NAME = "gap"


class GapRecord(NamedTuple):
    """One gap; `first` and `last` are Unix seconds of its first and last record."""

    time: float
    reason: str
    count: int  # type: ignore[assignment]  # as the disk format has it; hides tuple.count
    first: float = 0.0
    last: float = 0.0
    first_seq: int | None = None
    last_seq: int | None = None

    @property
    def deleted(self) -> tuple[int, int] | None:
        """First and last seq of deleted records. None for records that never had one."""
        first, last = self.first_seq, self.last_seq
        if first is None or last is None or not 0 < first <= last < 2**63:
            return None
        return first, last


_schema = Schema(GapRecord)
encode, decode = _schema.encode, _schema.decode

EXAMPLE = encode(
    time=1700000050.0, reason="disk-full", count=12, first=1700000030.0, last=1700000049.0
)
