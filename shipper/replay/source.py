"""A closed range of records, seen through a selection; what a replay's `Route` reads from."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shipper.delivery.pipeline import Records
from shipper.replay.selection import Selection
from spooler.errors import BodyUnreadable
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Chunk, Stored

_READ_RECORDS = 1000


@dataclass(frozen=True, kw_only=True)
class RecordRange:
    """Records 1 to `through` of `reader`; steps in `newer` are somebody else's by now."""

    reader: Records
    identity: Identity
    through: int
    selection: Selection
    newer: Collection[int] = ()
    only: Collection[int] | None = None  # seqs
    without: Collection[int] = ()  # seqs

    @property
    def directory(self) -> Path:
        """Where the records lie."""
        return self.reader.directory

    def last_seq(self) -> int:
        """The end of the range."""
        return min(self.through, self.reader.last_seq())

    def first_seq(self) -> int:
        """Where the range begins."""
        return 1

    def is_drained(self, position: int) -> bool:
        """Whether nothing of the range lies beyond `position`."""
        return position >= self.last_seq()

    def is_owned(self) -> bool:
        """Nobody writes a closed range."""
        return False

    def is_unclean(self) -> bool:
        """What became of its process is no news."""
        return False

    def read(self, after: int, limit: int) -> Chunk:
        """As a spool's reader, with what is not meant left out."""
        if after >= self.through:
            return Chunk(records=(), damage=(), through=after, at_end=True)
        chunk = self.reader.read(after, limit)
        ended = chunk.through >= self.through
        return replace(
            chunk,
            records=tuple(
                stored
                for stored in chunk.records
                if stored.seq <= self.through and self._takes(stored)
            ),
            damage=tuple(damage for damage in chunk.damage if damage.first <= self.through),
            through=min(chunk.through, self.through),
            at_end=ended or chunk.at_end,
        )

    def _takes(self, stored: Stored) -> bool:
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
    """A record's body; nothing for one that cannot be decoded, which its sink will refuse."""
    try:
        return codec.unpack(stored.body)
    except BodyUnreadable:
        return {}
