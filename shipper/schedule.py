"""Which lane has its turn next: the one that is due longest, and never one that is busy."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Schedule(Generic[Key]):
    """A queue of keys by due time, shared by worker threads.

    A key is waiting or taken, and never twice in here; `due` tells its time anew when it comes up,
    because a sink's trouble may have put it off meanwhile.
    """

    def __init__(self, due: Callable[[Key], float], now: Callable[[], float]) -> None:
        self._due = due
        self._now = now
        self._heap: list[tuple[float, int, Key]] = []
        self._waiting: dict[Key, float] = {}
        self._taken: set[Key] = set()
        self._order = itertools.count()
        self._condition = threading.Condition()
        self._ended = False

    def put(self, key: Key) -> None:
        """Have `key` come up when it is due; also when it waits already and is due earlier now."""
        with self._condition:
            if key not in self._taken:
                self._push(key, self._due(key))
                self._condition.notify()

    def take(self) -> Key | None:
        """Wait for the next key that is due; None once the schedule has ended."""
        with self._condition:
            while not self._ended:
                wait = self._settle_top()
                if wait is not None and wait <= 0:
                    _, _, key = heapq.heappop(self._heap)
                    del self._waiting[key]
                    self._taken.add(key)
                    return key
                self._condition.wait(wait)
        return None

    def give_back(self, key: Key) -> None:
        """Return a key that was taken; it waits for its next time."""
        with self._condition:
            self._taken.discard(key)
            self._push(key, self._due(key))
            self._condition.notify()

    def hold(self, keys: Collection[Key]) -> bool:
        """Take all of these at once, due or not, unless one is taken; each is to be given back."""
        with self._condition:
            if any(key in self._taken for key in keys):
                return False
            for key in keys:
                self._waiting.pop(key, None)  # what the heap has of it is no entry any more
                self._taken.add(key)
            return True

    def is_quiet(self) -> bool:
        """Whether no key is taken at the moment."""
        with self._condition:
            return not self._taken

    def end(self) -> None:
        """Let everyone who waits in `take` go home."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def _push(self, key: Key, due: float) -> None:
        if due != float("inf") and due < self._waiting.get(key, float("inf")):
            self._waiting[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))

    def _settle_top(self) -> float | None:
        """Seconds until the first valid entry, which is brought to the top; None when empty."""
        while self._heap:
            due, _, key = self._heap[0]
            if self._waiting.get(key) != due:
                heapq.heappop(self._heap)  # an earlier entry of the same key has replaced it
                continue
            if due > self._now():
                return due - self._now()
            late = self._due(key)
            if late <= self._now():
                return 0.0
            heapq.heappop(self._heap)
            del self._waiting[key]
            self._push(key, late)
        return None
