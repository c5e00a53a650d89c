"""The last hour in memory: one sample every ten seconds, the oldest makes room. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from shipper.status.model import Status

SAMPLE_SECONDS = 10.0
SAMPLES = 360


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Records behind, seconds the oldest of them has waited, records delivered per second."""

    time: float
    behind: int
    lag: float
    rate: float
    delivered: int


class History:
    """The samples, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def add(self, overview: Status) -> None:
        """Take a sample."""
        delivered = sum(sink.delivered for sink in overview.sinks)
        last = self._samples[-1] if self._samples else None
        seconds = overview.time - last.time if last else 0.0
        rate = max(0.0, (delivered - last.delivered) / seconds) if last and seconds > 0 else 0.0
        self._samples.append(
            Sample(
                time=overview.time,
                behind=overview.pending,
                lag=overview.age(overview.oldest) or 0.0,
                rate=rate,
                delivered=delivered,
            )
        )

    def to_map(self) -> dict[str, Any]:
        """For the page: columns."""
        samples = list(self._samples)
        return {
            "time": [round(one.time, 1) for one in samples],
            "behind": [one.behind for one in samples],
            "lag": [round(one.lag, 1) for one in samples],
            "rate": [round(one.rate, 2) for one in samples],
        }
