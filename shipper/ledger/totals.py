"""Counters over all spools, including those whose files and rows are deleted.

Counters must never decrease, so the rows that are pruned from the ledger are first added up here,
in the same transaction.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from shipper.ledger.database import Database, StateDatabase
from shipper.ledger.entries import Gap
from shipper.ledger.losses import classify_losses, deleted_by_writer, producer_dropped

# The columns of a position that are counters.
COUNTERS = ("delivered", "passed", "requests", "points", "nonfinite", "left_out", "rejected")
CORRUPT = "corrupt"
_LOST, _DROPPED = "lost", "dropped"
_OLD = "(SELECT id FROM spool WHERE deleted < ?)"


@dataclass(frozen=True, kw_only=True)
class LedgerTotals:
    """Counts of records by sink; a record counts once for each sink. Replays do not count."""

    settled: Counter[tuple[str, str]]  # (sink, one of COUNTERS)
    lost: Counter[tuple[str, str]]  # (sink, "corrupt" or why it was dropped)
    dead: Counter[tuple[str, str, str]]  # (sink, reason, state)
    dropped: Counter[str]  # never written by the training side, by reason

    @property
    def delivered(self) -> Counter[str]:
        """By sink."""
        return Counter({sink: n for (sink, what), n in self.settled.items() if what == "delivered"})


NO_TOTALS = LedgerTotals(settled=Counter(), lost=Counter(), dead=Counter(), dropped=Counter())


def read_totals(state: StateDatabase) -> LedgerTotals:
    with state.connection() as database:
        settled = _settled(database, "")
        lost, dropped = _lost(database, "")
        for sink, what, reason, count in database.execute(
            "SELECT sink, what, reason, count FROM forgotten"
        ):
            if what == _LOST:
                lost[sink, reason] += count
            elif what == _DROPPED:
                dropped[reason] += count
            else:
                settled[sink, what] += count
        dead = database.execute(
            "SELECT sink, reason, state, count(*) FROM dead_letter GROUP BY sink, reason, state"
        ).fetchall()
    return LedgerTotals(
        settled=settled,
        lost=lost,
        dead=Counter({(sink, why, state): n for sink, why, state, n in dead}),
        dropped=dropped,
    )


def delivered_by_sink(state: StateDatabase) -> dict[str, int]:
    """Records delivered to each sink, of spools that are not pruned."""
    rows = state.execute("SELECT sink, sum(delivered) FROM position GROUP BY sink")
    # A name with a tilde is the position of a replay.
    return {sink: count or 0 for sink, count in rows if "~" not in sink}


def archive(database: Database, before: float) -> None:
    """Add up the rows of spools deleted before that time, which are about to be pruned."""
    settled = _settled(database, f" AND spool IN {_OLD}", before)
    lost, dropped = _lost(database, f" WHERE spool IN {_OLD}", before)
    rows = [
        *((sink, what, "", count) for (sink, what), count in settled.items()),
        *((sink, _LOST, reason, count) for (sink, reason), count in lost.items()),
        *(("", _DROPPED, reason, count) for reason, count in dropped.items()),
    ]
    for row in rows:
        database.execute(
            "INSERT INTO forgotten (sink, what, reason, count) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (sink, what, reason) DO UPDATE SET count = count + excluded.count",
            row,
        )


def _settled(database: Database, where: str, *values: Any) -> Counter[tuple[str, str]]:
    columns = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTERS)
    rows = database.execute(
        # A name with a tilde is the position of a replay.
        f"SELECT sink, {columns} FROM position WHERE sink NOT LIKE '%~%'{where} GROUP BY sink",
        values,
    )
    return Counter(
        {(row[0], name): row[place] for row in rows for place, name in enumerate(COUNTERS, 1)}
    )


def _lost(
    database: Database, where: str, *values: Any
) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    gaps = defaultdict[str, list[Gap]](list)
    for spool, seq, reason, count, first, last in database.execute(
        f"SELECT spool, seq, reason, count, first, last FROM gap{where}", values
    ):
        gap = Gap(spool=spool, seq=seq, reason=reason, count=count, first=first, last=last)
        gaps[spool].append(gap)
    damage = defaultdict[tuple[str, str], list[tuple[int, int, str]]](list)
    for spool, sink, first, last, reason in database.execute(
        f"SELECT spool, sink, first, last, reason FROM damage{where}", values
    ):
        damage[spool, sink].append((first, last, reason))
    lost = Counter[tuple[str, str]]()
    for (spool, sink), ranges in damage.items():
        found = classify_losses(ranges, deleted_by_writer(gaps[spool]))
        lost[sink, CORRUPT] += found.corrupt
        for reason, count in found.evicted.items():
            lost[sink, reason] += count
    for sink, reason, count in database.execute(
        f"SELECT sink, reason, count FROM dropped{where}", values
    ):
        lost[sink, reason] += count
    # A name with a tilde is the position of a replay.
    of_sinks = {key: count for key, count in lost.items() if count and "~" not in key[0]}
    return Counter(of_sinks), producer_dropped(itertools.chain(*gaps.values()))
