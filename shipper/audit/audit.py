"""Takes the account of every spool: counters from the ledger, counts from the files.

It reads only, and may run beside the service: when the ledger moves while the files are counted,
that spool is counted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
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
_NOWHERE: dict[str, Any] = {"seq": 0, "ahead": {}, "early": [], "delivered": 0, "passed": 0}


@dataclass(frozen=True, kw_only=True)
class _Books:
    """The ledger's rows that concern one spool and sink."""

    position: dict[str, Any]
    dead: list[int]  # seqs
    damage: list[tuple[int, int, str]]  # first and last seq, reason
    given_up: dict[str, int]  # by reason
    again: int


def take_accounts(
    ledger: Ledger, root: Path, sinks: Collection[str], closed: Closed | None = None
) -> list[Account]:
    """The account of every spool that the ledger knows or that lies below `root`, for each sink.

    `closed` is told of folders that cannot be looked into.
    """
    gaps = _gaps(ledger)
    spools = {row["id"]: row for row in ledger.spools()}
    readers = {row["id"]: _reader(row) for row in spools.values()}
    accounts = []
    read: set[str] = set()
    for row in ledger.positions():
        if row["sink"] not in sinks:
            continue  # the position of a replay: its records are somebody else's already
        spool = spools.get(row["spool"])
        if spool is not None:
            reader = readers[row["spool"]]
            if row["spool"] not in read:
                read.add(row["spool"])
                _read_gaps(gaps, reader)
            told = gaps.setdefault(row["spool"], {})
            accounts.append(_take(ledger, row["spool"], row["sink"], spool, reader, told))
    known = {(account.spool, account.sink) for account in accounts}
    accounts.extend(_unattributed(root, sinks, known))
    for directory in find_spools(root, closed):
        if is_bare(directory):
            continue
        reader = Reader(directory)
        untouched = [sink for sink in sinks if (directory.name, sink) not in known]
        if untouched and reader.spool not in read:
            _read_gaps(gaps, reader)
        for sink in untouched:
            nothing = {"id": reader.spool, "directory": str(directory)}
            told = gaps.setdefault(reader.spool, {})
            accounts.append(_take(ledger, reader.spool, sink, nothing, reader, told))
    return sorted(accounts, key=lambda account: (account.spool, account.sink))


def _unattributed(
    root: Path, sinks: Collection[str], known: Collection[tuple[str, str]]
) -> list[Account]:
    """Spools in quarantine of which nothing could be sent, for want of a name."""
    held: dict[str, list[Report]] = {}
    for report in Quarantine(root).reports(dropped=True):
        if not report.delivered:
            held.setdefault(report.spool, []).append(report)
    return [
        Account(
            spool=spool,
            sink=sink,
            directory=str(Path(reports[0].path).parent),
            written=sum(ranges.size(report.holds) for report in reports),
            corrupt=sum(ranges.size(report.holds) for report in reports),
        )
        for spool, reports in held.items()
        for sink in sinks
        if (spool, sink) not in known
    ]


_Gaps = dict[int, Gap]  # by seq


def _gaps(ledger: Ledger) -> dict[str, _Gaps]:
    """The gaps that the service has met."""
    gaps: dict[str, _Gaps] = {}
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


def _read_gaps(gaps: dict[str, _Gaps], reader: Reader | None) -> None:
    """Add those that lie further on in the spool, once."""
    for stored in reader.gaps() if reader else ():
        gap = gap_of(reader.spool, stored) if reader else None
        if gap is not None:
            gaps.setdefault(gap.spool, {})[gap.seq] = gap


def _reader(spool: dict[str, Any]) -> Reader | None:
    return None if spool["deleted"] else Reader(Path(spool["directory"]))


