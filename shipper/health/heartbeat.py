"""The service's heartbeat and its outages, written where `lens-ship status` reads them.

One small write every `BEAT_SECONDS`, however many requests fail: of several outages of one sink or
workload in between, the last is written.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

import spooler
from shipper.delivery.sink_state import SinkState
from shipper.errors import ShipperError
from shipper.ledger import service_status, totals
from shipper.ledger.ledger import Ledger
from shipper.ledger.service_status import Heartbeat, OutageRow
from shipper.log import fields

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
RATE_SECONDS = 60.0
# How long an outage that is over is kept.
MEMORY_SECONDS = 86400.0

Key = tuple[str, str]  # sink, workload; "" for the sink itself


class HeartbeatWriter:
    """Used by the service's main thread; `address` and `problem` are those of its HTTP port."""

    def __init__(self, ledger: Ledger, now: Callable[[], float]) -> None:
        self.address = ""
        self.problem = ""
        self._ledger = ledger
        self._now = now
        self._started = time.time()
        self._next = now()
        self._expire_at = now()
        self.delivered = Counter[str]()  # records by sink, since the start
        self._stamp = ledger.stamp()  # the ledger's at the last reading
        # Monotonic time, delivered records by sink.
        self._readings = deque([(now(), totals.delivered_by_sink(ledger))])
        self._written: dict[Key, OutageRow] | None = None

    @property
    def seconds(self) -> float:
        """How long until the next one is due; negative when it is overdue."""
        return self._next - self._now()

    def beat(self, states: Iterable[tuple[Key, SinkState]], *, stopped: bool = False) -> None:
        """Write the heartbeat and what has changed; a failure is logged and changes nothing."""
        self._next = self._now() + BEAT_SECONDS
        try:
            self._write_outages(states)
            self._write_heartbeat(stopped=stopped)
        except ShipperError as error:
            log.warning(
                "heartbeat not written, lens-ship status shows the last one",
                extra=fields(path=self._ledger.directory, detail=error),
            )

    def _write_outages(self, states: Iterable[tuple[Key, SinkState]]) -> None:
        now = time.time()
        if self._written is None:  # what the service before has left
            service_status.end_outages(self._ledger, now)
            self._written = {}
        changed = []
        for (sink, workload), state in states:
            current = state.outage
            if current is None:
                continue
            outage = OutageRow(
                sink=sink,
                workload=workload,
                reason=current.outcome.reason,
                detail=current.outcome.detail,
                alarm=current.outcome.needs_operator,
                since=current.since,
                until=current.until,
            )
            is_old = outage.until is not None and now - outage.until >= MEMORY_SECONDS
            if not is_old and self._written.get((sink, workload)) != outage:
                changed.append(outage)
        service_status.save_outages(self._ledger, changed)
        self._written.update({(one.sink, one.workload): one for one in changed})
        if self._now() >= self._expire_at:
            self._expire_at = self._now() + MEMORY_SECONDS / 24
            service_status.delete_outages(self._ledger, now - MEMORY_SECONDS)

    def _write_heartbeat(self, *, stopped: bool) -> None:
        rates = self._rates()
        now = time.time()
        service_status.write_heartbeat(
            self._ledger,
            Heartbeat(
                pid=os.getpid(),
                version=spooler.__version__,
                started=self._started,
                beat=now,
                stopped=now if stopped else 0.0,
                address="" if stopped else self.address,
                problem=self.problem,
                rates=rates,
            ),
        )

    def _rates(self) -> dict[str, float]:
        """Records delivered per second by sink over the last `RATE_SECONDS`."""
        now, stamp = self._now(), self._ledger.stamp()
        # Counted only where something was written since.
        known = self._readings[-1][1]
        delivered = known if stamp == self._stamp else totals.delivered_by_sink(self._ledger)
        self._stamp = stamp
        for sink, count in delivered.items():
            if count > known.get(sink, 0):
                self.delivered[sink] += count - known.get(sink, 0)
                log.info("records delivered", extra=fields(sink=sink, total=self.delivered[sink]))
        self._readings.append((now, delivered))
        while len(self._readings) > 2 and self._readings[1][0] <= now - RATE_SECONDS:
            self._readings.popleft()
        began, before = self._readings[0]
        if now <= began:
            return {}
        return {
            sink: round(max(0, count - before.get(sink, 0)) / (now - began), 3)
            for sink, count in delivered.items()
        }
