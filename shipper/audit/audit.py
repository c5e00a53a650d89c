"""Accounts for every record of every spool: counters from the ledger, counts from the files.

It only reads, and may run beside the service. When the ledger changes while the files of a spool
are counted, that spool is counted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shipper.audit.account import Account
from shipper.delivery.pipeline import gap_of
from shipper.delivery.resend import is_again
from shipper.discovery.layout import Closed, find_spools, is_bare
from shipper.ledger import losses, ranges
from shipper.ledger.ledger import Gap, Ledger
from shipper.ledger.ranges import Range
from shipper.retention.quarantine import Quarantine, Report
from spooler.spool.reader import Reader

_TRIES = 5
_NO_POSITION: dict[str, Any] = {"seq": 0, "early": [], "delivered": 0, "passed": 0}


@dataclass(kw_only=True)
class _AuditedSpool:
    """A spool with the gaps that its writer or the service has recorded, by seq."""

    id: str
    directory: str
    reader: Reader | None  # None once the files are deleted
    gaps: dict[int, Gap] = field(default_factory=dict)

    def read_gaps(self) -> None:
        for stored in self.reader.gaps() if self.reader else ():
            gap = gap_of(self.id, stored)
            if gap is not None:
                self.gaps[gap.seq] = gap


@dataclass(frozen=True, kw_only=True)
class _LedgerRows:
    """The ledger's rows about one spool and sink."""

    position: dict[str, Any]
    dead: list[int]  # seqs
    damage: list[tuple[int, int, str]]  # first and last seq, reason
    dropped: dict[str, int]  # by reason
    resent: int


def run_audit(
    ledger: Ledger,
    root: Path,
    sinks: Collection[str],
    closed: Closed | None = None,
    *,
    removed: Collection[str] = (),
) -> list[Account]:
    """The account of every spool in the ledger or below `root`, for each of `sinks`.

    Of sinks that were `removed` from the configuration only what the ledger knows is reported.
    `closed` is called with directories that cannot be read.
    """
    recorded = _gaps(ledger)
    spools = {
        row["id"]: _AuditedSpool(
            id=row["id"],
            directory=row["directory"],
            reader=None if row["deleted"] else Reader(Path(row["directory"])),
            gaps=recorded.get(row["id"], {}),
        )
        for row in ledger.spools()
    }
    pairs = [
        (spools[row["spool"]], row["sink"])
        for row in ledger.positions()
        if row["spool"] in spools and row["sink"] in {*sinks, *removed}
    ]
    known = {(spool.id, sink) for spool, sink in pairs}
    for directory in find_spools(root, closed):
        if is_bare(directory):
            continue
        reader = Reader(directory)
        found = spools.get(reader.spool)
        if found is None or found.reader is None:
            found = _AuditedSpool(id=reader.spool, directory=str(directory), reader=reader)
        pairs += [(found, sink) for sink in sinks if (found.id, sink) not in known]
    for spool in {id(spool): spool for spool, _ in pairs}.values():
        spool.read_gaps()
    accounts = [_account(ledger, spool, sink) for spool, sink in pairs]
    accounts += _unattributed(root, sinks, known)
    return sorted(accounts, key=lambda account: (account.spool, account.sink))


def removed_sinks(ledger: Ledger, sinks: Collection[str]) -> set[str]:
    """Sinks that have acknowledged records and are not among `sinks` any more."""
    # A position with a "~" in its name belongs to a replay or a resend.
    recorded = {row["sink"] for row in ledger.positions() if "~" not in row["sink"]}
    return recorded - set(sinks)


def _unattributed(
    root: Path, sinks: Iterable[str], known: Collection[tuple[str, str]]
) -> list[Account]:
    """Quarantined spools whose identity could not be read, so that nothing could be sent."""
    reports: dict[str, list[Report]] = {}
    for report in Quarantine(root).reports(dropped=True):
        if not report.delivered:
            reports.setdefault(report.spool, []).append(report)
    accounts = []
    for spool, group in reports.items():
        records = sum(ranges.size(report.holds) for report in group)
        directory = str(Path(group[0].path).parent)
        accounts += [
            Account(spool=spool, sink=sink, directory=directory, written=records, corrupt=records)
            for sink in sinks
            if (spool, sink) not in known
        ]
    return accounts


