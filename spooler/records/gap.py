"""Records that could not be committed: how many, why, from when to when.

Written as soon as the spool takes records again, before the first of them. The lost records have
no seq: a gap stands in their place.
"""

from __future__ import annotations

from typing import Any

NAME = "gap"


def make(*, time: float, reason: str, count: int, first: float, last: float) -> dict[str, Any]:
    """`first` and `last` are Unix seconds of the first and last record lost for `reason`."""
    return {"time": time, "reason": reason, "count": count, "first": first, "last": last}


EXAMPLE = make(
    time=1700000050.0, reason="disk-full", count=12, first=1700000030.0, last=1700000049.0
)
