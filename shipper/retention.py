"""Which delivered segments to keep for replay, and which to delete. The deciding part is pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A segment that every sink has; `number` None stands for the rest of an ended spool."""

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
