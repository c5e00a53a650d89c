"""Whom a failure is about, when refusals stop, and which queues are slow. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from shipper.sinks.outcome import Disposition, Outcome, Reason

# Requests of one queue that are refused in a row before nothing more is believed to be the data's
# fault, and the seconds after which one more is.
REFUSALS_IN_A_ROW = 10
ONE_MORE_SECONDS = 600.0
# Words of the receiver itself, about whose the data is or how old.
_BELIEVED = frozenset(
    reason.word
    for reason in (
        Reason.NO_IDENTITY,
        Reason.UNKNOWN_WORKLOAD,
        Reason.TOO_OLD,
        Reason.RUN_DELETED,
    )
)
# A turn is meant to take half a second; one request of it may take longer.
SLOW_SECONDS = 5.0
_FADING = 0.9
# A queue that has failed is due so much later than the others, which are to be heard first.
YIELD_SECONDS = 0.1


@dataclass(kw_only=True)
class Blame:
    """Whether failures are a sink's, or those of one of its queues.

    The first queue that fails says nothing about the others. They go on, and decide: if another
    one fails too, the sink has failed. Once one succeeds, those that failed do so alone, until they
    succeed.
    """

    witnesses: set[str] = field(default_factory=set)  # keys that failed since the last success
    alone: set[str] = field(default_factory=set)  # keys that fail while others succeed

    def failed(self, key: str) -> bool:
        """Whether all queues have to wait because that of `key` has failed."""
        self.witnesses.add(key)
        return len(self.witnesses) > 1

    def succeeded(self, key: str) -> None:
        """The queue of `key` has delivered something."""
        self.alone |= self.witnesses
        self.alone.discard(key)
        self.witnesses.clear()


@dataclass(kw_only=True, slots=True)
class RefusalBrake:
    """Stops a queue of which everything is refused: something else is wrong than the data.

    A proxy that rejects every request would turn all records into dead letters within seconds.
    """

    refused: int = 0  # requests since the last delivery
    last: float = 0.0  # monotonic seconds when the last one was taken for the data's fault

    def delivered(self) -> None:
        """The receiver accepts something: what it refuses is refused for its content."""
        self.refused = 0

    def stop(self, outcome: Outcome, now: float) -> Outcome | None:
        """The failure to report instead of a rejection; None if it is the data's fault."""
        if outcome.reason in _BELIEVED:
            return None
        if self.refused >= REFUSALS_IN_A_ROW and now - self.last < ONE_MORE_SECONDS:
            return Outcome(
                disposition=Disposition.RETRY,
                reason=Reason.ALL_REFUSED.word,
                detail=f"{outcome.reason}: {outcome.detail}",
                needs_operator=True,
            )
        self.refused += 1
        self.last = now
        return None


@dataclass(kw_only=True)
class Pace:
    """How long the turns of a queue take: the longest one, which fades with each turn after it."""

    longest: float = 0.0

    @property
    def is_slow(self) -> bool:
        return self.longest >= SLOW_SECONDS

    def took(self, seconds: float) -> None:
        """A turn has ended after these seconds."""
        self.longest = max(seconds, self.longest * _FADING)
