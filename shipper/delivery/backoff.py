"""How long to wait before a retry; the only importer of tenacity.

Full jitter: the wait is drawn evenly from zero to a bound that doubles with each failure, so that a
thousand nodes that lost the same receiver do not retry together. This only computes the time; the
scheduler waits and can be interrupted at any moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tenacity import RetryCallState, Retrying, wait_random_exponential

FIRST_SECONDS = 0.5
CAP_SECONDS = 60.0
# A failure that needs an operator is retried at a slower pace from the start.
ALARM_FIRST_SECONDS = 5.0
# `Retry-After` is honoured up to this many seconds.
RETRY_AFTER_CAP = 600.0


@dataclass(kw_only=True)
class Backoff:
    """The consecutive failures of one queue or one sink, and the wait that follows from them."""

    cap: float = CAP_SECONDS
    failures: int = 0

    def succeeded(self) -> None:
        """Reset the count of failures."""
        self.failures = 0

    def failed(self, *, alarm: bool = False) -> float:
        """Count one more failure; return the seconds to wait before the retry."""
        self.failures += 1
        first = ALARM_FIRST_SECONDS if alarm else FIRST_SECONDS
        return _draw(self.failures, first=first, cap=max(self.cap, first))


def asked(drawn: float, retry_after: float | None) -> float:
    """The wait that a receiver asks for, else that which was drawn."""
    if not retry_after:
        return drawn  # a wish for none, repeated, would be no backoff
    # All nodes get the same time from the receiver: the jitter spreads them.
    return min(retry_after, RETRY_AFTER_CAP) + min(drawn, 1.0)


def _draw(failures: int, *, first: float, cap: float) -> float:
    strategy = wait_random_exponential(multiplier=first, max=cap)
    state = RetryCallState(retry_object=_RETRYING, fn=None, args=(), kwargs={})
    state.attempt_number = failures
    return float(strategy(state))


_RETRYING: Any = Retrying()
