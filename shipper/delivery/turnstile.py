"""Readers go through one at a time: several at once cost three times as much.

Each system call of a read lets go of the interpreter's lock. Threads that read and plan beside each
other hand it to and fro, which costs them much of their time. As only one of them can run at any
moment, nothing is lost when they take turns by whole stretches.

A disk that hangs must not stop those who read another one: who has waited for long goes on without
the thread that is in front, and so does everybody after.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A stretch is read and planned in a few milliseconds.
WAIT_SECONDS = 1.0


class Turnstile:
    """For all lanes of a service; safe for several threads, held by none of them twice."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is inside, but those who have been there for too long."""
        mine = self._lock
        if not mine.acquire(timeout=self._wait_seconds):
            self._lock = mine = threading.Lock()
            mine.acquire()
        try:
            yield
        finally:
            mine.release()
