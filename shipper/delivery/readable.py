"""What a pipeline reads from: a spool, or a closed range of one."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spooler.spool.reader import Chunk, Stored


class Records(Protocol):
    """Records in order: a spool, a closed range of one, or a file of another tool."""

    @property
    def directory(self) -> Path:
        """Where they are."""

    def read(self, after: int, limit: int) -> Chunk:
        """At most `limit` records with a seq above `after`, in order."""

    def last_seq(self) -> int:
        """Seq of the last record there is."""


class Readable(Protocol):
    """What a pipeline reads from."""

    @property
    def directory(self) -> Path:
        """Where the records are."""

    def read(
        self,
        after: int,
        limit: int,
        skip: AbstractSet[str] = frozenset(),
        most: int | None = None,
    ) -> Chunk:
        """At most `limit` records with a seq above `after`, in order, without kinds to skip.

        Their bodies have at most `most` bytes; None: a usual amount, or there is one.
        """

    def first_seq(self) -> int:
        """Seq of the first record there is, 0 without any."""

    def last_seq(self) -> int:
        """Seq of the last record there is."""

    def is_drained(self, position: int) -> bool:
        """Whether everything can be read and nothing lies beyond `position`."""

    def is_owned(self) -> bool:
        """Whether a process is writing it."""

    def is_unclean(self) -> bool | None:
        """Whether that process died without a clean shutdown; None while that is not known."""


@dataclass(frozen=True, kw_only=True)
class ClosedRange:
    """Records up to `through` of `reader`, which nothing writes any more."""

    reader: Records
    through: int

    @property
    def directory(self) -> Path:
        """Where the records are."""
        return self.reader.directory

    def first_seq(self) -> int:
        """Where the range begins."""
        return 1

    def last_seq(self) -> int:
        """Where the range ends."""
        return min(self.through, self.reader.last_seq())

    def is_drained(self, position: int) -> bool:
        """Whether nothing of the range lies beyond `position`."""
        return position >= self.last_seq()

    def is_owned(self) -> bool:
        """No process writes a closed range."""
        return False

    def is_unclean(self) -> bool:
        """How its process ended was reported before."""
        return False

    def takes(self, stored: Stored) -> bool:
        """Whether a record is to be sent."""
        return True

    def chunk(self, after: int, limit: int, most: int | None) -> Chunk:
        """What `reader` gives."""
        return self.reader.read(after, limit)

    def read(
        self,
        after: int,
        limit: int,
        skip: AbstractSet[str] = frozenset(),
        most: int | None = None,
    ) -> Chunk:
        """The records of the range that are to be sent, of any kind."""
        if after >= self.through:
            return Chunk(records=(), damage=(), through=after, at_end=True)
        chunk = self.chunk(after, limit, most)
        return Chunk(
            records=tuple(
                one for one in chunk.records if one.seq <= self.through and self.takes(one)
            ),
            damage=tuple(one for one in chunk.damage if one.first <= self.through),
            through=min(chunk.through, self.through),
            at_end=chunk.at_end or chunk.through >= self.through,
            large=chunk.large,
        )
