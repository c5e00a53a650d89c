"""Whether the service's own threads run, whatever its receivers do: the answer to /-/healthy.

A worker that waits for an answer is alive however long that takes: a restart of the service would
not bring the receiver back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from shipper.delivery.counters import Metrics

# Both run every few seconds, but freeing a full root on a slow disk takes time.
MAIN, HOUSEKEEPING = "main loop", "housekeeping"
LOOP_SECONDS = 120.0
# A turn lasts half a second and the request in flight.
TURN_SECONDS = 300.0


class ServiceLiveness:
    """When each loop and worker last ran; read by other threads than those that report."""

    def __init__(self, meters: Metrics, now: Callable[[], float] = time.monotonic) -> None:
        self._meters = meters
        self._now = now
        # When each loop last ran: monotonic, Unix seconds.
        self._runs = dict.fromkeys((MAIN, HOUSEKEEPING), (now(), time.time()))
        self._ready = False
        self._turns: dict[int, float] = {}
        self._workers: Callable[[], Sequence[threading.Thread]] = tuple

    def begin(self, workers: Callable[[], Sequence[threading.Thread]]) -> None:
        """Set how to find the threads that must not end."""
        self._workers = workers

    @property
    def last_run(self) -> float:
        """Unix time of the last run of the loop that has not run for longest."""
        return min(wall for _, wall in self._runs.values())

    def loop_ran(self, loop: str) -> None:
        """Report a run of `MAIN`, or of `HOUSEKEEPING` once it has scanned the root."""
        self._runs[loop] = self._now(), time.time()
        self._ready = self._ready or loop == HOUSEKEEPING

    def turn_started(self) -> None:
        self._turns[threading.get_ident()] = self._now()

    def turn_ended(self) -> None:
        self._turns.pop(threading.get_ident(), None)

    def healthy(self) -> str:
        """What does not run, or ""."""
        for loop, (ran, _) in list(self._runs.items()):
            still = self._now() - ran
            if still > LOOP_SECONDS:
                return f"{loop} has not run for {still:.0f} s"
        dead = [worker.name for worker in self._workers() if not worker.is_alive()]
        if dead:
            return f"threads have ended: {', '.join(dead)}"
        late = self._now() - TURN_SECONDS
        turns = list(self._turns.items())
        stuck = sum(began < late and not self._meters.is_active(who, late) for who, began in turns)
        return f"{stuck} workers are stuck" if stuck else ""

    def ready(self) -> str:
        """What is not done yet, or ""."""
        return "" if self._ready else "the spool root has not been scanned yet"
