"""Which segments to delete: of those delivered what retention does not keep, and for room. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A segment that may go; `number` None stands for the rest of an ended spool."""

    spool: str
    number: int | None
    bytes: int
    age: float  # seconds since it was last written
    save: bool  # whether the job and the operator want delivered data kept at all


def to_delete(kept: Iterable[Kept], *, max_seconds: float, max_bytes: int) -> Sequence[Kept]:
    """Those that nobody wants, those too old, and of the rest the oldest beyond `max_bytes`."""
    doomed: list[Kept] = []
    total = 0
    for segment in sorted(kept, key=lambda segment: segment.age):
        total += segment.bytes
        if not segment.save or segment.age > max_seconds or total > max_bytes:
            doomed.append(segment)
    return doomed


def oldest(kept: Iterable[Kept], excess: int) -> Sequence[Kept]:
    """The segments written longest ago that together give `excess` bytes back, or all."""
    doomed: list[Kept] = []
    for segment in in_order(kept):
        if excess <= 0:
            break
        doomed.append(segment)
        excess -= segment.bytes
    return doomed


def in_order(kept: Iterable[Kept]) -> Sequence[Kept]:
    """By last write, oldest first; those of one spool always in its own order.

    A file may have been touched later than the one after it: sealing is such a touch.
    """
    ages: dict[tuple[str, float], float] = {}
    youngest: dict[str, float] = {}
    for segment in sorted(kept := list(kept), key=_position, reverse=True):
        youngest[segment.spool] = max(segment.age, youngest.get(segment.spool, 0.0))
        ages[segment.spool, _position(segment)] = youngest[segment.spool]
    return sorted(
        kept, key=lambda one: (-ages[one.spool, _position(one)], one.spool, _position(one))
    )


def _position(segment: Kept) -> float:
    return float("inf") if segment.number is None else segment.number
