"""Records of a spool that a sink did not get: corrupt, or deleted to keep a limit. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from shipper.ledger import ranges
from shipper.ledger.entries import Gap
from shipper.ledger.ranges import Range

DROPPED = "dropped:"  # prefix of the reason where the service itself deleted the records


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Counts of records."""

    corrupt: int
    evicted: Counter[str]  # by reason


def classify_losses(
    damage: Iterable[tuple[int, int, str]], deleted: Iterable[tuple[int, int, str]]
) -> Losses:
    """Sort damage (first and last seq, reason) into corrupt and evicted records.

    `deleted` are the records that the writer reports as deleted, in the same form. Missing records
    among them are evicted, not corrupt.
    """
    corrupt, evicted = 0, Counter[str]()
    deleted = list(deleted)
    for first, last, reason in damage:
        rest: list[Range] = [(first, last)]
        if reason.startswith(DROPPED):
            evicted[reason.removeprefix(DROPPED)] += ranges.size(rest)
            continue
        if reason == "missing":
            for begin, end, why in deleted:
                told = ranges.common(rest, [(begin, end)])
                evicted[why] += ranges.size(told)
                rest = ranges.without(rest, told)
        corrupt += ranges.size(rest)
    return Losses(corrupt=corrupt, evicted=+evicted)


def producer_dropped(gaps: Iterable[Gap]) -> Counter[str]:
    """Records that never got a seq, by reason."""
    counts: Counter[str] = Counter()
    for gap in gaps:
        counts[gap.reason] += 0 if gap.first else gap.count
    return +counts


def deleted_by_writer(gaps: Iterable[Gap]) -> list[tuple[int, int, str]]:
    """What the writer has deleted to keep its limit: first and last seq, reason."""
    return [(gap.first, gap.last, gap.reason) for gap in gaps if gap.first]
