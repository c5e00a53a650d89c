"""What every sink is past, spool by spool, looked up only where something has changed.

Ages are kept by a clock that cannot jump: a segment is as old as the wall clock says when it is
first seen here, and not younger than new; from then on it ages with the monotonic clock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from shipper.retention.policy import Kept
from spooler.errors import SpoolError
from spooler.spool.owner import Liveness
from spooler.spool.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where delivery of a spool stands: up to where every sink is, and whether all have ended."""

    through: int
    ended: bool


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """As what a spool was found: where its delivery stood, its folder, whether its writer lived."""

    standing: Standing
    folder: int
    verdict: Liveness


class Ages:
    """How long ago files were last written, whatever the wall clock does meanwhile."""

    def __init__(self, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._now = now
        self._wall = wall
        self._born: dict[tuple[str, int], tuple[float, float]] = {}  # -> mtime, monotonic seconds

    def of(self, reader: Reader, number: int) -> float:
        """Seconds since a segment was last written."""
        written, key = reader.written_at(number), (reader.spool, number)
        known = self._born.get(key)
        if known is None or known[0] != written:
            age = max(0.0, self._wall() - written) if written else 0.0
            known = self._born[key] = (written, self._now() - age)
        return self._now() - known[1]

    def forget(self, spool: str) -> None:
        """A spool is gone."""
        for key in [key for key in self._born if key[0] == spool]:
            del self._born[key]


class Delivered:
    """Remembers what it found of each spool until its standing or its folder changes."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.ages = Ages(now, wall)
        self._now = now
        self._marks: dict[str, _Mark] = {}
        # Seq that the last segment with records began with, when a spool was last looked at.
        self._tails: dict[str, int] = {}
        self._found: dict[str, tuple[float, list[Kept]]] = {}  # monotonic seconds, segments

    def has_changed(self, reader: Reader, standing: Standing) -> bool:
        """Whether the spool is worth a look since it was last looked at with success.

        A file that is made, sealed, moved or deleted changes the folder; one that only grows has
        nothing to be tidied. So it is with a segment that is delivered while it is written.
        """
        mark = _Mark(standing=standing, folder=reader.changed_at(), verdict=reader.liveness())
        known = self._marks.get(reader.spool)
        if known == mark or (known is not None and self._only_grows(reader.spool, known, mark)):
            return False
        self._marks[reader.spool] = mark
        return True

    def _only_grows(self, spool: str, known: _Mark, mark: _Mark) -> bool:
        """Whether all that has changed is how far sinks are in the segment that is written."""
        before = known.standing.through
        same = replace(mark, standing=replace(mark.standing, through=before)) == known
        return same and mark.verdict.alive and before + 1 >= self._tails.get(spool, before + 2)

    def has_more(self, spool: str) -> None:
        """There is something left to do in it: look next time, changed or not."""
        self._marks.pop(spool, None)

    def look_again(self, spool: str) -> None:
        """Whatever is remembered of it does not count any more."""
        self._marks.pop(spool, None)
        self._tails.pop(spool, None)
        self._found.pop(spool, None)

    def forget(self, spool: str) -> None:
        """A spool is gone."""
        self.look_again(spool)
        self.ages.forget(spool)

    def look(
        self, reader: Reader, standing: Standing, *, staying: Collection[int], save: bool
    ) -> None:
        """Find the segments that may go; those of `staying` may not."""
        complete = [one for one in reader.segments_below(standing.through) if one not in staying]
        numbers: list[int | None] = list(complete)
        if standing.ended and not staying and is_over(reader, standing.through):
            numbers = [None]
        self._found[reader.spool] = (
            self._now(),
            [self._kept(reader, number, save) for number in numbers if _of(reader, number)],
        )
        self._tails.pop(reader.spool, None)
        with contextlib.suppress(SpoolError):  # then every step on is worth a look
            self._tails[reader.spool] = reader.last_segment_first_seq()

    def segments(self, spool: str) -> list[Kept]:
        """What was found of it, as old as it is now."""
        found, kept = self._found.get(spool, (0.0, []))
        passed = self._now() - found
        return [replace(one, age=one.age + passed) for one in kept]

    def _kept(self, reader: Reader, number: int | None, save: bool) -> Kept:
        numbers = _of(reader, number)
        return Kept(
            spool=reader.spool,
            number=number,
            bytes=sum(reader.segment_bytes(one) for one in numbers),
            age=min(self.ages.of(reader, one) for one in numbers),
            save=save,
        )


def is_over(reader: Reader, through: int) -> bool:
    """Whether a spool has certainly ended and holds nothing beyond `through`.

    Raises:
        SpoolError: a segment cannot be read, so that this is unknown.
    """
    return reader.liveness().certain and reader.is_drained(through)


def _of(reader: Reader, number: int | None) -> list[int]:
    return reader.segments() if number is None else [number]
