"""Whether the service itself moves, whatever its receivers do: what the liveness probe asks.

A worker that waits for an answer is alive however long that takes: killing the service would not
bring the receiver back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from shipper.delivery.counters import Meters

# Both come round every few seconds, but tidying up a full root of a slow disk takes time.
MAIN, HOUSEKEEPING = "the main loop", "housekeeping"
LOOP_SECONDS = 120.0
# A turn lasts half a second and the request under way.
TURN_SECONDS = 300.0


class Liveness:
    """What has moved when; asked by other threads than those that tell it."""

    def __init__(self, meters: Meters, now: Callable[[], float] = time.monotonic) -> None:
        self._meters = meters
        self._now = now
        # When each last came round: monotonic, Unix seconds.
        self._rounds = dict.fromkeys((MAIN, HOUSEKEEPING), (now(), time.time()))
        self._ready = False
        self._turns: dict[int, float] = {}
        self._workers: Callable[[], Sequence[threading.Thread]] = tuple

    def begin(self, workers: Callable[[], Sequence[threading.Thread]]) -> None:
        """How to find the threads that must not end."""
        self._workers = workers

    @property
    def moved(self) -> float:
        """Unix time at which the one of the loops that is behind last came round."""
        return min(wall for _, wall in self._rounds.values())

    def loop_ran(self, loop: str) -> None:
        """One of the loops has; housekeeping when it has walked the root."""
        self._rounds[loop] = self._now(), time.time()
        self._ready = self._ready or loop == HOUSEKEEPING

    def turn_started(self) -> None:
        """This thread begins a turn."""
        self._turns[threading.get_ident()] = self._now()

    def turn_ended(self) -> None:
        """This thread waits for its next turn."""
        self._turns.pop(threading.get_ident(), None)

    def healthy(self) -> str:
        """What does not move, or ""."""
        for loop, (moved, _) in list(self._rounds.items()):
            still = self._now() - moved
            if still > LOOP_SECONDS:
                return f"{loop} has not come round for {still:.0f} s"
        dead = [worker.name for worker in self._workers() if not worker.is_alive()]
        if dead:
            return f"ended: {', '.join(dead)}"
        late = self._now() - TURN_SECONDS
        stuck = [
            thread
            for thread, since in list(self._turns.items())
            if since < late and not self._meters.moved(thread, late)
        ]
        return f"{len(stuck)} workers are stuck in a turn" if stuck else ""

    def ready(self) -> str:
        """What is not done yet, or ""."""
        return "" if self._ready else "the spool root has not been walked yet"
