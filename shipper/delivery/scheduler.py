"""Which key has its turn next: the one that is due longest, and never one that is busy.

Keys belong to worker pools, which are served separately: workers of one pool never wait for the
keys of another one.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Scheduler(Generic[Key]):
    """Keys by due time, shared by worker threads.

    A key is waiting or taken, never both, and never twice. `due` returns its time and is asked
    again when it comes up, because an outage may have postponed it. `pool` returns its worker pool
    and is asked each time the key is put.
    """

    def __init__(
        self,
        due: Callable[[Key], float],
        now: Callable[[], float],
        pool: Callable[[Key], Hashable] = lambda _: None,
    ) -> None:
        self._due = due
        self._now = now
        self._pool = pool
        self._heaps: dict[Hashable, list[tuple[float, int, Key]]] = {}
        self._waiting: dict[Key, tuple[float, int]] = {}  # the one valid heap entry of a key
        self._taken: set[Key] = set()
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._changed: dict[Hashable, threading.Condition] = {}
        self._closed = False

    def put(self, key: Key) -> None:
        """Schedule `key` for when it is due, also if it waits already and is due earlier now."""
        with self._lock:
            if key not in self._taken:
                self._push(key)

    def take(self, pool: Hashable = None) -> Key | None:
        """Wait for the next key of a pool that is due; None once the scheduler is closed."""
        with self._lock:
            changed = self._condition(pool)
            while not self._closed:
                wait = self._settle_top(pool)
                if wait is not None and wait <= 0:
                    _, _, key = heapq.heappop(self._heaps[pool])
                    del self._waiting[key]
                    self._taken.add(key)
                    return key
                changed.wait(wait)
        return None

    def release(self, key: Key) -> None:
        """Return a key that was taken, and schedule it again."""
        with self._lock:
            self._taken.discard(key)
            self._push(key)

    def hold(self, keys: Collection[Key]) -> bool:
        """Take all of these at once, due or not, unless one is taken; each must be released."""
        with self._lock:
            if any(key in self._taken for key in keys):
                return False
            for key in keys:
                self._waiting.pop(key, None)  # its heap entry is not valid any more
                self._taken.add(key)
            return True

    def is_idle(self) -> bool:
        """Whether no key is taken."""
        with self._lock:
            return not self._taken

    def close(self) -> None:
        """Make every `take` return None."""
        with self._lock:
            self._closed = True
            for changed in self._changed.values():
                changed.notify_all()

    def _condition(self, pool: Hashable) -> threading.Condition:
        return self._changed.setdefault(pool, threading.Condition(self._lock))

    def _push(self, key: Key) -> None:
        due = self._due(key)
        if due == float("inf") or due >= self._waiting.get(key, (float("inf"), 0))[0]:
            return
        entry = (due, next(self._order))
        self._waiting[key] = entry
        pool = self._pool(key)
        heapq.heappush(self._heaps.setdefault(pool, []), (*entry, key))
        self._condition(pool).notify()

    def _settle_top(self, pool: Hashable) -> float | None:
        """Seconds until the first valid entry, which is moved to the top; None when empty."""
        heap = self._heaps.get(pool, [])
        while heap:
            due, order, key = heap[0]
            if self._waiting.get(key) != (due, order):
                heapq.heappop(heap)  # an earlier entry of the same key has replaced it
                continue
            if due > self._now():
                return due - self._now()
            if self._due(key) <= self._now():
                return 0.0
            heapq.heappop(heap)
            del self._waiting[key]
            self._push(key)
        return None
