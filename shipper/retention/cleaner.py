"""Deletes what every sink has, keeps the limit of the root, and gives up what the policy says.

Runs in the thread of housekeeping. Undelivered segments are only dropped while no lane of their
spool has a turn, and the ledger is told before a file goes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shipper.config.schema import Config
from shipper.delivery.counters import Meters
from shipper.delivery.pipeline import Route, gap_of
from shipper.delivery.queue import Lane
from shipper.delivery.scheduler import Schedule
from shipper.delivery.workers import LaneKey
from shipper.ledger.ledger import Ledger
from shipper.log import fields
from shipper.retention.deletable import Delivered, Standing, is_over
from shipper.retention.policy import Kept, in_order, oldest, to_delete
from shipper.retention.quarantine import Quarantine
from shipper.retention.quota import Room, spool_excess
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

TIDY_SECONDS = 10.0
CROWDED_SECONDS = 1.0  # instead, while the root is full and a lane in the way
# A spool in which a look took longer than this, wall time, is left alone for so many times as long:
# whatever its tenant puts into it, it gets a quarter of the time at most.
LOOK_SECONDS = 1.0
_REST = 3.0


@dataclass(frozen=True, kw_only=True)
class Spool:
    """A spool that the service has found; one that is `withheld` is not shipped, by its wish."""

    reader: Reader
    identity: Identity
    lanes: tuple[LaneKey, ...]  # those that ship it
    withheld: bool = False


class Tidying:
    """Works on the service's own maps of spools and lanes."""

    def __init__(
        self,
        *,
        config: Config,
        ledger: Ledger,
        schedule: Schedule[LaneKey],
        spools: dict[str, Spool],
        lanes: dict[LaneKey, Lane],
        meters: Meters,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._schedule = schedule
        self._spools = spools
        self._lanes = lanes
        self._meters = meters
        self._quarantine = Quarantine(config.spool)
        self._delivered = Delivered()
        self._room = Room(config.spool, config.root_bytes, by_pod=config.pod_directories)
        self._touched: deque[LaneKey] = deque()  # something may have changed there
        self._resting: dict[str, float] = {}  # spool -> monotonic seconds until when
        self._crowded = False  # the root is full, and what should go is in use at the moment
        self._said: set[str] = set()

    @property
    def seconds(self) -> float:
        """How long to wait until the next time."""
        return CROWDED_SECONDS if self._crowded else TIDY_SECONDS

    def touch(self, lane: LaneKey) -> None:
        """Something may have changed in the spools of a lane; from any thread."""
        self._touched.append(lane)

    def tidy(self) -> None:
        """Delete what is delivered and not kept, then keep the limits."""
        self._look()
        self._delete_delivered()
        self._keep_root_limit()

    def end(self) -> None:
        """Let writers go on: nobody keeps the limit of the root from here on."""
        self._room.mark(full=False)

    def set_aside(self, reader: Reader, error: SpoolError) -> bool:
        """Set a spool aside that cannot be attributed to anybody; whether it was done."""
        return self._quarantine.take_unattributed(reader, error)

    def _look(self) -> None:
        """Find what may go of every spool that has changed, and set aside what is damaged."""
        touched = {self._touched.popleft() for _ in range(len(self._touched))}
        changed: dict[str, Standing] = {}
        for spool_id in {id_ for key in touched for id_ in self._in_lane(key)}:
            if time.monotonic() < self._resting.get(spool_id, 0.0):
                self.touch(self._spools[spool_id].lanes[0])
                continue
            standing = self._standing(spool_id)
            reader = self._spools[spool_id].reader
            if self._delivered.has_changed(reader, standing):
                changed[spool_id] = standing
        known = self._known_damage() if changed else {}
        for spool_id, standing in changed.items():
            began = time.monotonic()
            self._look_at(self._spools[spool_id], standing, known.get(spool_id, ()))
            took = time.monotonic() - began
            self._resting[spool_id] = began + took + _REST * took if took > LOOK_SECONDS else 0.0
        if changed:
            self._quarantine.trim(self._config.quarantine_bytes)

    def _look_at(
        self, spool: Spool, standing: Standing, known: Iterable[Mapping[str, Any]]
    ) -> None:
        reader = spool.reader
        try:
            waiting = self._quarantine.take(reader, spool.identity, standing.through, known)
            save = self._config.save_local and spool.identity.save_local
            self._delivered.look(reader, standing, staying=waiting, save=save)
        except (SpoolError, OSError) as error:
            self._delivered.look_again(reader.spool)
            self.touch(spool.lanes[0])
            log.debug(
                "%s: not tidied: %s",
                reader.directory,
                error,
                extra=fields(spool=reader.spool, detail=error),
            )
            return
        if waiting:
            self._delivered.has_more(reader.spool)
            self.touch(spool.lanes[0])

    def _known_damage(self) -> dict[str, list[dict[str, Any]]]:
        known: dict[str, list[dict[str, Any]]] = {}
        for row in self._ledger.damages():
            known.setdefault(row["spool"], []).append(row)
        return known

    def _in_lane(self, key: LaneKey) -> list[str]:
        lane = self._lanes.get(key)
        return [id_ for id_ in lane.spools() if id_ in self._spools] if lane is not None else []

    def _standing(self, spool_id: str) -> Standing:
        """Where delivery of a spool stands."""
        lanes = [self._lanes[key] for key in self._spools[spool_id].lanes if key in self._lanes]
        found = [one for lane in lanes if (one := lane.standing(spool_id)) is not None]
        return Standing(
            through=min((through for through, _ in found), default=0),
            ended=bool(found) and all(ended for _, ended in found),
        )

    def _delete_delivered(self) -> None:
        """Delete delivered segments that retention does not keep, or that take needed room."""
        kept = [
            one for spool_id in sorted(self._spools) for one in self._delivered.segments(spool_id)
        ]
        doomed = to_delete(
            kept, max_seconds=self._config.retention_seconds, max_bytes=self._config.retention_bytes
        )
        kept = self._delete_all(doomed, kept)
        by_spool: dict[str, list[Kept]] = {}
        for one in kept:
            by_spool.setdefault(one.spool, []).append(one)
        for spool_id, mine in by_spool.items():
            spool = self._spools[spool_id]
            excess = spool_excess(spool.reader.directory, spool.identity)
            if excess:
                kept = self._delete_all(oldest(mine, excess), kept)
        self._delete_all(oldest(kept, self._room.excess()), kept)

    def _delete_all(self, doomed: Sequence[Kept], kept: list[Kept]) -> list[Kept]:
        """Delete these; the others of `kept`."""
        for segment in doomed:
            self._delete(segment)
        gone = set(doomed)
        return [one for one in kept if one not in gone] if gone else kept

    def _keep_root_limit(self) -> None:
        """What deleting delivered segments does not achieve, the policy does."""
        was_crowded, self._crowded = self._crowded, False
        excess = self._room.excess()
        if excess > 0 and self._config.when_full == "drop-oldest":
            self._give_up_oldest(excess)
            excess = self._room.excess()
        # A busy lane may be about to make room, or to let go of what can be deleted. One that is in
        # the way at the next look, too, may be waiting for its receiver for minutes.
        self._room.mark(full=excess > 0 and (was_crowded or not self._crowded))

    def _give_up_oldest(self, excess: int) -> None:
        """Delete closed segments that are not delivered, oldest first, for `excess` bytes."""
        busy: set[str] = set()
        records = 0
        for segment in in_order(self._undelivered()):
            if excess <= 0:
                break
            if segment.spool in busy:
                continue
            lost = self._give_up(segment)
            if lost is None:
                busy.add(segment.spool)  # what follows in it must not go first
                self._crowded = True
                continue
            records, excess = records + lost, excess - segment.bytes
        if records:
            log.error(
                "%s: %d records are dropped undelivered: the root is full, and when_full is"
                " drop-oldest",
                self._config.spool,
                records,
                extra=fields(path=self._config.spool, count=records, reason="root-cap"),
            )

    def _undelivered(self) -> Iterator[Kept]:
        for spool_id, spool in self._spools.items():
            through = self._standing(spool_id).through
            for number, last in spool.reader.final_segments():
                if last > through:
                    yield Kept(
                        spool=spool_id,
                        number=number,
                        bytes=spool.reader.segment_bytes(number),
                        age=self._delivered.ages.of(spool.reader, number),
                        save=True,
                    )

    def _give_up(self, segment: Kept) -> int | None:
        """Drop a segment for every sink that is not past it; None while one of them has a turn."""
        spool = self._spools[segment.spool]
        keys = [
            key
            for key, lane in self._lanes.items()
            if any(route.identity.spool == segment.spool for route in lane.routes())
        ]
        if not self._schedule.hold(keys):
            return None
        try:
            last = dict(spool.reader.final_segments()).get(segment.number or 0)
            if last is None:
                return 0
            self._note_gaps(spool, last)
            lost = max(self._drop(spool, sink, last) for sink, _ in spool.lanes)
            for route in self._routes(segment.spool):
                route.resume()
        finally:
            for key in keys:
                self._schedule.give_back(key)
        ended = spool.reader.liveness().certain and spool.reader.last_seq() <= last
        self._delete(replace(segment, number=None) if ended else segment, why="root-cap")
        return lost

    def _note_gaps(self, spool: Spool, last: int) -> None:
        """What the process could not record stays counted when the word of it goes."""
        for stored in spool.reader.gaps():
            gap = gap_of(spool.identity.spool, stored) if stored.seq <= last else None
            if gap is not None:
                self._ledger.note_gap(gap)

    def _drop(self, spool: Spool, sink: str, last: int) -> int:
        return self._ledger.give_up(
            spool.identity.spool, sink, last, path=str(spool.reader.directory), why="root-cap"
        )

    def _routes(self, spool_id: str) -> list[Route]:
        return [
            route
            for lane in self._lanes.values()
            for route in lane.routes()
            if route.identity.spool == spool_id
        ]

    def _is_over(self, spool_id: str) -> bool:
        """Whether it can be deleted as a whole: asked again at the last moment."""
        standing = self._standing(spool_id)
        try:
            return standing.ended and is_over(self._spools[spool_id].reader, standing.through)
        except SpoolError:
            return False

    def _delete(self, segment: Kept, why: str = "delivered") -> None:
        reader = self._spools[segment.spool].reader
        segments = len(reader.segments()) if segment.number is None else 1
        self._delivered.look_again(segment.spool)
        self.touch(self._spools[segment.spool].lanes[0])
        try:
            if segment.number is None:
                if why == "delivered" and not self._is_over(segment.spool):
                    return  # something was written since it was found
                reader.delete_spool()
                for lane in self._lanes.values():
                    lane.remove(segment.spool)
                del self._spools[segment.spool]
                self._delivered.forget(segment.spool)
                self._resting.pop(segment.spool, None)
                self._ledger.forget(segment.spool)
            else:
                reader.delete_segment(segment.number)
        except OSError as error:
            if str(reader.directory) not in self._said:
                self._said.add(str(reader.directory))
                log.warning(
                    "%s cannot be deleted: %s",
                    reader.directory,
                    error,
                    extra=fields(spool=segment.spool, path=reader.directory, detail=error),
                )
            return
        self._meters.removed(why, segments)
        log.debug(
            "%s: delivered, deleted %s",
            reader.directory,
            segment.number or "all of it",
            extra=fields(spool=segment.spool, path=reader.directory, segment=segment.number),
        )
