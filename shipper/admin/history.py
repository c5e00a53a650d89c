"""The last hour of the status in memory: one sample every ten seconds. Pure."""

from __future__ import annotations

from collections import deque
from typing import Any

from shipper.status.model import Status

SAMPLE_SECONDS = 10.0
SAMPLES = 360


class StatusHistory:
    """Samples, oldest first: time, pending records, lag, delivered records per second."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, float, float]] = deque(maxlen=SAMPLES)
        self._delivered = 0

    def add(self, status: Status) -> None:
        before, self._delivered = self._delivered, sum(sink.delivered for sink in status.sinks)
        seconds = status.time - self._samples[-1][0] if self._samples else 0.0
        rate = max(0.0, (self._delivered - before) / seconds) if seconds > 0 else 0.0
        lag = status.age(status.oldest) or 0.0
        self._samples.append((round(status.time, 1), status.pending, round(lag, 1), rate))

    def to_map(self) -> dict[str, Any]:
        """Columns for JSON: `lag` in seconds, `rate` in records per second."""
        samples = list(self._samples)
        return {
            "time": [time for time, _, _, _ in samples],
            "pending": [pending for _, pending, _, _ in samples],
            "lag": [lag for _, _, lag, _ in samples],
            "rate": [round(rate, 2) for _, _, _, rate in samples],
        }
