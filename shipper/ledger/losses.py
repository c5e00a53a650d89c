"""Records of a spool that a sink did not get: corrupt, or deleted to keep a limit. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from shipper.ledger import ranges
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
