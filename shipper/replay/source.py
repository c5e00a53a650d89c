"""A closed range of records, seen through a selection: what a replay reads from."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from shipper.delivery.readable import ClosedRange, Records
from shipper.replay.selection import Selection
from spooler.errors import BodyUnreadable
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored

_READ_RECORDS = 1000


@dataclass(frozen=True, kw_only=True)
class RecordRange(ClosedRange):
    """Records 1 to `through` that are selected; a later process has written the steps `newer`."""

    identity: Identity
    selection: Selection
    newer: Collection[int] = ()
    only: Collection[int] | None = None  # seqs
    without: Collection[int] = ()  # seqs

    def takes(self, stored: Stored) -> bool:
        """Whether a record is selected."""
        if stored.seq in self.without or (self.only is not None and stored.seq not in self.only):
            return False
        body = decode(stored)
        if stored.kind == "step" and body.get("step") in self.newer:
            return False
        return self.selection.takes(stored, body)


def records_in(source: Records) -> Iterator[Stored]:
    """Every record of a source, in order, in constant memory."""
    after = 0
    while True:
        chunk = source.read(after, _READ_RECORDS)
        yield from chunk.records
        after = chunk.through
        if chunk.at_end:
            return


def decode(stored: Stored) -> dict[str, Any]:
    """A record's body; empty if it cannot be decoded, then the sink rejects the record."""
    try:
        return codec.unpack(stored.body)
    except BodyUnreadable:
        return {}
