"""Accounts for every record of every spool: counters from the ledger, counts from the files.

It only reads, and may run beside the service. When the ledger changes while the files of a spool
are counted, that spool is counted again, until the account balances.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shipper.audit.account import Account
from shipper.delivery.pipeline import gap_of
from shipper.delivery.resend import is_resend
from shipper.discovery.layout import OnUnreadable, find_spools, is_empty
from shipper.discovery.same_spool import is_missing, is_same_process
from shipper.ledger import ranges
from shipper.ledger.ledger import Gap, Ledger
from shipper.ledger.losses import classify_losses, deleted_by_writer, producer_dropped
from shipper.ledger.ranges import Range
from shipper.ledger.snapshot import SinkRows, SpoolRows, read_snapshot
from shipper.retention.quarantine import Quarantine, QuarantineReport
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

_TRIES = 5
_SECONDS = 5.0  # for one spool: a service that drops many segments ends sooner
_NO_ROWS, _NO_SINK_ROWS = SpoolRows(), SinkRows()


@dataclass(kw_only=True)
class _AuditedSpool:
    """A spool, with the gaps in its files and in the ledger by seq."""

    id: str
    directory: str
    reader: Reader | None  # None once the files are gone
    written: int = 0  # the last seq that the service has seen, 0 once it has deleted them all
    stored: bool = True  # whether the ledger's rows with this id are about it
    sinks: list[str] = field(default_factory=list)
    gaps: dict[int, Gap] = field(default_factory=dict)

    def add_gaps(self, rows: SpoolRows) -> None:
        self.gaps.update({gap.seq: gap for gap in rows.gaps})
        for stored in self.reader.gaps() if self.reader else ():
            gap = gap_of(self.id, stored)
            if gap is not None:
                self.gaps[gap.seq] = gap


@dataclass(frozen=True, kw_only=True)
class _FileCounts:
    """What the files of a spool have: seq of the first and last record, and counts by sink."""

    first: int
    last: int
    present: Mapping[str, int]  # records beyond the position of each sink


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
    audited = _known_spools(ledger, root, closed)
    spools = {spool.id: spool for spool in audited if spool.stored}
    for row in ledger.positions():
        if row["spool"] in spools and row["sink"] in {*sinks, *removed}:
            spools[row["spool"]].sinks.append(row["sink"])
    known = {(spool.id, sink) for spool in spools.values() for sink in spool.sinks}
    for spool in audited:
        if spool.reader or spool.written:
            spool.sinks += [sink for sink in sinks if sink not in spool.sinks]
    accounts = []
    for spool in audited:
        try:
            accounts += _accounts(ledger, spool, removed)
        except (SpoolError, OSError) as error:  # of a later format, or it cannot be read now
            if closed is not None:
                closed(Path(spool.directory), OSError(0, str(error)))
    accounts += _unattributed(root, sinks, known)
    return sorted(accounts, key=lambda account: (account.spool, account.sink))


def _known_spools(ledger: Ledger, root: Path, closed: OnUnreadable | None) -> list[_AuditedSpool]:
    """Every spool of the ledger, where it is now, and every other one below `root`."""
    spools = {}
    for row in ledger.spools():
        place = Path(row["directory"])
        there = not row["deleted"] and not is_missing(place)
        spools[row["id"]] = _AuditedSpool(
            id=row["id"],
            directory=row["directory"],
            reader=Reader(place) if there else None,
            written=row["written"] or 0,
        )
    others = []
    for directory in find_spools(root, closed):
        found, reader = spools.get(directory.name), Reader(directory)
        if is_empty(directory):
            continue
        if found is None:
            spools[reader.spool] = _AuditedSpool(
                id=reader.spool, directory=str(directory), reader=reader
            )
        elif not is_same_process(_identity(reader), ledger.identity(reader.spool)):
            others.append(
                _AuditedSpool(
                    id=reader.spool, directory=str(directory), reader=reader, stored=False
                )
            )
        elif found.reader is None:  # it was moved, or has been restored
            found.directory, found.reader = str(directory), reader
    return [*spools.values(), *others]


def _identity(reader: Reader) -> Identity | None:
    try:
        return reader.identity()
    except (SpoolError, OSError):
        return None


def accept_missing(ledger: Ledger, root: Path, sinks: Collection[str]) -> int:
    """Count the records that are gone with their files as dropped, reason `gone`; how many."""
    return sum(
        ledger.drop_through(one.id, sink, one.written, path=one.directory, why="gone")
        for one in _known_spools(ledger, root, None)
        if one.reader is None
        for sink in sinks
    )


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


def _accounts(ledger: Ledger, spool: _AuditedSpool, removed: Collection[str]) -> list[Account]:
    rows = _rows(ledger, spool)
    end = time.monotonic() + _SECONDS
    for tries in itertools.count(1):
        files = _look(rows, spool)
        # Nothing more was owed to a sink that is not configured any more.
        accounts = [
            _count(rows, spool, files, sink, written=0 if sink in removed else rows.written)
            for sink in spool.sinks
        ]
        before, rows = rows, _rows(ledger, spool)
        balance, same = all(account.balances for account in accounts), rows == before
        enough = tries >= _TRIES and (balance or same)
        if (balance and same) or enough or time.monotonic() > end:
            break
    return accounts


def _rows(ledger: Ledger, spool: _AuditedSpool) -> SpoolRows:
    found = read_snapshot(ledger, spool.id) if spool.stored else {}
    return found.get(spool.id, _NO_ROWS)


def _look(rows: SpoolRows, spool: _AuditedSpool) -> _FileCounts | None:
    """Count the files of a spool, and learn of its gaps; None where there are none any more."""
    reader = spool.reader
    if reader is None:
        spool.add_gaps(rows)
        return None
    last = reader.last_seq()
    positions = {sink: rows.sinks.get(sink, _NO_SINK_ROWS).seq for sink in spool.sinks}
    present = {sink: reader.count_after(seq) for sink, seq in positions.items()}
    files = _FileCounts(last=last, present=present, first=reader.first_seq())
    # After the counts: a writer records a deletion just before it deletes, so of what they have not
    # found any more the reason is known.
    spool.add_gaps(rows)
    return files


def _count(
    rows: SpoolRows, spool: _AuditedSpool, files: _FileCounts | None, sink: str, *, written: int
) -> Account:
    of_sink = rows.sinks.get(sink, _NO_SINK_ROWS)
    reader, seq = spool.reader, of_sink.seq
    last = max(seq, files.last if files else written)
    oldest = files.first if files else last + 1
    final = of_sink.final_beyond()
    deleted = _deleted_between(seq + 1, min(oldest - 1, last), final, spool)
    beyond = [*final, *(piece for pieces in deleted.values() for piece in pieces)]
    lost = classify_losses(of_sink.damage, deleted_by_writer(spool.gaps.values()))
    policy = Counter(lost.evicted)
    policy.update({reason: ranges.size(pieces) for reason, pieces in deleted.items()})
    policy.update(of_sink.dropped)
    explained = ranges.size(beyond)
    if reader:
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
        unaccounted=max(0, last - seq - (files.present[sink] if files else 0) - explained),
        dropped_by_policy=dict(+policy),
        dropped_by_producer=dict(producer_dropped(spool.gaps.values())),
        resent=sum(one.delivered for name, one in rows.sinks.items() if is_resend(name, sink)),
    )


def _deleted_between(
    first: int, last: int, final: list[Range], spool: _AuditedSpool
) -> dict[str, list[Range]]:
    """What the writer has deleted and the sink has not read of, by reason."""
    deleted: dict[str, list[Range]] = {}
    for gap in spool.gaps.values():
        if gap.first:
            counted = [piece for pieces in deleted.values() for piece in pieces]
            span = [(max(gap.first, first), min(gap.last, last))]
            fresh = ranges.without(span, [*final, *counted])
            deleted.setdefault(gap.reason, []).extend(fresh)
    return deleted
