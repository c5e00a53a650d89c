"""Collects the status from the ledger and the spools, read-only, in the service or beside it.

Between two collections a few numbers of each spool are kept, so that a spool that has not changed
costs one listing of its directory.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from shipper.config.schema import Config
from shipper.discovery.layout import collect_unreadable, find_spools
from shipper.discovery.same_spool import missing_records
from shipper.health.root_mark import other_service
from shipper.ledger import service_status, totals
from shipper.ledger.database import exists
from shipper.ledger.ledger import Ledger
from shipper.ledger.losses import classify_losses, deleted_by_writer, producer_dropped
from shipper.ledger.service_status import OutageRow
from shipper.ledger.snapshot import LedgerSnapshot, SinkRows, SpoolRows, read_snapshot
from shipper.ledger.totals import LedgerTotals
from shipper.sinks import SHARED_ROWS, sink_types
from shipper.status import shared_names
from shipper.status.model import DiskStatus, SinkStatus, SpoolSinkStatus, SpoolStatus, Status
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.layout import is_marked_full
from spooler.spool.reader import Reader
from spooler.spool.summary import SpoolSummary, SummaryReader

_NO_ROWS = SpoolRows()
_NO_SINK_ROWS = SinkRows()


class StatusCollector:
    """Collects as often as asked, on one thread at a time; `ledger` is the service's own."""

    def __init__(self, config: Config, ledger: Ledger | None = None) -> None:
        self._config = config
        self._given = ledger
        self._opened: Ledger | None = None
        found = None if ledger else self._ledger()
        types = sink_types(config, found.sinks() if found else None)
        self._sinks = tuple(types)
        self._shares_rows = SHARED_ROWS in types.values()
        self._spools: dict[str, SpoolCollector] = {}

    def __enter__(self) -> StatusCollector:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._opened is not None:
            self._opened.close()

    def collect(self, *, only: str = "") -> Status:
        """The status now, of every spool or of those whose id begins with `only`."""
        config, ledger = self._config, self._ledger()
        snapshot = read_snapshot(ledger) if ledger else {}
        counted = totals.read_totals(ledger) if ledger else totals.NO_TOTALS
        outages = service_status.outages(ledger) if ledger else []
        unreadable: dict[str, str] = {}
        spools = self._collect_spools(snapshot, only, unreadable)
        service = self._service()
        return Status(
            root=str(config.spool),
            state=str(config.state),
            disk=_disk(config.spool, config.root_bytes, sum(spool.bytes for spool in spools)),
            spools=tuple(spools),
            sinks=tuple(
                replace(_sink(name, spools, counted, outages), rate=_rate(service, name))
                for name in self._sinks
            ),
            producer_dropped=dict(counted.dropped),
            unreadable_directories=unreadable,
            missing=missing_records(snapshot, self._sinks),
            shared_names=self._shared_names(spools) if self._shares_rows else (),
            **service,
        )

    def _shared_names(self, spools: list[SpoolStatus]) -> tuple[shared_names.SharedNames, ...]:
        several = Counter(one.workload for one in spools if one.workload)
        writers = (
            self._spools[one.spool].writer(one) for one in spools if several[one.workload] > 1
        )
        return shared_names.find_shared(filter(None, writers))

    def refresh(self, status: Status) -> Status:
        """The same status with what changes without an event: time, disk, heartbeat, rates."""
        config, service = self._config, self._service()
        return replace(
            status,
            disk=_disk(config.spool, config.root_bytes, status.disk.used),
            sinks=tuple(replace(one, rate=_rate(service, one.sink)) for one in status.sinks),
            **service,
        )

    def _service(self) -> dict[str, Any]:
        ledger = self._ledger()
        other = other_service(self._config.spool, self._config.state)
        return {
            "other_state": other.state if other and other.running else "",
            "time": time.time(),
            "running": service_status.is_running(self._config.state),
            "heartbeat": service_status.last_heartbeat(ledger) if ledger else None,
        }

    def _ledger(self) -> Ledger | None:
        """The ledger; None as long as no service has ever run with this state directory."""
        if self._given is None and self._opened is None and exists(self._config.state):
            self._opened = Ledger(self._config.state, exclusive=False)
        return self._given or self._opened

    def _collect_spools(
        self, snapshot: LedgerSnapshot, only: str, unreadable: dict[str, str]
    ) -> list[SpoolStatus]:
        found = find_spools(self._config.spool, collect_unreadable(unreadable))
        directories = {path.name: path for path in found}
        self._spools = {n: one for n, one in self._spools.items() if n in directories}
        collected = []
        for name, directory in sorted(directories.items()):
            if name.startswith(only):
                if name not in self._spools:
                    self._spools[name] = SpoolCollector(directory, self._sinks, self._config)
                collected.append(self._spools[name].collect(snapshot.get(name, _NO_ROWS)))
        return collected


