"""Deletes segments: those that every sink has acknowledged, and more where the policy says so.

Runs in the housekeeping thread. Undelivered segments are dropped only while no queue of their spool
has a turn, and the ledger is updated before a file is deleted.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shipper.delivery.counters import Metrics
from shipper.delivery.pipeline import DeliveryContext, Pipeline, gap_of
from shipper.delivery.queue import DeliveryQueue, QueueKey
from shipper.delivery.scheduler import Scheduler
from shipper.log import fields
from shipper.retention.deletable import DeletableCache, DeliveryProgress, has_ended
from shipper.retention.policy import DeletableSegment, oldest, oldest_first, to_delete
from shipper.retention.quarantine import Quarantine
from shipper.retention.quota import DiskQuota, spool_over_by
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

CLEAN_SECONDS = 10.0
BLOCKED_SECONDS = 1.0  # instead, while the root is full and a busy queue blocks a deletion
# A spool whose refresh took longer than this, wall time, is left alone for a multiple of the time
# it took: whatever its tenant puts into it, it gets a quarter of the time at most.
REFRESH_SECONDS = 1.0
_PAUSE_FACTOR = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedSpool:
    """A spool that the service has found; a `disabled` one is not shipped, as its job wishes."""

    reader: Reader
    identity: Identity
    queues: tuple[QueueKey, ...]  # that ship it
    disabled: bool = False


class Cleaner:
    """Works on the service's own maps of spools and queues."""

    def __init__(
        self,
        *,
        context: DeliveryContext,
        scheduler: Scheduler[QueueKey],
        spools: dict[str, TrackedSpool],
        queues: dict[QueueKey, DeliveryQueue],
        sinks: Collection[str],
        metrics: Metrics,
    ) -> None:
        self._config = config = context.config
        self._ledger = context.ledger
        self._scheduler = scheduler
        self._spools = spools
        self._queues = queues
        self._sinks = sinks
        self._metrics = metrics
        self.quarantine = Quarantine(config.spool)
        self._deletable = DeletableCache()
        self._quota = DiskQuota(config.spool, config.root_bytes, by_pod=config.pod_directories)
        self._dirty: deque[QueueKey] = deque()
        self._paused: dict[str, float] = {}  # spool -> monotonic seconds until when
        self._blocked = False  # the root is full, and what should be deleted is in use
        self._logged: set[str] = set()

    @property
    def seconds(self) -> float:
        """How long to wait until the next time."""
        return BLOCKED_SECONDS if self._blocked else CLEAN_SECONDS

    def mark_dirty(self, queue: QueueKey) -> None:
        """Something may have changed in the spools of a queue; from any thread."""
        self._dirty.append(queue)

    def forget(self, spool: str) -> None:
        """Discard what is known of a spool that is not there any more."""
        for key in self._spools.pop(spool).queues:
            if key in self._queues:
                self._queues[key].remove(spool)
        self._deletable.forget(spool)
        self._paused.pop(spool, None)

    def clean(self) -> None:
        """Delete what is delivered and not retained, then enforce the limits."""
        self._refresh()
        self._delete_delivered()
        self._enforce_quota()

    def stop(self) -> None:
        """Let writers continue: nothing enforces the limit of the root from here on."""
        self._quota.set_full(full=False)

    # --- what may be deleted ----------------------------------------------------------------------

    def _refresh(self) -> None:
        """Find the deletable segments of every spool that changed; quarantine damaged ones."""
        dirty = {self._dirty.popleft() for _ in range(len(self._dirty))}
        changed: dict[str, DeliveryProgress] = {}
        queues = [self._queues[key] for key in dirty if key in self._queues]
        for spool_id in {one for queue in queues for one in queue.spools() if one in self._spools}:
            if time.monotonic() < self._paused.get(spool_id, 0.0):
                self.mark_dirty(self._spools[spool_id].queues[0])
                continue
            progress = self._progress(spool_id)
            try:
                if self._deletable.has_changed(self._spools[spool_id].reader, progress):
                    changed[spool_id] = progress
            except OSError:  # its pipeline logs what is wrong
                self.mark_dirty(self._spools[spool_id].queues[0])
        if not changed:
            return
        damage: dict[str, list[dict[str, Any]]] = {}
        for row in self._ledger.damages():
            damage.setdefault(row["spool"], []).append(row)
        for spool_id, progress in changed.items():
            began = time.monotonic()
            self._refresh_spool(self._spools[spool_id], progress, damage.get(spool_id, ()))
            took = time.monotonic() - began
            pause = _PAUSE_FACTOR * took if took > REFRESH_SECONDS else 0.0
            self._paused[spool_id] = began + took + pause
        self.quarantine.trim(self._config.quarantine_bytes)

    def _refresh_spool(
        self, spool: TrackedSpool, progress: DeliveryProgress, damage: Iterable[Mapping[str, Any]]
    ) -> None:
        reader = spool.reader
        try:
            waiting = self.quarantine.move_damaged(reader, spool.identity, progress.through, damage)
            save = self._config.save_local and spool.identity.save_local
            self._deletable.refresh(reader, progress, retained=waiting, save=save)
        except (SpoolError, OSError) as error:
            self._deletable.invalidate(reader.spool)
            self.mark_dirty(spool.queues[0])
            log.debug(
                "spool not cleaned",
                extra=fields(spool=reader.spool, path=reader.directory, detail=error),
            )
            return
        if waiting:
            self._deletable.needs_refresh(reader.spool)
            self.mark_dirty(spool.queues[0])

    def _progress(self, spool_id: str) -> DeliveryProgress:
        """How far delivery of a spool is, over all sinks that are configured."""
        queues = [self._queues[key] for key in self._spools[spool_id].queues if key in self._queues]
        found = [one for queue in queues if (one := queue.progress(spool_id)) is not None]
        return DeliveryProgress(
            through=min((through for through, _ in found), default=0),
            ended=bool(found) and all(ended for _, ended in found),
        )

    # --- delivered segments -----------------------------------------------------------------------

    def _delete_delivered(self) -> None:
        """Delete delivered segments that retention does not keep, or whose space is needed."""
        kept = [
            one for spool_id in sorted(self._spools) for one in self._deletable.segments(spool_id)
        ]
        max_seconds, max_bytes = self._config.retention_seconds, self._config.retention_bytes
        chosen = to_delete(kept, max_seconds=max_seconds, max_bytes=max_bytes)
        kept = self._delete_all(chosen, kept)
        by_spool: dict[str, list[DeletableSegment]] = {}
        for one in kept:
            by_spool.setdefault(one.spool, []).append(one)
        for spool_id, mine in by_spool.items():
            spool = self._spools[spool_id]
            over_by = spool_over_by(spool.reader.directory, spool.identity)
            if over_by:
                kept = self._delete_all(oldest(mine, over_by), kept)
        self._delete_all(oldest(kept, self._quota.over_by()), kept)

    def _delete_all(
        self, chosen: Sequence[DeletableSegment], kept: list[DeletableSegment]
    ) -> list[DeletableSegment]:
        """Delete these; the others of `kept`."""
        for segment in chosen:
            self._delete(segment)
        gone = set(chosen)
        return [one for one in kept if one not in gone] if gone else kept

    def _delete(self, segment: DeletableSegment, why: str = "delivered") -> None:
        reader = self._spools[segment.spool].reader
        self._deletable.invalidate(segment.spool)
        self.mark_dirty(self._spools[segment.spool].queues[0])
        values = {"spool": segment.spool, "path": reader.directory}
        try:
            segments = len(reader.segments()) if segment.number is None else 1
            if segment.number is None:
                if why == "delivered" and not self._has_ended(segment.spool):
                    return  # something was written since
                reader.delete_spool()
                self.forget(segment.spool)
                self._ledger.mark_deleted(segment.spool)
            else:
                reader.delete_segment(segment.number)
        except OSError as error:
            if str(reader.directory) not in self._logged:
                self._logged.add(str(reader.directory))
                log.warning("segment cannot be deleted", extra=fields(**values, detail=error))
            return
        self._metrics.segments_deleted(why, segments)
        extra = fields(**values, segment=segment.number or "all", reason=why)
        log.debug("segment deleted", extra=extra)

    def _has_ended(self, spool_id: str) -> bool:
        """Whether the whole spool may be deleted: asked again at the last moment."""
        progress = self._progress(spool_id)
        try:
            return progress.ended and has_ended(self._spools[spool_id].reader, progress.through)
        except SpoolError:
            return False

    # --- undelivered segments ---------------------------------------------------------------------

    def _enforce_quota(self) -> None:
        """Where deleting delivered segments is not enough, apply the policy."""
        was_blocked, self._blocked = self._blocked, False
        over_by = self._quota.over_by()
        if over_by > 0 and self._config.when_full == "drop-oldest":
            self._drop_oldest(over_by)
            over_by = self._quota.over_by()
        # A busy queue may be about to release what can be deleted. One that still blocks at the
        # next check may be waiting for its receiver for minutes.
        self._quota.set_full(full=over_by > 0 and (was_blocked or not self._blocked))

    def _drop_oldest(self, over_by: int) -> None:
        """Delete final segments that are not delivered, oldest first, to free `over_by` bytes."""
        busy: set[str] = set()
        records = 0
        for segment in oldest_first(self._undelivered()):
            if over_by <= 0:
                break
            if segment.spool in busy:
                continue
            dropped = self._drop(segment)
            if dropped is None:
                busy.add(segment.spool)  # what follows in it must not go first
                self._blocked = True
                continue
            records, over_by = records + dropped, over_by - segment.bytes
        if records:
            log.error(
                "root above quota, oldest records dropped undelivered (when_full = drop-oldest)",
                extra=fields(path=self._config.spool, count=records, reason="root-cap"),
            )

    def _undelivered(self) -> Iterator[DeletableSegment]:
        for spool_id, spool in self._spools.items():
            through = self._progress(spool_id).through
            try:
                final = spool.reader.final_segments()
            except OSError:
                continue
            for number, last in final:
                if last > through:
                    yield DeletableSegment(
                        spool=spool_id,
                        number=number,
                        bytes=spool.reader.segment_bytes(number),
                        age=self._deletable.ages.of(spool.reader, number),
                        save=True,
                    )

    def _drop(self, segment: DeletableSegment) -> int | None:
        """Drop a segment for every sink that is not past it; None while one has a turn."""
        spool, reader = segment.spool, self._spools[segment.spool].reader
        pipelines: dict[QueueKey, list[Pipeline]] = {}
        for key, queue in self._queues.items():
            mine = [one for one in queue.pipelines() if one.identity.spool == spool]
            if mine:
                pipelines[key] = mine
        if not self._scheduler.hold(pipelines.keys()):
            return None
        try:
            last = dict(reader.final_segments()).get(segment.number or 0)
            if last is None:
                return 0
            for stored in reader.gaps():  # what the writer reports there stays counted
                gap = gap_of(spool, stored) if stored.seq <= last else None
                if gap is not None:
                    self._ledger.add_gap(gap)
            path = str(reader.directory)
            dropped = max(
                (
                    self._ledger.drop_through(spool, sink, last, path=path, why="root-cap")
                    for sink in self._sinks
                ),
                default=0,
            )
            for pipeline in (one for mine in pipelines.values() for one in mine):
                pipeline.reset()
        finally:
            for key in pipelines:
                self._scheduler.release(key)
        ended = reader.liveness().certain and reader.last_seq() <= last
        self._delete(replace(segment, number=None) if ended else segment, why="root-cap")
        return dropped
