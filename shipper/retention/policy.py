"""Which segments to delete: delivered ones that retention does not keep, or the oldest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletableSegment:
    """A segment that may be deleted; `number` None stands for the rest of an ended spool."""

    spool: str
    number: int | None
    bytes: int
    age: float  # seconds since it was last written
    save: bool  # whether the job and the operator want to keep delivered data at all


def to_delete(
    segments: Iterable[DeletableSegment], *, max_seconds: float, max_bytes: int
) -> Sequence[DeletableSegment]:
    """Those not to be saved, those too old, and of the others the oldest beyond `max_bytes`."""
    chosen: list[DeletableSegment] = []
    total = 0
    for segment in sorted(segments, key=lambda segment: segment.age):
        total += segment.bytes
        if not segment.save or segment.age > max_seconds or total > max_bytes:
            chosen.append(segment)
    return chosen


def oldest(segments: Iterable[DeletableSegment], over_by: int) -> Sequence[DeletableSegment]:
    """The segments written longest ago that together free `over_by` bytes, or all."""
    chosen: list[DeletableSegment] = []
    for segment in oldest_first(segments):
        if over_by <= 0:
            break
        chosen.append(segment)
        over_by -= segment.bytes
    return chosen


def oldest_first(segments: Iterable[DeletableSegment]) -> Sequence[DeletableSegment]:
    """By last write; those of one spool always in its own order.

    A file may have been written later than the one after it: sealing is such a write.
    """
    ages: dict[tuple[str, float], float] = {}
    youngest: dict[str, float] = {}
    for segment in sorted(segments := list(segments), key=_place, reverse=True):
        youngest[segment.spool] = max(segment.age, youngest.get(segment.spool, 0.0))
        ages[segment.spool, _place(segment)] = youngest[segment.spool]
    return sorted(segments, key=lambda one: (-ages[one.spool, _place(one)], one.spool, _place(one)))


def _place(segment: DeletableSegment) -> float:
    return float("inf") if segment.number is None else segment.number
