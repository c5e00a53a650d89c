"""What the service counts while it works, for the metrics: requests, their length, deletions.

Counts begin with the process. What has to survive a restart stands in the ledger
(`shipper.ledger.totals`).
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

# Seconds; the last catches what the default read timeout lets pass.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# A label must stay bounded, whatever a sink calls its outcomes.
_REASONS = 40


@dataclass(kw_only=True)
class Durations:
    """A histogram: how many requests ended in each bucket, the last being all that took longer."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0


class Meters:
    """Counts of one process; safe for several threads."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # (sink, reason of the outcome)
        self.durations: dict[str, Durations] = {}
        self.deleted: Counter[str] = Counter()  # segments, by why
        self._asking: set[int] = set()  # threads that wait for an answer
        self._asked: dict[int, float] = {}  # thread -> monotonic time of the last answer
        self._lock = threading.Lock()

    def asks(self) -> None:
        """This thread sends a request now."""
        with self._lock:
            self._asking.add(threading.get_ident())

    def answered(self, sink: str, reason: str, seconds: float) -> None:
        """The request of this thread has ended."""
        with self._lock:
            me = threading.get_ident()
            self._asking.discard(me)
            self._asked[me] = time.monotonic()
            if (sink, reason) not in self.requests and len(self.requests) >= _REASONS:
                reason = "other"
            self.requests[sink, reason] += 1
            mine = self.durations.setdefault(sink, Durations())
            mine.counts[bisect_left(BUCKETS, seconds)] += 1
            mine.seconds += seconds

    def removed(self, why: str, segments: int = 1) -> None:
        """So many segments were deleted."""
        with self._lock:
            self.deleted[why] += segments

    def deletions(self) -> int:
        """How many segments were deleted, for whatever reason."""
        with self._lock:
            return self.deleted.total()

    def moved(self, thread: int, since: float) -> bool:
        """Whether a thread waits for an answer, or has got one since that monotonic time."""
        with self._lock:
            return thread in self._asking or self._asked.get(thread, 0.0) >= since


def measured(sink: Sink, meters: Meters) -> Sink:
    """The same sink, its requests counted from now on."""
    send = sink.send

    def counted(batch: Batch, identity: Identity, attempt: int) -> Outcome:
        began = time.monotonic()
        reason = "fault"
        meters.asks()
        try:
            outcome = send(batch, identity, attempt)
            reason = outcome.reason
            return outcome
        finally:
            meters.answered(sink.name, reason, time.monotonic() - began)

    sink.send = counted  # type: ignore[method-assign]
    return sink