class SpoolCollector:
    """One spool, with what is kept of it between two collections."""

    def __init__(self, directory: Path, sinks: tuple[str, ...], config: Config) -> None:
        self._directory = directory
        self._sinks = sinks
        self._config = config
        self._summary_reader = SummaryReader(directory)
        self._reader = Reader(directory)
        self._identity: Identity | None = None
        self._made = 0.0  # Unix seconds of the last new or deleted file
        # Most sinks are at the same seq, and the next collection may find them there too.
        self._times: dict[tuple[Callable[[int], float | None], int], float | None] = {}
        self._ended: tuple[object, SpoolStatus] | None = None
        self._first_steps: shared_names.FirstSteps | None = None
        self._looked_at = 0  # how many first records held no step

    def writer(self, status: SpoolStatus) -> shared_names.NameWriter | None:
        """What it writes, None as long as it has no step."""
        first = min(status.written, shared_names.RECORDS)
        if self._first_steps is None and self._looked_at != first:
            self._looked_at = first
            with suppress(SpoolError, OSError):
                records = Reader(self._directory).read(0, shared_names.RECORDS).records
                keys = self._config.keys_of_steps
                self._first_steps = shared_names.first_steps(records, keys)
        if self._first_steps is None or self._identity is None:
            return None
        return shared_names.NameWriter(
            workload=status.workload,
            rank=status.rank,
            began=self._identity.created,
            newest=status.newest,
            steps=self._first_steps,
        )

    def collect(self, rows: SpoolRows) -> SpoolStatus:
        """The status now; that of a spool that has ended is kept while nothing has changed."""
        try:
            found = self._directory.stat()
        except OSError:
            return self._read(rows)
        mark, self._made = (found.st_mtime_ns, rows), found.st_mtime
        if self._ended is None or self._ended[0] != mark:
            status = self._read(rows)
            self._ended = (mark, status) if status.state == "ended" else None
            return status
        return self._ended[1]

    def _read(self, rows: SpoolRows) -> SpoolStatus:
        owned = self._reader.is_owned()  # first: what is then found is all of an ended spool
        summary = self._summary_reader.read()
        identity, problem = self._identify()
        problem = summary.problem or problem
        reporting = self._config.api_reporting and (identity is None or identity.api_reporting)
        state = "writing" if owned else "ended"
        if not reporting:
            state = "disabled"
        if problem:
            state = "unreadable"
        of_sinks = [(name, rows.sinks.get(name, _NO_SINK_ROWS)) for name in self._sinks]
        # Replays have positions too, under the name of their sink and a tilde.
        removed = {n: r for n, r in rows.sinks.items() if n not in self._sinks and "~" not in n}
        unsent = {
            n: r.pending(summary.first, summary.last) for n, r in removed.items() if reporting
        }
        return SpoolStatus(
            spool=self._directory.name,
            directory=str(self._directory),
            state=state,
            written=max([summary.last, *(one.seq for _, one in of_sinks)]),
            bytes=summary.bytes,
            newest=summary.newest,
            workload=rows.workload or (identity.workload_uid if identity else ""),
            host=identity.host if identity else "",
            pid=identity.pid if identity else 0,
            rank=identity.rank if identity else None,
            problem=problem,
            flush_interval=self._config.seconds_to_flush(identity) if identity else 0.0,
            producer_dropped=dict(producer_dropped(rows.gaps)),
            sinks=tuple(
                self._of_sink(name, one, rows, summary, reporting=reporting)
                for name, one in of_sinks
            ),
            unconfigured={name: count for name, count in unsent.items() if count},
        )

    def _identify(self) -> tuple[Identity | None, str]:
        """Who writes it, or why that cannot be read; a spool without segments has no identity."""
        try:
            if self._identity is None and self._reader.segments():
                self._identity = self._reader.identity()
        except (SpoolError, OSError) as error:
            return None, str(error)
        return self._identity, ""

    def _of_sink(
        self, name: str, mine: SinkRows, rows: SpoolRows, summary: SpoolSummary, *, reporting: bool
    ) -> SpoolSinkStatus:
        losses = classify_losses(mine.damage, deleted_by_writer(rows.gaps))
        pending = mine.pending(summary.first, summary.last) if reporting else 0
        acknowledged = summary.newest
        if mine.seq < summary.last:
            acknowledged = self._time(self._summary_reader.time_of, mine.seq)
        oldest = self._time(self._summary_reader.time_beyond, mine.seq) if pending else None
        return SpoolSinkStatus(
            sink=name,
            delivered=mine.delivered,
            skipped=mine.skipped,
            pending=pending,
            pending_bytes=self._summary_reader.bytes_beyond(mine.seq) if pending else 0,
            oldest=oldest,
            newest_acknowledged=acknowledged,
            waiting_since=None if oldest is None else max(oldest, mine.updated, self._made),
            dead_letters=mine.dead_letters,
            corrupt=losses.corrupt,
            dropped=losses.evicted.total() + sum(mine.dropped.values()),
        )

    def _time(self, read: Callable[[int], float | None], seq: int) -> float | None:
        if self._times.get((read, seq)) is None:
            if len(self._times) > 2 * len(self._sinks):
                self._times.clear()
            self._times[read, seq] = read(seq)
        return self._times[read, seq]


