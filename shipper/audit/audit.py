"""Accounts for every record of every spool: counters from the ledger, counts from the files.

It only reads, and may run beside the service. When the ledger changes while the files of a spool
are counted, that spool is counted again, until the account balances.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shipper.audit.account import Account
from shipper.delivery.pipeline import gap_of
from shipper.delivery.resend import is_resend
from shipper.discovery.layout import OnUnreadable, find_spools, is_empty
from shipper.ledger import losses, ranges
from shipper.ledger.ledger import Gap, Ledger
from shipper.ledger.ranges import Range
from shipper.ledger.snapshot import (
    SinkRows,
    SpoolRows,
    deleted_by_writer,
    producer_dropped,
    read_snapshot,
)
from shipper.retention.quarantine import Quarantine, QuarantineReport
from spooler.errors import SpoolError
from spooler.spool.reader import Reader

_TRIES = 5
_SECONDS = 5.0  # for one spool: a service that drops many segments ends sooner
_NO_ROWS, _NO_SINK_ROWS = SpoolRows(), SinkRows()


@dataclass(kw_only=True)
class _AuditedSpool:
    """A spool, with the gaps in its files and in the ledger by seq."""

    id: str
    directory: str
    reader: Reader | None  # None once the files are deleted
    sinks: list[str] = field(default_factory=list)
    gaps: dict[int, Gap] = field(default_factory=dict)

    def add_gaps(self, rows: SpoolRows) -> None:
        self.gaps.update({gap.seq: gap for gap in rows.gaps})
        for stored in self.reader.gaps() if self.reader else ():
            gap = gap_of(self.id, stored)
            if gap is not None:
                self.gaps[gap.seq] = gap


def run_audit(
    ledger: Ledger,
    root: Path,
    sinks: Collection[str],
    closed: OnUnreadable | None = None,
    *,
    removed: Collection[str] = (),
) -> list[Account]:
    """The account of every spool in the ledger or below `root`, for each of `sinks`.

    Of sinks that were `removed` from the configuration only what the ledger knows is reported.
    `closed` is called with directories and spools that cannot be read, which have no account.
    """
    spools = {
        row["id"]: _AuditedSpool(
            id=row["id"],
            directory=row["directory"],
            reader=None if row["deleted"] else Reader(Path(row["directory"])),
        )
        for row in ledger.spools()
    }
    for row in ledger.positions():
        if row["spool"] in spools and row["sink"] in {*sinks, *removed}:
            spools[row["spool"]].sinks.append(row["sink"])
    known = {(spool.id, sink) for spool in spools.values() for sink in spool.sinks}
    audited = list(spools.values())
    for directory in find_spools(root, closed):
        if is_empty(directory):
            continue
        reader = Reader(directory)
        found = spools.get(reader.spool)
        if found is None or found.reader is None:
            found = _AuditedSpool(id=reader.spool, directory=str(directory), reader=reader)
            audited.append(found)
        found.sinks += [sink for sink in sinks if (found.id, sink) not in known]
    accounts = []
    for spool in audited:
        try:
            accounts += _accounts(ledger, spool)
        except (SpoolError, OSError) as error:  # of a later format, or it cannot be read now
            if closed is not None:
                closed(Path(spool.directory), OSError(0, str(error)))
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
    reports: dict[str, list[QuarantineReport]] = {}
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


def _accounts(ledger: Ledger, spool: _AuditedSpool) -> list[Account]:
    rows = read_snapshot(ledger, spool.id).get(spool.id, _NO_ROWS)
    end = time.monotonic() + _SECONDS
    for tries in itertools.count(1):
        # Each time: a writer records a deletion just before it deletes.
        spool.add_gaps(rows)
        accounts = [_count(rows, spool, sink) for sink in spool.sinks]
        before, rows = rows, read_snapshot(ledger, spool.id).get(spool.id, _NO_ROWS)
        balance, same = all(account.balances for account in accounts), rows == before
        enough = tries >= _TRIES and (balance or same)
        if (balance and same) or enough or time.monotonic() > end:
            break
    return accounts


def _count(rows: SpoolRows, spool: _AuditedSpool, sink: str) -> Account:
    of_sink = rows.sinks.get(sink, _NO_SINK_ROWS)
    reader, seq = spool.reader, of_sink.seq
    last = max(seq, reader.last_seq()) if reader else seq
    final = of_sink.final_beyond()
    deleted = _deleted_beyond(seq, final, spool)
    beyond = [*final, *(piece for pieces in deleted.values() for piece in pieces)]
    lost = losses.classify_losses(of_sink.damage, deleted_by_writer(spool.gaps.values()))
    policy = Counter(lost.evicted)
    policy.update({reason: ranges.size(pieces) for reason, pieces in deleted.items()})
    policy.update(of_sink.dropped)
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
        delivered=of_sink.delivered,
        skipped=of_sink.skipped,
        pending=last - seq - ranges.size(beyond),
        dead_letters=of_sink.rejected,
        corrupt=lost.corrupt,
        unaccounted=max(0, last - seq - present - explained),
        dropped_by_policy=dict(+policy),
        dropped_by_producer=dict(producer_dropped(spool.gaps.values())),
        resent=sum(one.delivered for name, one in rows.sinks.items() if is_resend(name, sink)),
    )


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