def _take(
    ledger: Ledger,
    spool_id: str,
    sink: str,
    spool: dict[str, Any],
    reader: Reader | None,
    gaps: _Gaps,
) -> Account:
    """One account; taken again when ledger or files have moved meanwhile."""
    for _ in range(_TRIES):
        books = _books(ledger, spool_id, sink)
        account = _reckon(books, spool, reader, gaps)
        if account.balances and _books(ledger, spool_id, sink) == books:
            break
        # A writer that keeps its limit tells of a deletion just before it: after we last read.
        _read_gaps({spool_id: gaps}, reader)
        gaps.update(_gaps(ledger).get(spool_id, {}))
    return account


def _books(ledger: Ledger, spool: str, sink: str) -> _Books:
    def mine(row: dict[str, Any]) -> bool:
        return bool(row["sink"] == sink)

    positions = ledger.positions(spool)
    return _Books(
        position=next(
            (row for row in positions if mine(row)),
            {**_NOWHERE, "spool": spool, "sink": sink},
        ),
        given_up={row["reason"]: row["count"] for row in ledger.dropped(spool) if mine(row)},
        again=sum(row["delivered"] for row in positions if is_again(row["sink"], sink)),
        dead=[row["seq"] for row in ledger.dead_letters(spool) if mine(row)],
        damage=[(r["first"], r["last"], r["reason"]) for r in ledger.damages(spool) if mine(r)],
    )


def _reckon(books: _Books, spool: dict[str, Any], reader: Reader | None, gaps: _Gaps) -> Account:
    position = books.position
    seq = position["seq"]
    last = max(seq, reader.last_seq()) if reader else seq
    settled = _settled_beyond(books)
    unmet = _deleted_beyond(seq, settled, reader, gaps)
    beyond = [*settled, *(piece for pieces in unmet.values() for piece in pieces)]
    deleted = [(gap.first, gap.last, gap.reason) for gap in gaps.values() if gap.first]
    lost = losses.reckon(books.damage, deleted)
    evicted = Counter(lost.evicted)
    for reason, pieces in unmet.items():
        evicted[reason] += ranges.size(pieces)
    present = reader.count_after(seq) if reader else 0
    explained = ranges.size(beyond) - _present(reader, beyond)
    unwritten = Counter[str]()
    for gap in gaps.values():
        unwritten[gap.reason] += 0 if gap.first else gap.count
    return Account(
        spool=position["spool"],
        sink=position["sink"],
        directory=spool["directory"],
        written=last,
        delivered=position["delivered"],
        passed=position["passed"],
        pending=last - seq - ranges.size(beyond),
        dead=len(books.dead),
        corrupt=lost.corrupt,
        missing=max(0, last - seq - present - explained),
        evicted=dict(+evicted),
        dropped=dict(+unwritten),
        given_up=books.given_up,
        again=books.again,
    )


def _deleted_beyond(
    seq: int, settled: list[Range], reader: Reader | None, gaps: _Gaps
) -> dict[str, list[Range]]:
    """What the writer says it has deleted, is gone, and has not been met by this sink yet."""
    unmet: dict[str, list[Range]] = {}
    if reader is None:
        return unmet
    # Told before it is done, and always from the beginning: what is there begins after it.
    begin = reader.first_seq()
    for gap in gaps.values():
        told = [(max(first, seq + 1), min(last, begin - 1)) for first, last in _range(gap)]
        seen = [piece for pieces in unmet.values() for piece in pieces]
        unmet.setdefault(gap.reason, []).extend(ranges.without(told, [*settled, *seen]))
    return unmet


def _range(gap: Gap) -> list[Range]:
    return [(gap.first, gap.last)] if gap.first else []


def _present(reader: Reader | None, wanted: list[Range]) -> int:
    """How many of these are in the files."""
    if reader is None:
        return 0
    return sum(reader.count_between(first, last) for first, last in ranges.merged(wanted))


def _settled_beyond(books: _Books) -> list[Range]:
    """Records after the position that are settled already: ahead, dead, or damaged."""
    seq = books.position["seq"]
    early = [*books.position["early"], *((first, last) for first, last, _ in books.damage)]
    settled = [(max(first, seq + 1), last) for first, last in early]
    settled += ranges.of_numbers(number for number in books.dead if number > seq)
    return ranges.merged(settled)
