"""The ledger's rows about spools, read in a few queries: how far each sink is in each spool."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shipper.ledger import ranges, totals
from shipper.ledger.database import State
from shipper.ledger.ranges import Range


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkRows:
    """One sink in one spool: every record up to `seq` is acknowledged or otherwise final.

    The ranges are those of records beyond `seq`, as are `rejected`: dead letters, kept or not.
    """

    seq: int = 0
    acked: tuple[Range, ...] = ()
    rejected: tuple[Range, ...] = ()
    delivered: int = 0
    skipped: int = 0
    dead_letters: int = 0  # kept
    dropped: int = 0  # by a rule of the sink
    damage: tuple[tuple[int, int, str], ...] = ()  # first and last seq, reason

    def pending(self, first: int, last: int) -> int:
        """How many records of the files, which hold `first` to `last`, are not final yet."""
        begin = max(self.seq + 1, first)
        if not last or begin > last:
            return 0
        damaged = ((begin, end) for begin, end, _ in self.damage)
        final = [*self.acked, *self.rejected, *damaged]
        return ranges.size(ranges.without([(begin, last)], final))


@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolRows:
    """One spool; `gaps` is what its writer has reported as dropped or deleted."""

    workload: str = ""
    gaps: tuple[totals.Told, ...] = ()
    sinks: Mapping[str, SinkRows] = field(default_factory=dict)

    @property
    def deleted(self) -> list[tuple[int, int, str]]:
        """What the writer has deleted to keep its limit: first and last seq, reason."""
        return [(first, last, reason) for _, reason, _, first, last in self.gaps if first]


LedgerSnapshot = Mapping[str, SpoolRows]  # by spool


def read_snapshot(state: State, spool: str = "") -> LedgerSnapshot:
    """The rows of every spool that has files, or of one spool whether it has files or not."""
    where = "spool = :spool" if spool else "spool IN (SELECT id FROM spool WHERE deleted IS NULL)"
    with state.using() as database:

        def rows(query: str) -> list[Any]:
            return list(database.execute(query, {"spool": spool} if ":spool" in query else {}))

        positions = rows(
            f"SELECT spool, sink, seq, early, delivered, passed FROM position WHERE {where}"
        )
        kept = rows(
            "SELECT spool, sink, count(*) FROM dead_letter WHERE state = 'kept'"
            f"{' AND spool = :spool' if spool else ''} GROUP BY spool, sink"
        )
        rejected = rows(
            # In this order: one index look-up for each pair, not one for each dead letter.
            "SELECT d.spool, d.sink, d.seq FROM (SELECT DISTINCT spool, sink FROM dead_letter"
            f"{' WHERE spool = :spool' if spool else ''}) k"
            " LEFT JOIN position p ON p.spool = k.spool AND p.sink = k.sink"
            " CROSS JOIN dead_letter d"
            " ON d.spool = k.spool AND d.sink = k.sink AND d.seq > coalesce(p.seq, 0)"
        )
        damage = rows(f"SELECT spool, sink, first, last, reason FROM damage WHERE {where}")
        gaps = rows(f"SELECT spool, reason, count, first, last FROM gap WHERE {where}")
        dropped = rows(
            f"SELECT spool, sink, sum(count) FROM dropped WHERE {where} GROUP BY spool, sink"
        )
        workloads = rows(f"SELECT id, workload FROM spool{' WHERE id = :spool' if spool else ''}")
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for name, sink, seq, early, delivered, skipped in positions:
        found[name][sink] = {
            "seq": seq or 0,
            "acked": tuple((first, last) for first, last in json.loads(early or "[]")),
            "delivered": delivered or 0,
            "skipped": skipped or 0,
        }
    for name, sink, count in kept:
        found[name][sink]["dead_letters"] = count
    for name, sink, count in dropped:
        found[name][sink]["dropped"] = count
    for (name, sink), pieces in _grouped(((n, s), (a, b, why)) for n, s, a, b, why in damage):
        found[name][sink]["damage"] = tuple(pieces)
    for (name, sink), seqs in _grouped(((n, s), seq) for n, s, seq in rejected):
        found[name][sink]["rejected"] = tuple(ranges.of_numbers(seqs))
    told = dict(_grouped((row[0], tuple(row)) for row in gaps))
    names = dict(workloads)
    return {
        name: SpoolRows(
            workload=names.get(name, ""),
            gaps=tuple(told.get(name, ())),
            sinks={sink: SinkRows(**values) for sink, values in found.get(name, {}).items()},
        )
        for name in {*names, *told, *found}
    }


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, list[Any]]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups.items()
