"""The ledger's rows about spools, read in a few queries: how far each sink is in each spool."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shipper.ledger import ranges
from shipper.ledger.database import StateDatabase
from shipper.ledger.entries import Gap
from shipper.ledger.ranges import Range


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkRows:
    """One sink in one spool: every record up to `seq` is acknowledged or otherwise final."""

    seq: int = 0
    updated: float = 0.0  # Unix seconds of the last move of `seq`
    delivered: int = 0
    skipped: int = 0
    dead_letters: int = 0  # kept
    rejected: int = 0  # dead letters there ever were
    dropped: Mapping[str, int] = field(default_factory=dict)  # by a rule of the sink, by reason
    damage: tuple[tuple[int, int, str], ...] = ()  # first and last seq, reason
    acked_beyond: tuple[Range, ...] = ()  # beyond `seq`
    rejected_beyond: tuple[Range, ...] = ()

    def final_beyond(self) -> list[Range]:
        """Records beyond `seq` that are final already: acknowledged, rejected or damaged."""
        damaged = ((first, last) for first, last, _ in self.damage)
        found = (*self.acked_beyond, *self.rejected_beyond, *damaged)
        return ranges.merged((max(first, self.seq + 1), last) for first, last in found)

    def pending(self, first: int, last: int) -> int:
        """How many records of the files, which hold `first` to `last`, are not final yet."""
        begin = max(self.seq + 1, first)
        if not last or begin > last:
            return 0
        return ranges.size(ranges.without([(begin, last)], self.final_beyond()))


@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolRows:
    """One spool; `gaps` is what its writer has reported as dropped or deleted.

    `written` is the last seq that was seen, 0 once the service has deleted it all as delivered.
    """

    workload: str = ""
    directory: str = ""
    written: int = 0
    gaps: tuple[Gap, ...] = ()
    sinks: Mapping[str, SinkRows] = field(default_factory=dict)  # and positions of replays, with ~

    def owed(self, sink: str) -> int:
        """How many of the records that were seen are not final for a sink."""
        return self.sinks.get(sink, SinkRows()).pending(1, self.written)


LedgerSnapshot = Mapping[str, SpoolRows]  # by spool


def read_snapshot(state: StateDatabase, spool: str = "") -> LedgerSnapshot:
    """The rows of every spool that has files or should have, or of one spool in any case."""
    values = {"spool": spool} if spool else {}
    of_spool = " WHERE spool = :spool" if spool else ""
    known = of_spool or (
        " WHERE spool IN (SELECT id FROM spool WHERE deleted IS NULL OR written > 0)"
    )
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    gaps: dict[str, list[Gap]] = defaultdict(list)
    with state.connection() as database:
        for name, sink, seq, early, delivered, skipped, updated in database.execute(
            f"SELECT spool, sink, seq, early, delivered, passed, updated FROM position{known}",
            values,
        ):
            found[name][sink] |= {"seq": seq, "delivered": delivered, "skipped": skipped}
            found[name][sink]["updated"] = updated or 0.0
            found[name][sink]["acked_beyond"] = tuple(map(tuple, json.loads(early or "[]")))
        for name, sink, kept, count in database.execute(
            "SELECT spool, sink, sum(state = 'kept'), count(*) FROM dead_letter"
            f"{of_spool} GROUP BY spool, sink",
            values,
        ):
            found[name][sink] |= {"dead_letters": kept, "rejected": count}
        for name, sink, seq in database.execute(
            # In this order: one index look-up for each pair, not one for each dead letter.
            f"SELECT d.spool, d.sink, d.seq FROM (SELECT DISTINCT spool, sink FROM dead_letter"
            f"{of_spool}) k LEFT JOIN position p ON p.spool = k.spool AND p.sink = k.sink"
            " CROSS JOIN dead_letter d"
            " ON d.spool = k.spool AND d.sink = k.sink AND d.seq > coalesce(p.seq, 0)",
            values,
        ):
            found[name][sink].setdefault("rejected_beyond", []).append((seq, seq))
        for name, sink, *piece in database.execute(
            f"SELECT spool, sink, first, last, reason FROM damage{known}", values
        ):
            found[name][sink].setdefault("damage", []).append(tuple(piece))
        for name, sink, reason, count in database.execute(
            f"SELECT spool, sink, reason, count FROM dropped{known}", values
        ):
            found[name][sink].setdefault("dropped", {})[reason] = count
        for name, seq, reason, count, first, last in database.execute(
            f"SELECT spool, seq, reason, count, first, last FROM gap{known}", values
        ):
            gap = Gap(
                spool=name, seq=seq, reason=reason, count=count, first=first or 0, last=last or 0
            )
            gaps[name].append(gap)
        spools = {
            name: {"workload": workload, "directory": directory, "written": written or 0}
            for name, workload, directory, written in database.execute(
                "SELECT id, workload, directory, written FROM spool"
                f"{of_spool.replace('spool =', 'id =')}",
                values,
            )
        }
    return {
        name: SpoolRows(
            **spools.get(name, {}),
            gaps=tuple(gaps[name]),
            sinks={sink: _sink_rows(rows) for sink, rows in found[name].items()},
        )
        for name in {*spools, *gaps, *found}
    }


def _sink_rows(rows: dict[str, Any]) -> SinkRows:
    for name in ("damage", "rejected_beyond"):
        rows[name] = tuple(rows.get(name, ()))
    return SinkRows(**rows)
