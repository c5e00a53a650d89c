"""Whether a sink or a workload takes data now, and when to try again; said once per change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from shipper.delivery.backoff import Backoff
from shipper.log import fields
from shipper.sinks.outcome import Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spell:
    """A time in which one thing was wrong, in Unix seconds; `until` is None while it lasts."""

    outcome: Outcome
    since: float
    until: float | None = None


class Health:
    """The state of one way out; safe for several threads."""

    def __init__(
        self, name: str, now: Callable[[], float], *, sink: str = "", workload: str | None = None
    ) -> None:
        """`sink` and `workload` are what it is about; the name is for people."""
        self.name = name
        self._about = {"sink": sink or name, "workload": workload}
        self.trouble: Outcome | None = None  # what is wrong at present
        self.spell: Spell | None = None  # the present or else the last one
        self.ready_at = 0.0  # monotonic seconds before which there is no use in trying
        self._backoff = Backoff()
        self._now = now
        self._lock = threading.Lock()

    @property
    def needs_operator(self) -> bool:
        """Whether what is wrong will not end by itself."""
        return self.trouble is not None and self.trouble.needs_operator

    def failed(self, outcome: Outcome) -> float:
        """Note a failure; return the seconds to wait. Failures of one moment count once."""
        with self._lock:
            now = self._now()
            if now < self.ready_at:
                return self.ready_at - now
            wait = self._backoff.failed(
                alarm=outcome.needs_operator, retry_after=outcome.retry_after
            )
            self.ready_at = now + wait
            changed = self.trouble is None or self.trouble.reason != outcome.reason
            self.trouble = outcome
            if changed or self.spell is None:
                self.spell = Spell(outcome=outcome, since=time.time())
        if changed:
            say = log.error if outcome.needs_operator else log.warning
            say(
                "%s: %s (%s); everything is kept and sent when it works again",
                self.name,
                outcome.reason,
                outcome.detail,
                extra=fields(**self._about, reason=outcome.reason, detail=outcome.detail),
            )
        else:
            log.debug(
                "%s: %s again, next try in %.1f s",
                self.name,
                outcome.reason,
                wait,
                extra=fields(**self._about, reason=outcome.reason, seconds=round(wait, 1)),
            )
        return wait

    def renewed(self) -> None:
        """What stood in the way may be gone: try at once, and be patient anew."""
        with self._lock:
            self._backoff.succeeded()
            self.ready_at = 0.0

    def nobody_waits(self) -> None:
        """Nothing is left that could go this way: what was wrong troubles nobody any more."""
        with self._lock:
            self._end_trouble()

    def succeeded(self) -> None:
        """Note a success; whatever was wrong is over."""
        with self._lock:
            trouble = self._end_trouble()
            self._backoff.succeeded()
            self.ready_at = 0.0
        if trouble is not None:
            log.info(
                "%s: works again after %s",
                self.name,
                trouble.reason,
                extra=fields(**self._about, reason=trouble.reason),
            )

    def _end_trouble(self) -> Outcome | None:
        """What was wrong until now, if anything was. With the lock held."""
        trouble, self.trouble = self.trouble, None
        if trouble is not None and self.spell is not None:
            self.spell = replace(self.spell, until=time.time())
        return trouble
