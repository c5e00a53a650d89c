"""One reading for all sinks: at the end of a spool they all want the same records at one moment.

What the first sink's reader finds there is given to the others that come within a moment, unless
the poller has found something new in the spool since: then it is read again. So a reading that is
shared has the same claim to be complete as one's own. Once the writer is gone, every reader reads
for itself: that is the last word.

What is kept is bounded for all spools together, so that a thousand of them, or a sink that does
not come for its part, cost no memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from shipper.delivery.contents import Contents
from spooler.spool.reader import Chunk, Reader

KEPT_SECONDS = 0.5
_MOST_BYTES = 8 * 1024 * 1024  # of all that is kept
_LARGEST = 1024 * 1024  # of one reading
# A reading takes a few milliseconds; whoever has waited for so long looks for himself.
_WAIT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """Everything beyond `after`, as of a moment."""

    after: int
    moment: float  # monotonic seconds, before it was read
    bytes: int
    chunk: Chunk


class Recent:
    """The last readings of all spools, the oldest first; safe for several threads."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._readings: OrderedDict[str, _Reading] = OrderedDict()
        self._begun: dict[str, float] = {}  # spools that are being read -> since when
        self._bytes = 0
        self._lock = threading.Lock()

    def renew(self, spool: str) -> None:
        """Something new was felt: what was read, or is being read, may lack it."""
        with self._lock:
            self._begun.pop(spool, None)
            self._drop(spool)

    def find(self, spool: str, after: int, limit: int) -> Chunk | None:
        """Everything beyond `after`, if it was read a moment ago; else it is to be read now."""
        with self._lock:
            now, found = self._now(), self._readings.get(spool)
            if found is None or now - found.moment >= KEPT_SECONDS:
                self._begun[spool] = now
                return None
            chunk = found.chunk
        if not found.after <= after <= chunk.through:
            return None
        records = tuple(stored for stored in chunk.records if stored.seq > after)
        return replace(chunk, records=records) if len(records) < limit else None

    def keep(self, spool: str, after: int, chunk: Chunk) -> None:
        """Keep what was read since `find` had nothing, if it is a sound end of a spool."""
        size = sum(len(stored.body) for stored in chunk.records)
        sound = chunk.at_end and not chunk.damage and size <= _LARGEST
        with self._lock:
            began = self._begun.pop(spool, None)
            if began is None or not sound:
                return
            self._drop(spool)
            self._readings[spool] = _Reading(after=after, moment=began, bytes=size, chunk=chunk)
            self._bytes += size
            while self._bytes > _MOST_BYTES or self._is_old(began):
                self._drop(next(iter(self._readings)))

    def _is_old(self, now: float) -> bool:
        return now - next(iter(self._readings.values())).moment >= KEPT_SECONDS

    def _drop(self, spool: str) -> None:
        gone = self._readings.pop(spool, None)
        if gone is not None:
            self._bytes -= gone.bytes


class SharedReader(Reader):
    """A reader of one sink; those of one spool are given the same `lock`, for one at a time."""

    def __init__(
        self,
        directory: Path,
        place: Path,
        *,
        recent: Recent,
        contents: Contents,
        lock: threading.Lock,
    ) -> None:
        super().__init__(directory, place)
        self._recent = recent
        self._contents = contents
        self._alone = lock

    def read(self, after: int, limit: int) -> Chunk:
        """As `Reader.read`."""
        if not self.is_owned() or not self._alone.acquire(timeout=_WAIT_SECONDS):
            return self._look(after, limit)
        try:
            known = self._recent.find(self.spool, after, limit)
            if known is not None:
                return known
            chunk = self._look(after, limit)
            self._recent.keep(self.spool, after, chunk)
            return chunk
        finally:
            self._alone.release()

    def _look(self, after: int, limit: int) -> Chunk:
        chunk = super().read(after, limit)
        self._contents.note(self.spool, after, chunk)
        return chunk
