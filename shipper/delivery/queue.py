"""One workload on its way to one sink: its spools share one request at a time, in fair turns.

The receiver's rows are shared by all ranks and runs of a workload, so two requests for it at once
would lose updates; another workload's requests need not wait for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from shipper.delivery.pipeline import Progress, Route
from shipper.delivery.sink_state import Health
from shipper.errors import ShipperError
from shipper.log import fields
from shipper.sinks.outcome import TIMEOUT, Disposition, Outcome
from spooler.errors import SpoolError
from spooler.spool.identity import Identity

log = logging.getLogger(__name__)

TURN_SECONDS = 0.5
# A spool that cannot be read is looked at again after this many seconds.
TROUBLE_SECONDS = 30.0
# One that is read to its end is woken by its pulse; this is for a pulse that was missed.
SLEEP_SECONDS = 300.0


@dataclass(kw_only=True)
class _Place:
    """A route in the lane: when it is due, and whether it has nothing more to give."""

    route: Route
    due: float
    caught_up: bool = False
    finished: bool = False
    woken: bool = False  # something has changed since the turn began
    said: str = ""


class Lane:
    """The spools of one workload for one sink. `turn` is called by one thread at a time."""

    def __init__(
        self,
        *,
        key: str,
        sink_health: Health,
        flush_all: bool,
        now: Callable[[], float],
        resolve: Callable[[Identity, bool], Identity] | None = None,
    ) -> None:
        self.key = key
        name = f"{sink_health.name}, workload {key}"
        self.health = Health(name, now, sink=sink_health.name, workload=key)
        self._sink = sink_health
        self._resolve = resolve
        self._flush_all = flush_all
        self._now = now
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()

    def add(self, route: Route) -> None:
        """Take a spool in; it is due at once."""
        with self._lock:
            self._places[route.identity.spool] = _Place(route=route, due=self._now())

    def routes(self) -> list[Route]:
        """Every route here."""
        with self._lock:
            return [place.route for place in self._places.values()]

    def remove(self, spool: str) -> None:
        """Forget a spool that has been deleted."""
        with self._lock:
            self._places.pop(spool, None)

    def due(self) -> float:
        """Monotonic time of the next turn worth taking; infinity when there is none."""
        with self._lock:
            dues = [place.due for place in self._places.values() if not place.finished]
        if not dues:
            return float("inf")
        return max(min(dues), self._sink.ready_at, self.health.ready_at)

    def spools(self) -> list[str]:
        """The spools here."""
        with self._lock:
            return list(self._places)

    def standing(self, spool: str) -> tuple[int, bool] | None:
        """How far a spool is settled, and whether it is at its end and its writer gone."""
        with self._lock:
            place = self._places.get(spool)
            return None if place is None else (place.route.position.seq, place.finished)

    def wake(self, spool: str) -> None:
        """There is something new in a spool: read on, if it is only that which is waited for."""
        with self._lock:
            place = self._places.get(spool)
            if place is not None:
                place.woken = True
                if place.caught_up:
                    # New data refutes that its process has ended.
                    place.caught_up, place.finished = False, False
                    place.due = min(place.due, self._now())

    def is_slow(self) -> bool:
        """Whether its last request was not answered in time: the next may take long, too."""
        trouble = self.health.trouble
        return trouble is not None and trouble.reason == TIMEOUT

    def caught_up(self) -> bool:
        """Whether every spool here has been seen to its end with nothing left to send."""
        with self._lock:
            return all(place.caught_up for place in self._places.values())

    def rest(self) -> None:
        """Leave the whole lane alone for a while, after a fault that nobody foresaw."""
        with self._lock:
            for place in self._places.values():
                place.due = self._now() + TROUBLE_SECONDS

    def turn(self) -> None:
        """Give the spool that is due longest one turn."""
        with self._lock:
            waiting = [place for place in self._places.values() if not place.finished]
        if not waiting:
            return
        place = min(waiting, key=lambda place: place.due)
        place.woken = False
        route = place.route
        try:
            owned = route.reader.is_owned()
            if self._resolve is not None:
                route.identity = self._resolve(route.identity, owned)
            progress = route.turn(
                now=self._now,
                until=self._now() + TURN_SECONDS,
                owned=owned,
                flush_all=self._flush_all,
            )
        except (SpoolError, ShipperError, OSError) as error:
            self._in_trouble(place, error)
            return
        self._note(place, progress, owned)

    def _note(self, place: _Place, progress: Progress, owned: bool) -> None:
        now = self._now()
        if place.route.take_delivered():
            # Before the failure that may have ended the turn: that one begins a new row.
            self._sink.succeeded()
            self.health.succeeded()
        if progress.failure is not None:
            place.caught_up = False
            self._note_failure(progress.failure)
            place.due = now
            return
        with self._lock:
            place.caught_up = progress.at_end
            lingers = place.route.lingers()
            place.finished = progress.at_end and not owned and lingers is None
            if place.woken and place.caught_up:
                place.caught_up, place.finished = False, False
            if progress.more or place.woken:
                place.due = now
            elif progress.wait is not None:
                place.due = now + min(progress.wait, place.route.flush_seconds)
            elif progress.at_end:
                place.due = now + min(SLEEP_SECONDS, lingers or SLEEP_SECONDS)
            else:
                place.due = now + place.route.flush_seconds

    def _note_failure(self, outcome: Outcome) -> None:
        if outcome.disposition is Disposition.RETRY and outcome.scope == "sink":
            self._sink.failed(outcome)
        else:
            self.health.failed(outcome)

    def _in_trouble(self, place: _Place, error: Exception) -> None:
        """This spool cannot be read, or its progress not be written down; the others go on."""
        place.caught_up = False
        place.due = self._now() + TROUBLE_SECONDS
        text = str(error)
        if text != place.said:
            place.said = text
            log.error(
                "%s: %s; it is left as it is and tried again every %.0f s",
                place.route.reader.directory,
                text,
                TROUBLE_SECONDS,
                extra=fields(
                    sink=self._sink.name,
                    workload=self.key,
                    spool=place.route.identity.spool,
                    path=place.route.reader.directory,
                    detail=text,
                ),
            )