def _sink(
    name: str, spools: list[SpoolStatus], counted: LedgerTotals, outages: list[OutageRow]
) -> SinkStatus:
    mine = [one for spool in spools for one in spool.sinks if one.sink == name]
    total = {what: counted.settled[name, what] for what in totals.COUNTERS}
    acknowledged = [o.newest_acknowledged for o in mine if o.newest_acknowledged is not None]
    return SinkStatus(
        sink=name,
        delivered=total["delivered"],
        skipped=total["passed"],
        requests=total["requests"],
        values=total["points"],
        nonfinite_values=total["nonfinite"],
        skipped_values=total["left_out"],
        rejected_values=total["rejected"],
        pending=sum(one.pending for one in mine),
        pending_bytes=sum(one.pending_bytes for one in mine),
        oldest=min((one.oldest for one in mine if one.oldest is not None), default=None),
        newest=max((one.newest for one in spools if one.newest is not None), default=None),
        newest_acknowledged=max(acknowledged, default=None),
        dead_letters=_dead_letters(counted, name, "kept"),
        rejected=_dead_letters(counted, name, "kept", "delivered", "dropped"),
        dead_letters_discarded=sum(_dead_letters(counted, name, "dropped").values()),
        dropped={why: n for (sink, why), n in sorted(counted.lost.items()) if sink == name},
        outages=tuple(sorted((one for one in outages if one.sink == name), key=_urgency)),
    )


def _rate(service: Mapping[str, Any], sink: str) -> float | None:
    heartbeat = service["heartbeat"]
    return heartbeat.rates.get(sink, 0.0) if service["running"] and heartbeat else None


def _dead_letters(counted: LedgerTotals, sink: str, *states: str) -> dict[str, int]:
    found = Counter[str]()
    for (name, reason, state), count in counted.dead.items():
        if name == sink and state in states:
            found[reason] += count
    return dict(sorted(found.items()))


def _urgency(outage: OutageRow) -> tuple[Any, ...]:
    """Ongoing before past, then those that need an operator, the sink before workloads, by age."""
    return (
        outage.until is not None,
        not outage.alarm,
        outage.workload != "",
        outage.since if outage.until is None else -outage.until,
    )


def _disk(root: Path, limit: int, used: int) -> DiskStatus:
    try:
        found = os.statvfs(root)
    except OSError:
        return DiskStatus(used=used, limit=limit)
    return DiskStatus(
        used=used,
        limit=limit,
        free=found.f_bavail * found.f_frsize,
        size=found.f_blocks * found.f_frsize,
        full=is_marked_full(root),
    )
