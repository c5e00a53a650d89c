"""The ledger's rows that concern spools which still have files: where each sink is in them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from shipper import ranges, sums
from shipper.ledger import Ledger
from shipper.ranges import Range
from spooler.spool.glance import View

Pair = tuple[str, str]  # spool, sink


@dataclass(frozen=True, kw_only=True)
class Books:
    """The ledger's rows of spools that still have files."""

    positions: dict[Pair, dict[str, Any]]
    dead: Counter[Pair]  # kept
    damage: dict[Pair, list[tuple[int, int, str]]]
    beyond: dict[Pair, list[Range]]  # dead letters beyond the position
    gaps: dict[str, list[sums.Told]]
    workloads: dict[str, str]

    def seq(self, pair: Pair) -> int:
        """Up to where everything is settled."""
        return int(self.positions.get(pair, {}).get("seq") or 0)

    def count(self, pair: Pair, what: str) -> int:
        """A counter of a position."""
        return int(self.positions.get(pair, {}).get(what) or 0)

    def deleted(self, spool: str) -> list[tuple[int, int, str]]:
        """What the writer of a spool says it has deleted: first and last seq, reason."""
        return [(first, last, why) for _, why, _, first, last in self.gaps.get(spool, ()) if first]


NOTHING = Books(positions={}, dead=Counter(), damage={}, beyond={}, gaps={}, workloads={})


def open_books(ledger: Ledger) -> Books:
    """What the ledger says now."""
    here = "spool IN (SELECT id FROM spool WHERE deleted IS NULL)"
    with ledger.using() as database:
        positions = list(database.table("position").rows_where(here))
        dead = database.execute(
            "SELECT spool, sink, count(*) FROM dead_letter WHERE state = 'kept'"
            " GROUP BY spool, sink"
        ).fetchall()
        damage = database.execute(
            f"SELECT spool, sink, first, last, reason FROM damage WHERE {here}"
        ).fetchall()
        beyond = database.execute(
            # In this order: a look into the index for each pair, not one at every letter.
            "SELECT d.spool, d.sink, d.seq FROM (SELECT DISTINCT spool, sink FROM dead_letter) k"
            " LEFT JOIN position p ON p.spool = k.spool AND p.sink = k.sink"
            " CROSS JOIN dead_letter d"
            " ON d.spool = k.spool AND d.sink = k.sink AND d.seq > coalesce(p.seq, 0)"
        ).fetchall()
        gaps = database.execute(
            f"SELECT spool, reason, count, first, last FROM gap WHERE {here}"
        ).fetchall()
        workloads = database.execute("SELECT id, workload FROM spool WHERE workload != ''")
        return Books(
            positions={(row["spool"], row["sink"]): row for row in positions},
            dead=Counter({(spool, sink): count for spool, sink, count in dead}),
            damage=_grouped(((spool, sink), (a, b, why)) for spool, sink, a, b, why in damage),
            beyond=_grouped(((spool, sink), (seq, seq)) for spool, sink, seq in beyond),
            gaps=_grouped((row[0], row) for row in gaps),
            workloads=dict(workloads.fetchall()),
        )


def _grouped(pairs: Any) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def pending(books: Books, pair: Pair, view: View) -> int:
    """Records beyond the position that are in the files and not settled yet."""
    # What its writer has deleted meanwhile is not waiting.
    begin = max(books.seq(pair) + 1, view.first)
    if not view.last or begin > view.last:
        return 0
    early = json.loads(books.positions.get(pair, {}).get("early") or "[]")
    settled = [(first, last) for first, last in early]
    settled += [(first, last) for first, last, _ in books.damage.get(pair, ())]
    settled += books.beyond.get(pair, [])
    return ranges.size(ranges.without([(begin, view.last)], settled))
