"""Whether the service itself moves, whatever its receivers do: what the liveness probe asks.

A worker that waits for an answer is alive however long that takes: killing the service would not
bring the receiver back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from shipper.meters import Meters

# The main loop comes round every few seconds, but tidying up a full root of a slow disk takes time.
LOOP_SECONDS = 120.0
# A turn lasts half a second and the request under way.
TURN_SECONDS = 300.0


class Liveness:
    """What has moved when; asked by other threads than those that tell it."""

    def __init__(self, meters: Meters, now: Callable[[], float] = time.monotonic) -> None:
        self.moved = time.time()  # when the main loop last came round
        self._meters = meters
        self._now = now
        self._loop = now()
        self._ready = False
        self._turns: dict[int, float] = {}
        self._workers: Callable[[], Sequence[threading.Thread]] = tuple

    def begin(self, workers: Callable[[], Sequence[threading.Thread]]) -> None:
        """How to find the workers there are."""
        self._workers = workers

    def came_round(self, *, ready: bool) -> None:
        """The main loop has; `ready` once the root was walked."""
        self._loop, self.moved, self._ready = self._now(), time.time(), ready

    def takes_turn(self) -> None:
        """This thread begins a turn."""
        self._turns[threading.get_ident()] = self._now()

    def ends_turn(self) -> None:
        """This thread waits for its next turn."""
        self._turns.pop(threading.get_ident(), None)

    def healthy(self) -> str:
        """What does not move, or ""."""
        still = self._now() - self._loop
        if still > LOOP_SECONDS:
            return f"the main loop has not come round for {still:.0f} s"
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
