"""Whether a sink, or one workload of it, accepts data now, and when to retry."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from shipper.delivery.backoff import Backoff, asked
from shipper.delivery.policy import Blame
from shipper.log import fields
from shipper.sinks.outcome import Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outage:
    """A time of failures with one reason, in Unix seconds; `until` is None while it lasts."""

    outcome: Outcome
    since: float
    until: float | None = None


class SinkState:
    """Safe for several threads. Logs when an outage begins, changes its reason, or ends."""

    def __init__(
        self,
        sink: str,
        now: Callable[[], float],
        *,
        workload: str | None = None,
        resumed: Callable[[], None] = lambda: None,
    ) -> None:
        """`resumed` is called when a pause has ended early."""
        self.sink = sink
        self._subject = {"sink": sink, "workload": workload}
        self.failure: Outcome | None = None  # the current one
        self.outage: Outage | None = None  # the current or else the last one
        self.ready_at = 0.0  # monotonic seconds before which no request is made
        self._backoff = Backoff()
        self._blame = Blame()
        self._resumed = resumed
        self._now = now
        self._lock = threading.Lock()

    @property
    def needs_operator(self) -> bool:
        """Whether the failure will not end by itself."""
        return self.failure is not None and self.failure.needs_operator

    def is_alone(self, key: str) -> bool:
        """Whether the queue of `key` fails while others succeed."""
        with self._lock:
            return key in self._blame.alone

    def failed(self, outcome: Outcome, *, key: str | None = None) -> float:
        """Note a failure; return the seconds to wait. Failures of one moment count once.

        With the `key` of a queue, the others have to wait only when one of them has failed, too,
        and not for as long as the receiver asks this one to.
        """
        with self._lock:
            now = self._now()
            if now < self.ready_at:
                return asked(self.ready_at - now, outcome.retry_after)
            drawn = self._backoff.failed(alarm=outcome.needs_operator)
            wait = asked(drawn, outcome.retry_after)
            if key is None or self._blame.failed(key):
                self.ready_at = now + (wait if key is None else drawn)
            changed = self.failure is None or self.failure.reason != outcome.reason
            self.failure = outcome
            if changed or self.outage is None:
                self.outage = Outage(outcome=outcome, since=time.time())
        values = fields(
            **self._subject,
            reason=outcome.reason,
            detail=outcome.detail,
            retry_in=round(wait, 1),
        )
        if not changed:
            log.debug("sink still paused", extra=values)
        elif outcome.needs_operator:
            log.error("sink paused, data is kept", extra=values)
        else:
            log.warning("sink paused, data is kept", extra=values)
        return wait

    def retry_now(self) -> None:
        """What caused the failures may be gone: retry at once, with the shortest backoff."""
        with self._lock:
            self._backoff.succeeded()
            self.ready_at = 0.0

    def clear(self) -> None:
        """Nothing is left to send: the outage is over."""
        with self._lock:
            self._end_outage()

    def succeeded(self, *, key: str | None = None) -> None:
        """Note a success, of the queue of `key`; the outage is over."""
        with self._lock:
            failure = self._end_outage()
            early = self._now() < self.ready_at
            self._backoff.succeeded()
            self.ready_at = 0.0
            if key is not None:
                self._blame.succeeded(key)
        if early:
            self._resumed()
        if failure is not None:
            log.info("sink resumed", extra=fields(**self._subject, reason=failure.reason))

    def _end_outage(self) -> Outcome | None:
        """The failure until now. With the lock held."""
        failure, self.failure = self.failure, None
        if failure is not None and self.outage is not None:
            self.outage = replace(self.outage, until=time.time())
        return failure
