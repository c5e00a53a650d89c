"""Compares what collectors had to collect with what a master has; pure.

Lines of the log are counted, not reports, as the way is free to cut and to join them. A line that
is there twice was written twice, so copies are counted too. Delivery is at least once: a further
copy at the master is *duplicated*. Order is promised for what one process has recorded; a master
that restarted is told again process by process. What the service itself tells a master (that a
process exited uncleanly) is not a line of the log and is passed over.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

LOG, STACKS = "TRAINING_LOG", "STACK_TRACE"
_Report = Mapping[str, Any]
_OWN = "lens-ship: process "
_DUMPED, _DUMP_HEAD = "the thread that took the signal", "most recent call first"


@dataclass(frozen=True, kw_only=True)
class ReportCounts:
    """Numbers of lines, or of stacks."""

    written: int = 0
    recorded: int = 0
    delivered: int = 0
    duplicated: int = 0
    lost: int = 0
    changed: int = 0
    disordered: int = 0


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Three witnesses: the log itself and who asked for stacks, the spools, the master."""

    lines: Sequence[str]
    stacks_asked: int
    recorded: Sequence[Sequence[_Report]]  # by each process
    stored: Sequence[_Report]


def log_lines(found: Collected) -> ReportCounts:
    """Count lines of the log; each must be recorded once."""
    return _count(found.lines, [_lines(one) for one in found.recorded], _lines(found.stored))


def stacks(found: Collected) -> ReportCounts:
    """Count looks at the stacks; what they hold is known from their records alone.

    Of a dump that was read while it was written, the rest is in a further report.
    """
    recorded = [_of(one, STACKS) for one in found.recorded]
    every = [text for texts in recorded for text in texts]
    counted = _count(every, recorded, _of(found.stored, STACKS))
    rests = sum(_DUMPED in text and _DUMP_HEAD not in text for text in every)
    return replace(counted, written=found.stacks_asked + rests)


def unclean_exits(stored: Sequence[_Report]) -> int:
    """Of how many processes the master was told that they exited uncleanly."""
    return len({text for text in _of(stored, LOG) if text.startswith(_OWN)})


def _of(reports: Iterable[_Report], data_type: str) -> list[str]:
    return [one["data_content"] for one in reports if one["data_type"] == data_type]


def _lines(reports: Iterable[_Report]) -> list[str]:
    texts = (text for text in _of(reports, LOG) if not text.startswith(_OWN))
    return [line for text in texts for line in text.splitlines()]


def _count(
    written: Sequence[str], recorded: Sequence[Sequence[str]], stored: Sequence[str]
) -> ReportCounts:
    wanted, there = Counter(written), Counter(stored)
    known = {text for text in there if text in wanted}
    return ReportCounts(
        written=len(written),
        recorded=sum(map(len, recorded)),
        delivered=(wanted & there).total(),
        duplicated=sum(there[text] - wanted[text] for text in known if there[text] > wanted[text]),
        lost=(wanted - there).total(),
        changed=sum(count for text, count in there.items() if text not in wanted),
        disordered=sum(_disordered(one, stored) for one in recorded),
    )


def _disordered(recorded: Sequence[str], stored: Sequence[str]) -> int:
    """How many texts of one process came after a later one; further copies are passed over."""
    places: dict[str, deque[int]] = defaultdict(deque)
    for place, text in enumerate(recorded):
        places[text].append(place)
    behind, highest = 0, -1
    for place in [places[text].popleft() for text in stored if places[text]]:
        behind += place < highest
        highest = max(highest, place)
    return behind
