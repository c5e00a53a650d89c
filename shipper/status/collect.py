"""Looks where everything stands: the ledger's rows, and a summary of every spool; reads only.

It may run in the service and beside it, as often as one likes. Between two looks it keeps a few
numbers of each spool, so that what has not changed costs one listing of a directory.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shipper.config.schema import Config
from shipper.discovery.layout import find_spools, noting
from shipper.ledger import service_status, totals
from shipper.ledger.database import is_there
from shipper.ledger.ledger import Ledger
from shipper.ledger.losses import reckon
from shipper.ledger.service_status import Trouble
from shipper.ledger.snapshot import NOTHING, LedgerSnapshot, Pair, read_snapshot
from shipper.ledger.snapshot import pending as count_pending
from shipper.ledger.totals import Sums
from shipper.sinks import REGISTRY
from shipper.status.model import DiskStatus, SinkStatus, SpoolSinkStatus, SpoolStatus, Status
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.layout import is_marked_full
from spooler.spool.reader import Reader
from spooler.spool.summary import SpoolSummary, SummaryReader

_NO_SUMS = Sums(settled=Counter(), lost=Counter(), dead=Counter(), dropped=Counter())


@dataclass(frozen=True, kw_only=True)
class StatusInputs:
    """What to look at. `ledger` is that of the service itself; None beside it."""

    root: Path
    state: Path
    sinks: Collection[str]
    ledger: Ledger | None = None
    limit: int = 0  # bytes that the root may take; 0: any
    shipping: bool = True  # whether anything is to be shipped at all


@contextmanager
def status_collector(config: Config) -> Iterator[StatusCollector]:
    """A survey of what these settings name, beside a service that may be running."""
    survey = StatusCollector(status_inputs(config))
    try:
        yield survey
    finally:
        survey.close()


def status_inputs(config: Config, ledger: Ledger | None = None) -> StatusInputs:
    """What these settings name, with the service's own ledger where it is the one who looks."""
    return StatusInputs(
        root=config.spool,
        state=config.state,
        sinks=tuple(REGISTRY),
        ledger=ledger,
        limit=config.root_bytes,
        shipping=config.api_reporting,
    )


