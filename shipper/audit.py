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

from shipper.account import Account
from shipper.discovery import find_spools
from shipper.ledger import Ledger
from spooler.errors import BodyUnreadable, SpoolError
from spooler.spool import codec
from spooler.spool.reader import Reader, Stored

_TRIES = 5
_READ_RECORDS = 1000


@dataclass(frozen=True, kw_only=True)
class _Books:
    """The ledger's rows that concern one spool and sink."""

    position: dict[str, Any]
    dead: list[int]  # seqs
    damage: list[tuple[int, int, str]]  # first and last seq, reason


def take_accounts(ledger: Ledger, root: Path, sinks: Collection[str]) -> list[Account]:
    """The account of every spool that the ledger knows or that lies below `root`, for each sink."""
    spools = {row["id"]: row for row in ledger.spools()}
    dropped: dict[str, Counter[str]] = {}
    for gap in ledger.gaps():
        dropped.setdefault(gap["spool"], Counter())[gap["reason"]] += gap["count"]
    accounts = []
    for row in ledger.positions():
        if row["sink"] not in sinks:
            continue  # the position of a replay: its records are somebody else's already
        spool = spools.get(row["spool"])
        if spool is not None:
            accounts.append(_take(ledger, row, spool, dropped.get(row["spool"], Counter())))
    known = {(account.spool, account.sink) for account in accounts}
    for directory in find_spools(root):
        untouched = [sink for sink in sinks if (directory.name, sink) not in known]
        accounts.extend(_untouched(Reader(directory), sink) for sink in untouched)
    return sorted(accounts, key=lambda account: (account.spool, account.sink))


def _untouched(reader: Reader, sink: str) -> Account:
    """A spool in which this sink has not settled anything yet."""
    last = reader.last_seq()
    return Account(
        spool=reader.spool,
        sink=sink,
        directory=str(reader.directory),
        written=last,
        delivered=0,
        passed=0,
        pending=last,
        dead=0,
        corrupt=0,
        missing=last - reader.count_after(0),
    )


def _take(
    ledger: Ledger, row: dict[str, Any], spool: dict[str, Any], dropped: Counter[str]
) -> Account:
    reader = None if spool["deleted"] else Reader(Path(spool["directory"]))
    for _ in range(_TRIES):
        books = _books(ledger, row["spool"], row["sink"])
        account = _reckon(books, spool, reader, dropped)
        if _books(ledger, row["spool"], row["sink"]) == books:
            break
    return account


def _books(ledger: Ledger, spool: str, sink: str) -> _Books:
    def mine(row: dict[str, Any]) -> bool:
        return bool(row["spool"] == spool and row["sink"] == sink)

    return _Books(
        position=next(row for row in ledger.positions() if mine(row)),
        dead=[row["seq"] for row in ledger.dead_letters() if mine(row)],
        damage=[(r["first"], r["last"], r["reason"]) for r in ledger.damages() if mine(r)],
    )


def _reckon(
    books: _Books, spool: dict[str, Any], reader: Reader | None, dropped: Counter[str]
) -> Account:
    position = books.position
    seq = position["seq"]
    last = max(seq, reader.last_seq()) if reader else seq
    beyond = _settled_beyond(books, reader)
    corrupt = sum(end - start + 1 for start, end, _ in books.damage)
    # Damaged rows are still rows; damaged files are not.
    lost = sum(
        max(0, end - max(start, seq + 1) + 1)
        for start, end, reason in books.damage
        if reason != "checksum"
    )
    present = reader.count_after(seq) if reader else 0
    return Account(
        spool=position["spool"],
        sink=position["sink"],
        directory=spool["directory"],
        written=last,
        delivered=position["delivered"],
        passed=position["passed"],
        pending=last - seq - beyond,
        dead=len(books.dead),
        corrupt=corrupt,
        missing=max(0, last - seq - lost - present),
        dropped=dict(dropped),
    )


def _settled_beyond(books: _Books, reader: Reader | None) -> int:
    """Records after the position that are settled already: ahead, dead, or damaged."""
    seq, ahead = books.position["seq"], books.position["ahead"]
    settled = {number for number in books.dead if number > seq}
    for first, end, _ in books.damage:
        settled.update(range(max(first, seq + 1), end + 1))
    horizon = max(ahead.values(), default=0)
    while reader is not None and seq < horizon:
        try:
            chunk = reader.read(seq, _READ_RECORDS)
        except (SpoolError, OSError):
            break
        settled.update(
            stored.seq for stored in chunk.records if stored.seq <= ahead.get(_run_of(stored), 0)
        )
        seq = horizon if chunk.at_end else chunk.through
    return len(settled)


def _run_of(stored: Stored) -> str:
    if stored.kind not in ("step", "finish", "detection"):
        return ""
    try:
        return str(codec.unpack(stored.body).get("run", ""))
    except BodyUnreadable:
        return ""
