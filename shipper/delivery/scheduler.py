"""Which lane has its turn next: the one that is due longest, and never one that is busy.

Lanes stand in queues, which are served apart: whoever takes from one never has to wait for what
another one's lanes are held up by.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


def _only_one(key: Hashable) -> Hashable:
    return None


class Schedule(Generic[Key]):
    """Keys by due time, shared by worker threads.

    A key is waiting or taken, and never twice in here; `due` tells its time anew when it comes up,
    because a sink's trouble may have put it off meanwhile. `queue` tells where it has to stand, and
    is asked anew each time it is put.
    """

    def __init__(
        self,
        due: Callable[[Key], float],
        now: Callable[[], float],
        queue: Callable[[Key], Hashable] = _only_one,
    ) -> None:
        self._due = due
        self._now = now
        self._queue = queue
        self._heaps: dict[Hashable, list[tuple[float, int, Key]]] = {}
        self._waiting: dict[Key, tuple[float, int]] = {}  # the one entry of a key that counts
        self._taken: set[Key] = set()
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._changed: dict[Hashable, threading.Condition] = {}
        self._ended = False

    def put(self, key: Key) -> None:
        """Have `key` come up when it is due; also when it waits already and is due earlier now."""
        with self._lock:
            if key not in self._taken:
                self._push(key)

    def take(self, queue: Hashable = None) -> Key | None:
        """Wait for the next key of a queue that is due; None once the schedule has ended."""
        with self._lock:
            changed = self._condition(queue)
            while not self._ended:
                wait = self._settle_top(queue)
                if wait is not None and wait <= 0:
                    _, _, key = heapq.heappop(self._heaps[queue])
                    del self._waiting[key]
                    self._taken.add(key)
                    return key
                changed.wait(wait)
        return None

    def give_back(self, key: Key) -> None:
        """Return a key that was taken; it waits for its next time."""
        with self._lock:
            self._taken.discard(key)
            self._push(key)

    def hold(self, keys: Collection[Key]) -> bool:
        """Take all of these at once, due or not, unless one is taken; each is to be given back."""
        with self._lock:
            if any(key in self._taken for key in keys):
                return False
            for key in keys:
                self._waiting.pop(key, None)  # what the heap has of it is no entry any more
                self._taken.add(key)
            return True

    def is_quiet(self) -> bool:
        """Whether no key is taken at the moment."""
        with self._lock:
            return not self._taken

    def end(self) -> None:
        """Let everyone who waits in `take` go home."""
        with self._lock:
            self._ended = True
            for changed in self._changed.values():
                changed.notify_all()

    def _condition(self, queue: Hashable) -> threading.Condition:
        return self._changed.setdefault(queue, threading.Condition(self._lock))

    def _push(self, key: Key) -> None:
        due = self._due(key)
        if due == float("inf") or due >= self._waiting.get(key, (float("inf"), 0))[0]:
            return
        entry = (due, next(self._order))
        self._waiting[key] = entry
        queue = self._queue(key)
        heapq.heappush(self._heaps.setdefault(queue, []), (*entry, key))
        self._condition(queue).notify()

    def _settle_top(self, queue: Hashable) -> float | None:
        """Seconds until the first valid entry, which is brought to the top; None when empty."""
        heap = self._heaps.get(queue, [])
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
