"""The ledger's rows that concern spools which still have files: where each sink is in them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from shipper.ledger import ranges, totals
from shipper.ledger.ledger import Ledger
from shipper.ledger.ranges import Range
from spooler.spool.summary import SpoolSummary

Pair = tuple[str, str]  # spool, sink

_COLUMNS = ("spool", "sink", "seq", "early", "delivered", "passed", "updated")


@dataclass(frozen=True, kw_only=True)
class LedgerSnapshot:
    """The ledger's rows of spools that still have files."""

    positions: dict[Pair, dict[str, Any]]
    dead: Counter[Pair]  # kept
    damage: dict[Pair, list[tuple[int, int, str]]]
    beyond: dict[Pair, list[Range]]  # dead letters beyond the position
    given_up: Counter[Pair]  # by rules of the sink
    gaps: dict[str, list[totals.Told]]
    workloads: dict[str, str]

    def seq(self, pair: Pair) -> int:
        """Up to where everything is settled."""
        return int(self.positions.get(pair, {}).get("seq") or 0)

    def count(self, pair: Pair, what: str) -> int:
        """A counter of a position."""
        return int(self.positions.get(pair, {}).get(what) or 0)

    def mark(self, pair: Pair) -> tuple[Any, ...]:
        """Something else as soon as what is known of a spool and sink is something else."""
        return (
            self.positions.get(pair, {}).get("updated"),
            self.dead[pair],
            len(self.damage.get(pair, ())),
            len(self.beyond.get(pair, ())),
            len(self.gaps.get(pair[0], ())),
            self.given_up[pair],
        )

    def deleted(self, spool: str) -> list[tuple[int, int, str]]:
        """What the writer of a spool says it has deleted: first and last seq, reason."""
        return [(first, last, why) for _, why, _, first, last in self.gaps.get(spool, ()) if first]


NOTHING = LedgerSnapshot(
    positions={},
    dead=Counter(),
    damage={},
    beyond={},
    given_up=Counter(),
    gaps={},
    workloads={},
)


def read_snapshot(ledger: Ledger) -> LedgerSnapshot:
    """What the ledger says now."""
    here = "spool IN (SELECT id FROM spool WHERE deleted IS NULL)"
    with ledger.using() as database:
        positions = database.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM position WHERE {here}"
        ).fetchall()
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
        given_up = database.execute(
            f"SELECT spool, sink, sum(count) FROM dropped WHERE {here} GROUP BY spool, sink"
        ).fetchall()
        workloads = database.execute("SELECT id, workload FROM spool WHERE workload != ''")
        return LedgerSnapshot(
            positions={row[:2]: dict(zip(_COLUMNS, row, strict=True)) for row in positions},
            dead=Counter({(spool, sink): count for spool, sink, count in dead}),
            damage=_grouped(((spool, sink), (a, b, why)) for spool, sink, a, b, why in damage),
            beyond=_grouped(((spool, sink), (seq, seq)) for spool, sink, seq in beyond),
            given_up=Counter({(spool, sink): count for spool, sink, count in given_up}),
            gaps=_grouped((row[0], row) for row in gaps),
            workloads=dict(workloads.fetchall()),
        )


def _grouped(pairs: Any) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def pending(books: LedgerSnapshot, pair: Pair, view: SpoolSummary) -> int:
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