class StatusCollector:
    """Looks again and again; one thread at a time."""

    def __init__(self, means: StatusInputs) -> None:
        self._means = means
        self._own: Ledger | None = None
        self._summary_readers: dict[str, SummaryReader] = {}
        self._readers: dict[str, Reader] = {}
        self._identities: dict[str, Identity] = {}
        self._ended: dict[
            str, tuple[Any, SpoolStatus]
        ] = {}  # with the mark of what it was made from
        # (spool, of what) -> seq -> time: most sinks stand at the same, and the next look may too.
        self._times: dict[tuple[str, str], dict[int, float | None]] = {}

    def take(self, *, only: str = "") -> Status:
        """Where everything stands now, or of the spools whose id begins with `only`."""
        means, ledger = self._means, self._ledger()
        books = read_snapshot(ledger) if ledger else NOTHING
        running = service_status.is_running(means.state)
        sign = service_status.last_sign(ledger) if ledger else None
        counted = totals.sums(ledger) if ledger else _NO_SUMS
        closed: dict[str, str] = {}
        spools = tuple(self._spools(books, only, closed))
        troubles = service_status.troubles(ledger) if ledger else []
        seen = max((s.newest for s in spools if s.newest is not None), default=None)
        return Status(
            time=time.time(),
            root=str(means.root),
            state=str(means.state),
            running=running,
            sign=sign,
            disk=_disk(means.root, means.limit, sum(spool.bytes for spool in spools)),
            spools=spools,
            sinks=tuple(
                _sink(
                    sink,
                    [way for spool in spools for way in spool.ways if way.sink == sink],
                    counted,
                    troubles=troubles,
                    seen=seen,
                    rates=sign.rates if sign and running else None,
                )
                for sink in means.sinks
            ),
            dropped=dict(counted.dropped),
            closed=closed,
        )

    def renew(self, overview: Status) -> Status:
        """The same, with what changes though nothing happens: the time, the disk, the rates."""
        means, ledger = self._means, self._ledger()
        running = service_status.is_running(means.state)
        sign = service_status.last_sign(ledger) if ledger else None
        rates = sign.rates if sign and running else None
        return replace(
            overview,
            time=time.time(),
            running=running,
            sign=sign,
            disk=_disk(means.root, means.limit, overview.disk.used),
            sinks=tuple(replace(one, rate=_rate(rates, one.sink)) for one in overview.sinks),
        )

    def close(self) -> None:
        """Let go of what was opened for looking."""
        if self._own is not None:
            self._own.close()

    def _ledger(self) -> Ledger | None:
        """The ledger; None as long as no service has ever run with this state directory."""
        if self._means.ledger is not None or self._own is not None:
            return self._means.ledger or self._own
        if is_there(self._means.state):
            self._own = Ledger(self._means.state, exclusive=False)
        return self._own

    # --- spools -----------------------------------------------------------------------------------

    def _spools(
        self, books: LedgerSnapshot, only: str, closed: dict[str, str]
    ) -> Iterator[SpoolStatus]:
        found = find_spools(self._means.root, noting(closed))
        directories = {path.name: path for path in found}
        for memory in (self._summary_readers, self._readers, self._identities, self._ended):
            for name in memory.keys() - directories.keys():
                del memory[name]
        self._times = {key: at for key, at in self._times.items() if key[0] in directories}
        for name, directory in sorted(directories.items()):
            if name.startswith(only):
                yield self._spool(directory, books)

    def _spool(self, directory: Path, books: LedgerSnapshot) -> SpoolStatus:
        """One spool; what has ended changes only by deletions and in the ledger."""
        pairs = [(directory.name, sink) for sink in self._means.sinks]
        try:
            mark = (directory.stat().st_mtime_ns, *map(books.mark, pairs))
        except OSError:
            mark = ()
        known = self._ended.get(directory.name)
        if known is not None and known[0] == mark:
            return known[1]
        if directory.name not in self._summary_readers:
            self._summary_readers[directory.name] = SummaryReader(directory)
            self._readers[directory.name] = Reader(directory)
        spool = self._look(self._summary_readers[directory.name], directory, books)
        if spool.state == "ended" and mark:
            self._ended[directory.name] = (mark, spool)
        return spool

    def _look(
        self, summaries: SummaryReader, directory: Path, books: LedgerSnapshot
    ) -> SpoolStatus:
        name = directory.name
        reader = self._readers[name]
        owned = reader.is_owned()  # before the look: what it then finds may be all
        view = summaries.read()
        identity, reason = self._identity(reader)
        problem = view.problem or reason
        withheld = not (self._means.shipping and (identity is None or identity.api_reporting))
        pairs = [(name, sink) for sink in self._means.sinks]
        return SpoolStatus(
            spool=name,
            directory=str(directory),
            state=_state(owned=owned, withheld=withheld, problem=problem),
            written=max([view.last, *(books.seq(pair) for pair in pairs)]),
            bytes=view.bytes,
            newest=view.newest,
            workload=books.workloads.get(name) or (identity.workload_uid if identity else ""),
            host=identity.host if identity else "",
            pid=identity.pid if identity else 0,
            rank=identity.rank if identity else None,
            problem=problem,
            dropped=dict(totals.dropped_of(books.gaps.get(name, ()))),
            ways=tuple(
                self._way(summaries, view, pair, books, withheld=withheld) for pair in pairs
            ),
        )

    def _identity(self, reader: Reader) -> tuple[Identity | None, str]:
        """Who writes it, or why that cannot be said; an empty one has nothing to say yet."""
        if reader.spool not in self._identities:
            try:
                if not reader.segments():
                    return None, ""
                self._identities[reader.spool] = reader.identity()
            except (SpoolError, OSError) as error:
                return None, str(error)
        return self._identities[reader.spool], ""

    def _way(
        self,
        summaries: SummaryReader,
        view: SpoolSummary,
        pair: Pair,
        books: LedgerSnapshot,
        *,
        withheld: bool,
    ) -> SpoolSinkStatus:
        seq = books.seq(pair)
        lost = reckon(books.damage.get(pair, []), books.deleted(pair[0]))
        pending = 0 if withheld else count_pending(books, pair, view)
        settled = view.newest
        if seq < view.last:
            settled = self._time(pair, "settled", seq, summaries.time_of)
        return SpoolSinkStatus(
            sink=pair[1],
            delivered=books.count(pair, "delivered"),
            passed=books.count(pair, "passed"),
            pending=pending,
            pending_bytes=summaries.bytes_beyond(seq) if pending else 0,
            oldest=self._time(pair, "oldest", seq, summaries.time_beyond) if pending else None,
            settled=settled,
            dead=books.dead[pair],
            corrupt=lost.corrupt,
            evicted=sum(lost.evicted.values()) + books.given_up[pair],
        )

    def _time(self, pair: Pair, what: str, seq: int, look: Callable[[int], float | None]) -> Any:
        known = self._times.setdefault((pair[0], what), {})
        if known.get(seq) is None:
            if len(known) > len(self._means.sinks):
                known.clear()
            known[seq] = look(seq)
        return known[seq]


def _sink(
    sink: str,
    ways: list[SpoolSinkStatus],
    counted: Sums,
    *,
    troubles: list[Trouble],
    seen: float | None,
    rates: Mapping[str, float] | None,
) -> SinkStatus:
    """The sum of all its ways, with what is known of the sink itself."""
    return SinkStatus(
        sink=sink,
        **{what: counted.settled[sink, what] for what in totals.SETTLED},
        pending=sum(way.pending for way in ways),
        pending_bytes=sum(way.pending_bytes for way in ways),
        oldest=min((way.oldest for way in ways if way.oldest is not None), default=None),
        seen=seen,
        settled=max((way.settled for way in ways if way.settled is not None), default=None),
        rate=_rate(rates, sink),
        dead=_dead(counted, sink, "kept"),
        refused=_dead(counted, sink, "kept", "delivered", "dropped"),
        given_up=sum(_dead(counted, sink, "dropped").values()),
        lost={why: n for (name, why), n in sorted(counted.lost.items()) if name == sink},
        troubles=tuple(sorted((t for t in troubles if t.sink == sink), key=_urgency)),
    )


def _rate(rates: Mapping[str, float] | None, sink: str) -> float | None:
    return None if rates is None else rates.get(sink, 0.0)


def _state(*, owned: bool, withheld: bool, problem: str) -> str:
    if problem:
        return "unreadable"
    if withheld:
        return "withheld"
    return "writing" if owned else "ended"


def _dead(counted: Sums, sink: str, *states: str) -> dict[str, int]:
    found = Counter[str]()
    for (name, reason, state), count in counted.dead.items():
        if name == sink and state in states:
            found[reason] += count
    return dict(sorted(found.items()))


def _urgency(trouble: Trouble) -> tuple[Any, ...]:
    """Present before past, alarms first, the sink itself before workloads, then by age."""
    return (
        trouble.until is not None,
        not trouble.alarm,
        trouble.workload != "",
        trouble.since if trouble.until is None else -trouble.until,
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
