"""Records that are missing: how many, why, from when to when.

Records that could not be committed have no seq: a gap stands in their place, written as soon as
the spool takes records again, before the first of them.

Records that were committed and then deleted by their own writer, to keep the limit of its spool,
have one. Such a gap is written before the deletion and tells of all deletions of this writer so
far, as earlier gaps may go with their segments: nothing from `first_seq` to `last_seq` is left, and
`count` is how many that is. Some were delivered: the writer does not know, the service does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "gap"


def make(*, time: float, reason: str, count: int, first: float, last: float) -> dict[str, Any]:
    """`first` and `last` are Unix seconds of the first and last record lost for `reason`."""
    return {"time": time, "reason": reason, "count": count, "first": first, "last": last}


def make_deleted(
    *, time: float, reason: str, seqs: tuple[int, int], first: float, last: float
) -> dict[str, Any]:
    """As `make`, for the records from the first to the last of `seqs`."""
    body = make(time=time, reason=reason, count=seqs[1] - seqs[0] + 1, first=first, last=last)
    return {**body, "first_seq": seqs[0], "last_seq": seqs[1]}


def deleted(body: Mapping[str, Any]) -> tuple[int, int] | None:
    """First and last seq of what was deleted; None for records that never had a seq."""
    first, last = body.get("first_seq"), body.get("last_seq")
    if not isinstance(first, int) or not isinstance(last, int) or not 0 < first <= last < 2**63:
        return None
    return first, last


EXAMPLE = make(
    time=1700000050.0, reason="disk-full", count=12, first=1700000030.0, last=1700000049.0
)
