"""Counters of the running process: requests, their durations, deleted segments.

Counters that must survive a restart are in the ledger (`shipper.ledger.totals`).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from shipper.sinks import Batch, Sink
from shipper.sinks.outcome import Outcome
from spooler.spool.identity import Identity

# Seconds; the last one is above the default read timeout.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Label values stay bounded, whatever reasons a sink returns.
_REASONS = 40


@dataclass(kw_only=True)
class Durations:
    """A histogram: requests in each bucket, in the last one all that took longer."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0


class Metrics:
    """Counters of one process; safe for several threads."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # (sink, reason of the outcome)
        self.durations: dict[str, Durations] = {}
        self.deleted: Counter[str] = Counter()  # segments, by why
        self._waiting: set[int] = set()  # threads that wait for an answer
        self._answered: dict[int, float] = {}  # thread -> monotonic time of the last answer
        self._lock = threading.Lock()

    def request_started(self) -> None:
        """This thread sends a request now."""
        with self._lock:
            self._waiting.add(threading.get_ident())

    def request_finished(self, sink: str, reason: str, seconds: float) -> None:
        """The request of this thread has ended."""
        with self._lock:
            me = threading.get_ident()
            self._waiting.discard(me)
            self._answered[me] = time.monotonic()
            if (sink, reason) not in self.requests and len(self.requests) >= _REASONS:
                reason = "other"
            self.requests[sink, reason] += 1
            mine = self.durations.setdefault(sink, Durations())
            mine.counts[bisect_left(BUCKETS, seconds)] += 1
            mine.seconds += seconds

    def segments_deleted(self, why: str, segments: int = 1) -> None:
        with self._lock:
            self.deleted[why] += segments

    def deletions(self) -> int:
        """Deleted segments, for all reasons."""
        with self._lock:
            return self.deleted.total()

    def is_active(self, thread: int, since: float) -> bool:
        """Whether a thread waits for an answer, or got one since that monotonic time."""
        with self._lock:
            return thread in self._waiting or self._answered.get(thread, 0.0) >= since


def instrument(sink: Sink, metrics: Metrics) -> Sink:
    """The same sink, with its requests counted."""
    send = sink.send

    def counted(batch: Batch, identity: Identity, attempt: int) -> Outcome:
        began = time.monotonic()
        reason = "fault"
        metrics.request_started()
        try:
            outcome = send(batch, identity, attempt)
            reason = outcome.reason
            return outcome
        finally:
            metrics.request_finished(sink.name, reason, time.monotonic() - began)

    sink.send = counted  # type: ignore[method-assign]
    return sink
