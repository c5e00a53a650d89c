"""Retries a sink at once when its credentials have changed on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from shipper.delivery.sink_state import SinkState
from shipper.log import fields
from shipper.sinks import Renewable, Sink

log = logging.getLogger(__name__)

# How often credentials are checked while a sink needs an operator.
CHECK_SECONDS = 1.0


class CredentialWatch:
    """Checks the credential files of every sink that has some.

    A request with the old credential may still be in flight for `grace` seconds after a change. Its
    failure is not a reason to wait, so the sink is retried every `CHECK_SECONDS` for that time.
    """

    def __init__(
        self,
        sinks: Mapping[str, Sink],
        states: Mapping[str, SinkState],
        now: Callable[[], float],
        grace: float,
    ) -> None:
        self._sinks = {name: one for name, one in sinks.items() if isinstance(one, Renewable)}
        self._states = states
        self._now = now
        self._grace = grace
        self._seen = {name: sink.credentials() for name, sink in self._sinks.items()}
        self._until = dict.fromkeys(self._sinks, float("-inf"))  # monotonic seconds
        self._retried = dict.fromkeys(self._sinks, float("-inf"))

    def renewed(self) -> list[str]:
        """The sinks that are to be retried now. Their pause is over."""
        now = self._now()
        renewed = []
        for name, sink in self._sinks.items():
            before, self._seen[name] = self._seen[name], sink.credentials()
            if self._seen[name] != before:
                log.info(
                    "credentials reloaded", extra=fields(sink=name, reason="credentials-changed")
                )
                self._until[name] = now + self._grace
            elif not (
                now < self._until[name]
                and self._states[name].needs_operator
                and now - self._retried[name] >= CHECK_SECONDS
            ):
                continue
            self._retried[name] = now
            self._states[name].retry_now()
            renewed.append(name)
        return renewed
