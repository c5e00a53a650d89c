"""The service's sign of life, and what troubles it, written where `lens-ship status` reads it.

A small write every `BEAT_SECONDS`, however often requests fail in between: of several troubles of
one sink or workload within that time the last is told.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import spooler
from shipper.delivery.sink_state import Health
from shipper.errors import ShipperError
from shipper.ledger import service_status, totals
from shipper.ledger.ledger import Ledger
from shipper.ledger.service_status import Sign, Trouble
from shipper.log import fields

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
RATE_SECONDS = 60.0
# How long a trouble that is over is worth telling.
MEMORY_SECONDS = 86400.0

Key = tuple[str, str]  # sink, workload; "" for the sink itself


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Delivered records by sink at a monotonic time."""

    time: float
    delivered: Mapping[str, int]


class HeartbeatWriter:
    """Belongs to the service's main thread; `address` and `problem` are those of its port."""

    def __init__(self, ledger: Ledger, now: Callable[[], float]) -> None:
        self.address = ""
        self.problem = ""
        self._ledger = ledger
        self._now = now
        self._started = time.time()
        self._next = now()
        self._forget_at = now()
        self._readings: deque[Reading] = deque()
        self._stamp: tuple[int, int] | None = None  # the ledger's, when `_delivered` was counted
        self._delivered: Mapping[str, int] = {}
        self._written: dict[Key, Trouble] = {}
        self._said = ""

    @property
    def seconds(self) -> float:
        """How long until the next one is due; negative when it is overdue."""
        return self._next - self._now()

    def beat(self, healths: Iterable[tuple[Key, Health]], *, stopped: bool = False) -> None:
        """Write down that we are here and what is wrong; what fails is said once and goes on."""
        self._next = self._now() + BEAT_SECONDS
        try:
            self._write(healths, stopped=stopped)
            self._said = ""
        except ShipperError as error:
            if str(error) != self._said:
                self._said = str(error)
                log.warning(
                    "what `lens-ship status` shows cannot be kept: %s",
                    error,
                    extra=fields(path=self._ledger.directory, detail=error),
                )

    def _write(self, healths: Iterable[tuple[Key, Health]], *, stopped: bool) -> None:
        if not self._readings:
            service_status.end_troubles(self._ledger, time.time())
        self._read()
        changed = [trouble for trouble in _troubles(healths) if self._is_news(trouble)]
        service_status.note(self._ledger, changed)
        self._written.update({(one.sink, one.workload): one for one in changed})
        now = time.time()
        service_status.beat(
            self._ledger,
            Sign(
                pid=os.getpid(),
                version=spooler.__version__,
                started=self._started,
                beat=now,
                stopped=now if stopped else 0.0,
                address="" if stopped else self.address,
                problem=self.problem,
                rates=self._rates(),
            ),
        )
        if self._now() >= self._forget_at:
            self._forget_at = self._now() + MEMORY_SECONDS / 24
            service_status.forget_troubles(self._ledger, now - MEMORY_SECONDS)

    def _is_news(self, trouble: Trouble) -> bool:
        if self._written.get((trouble.sink, trouble.workload)) == trouble:
            return False
        return trouble.until is None or time.time() - trouble.until < MEMORY_SECONDS

    def _read(self) -> None:
        """Count where anything was written, and drop the readings that are older than needed."""
        stamp = self._ledger.stamp()
        if stamp != self._stamp:
            self._delivered = totals.delivered(self._ledger)
        self._stamp = stamp
        reading = Reading(time=self._now(), delivered=self._delivered)
        self._readings.append(reading)
        while len(self._readings) > 2 and self._readings[1].time <= reading.time - RATE_SECONDS:
            self._readings.popleft()

    def _rates(self) -> dict[str, float]:
        first, last = self._readings[0], self._readings[-1]
        seconds = last.time - first.time
        if seconds <= 0:
            return {}
        return {
            sink: round(max(0, count - first.delivered.get(sink, 0)) / seconds, 3)
            for sink, count in last.delivered.items()
        }


def _troubles(healths: Iterable[tuple[Key, Health]]) -> Iterable[Trouble]:
    for (sink, workload), health in healths:
        spell = health.spell
        if spell is not None:
            yield Trouble(
                sink=sink,
                workload=workload,
                reason=spell.outcome.reason,
                detail=spell.outcome.detail,
                alarm=spell.outcome.needs_operator,
                since=spell.since,
                until=spell.until,
            )
