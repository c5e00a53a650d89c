"""Which segments every sink has acknowledged; computed again only for spools that changed.

Ages use a clock that cannot jump: a segment has the age by the wall clock when it is first seen,
and from then on it ages with the monotonic clock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from shipper.retention.policy import DeletableSegment
from spooler.errors import SpoolError
from spooler.spool.owner import Liveness
from spooler.spool.reader import Reader


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryProgress:
    """Up to where every sink has acknowledged a spool, and whether all pipelines have finished."""

    through: int
    ended: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """The state of a spool: its progress, when its directory changed, whether its writer lives."""

    progress: DeliveryProgress
    changed_at: int
    liveness: Liveness


class FileAges:
    """Seconds since files were last written, whatever the wall clock does meanwhile."""

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
        for key in [key for key in self._born if key[0] == spool]:
            del self._born[key]


class DeletableCache:
    """The deletable segments of each spool, until its progress or its directory changes."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.ages = FileAges(now, wall)
        self._now = now
        self._seen: dict[str, _Seen] = {}
        # First seq of the last segment with records, at the last refresh.
        self._last_segment: dict[str, int] = {}
        self._found: dict[str, tuple[float, list[DeletableSegment]]] = {}  # -> monotonic seconds

    def has_changed(self, reader: Reader, progress: DeliveryProgress) -> bool:
        """Whether the spool needs a refresh.

        A file that is made, sealed, moved or deleted changes the directory. Records that are
        appended to the active segment, or acknowledged in it, make nothing deletable.
        """
        seen = _Seen(progress=progress, changed_at=reader.changed_at(), liveness=reader.liveness())
        known = self._seen.get(reader.spool)
        if known is not None:
            through = known.progress.through
            same = replace(seen, progress=replace(progress, through=through)) == known
            in_last = through + 1 >= self._last_segment.get(reader.spool, through + 2)
            if known == seen or (same and seen.liveness.alive and in_last):
                return False
        self._seen[reader.spool] = seen
        return True

    def needs_refresh(self, spool: str) -> None:
        """Refresh a spool the next time, changed or not."""
        self._seen.pop(spool, None)

    def invalidate(self, spool: str) -> None:
        """Discard what is known of a spool."""
        self._seen.pop(spool, None)
        self._last_segment.pop(spool, None)
        self._found.pop(spool, None)

    def forget(self, spool: str) -> None:
        """Discard everything of a spool that is deleted."""
        self.invalidate(spool)
        self.ages.forget(spool)

    def refresh(
        self, reader: Reader, progress: DeliveryProgress, *, retained: Collection[int], save: bool
    ) -> None:
        """Find the segments that may be deleted; those of `retained` may not."""
        below = [one for one in reader.segments_below(progress.through) if one not in retained]
        numbers: list[int | None] = list(below)
        if progress.ended and not retained and has_ended(reader, progress.through):
            numbers = [None]
        found = []
        for number in numbers:
            parts = reader.segments() if number is None else [number]
            if parts:
                found.append(
                    DeletableSegment(
                        spool=reader.spool,
                        number=number,
                        bytes=sum(reader.segment_bytes(one) for one in parts),
                        age=min(self.ages.of(reader, one) for one in parts),
                        save=save,
                    )
                )
        self._found[reader.spool] = (self._now(), found)
        self._last_segment.pop(reader.spool, None)
        with contextlib.suppress(SpoolError):  # then each acknowledgement causes a refresh
            self._last_segment[reader.spool] = reader.last_segment_first_seq()

    def segments(self, spool: str) -> list[DeletableSegment]:
        """The deletable segments of a spool, with their current age."""
        found, segments = self._found.get(spool, (0.0, []))
        elapsed = self._now() - found
        return [replace(one, age=one.age + elapsed) for one in segments]


def has_ended(reader: Reader, through: int) -> bool:
    """Whether a spool has certainly ended and holds nothing beyond `through`.

    Raises:
        SpoolError: a segment cannot be read, so that this is unknown.
    """
    return reader.liveness().certain and reader.is_drained(through)