def _gaps(ledger: Ledger) -> dict[str, dict[int, Gap]]:
    """The gaps that the service has read, by spool and seq."""
    gaps: dict[str, dict[int, Gap]] = {}
    for row in ledger.gaps():
        gap = Gap(
            spool=row["spool"],
            seq=row["seq"],
            reason=row["reason"],
            count=row["count"],
            first=row["first"] or 0,
            last=row["last"] or 0,
        )
        gaps.setdefault(gap.spool, {})[gap.seq] = gap
    return gaps


def _account(ledger: Ledger, spool: _AuditedSpool, sink: str) -> Account:
    for _ in range(_TRIES):
        rows = _rows(ledger, spool.id, sink)
        account = _count(rows, spool, sink)
        if account.balances and _rows(ledger, spool.id, sink) == rows:
            break
        # A writer records a deletion just before it deletes: after the gaps were read.
        spool.read_gaps()
        spool.gaps.update(_gaps(ledger).get(spool.id, {}))
    return account


def _rows(ledger: Ledger, spool: str, sink: str) -> _LedgerRows:
    def of_sink(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if row["sink"] == sink]

    positions = ledger.positions(spool)
    return _LedgerRows(
        position=next(iter(of_sink(positions)), _NO_POSITION),
        dead=[row["seq"] for row in of_sink(ledger.dead_letters(spool))],
        damage=[
            (row["first"], row["last"], row["reason"]) for row in of_sink(ledger.damages(spool))
        ],
        dropped={row["reason"]: row["count"] for row in of_sink(ledger.dropped(spool))},
        resent=sum(row["delivered"] for row in positions if is_again(row["sink"], sink)),
    )


def _count(rows: _LedgerRows, spool: _AuditedSpool, sink: str) -> Account:
    reader, seq = spool.reader, rows.position["seq"]
    last = max(seq, reader.last_seq()) if reader else seq
    final = _final_beyond(rows)
    deleted = _deleted_beyond(seq, final, spool)
    beyond = [*final, *(piece for pieces in deleted.values() for piece in pieces)]
    lost = losses.reckon(
        rows.damage, [(gap.first, gap.last, gap.reason) for gap in spool.gaps.values() if gap.first]
    )
    policy = Counter(lost.evicted)
    policy.update({reason: ranges.size(pieces) for reason, pieces in deleted.items()})
    policy.update(rows.dropped)
    producer: Counter[str] = Counter()
    for gap in spool.gaps.values():
        producer[gap.reason] += 0 if gap.first else gap.count
    present, explained = 0, ranges.size(beyond)
    if reader:
        present = reader.count_after(seq)
        merged = ranges.merged(beyond)
        explained -= sum(reader.count_between(first, last) for first, last in merged)
    return Account(
        spool=spool.id,
        sink=sink,
        directory=spool.directory,
        written=last,
        delivered=rows.position["delivered"],
        skipped=rows.position["passed"],
        pending=last - seq - ranges.size(beyond),
        dead_letters=len(rows.dead),
        corrupt=lost.corrupt,
        unaccounted=max(0, last - seq - present - explained),
        dropped_by_policy=dict(+policy),
        dropped_by_producer=dict(+producer),
        resent=rows.resent,
    )


def _final_beyond(rows: _LedgerRows) -> list[Range]:
    """Records after the position that are final already: acknowledged, dead letters or damaged."""
    seq = rows.position["seq"]
    found = [*rows.position["early"], *((first, last) for first, last, _ in rows.damage)]
    final = [(max(first, seq + 1), last) for first, last in found]
    final += ranges.of_numbers(number for number in rows.dead if number > seq)
    return ranges.merged(final)


def _deleted_beyond(seq: int, final: list[Range], spool: _AuditedSpool) -> dict[str, list[Range]]:
    """What the writer has deleted after the position and the sink has not read of, by reason."""
    deleted: dict[str, list[Range]] = {}
    if spool.reader is None:
        return deleted
    # Deletions are recorded first, and begin at the oldest record: what is there comes after them.
    begin = spool.reader.first_seq()
    for gap in spool.gaps.values():
        if gap.first:
            counted = [piece for pieces in deleted.values() for piece in pieces]
            span = [(max(gap.first, seq + 1), min(gap.last, begin - 1))]
            fresh = ranges.without(span, [*final, *counted])
            deleted.setdefault(gap.reason, []).extend(fresh)
    return deleted
