"""Lets a sink that is added to the configuration begin at the oldest record that is kept."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from shipper.ledger.ledger import CommitDelta, Ledger
from shipper.ledger.snapshot import read_snapshot
from shipper.log import fields
from shipper.sinks import DEFAULT
from spooler.errors import SpoolError
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)


def start_new_sinks(ledger: Ledger, sinks: Mapping[str, str]) -> None:
    """Note the sinks that are configured, by name and type, and give new ones their positions.

    Records that were deleted before a sink was added are skipped by it. They are not lost.
    """
    # A ledger that names none is new, or was written when there were these three only.
    known = ledger.sinks() or (DEFAULT if ledger.spools() else sinks)
    for name in sinks.keys() - known.keys():
        log.info("new sink starts at the oldest record kept", extra=fields(sink=name))
        for row in ledger.spools():
            if not row["deleted"]:
                _begin(ledger, row["id"], name, Reader(Path(row["directory"])), known)
    removed = known.keys() - sinks.keys()
    rows = read_snapshot(ledger).values() if removed else ()
    for name in removed:
        pending = sum(one.owed(name) for one in rows)
        say = log.warning if pending else log.info
        extra = fields(sink=name, pending=pending)
        say("sink removed, records are not kept for it any more", extra=extra)
    ledger.note_sinks(sinks)


def _begin(ledger: Ledger, spool: str, sink: str, reader: Reader, others: Collection[str]) -> None:
    try:
        first = reader.first_seq()
    except (SpoolError, OSError):
        return
    # Where nothing can be seen now, what every other sink has acknowledged may be deleted.
    start = first - 1 if first else min(ledger.position(spool, one).seq for one in others)
    before = ledger.position(spool, sink)
    if before.seq >= start:
        return
    acked = sum(1 for seq in before.acked_seqs if seq <= start)
    delta = CommitDelta(skipped=start - before.seq - acked)
    ledger.acknowledge(spool, sink, before.beyond(start), delta)
