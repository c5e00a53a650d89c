"""How long to wait for an answer."""

from __future__ import annotations

from dataclasses import dataclass

# The time for an answer grows to this many times what is set, and no further.
ALLOWANCE_GROWTH = 10.0


@dataclass(kw_only=True)
class Allowance:
    """How long an answer may take: `base` seconds, more where one has taken longer or did not come.

    A receiver that is behind works through its requests in turn and drops those whose sender has
    hung up. To hang up at a fixed time makes a thousand nodes undo each other's work; to wait in
    turn costs none of them anything.
    """

    base: float
    seconds: float

    def answered(self, took: float) -> None:
        """Twice what this answer took, within the limits."""
        self.seconds = min(max(self.base, 2 * took), self.base * ALLOWANCE_GROWTH)

    def missed(self) -> None:
        """None came in time."""
        self.seconds = min(2 * self.seconds, self.base * ALLOWANCE_GROWTH)
