"""How long to wait before the next try; the only importer of tenacity.

Full jitter: the wait is drawn evenly from zero to a bound that doubles with each failure, so that a
thousand nodes that lost the same receiver do not come back together. Waiting is the scheduler's
business, which can be interrupted at any moment; here the time is only reckoned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tenacity import RetryCallState, Retrying, wait_random_exponential

FIRST_SECONDS = 0.5
CAP_SECONDS = 60.0
# Trouble that will not end by itself is asked about at a slower pace from the start.
ALARM_FIRST_SECONDS = 5.0
# A receiver's own wish is honoured up to this many seconds.
RETRY_AFTER_CAP = 600.0


@dataclass(kw_only=True)
class Backoff:
    """The failures in a row of one lane or one sink, and the wait that follows from them.

    A success resets it.
    """

    cap: float = CAP_SECONDS
    failures: int = 0

    def succeeded(self) -> None:
        """Start anew."""
        self.failures = 0

    def failed(self, *, alarm: bool = False, retry_after: float | None = None) -> float:
        """Count one more failure; return the seconds to wait before the next try."""
        self.failures += 1
        first = ALARM_FIRST_SECONDS if alarm else FIRST_SECONDS
        drawn = _draw(self.failures, first=first, cap=max(self.cap, first))
        if retry_after is None:
            return drawn
        # Everyone was told the same time; the jitter keeps them from all keeping it.
        return min(retry_after, RETRY_AFTER_CAP) + min(drawn, 1.0)


def _draw(failures: int, *, first: float, cap: float) -> float:
    strategy = wait_random_exponential(multiplier=first, max=cap)
    state = RetryCallState(retry_object=_RETRYING, fn=None, args=(), kwargs={})
    state.attempt_number = failures
    return float(strategy(state))


_RETRYING: Any = Retrying()
