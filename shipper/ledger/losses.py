"""What a sink has lost of a spool: damage, and what was deleted to keep a limit. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from shipper.ledger import ranges
from shipper.ledger.ranges import Range

DROPPED = "dropped:"  # what the service says of damage that is its own doing


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Counts of records."""

    corrupt: int
    evicted: Counter[str]  # by reason


def reckon(
    damage: Iterable[tuple[int, int, str]], deleted: Iterable[tuple[int, int, str]]
) -> Losses:
    """Sort damage (first and last seq, reason) into corrupt and evicted.

    `deleted` is what the writer said it has deleted, in the same form: what is missing and was told
    there is no damage.
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
